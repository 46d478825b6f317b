"""``energyscape score``: per row, how probable it is and whether it belongs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.anomalies import Judge, by_detector, decisions, say_drift
from energyscape.cli.console import Bar, note, notes, tell
from energyscape.cli.failures import BadInput, State
from energyscape.cli.options import Data, Device, Overwrite, Quiet, Run, Seed, refuse_existing
from energyscape.cli.parts import Parts, fineness, score_in_parts
from energyscape.cli.runs import UNNORMALISED, Reading, chunks, open_any, read_for

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.families import AnomalyDetector, DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape score runs/penguins new.csv --out scores.csv --fdr 0.05"


def run(
    ctx: typer.Context,
    folder: Run,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Table to write.", show_default=False),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a large file that was stopped.")
    ] = False,
    fdr: Annotated[
        float,
        typer.Option("--fdr", metavar="Q", help="Largest share of false alarms among flagged."),
    ] = 0.1,
    density: Annotated[
        bool,
        typer.Option(
            "--density/--no-density", help="Whether to work out log_prob: seconds for a picture."
        ),
    ] = True,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="EVIDENCE",
            help="What anomaly_score is: own, energy, log_density, bound, denoising_error, score_norm, "
            "or several with commas.",
        ),
    ] = "own",
    reasons: Annotated[
        int,
        typer.Option(
            "--reasons", min=0, metavar="N", help="Rows that an anomaly detector explains, at most."
        ),
    ] = 1000,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Score each row: log-probability, p-value, what drove it.

    Columns of the output: log_prob, kind, stderr (where the family has a log-density),
    anomaly_score, p_value, flagged, and top_columns for tables; file for folders of pictures.
    log_prob is in nats in the original units, with its kind and standard error. A score is a
    function of the row alone, so --seed changes nothing here.
    By --by the anomaly score is other evidence than the family's own; top_columns go with its own.
    Of an anomaly detector: anomaly_score, p_value, flagged, and reasons for the flagged and the
    strangest rows: which cells do not go with the rest, and what was expected there.
    Parquet and CSV files of more than 64 MB (8 for families but anomaly) are scored in pieces;
    stopped, --resume goes on. --no-density spares most of the time.
    """
    if not 0.0 < fdr < 1.0:
        raise BadInput(f"--fdr {fdr}: the rate must lie strictly between 0 and 1")
    refuse_existing(out, overwrite=overwrite)
    from energyscape.data import is_large
    from energyscape.data.tables import TABLE_SUFFIXES, write_table

    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise BadInput(f"{out}: scores are written as {', '.join(TABLE_SUFFIXES)}")
    estimator = open_any(folder, device)
    judge = _judge(estimator, by, quiet)
    if estimator.data_kind_ == "table" and is_large(Path(data), finer=fineness(estimator)):
        parts = Parts(
            out, _identity(folder, Path(data), density, by), resume=resume, overwrite=overwrite
        )
        state: State = ctx.ensure_object(State)
        state.go_on = state.command(add=["--resume"], leave_out=["--overwrite"])
        _in_pieces(estimator, Path(data), parts, judge, out, fdr, density, reasons, quiet)
        return
    if resume:
        note("the data are read at once: there is nothing to go on with", quiet=quiet)
    reading = read_for(estimator, data)
    notes(reading.notes, quiet=quiet)
    columns: dict[str, Any] = {"row": list(range(1, len(reading.dataset) + 1))}
    if reading.files:
        columns["file"] = reading.files
    with Bar(quiet=quiet) as bar:
        if judge is None:
            columns |= by_detector(estimator, reading.dataset, fdr, reasons, bar, quiet)
        else:
            columns |= _by_family(estimator, judge, reading, fdr, density, bar, quiet)
    write_table(columns, out)
    tell(f"wrote {len(reading.dataset)} scores to {out}", quiet=quiet)


def _in_pieces(
    estimator: DensityEstimator | AnomalyDetector,
    data: Path,
    parts: Parts,
    judge: Judge | None,
    out: Path,
    fdr: float,
    density: bool,
    reasons: int,
    quiet: bool,
) -> None:
    """A file larger than memory, or than patience."""
    from energyscape.data.tables import write_table

    with Bar(quiet=quiet) as bar:
        scorer = _scorer(estimator, judge, density, bar, quiet)
        table = score_in_parts(estimator, data, parts, scorer, judge, fdr, reasons, bar, quiet)
    write_table(table, out)
    shutil.rmtree(parts.folder)
    tell(f"wrote {table.height} scores to {out}", quiet=quiet)


