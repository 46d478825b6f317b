"""``energyscape evaluate``: how good a run is on data, each number with its error."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.console import Bar, notes, table, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.measures import (
    Measure,
    affordable,
    detection,
    likelihood,
    picture_samples,
    table_samples,
    thin,
)
from energyscape.cli.options import (
    Data,
    Device,
    Overwrite,
    Quiet,
    Run,
    Seed,
    nearest,
    refuse_existing,
)
from energyscape.cli.runs import open_run, read_for, rows_of

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape evaluate runs/penguins held-out.csv --out quality.json"

_FEWEST = 6
_MOST_COLUMNS = 20
_STRANGE = ("1", "1.0", "true", "yes", "anomaly", "outlier", "abnormal")


def run(
    folder: Run,
    data: Data,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="COL[=VALUE]",
            help="Column that marks strange rows (1, true, yes, or VALUE); `y` for array labels.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="JSON", help="Write the numbers here too.")
    ] = None,
    most: Annotated[
        int, typer.Option("--rows", min=10, help="Rows compared at most, drawn at random.")
    ] = 1000,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="COL",
            help="What models trained on samples must predict; up to 8 columns without it.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Measure likelihood, samples and detection on data.

    Give rows the model has not seen. If DATA is what it was fitted on, only its held-out part is
    used. With labels, everything but detection is measured on the usual rows.
    """
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    import numpy as np

    rng = np.random.default_rng(0 if seed is None else seed)
    estimator = open_run(folder, device)
    reading = read_for(estimator, data)
    said = list(reading.notes)
    strange = None if labels is None else _strange(reading.dataset, labels, said)
    dataset, train, strange = _unseen_rows(estimator, reading.dataset, strange, said)
    usual = dataset if strange is None else rows_of(dataset, np.flatnonzero(~strange))
    usual = thin(usual, most, rng)
    if len(usual) < _FEWEST:
        raise BadInput(
            f"{data}: {len(usual)} usual rows to compare with; at least {_FEWEST} are needed"
        )
    samples = table_samples if estimator.data_kind_ == "table" else picture_samples
    with Bar(quiet=quiet) as bar:
        measures = likelihood(estimator, affordable(usual, rng, said), bar, said)
        measures += samples(estimator, usual, train, rng, bar, said, target)
        if strange is not None:
            measures += detection(estimator, dataset, strange, rng, bar)
    notes(dict.fromkeys(said), quiet=quiet)
    title = f"{folder} on {data}: {len(usual)} rows"
    head = ("measure", "value", "95 % interval", "real rows", "meaning")
    table(title, head, map(_line, _shown(measures)), quiet=quiet)
    if out is not None:
        _write_json(out, {"run": str(folder), "data": data, "rows": len(usual)}, measures, said)
        tell(f"wrote {out}", quiet=quiet)


def _strange(dataset: Dataset, labels: str, said: list[str]) -> np.ndarray:
    """Which rows are strange, from a column of the file or the labels of an array or folder."""
    import numpy as np

    from energyscape.families.labels import CAME_WITH_DATA

    name, equals, wanted = labels.partition("=")
    if dataset.raw is not None and name in dataset.raw.columns:
        values = [str(v).strip() for v in dataset.raw[name].to_list()]
    elif dataset.labels is not None and name in CAME_WITH_DATA:
        values = [str(v).strip() for v in dataset.labels.tolist()]
    else:
        columns = [] if dataset.raw is None else dataset.raw.columns
        hint = nearest(name, columns) if columns else "the data has no labels"
        if dataset.labels is not None:
            hint = "the labels that came with the data are called labels"
        raise BadInput(f"--labels: there is no column {name!r}; {hint}")
    found = sorted(set(values))
    if not equals:
        marks = [v for v in found if v.lower() in _STRANGE]
        if len(found) != 2 or len(marks) != 1:
            raise BadInput(
                f"--labels {name}: cannot tell which of {', '.join(found[:8])} is strange; "
                f"say --labels {name}=VALUE"
            )
        wanted = marks[0]
    strange = np.array([v == wanted for v in values])
    if not strange.any() or strange.all():
        raise BadInput(
            f"--labels {labels}: {int(strange.sum())} of {len(strange)} rows are {wanted!r}; "
            "both usual and strange rows are needed"
        )
    said.append(f"{int(strange.sum())} of {len(strange)} rows are strange ({name} = {wanted})")
    return strange


def _unseen_rows(
    estimator: DensityEstimator, dataset: Dataset, strange: np.ndarray | None, said: list[str]
) -> tuple[Dataset, Dataset | None, np.ndarray | None]:
    """The rows the model was not fitted on, and the training rows when they can be found again."""
    import numpy as np

    from energyscape.families import rereading

    if rereading.is_training_data(estimator, dataset):
        split = rereading.split_of(estimator, len(dataset))
        rows = np.sort(np.concatenate([split.validation, split.calibration]))
        if len(rows) < _FEWEST:
            said.append(
                "this is the data the model was fitted on, and it held too few rows out: "
                "the measures are optimistic"
            )
            return dataset, None, strange
        said.append(
            f"this is the data the model was fitted on: its {len(rows)} held-out rows are used"
        )
        kept = None if strange is None else strange[rows]
        if kept is not None and (kept.all() or not kept.any()):
            raise BadInput("the held-out rows are all usual or all strange; give other data")
        return rows_of(dataset, rows), rows_of(dataset, split.train), kept
    train, why = rereading.training_rows(estimator)
    if train is None:
        said.append(f"nothing on privacy: the training rows cannot be read again ({why})")
    return dataset, train, strange


def _shown(measures: list[Measure]) -> list[Measure]:
    """Of many columns only those that are farthest off."""
    columns = [m for m in measures if m.name.startswith("column ")]
    if len(columns) <= _MOST_COLUMNS:
        return measures
    worst = sorted(columns, key=lambda m: -m.value)[:_MOST_COLUMNS]
    said = f"the {_MOST_COLUMNS} worst of {len(columns)} columns; --out writes all"
    rest = [m for m in measures if not m.name.startswith("column ")]
    return [*rest, *worst[:-1], worst[-1]._replace(detail=said)]


def _line(measure: Measure) -> tuple[str, str, str, str, str]:
    low, high = measure.interval
    between = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
    real = "" if measure.real is None else f"{measure.real:.4g}"
    return measure.name, f"{measure.value:.4g}", between, real, measure.detail


def _write_json(out: Path, head: dict[str, Any], measures: list[Measure], said: list[str]) -> None:
    rows: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for measure in measures:
        fields = {k: v for k, v in measure._asdict().items() if k != "name" and v not in (None, "")}
        kept = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in fields.items()
        }
        prefix, _, column = measure.name.partition("column ")
        (columns if column and not prefix else rows)[column or measure.name] = kept
    content = head | {"measures": rows} | ({"columns": columns} if columns else {})
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(content | {"notes": said}, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
