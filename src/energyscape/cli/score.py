"""``energyscape score``: per row, how probable it is and whether it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.console import Bar, note, notes, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import Data, Device, Overwrite, Quiet, Run, Seed, refuse_existing
from energyscape.cli.runs import UNNORMALISED, Reading, chunks, open_run, read_for

if TYPE_CHECKING:
    import numpy as np

    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape score runs/penguins new.csv --out scores.csv --fdr 0.05"


def run(
    folder: Run,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Table to write.", show_default=False)
    ],
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
    """
    if not 0.0 < fdr < 1.0:
        raise BadInput(f"--fdr {fdr}: the rate must lie strictly between 0 and 1")
    refuse_existing(out, overwrite=overwrite)
    from energyscape.data.tables import TABLE_SUFFIXES, write_table

    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise BadInput(f"{out}: scores are written as {', '.join(TABLE_SUFFIXES)}")
    estimator = open_run(folder, device)
    reading = read_for(estimator, data)
    notes(reading.notes, quiet=quiet)
    columns: dict[str, Any] = {"row": list(range(1, len(reading.dataset) + 1))}
    if reading.files:
        columns["file"] = reading.files
    with Bar(quiet=quiet) as bar:
        if density:
            columns |= _log_density(estimator, reading, bar, quiet)
        scores, drivers = _anomaly(estimator, reading, bar)
    columns["anomaly_score"] = scores
    columns |= _decisions(estimator, scores, fdr, quiet)
    if drivers:
        columns["top_columns"] = drivers
    write_table(columns, out)
    tell(f"wrote {len(scores)} scores to {out}", quiet=quiet)


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


def _decisions(
    estimator: DensityEstimator, scores: np.ndarray, fdr: float, quiet: bool
) -> dict[str, Any]:
    """Columns p_value and flagged; none where no rows were kept for calibration."""
    from energyscape import detection

    calibration = estimator.calibration_["anomaly_scores"]
    if not len(calibration):
        note(
            "no p_value and flagged columns: the run kept no calibration rows; "
            "fit with --set calibration_fraction=0.1",
            quiet=quiet,
        )
        return {}
    p_values = detection.conformal_p_values(calibration, scores)
    flagged = detection.benjamini_hochberg(p_values, fdr)
    _say_what_can_be_found(len(calibration), len(scores), fdr, quiet)
    strange = detection.drift_test(calibration, scores)
    tell(
        f"{int(flagged.sum())} of {len(scores)} rows flagged at a false-discovery rate of {fdr:g}",
        quiet=quiet,
    )
    if strange.p_value < 1e-3:
        note(
            "as a whole these rows score differently from the calibration rows (two-sample "
            f"p = {strange.p_value:.1e}; a row exceeds one of them with probability "
            f"{strange.shift:.2f})",
            quiet=quiet,
        )
    return {"p_value": p_values, "flagged": flagged}


def _say_what_can_be_found(num_calibration: int, num_rows: int, fdr: float, quiet: bool) -> None:
    from energyscape import detection

    needed = detection.rows_needed_to_flag(num_calibration, num_rows, fdr)
    if needed <= 1:
        return
    smallest = detection.smallest_p_value(num_calibration)
    said = (
        f"{num_calibration} calibration {'row gives' if num_calibration == 1 else 'rows give'} "
        f"p-values down to {smallest:.2g}, and one strange "
        f"row among {num_rows} needs {fdr / num_rows:.2g}"
    )
    if needed > num_rows:
        note(f"{said}: nothing can be flagged; raise --fdr or calibrate on more rows", quiet=quiet)
    else:
        note(f"{said}: only {needed} or more at once can be flagged", quiet=quiet)
