"""``energyscape score``: per row, how probable it is and whether it belongs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.anomalies import by_detector, decisions, say_drift
from energyscape.cli.console import Bar, note, notes, tell
from energyscape.cli.failures import BadInput, State
from energyscape.cli.options import Data, Device, Overwrite, Quiet, Run, Seed, refuse_existing
from energyscape.cli.parts import Parts, score_in_parts
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
        Path, typer.Option("--out", metavar="FILE", help="Table to write.", show_default=False)
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
    Of an anomaly detector: anomaly_score, p_value, flagged, and reasons for the flagged and the
    strangest rows: which cells do not go with the rest, and what was expected there.
    Parquet and CSV files of more than 64 MB are scored in pieces; stopped, --resume goes on.
    """
    if not 0.0 < fdr < 1.0:
        raise BadInput(f"--fdr {fdr}: the rate must lie strictly between 0 and 1")
    refuse_existing(out, overwrite=overwrite)
    from energyscape.data import is_large
    from energyscape.data.tables import TABLE_SUFFIXES, write_table
    from energyscape.families import AnomalyDetector

    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise BadInput(f"{out}: scores are written as {', '.join(TABLE_SUFFIXES)}")
    estimator = open_any(folder, device)
    if estimator.data_kind_ == "table" and is_large(Path(data)):
        belongs = _identity(folder, Path(data), density)
        parts = Parts(out, belongs, resume=resume, overwrite=overwrite)
        state: State = ctx.ensure_object(State)
        state.go_on = state.command(add=["--resume"], leave_out=["--overwrite"])
        with Bar(quiet=quiet) as bar:
            scorer = _scorer(estimator, density, quiet)
            table = score_in_parts(estimator, Path(data), parts, scorer, fdr, reasons, bar, quiet)
        write_table(table, out)
        shutil.rmtree(parts.folder)
        tell(f"wrote {table.height} scores to {out}", quiet=quiet)
        return
    if resume:
        note("the data are read at once: there is nothing to go on with", quiet=quiet)
    reading = read_for(estimator, data)
    notes(reading.notes, quiet=quiet)
    columns: dict[str, Any] = {"row": list(range(1, len(reading.dataset) + 1))}
    if reading.files:
        columns["file"] = reading.files
    with Bar(quiet=quiet) as bar:
        if isinstance(estimator, AnomalyDetector):
            columns |= by_detector(estimator, reading.dataset, fdr, reasons, bar, quiet)
        else:
            columns |= _by_family(estimator, reading, fdr, density, bar, quiet)
    write_table(columns, out)
    tell(f"wrote {len(reading.dataset)} scores to {out}", quiet=quiet)


def _identity(folder: Path, data: Path, density: bool) -> dict[str, Any]:
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
    }


def _scorer(
    estimator: DensityEstimator | AnomalyDetector, density: bool, quiet: bool
) -> Callable[[Any], dict[str, Any]]:
    """What scores a piece of a large file."""
    from energyscape.families import AnomalyDetector

    still = Bar(quiet=True)
    said: list[str] = []

    def family(part: Dataset) -> dict[str, Any]:
        reading = Reading(part, [], [])
        # What is said of the first piece holds for all.
        columns = _log_density(estimator, reading, still, quiet or bool(said)) if density else {}
        said.append("once")
        scores, drivers = _anomaly(estimator, reading, still)
        return columns | {"anomaly_score": scores} | ({"top_columns": drivers} if drivers else {})

    if isinstance(estimator, AnomalyDetector):
        return lambda part: {"anomaly_score": estimator.anomaly_score(part)}
    return family


def _by_family(
    estimator: DensityEstimator, reading: Reading, fdr: float, density: bool, bar: Bar, quiet: bool
) -> dict[str, Any]:
    """All columns but the rows' numbers and files."""
    from energyscape.detection import drift_test

    columns = _log_density(estimator, reading, bar, quiet) if density else {}
    scores, drivers = _anomaly(estimator, reading, bar)
    columns["anomaly_score"] = scores
    known = estimator.calibration_["anomaly_scores"]
    columns |= decisions(known, scores, fdr, quiet)
    if len(known):
        say_drift(drift_test(known, scores), quiet)
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


def _anomaly(
    estimator: DensityEstimator, reading: Reading, bar: Bar
) -> tuple[np.ndarray, list[str]]:
    """Anomaly scores, and for tables of several columns what drove each."""
    import numpy as np

    from energyscape.detection import driving_columns

    several = estimator.data_kind_ == "table" and len(estimator.schema_.modelled) > 1
    scores, drivers = [], []
    for part in bar.over("anomaly scores", list(chunks(reading.dataset))):
        scores.append(estimator.anomaly_score(part))
        if several:
            names, shares = estimator.column_contributions(part)
            for row in driving_columns(names, shares):
                drivers.append("; ".join(f"{name} {share:.2f}" for name, share in row))
    return np.concatenate(scores), drivers