def _judge(estimator: DensityEstimator | AnomalyDetector, by: str, quiet: bool) -> Judge | None:
    """The family's own evidence, or what was asked for; None for an anomaly detector."""
    from energyscape.families import AnomalyDetector, ModelDetector

    if isinstance(estimator, AnomalyDetector):
        if by != "own":
            raise BadInput(f"--by {by}: an anomaly detector has no evidence but its own")
        return None
    if by != "own":
        tell(f"--by {by}: measuring the rows kept for calibration", quiet=quiet)
        try:
            judge = ModelDetector.of(estimator, by=[kind.strip() for kind in by.split(",")])  # type: ignore[misc]
        except ValueError as error:
            raise BadInput(f"--by {by}: {error}") from error
        count = len(judge.calibration_scores_)
        tell(f"--by {by}: calibrated on {count} of the rows kept", quiet=quiet)
        return Judge(
            lambda rows: (judge.anomaly_score(rows), []),
            judge.calibration_scores_,
            lambda rows, scores: judge.drift(rows, scores=scores),
        )

    def own(rows: Any) -> tuple[np.ndarray, list[str]]:
        from energyscape.detection import driving_columns

        if estimator.data_kind_ != "table" or len(estimator.schema_.modelled) < 2:
            return estimator.anomaly_score(rows), []
        scores, names, shares = estimator.scores_and_contributions(rows)
        drove = driving_columns(names, shares)
        return scores, ["; ".join(f"{name} {share:.2f}" for name, share in row) for row in drove]

    return Judge(
        own,
        estimator.calibration_["anomaly_scores"],
        lambda rows, scores: estimator.drift(rows, scores=scores),
    )


def _identity(folder: Path, data: Path, density: bool, by: str) -> dict[str, Any]:
    """What parts of scores belong to: the run, the file as it is now, and what is asked for."""
    import zlib

    about = data.stat()
    return {
        "run": str(folder.resolve()),
        "manifest": zlib.crc32((folder / "manifest.json").read_bytes()),
        "data": str(data.resolve()),
        "bytes": about.st_size,
        "changed": about.st_mtime_ns,
        "density": density,
    } | ({} if by == "own" else {"by": by})


def _scorer(
    estimator: DensityEstimator | AnomalyDetector,
    judge: Judge | None,
    density: bool,
    bar: Bar,
    quiet: bool,
) -> Callable[[Any], dict[str, Any]]:
    """What scores a piece of a large file."""
    if judge is None:
        return lambda part: {"anomaly_score": estimator.anomaly_score(part)}
    said: list[str] = []

    def family(part: Dataset) -> dict[str, Any]:
        reading = Reading(part, [], [])
        # What is said of the first piece holds for all.
        columns = _log_density(estimator, reading, bar, quiet or bool(said)) if density else {}
        said.append("once")
        scores, drivers = _anomaly(judge, reading, bar)
        return columns | {"anomaly_score": scores} | ({"top_columns": drivers} if drivers else {})

    return family


def _by_family(
    estimator: DensityEstimator,
    judge: Judge,
    reading: Reading,
    fdr: float,
    density: bool,
    bar: Bar,
    quiet: bool,
) -> dict[str, Any]:
    """All columns but the rows' numbers and files."""
    columns = _log_density(estimator, reading, bar, quiet) if density else {}
    scores, drivers = _anomaly(judge, reading, bar)
    columns["anomaly_score"] = scores
    columns |= decisions(judge.calibration, scores, fdr, quiet)
    say_drift(judge, lambda: reading.dataset, scores, quiet)
    if drivers:
        columns["top_columns"] = drivers
    return columns


def _log_density(
    estimator: DensityEstimator, reading: Reading, bar: Bar, quiet: bool
) -> dict[str, Any]:
    """Columns log_prob, kind and stderr; none where the family has no log-density, which is said."""
    import numpy as np

    from energyscape.families import NoLogDensityError

    values, errors, kinds = [], [], []
    try:
        for part in bar.over("log-density", list(chunks(reading.dataset))):
            found = estimator.log_density(part)
            values.append(found.value)
            errors.append(found.stderr)
            kinds += [found.kind] * len(part)
    except NoLogDensityError as error:
        note(f"no log_prob column: {error}", quiet=quiet)
        return {}
    if "unnormalised" in kinds:
        note(UNNORMALISED, quiet=quiet)
    return {"log_prob": np.concatenate(values), "kind": kinds, "stderr": np.concatenate(errors)}


def _anomaly(judge: Judge, reading: Reading, bar: Bar) -> tuple[np.ndarray, list[str]]:
    """Anomaly scores, and for tables of several columns what drove each."""
    import numpy as np

    scores: list[np.ndarray] = []
    drivers: list[str] = []
    for part in bar.over("anomaly scores", list(chunks(reading.dataset))):
        found, drove = judge.scores(part)
        scores.append(found)
        drivers += drove
    return np.concatenate(scores), drivers
