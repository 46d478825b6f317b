"""``energyscape evaluate``: how good a run is on data, each number with its error."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from energyscape.cli.console import Bar, notes, table, tell
from energyscape.cli.failures import BadInput
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
from energyscape.cli.runs import UNNORMALISED, chunks, open_run, read_for, rows_of

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset, Split
    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape evaluate runs/penguins held-out.csv --out quality.json"

_STRANGE = ("1", "1.0", "true", "yes", "anomaly", "outlier", "abnormal")


class Measure(NamedTuple):
    """One line of the result; ``low`` and ``high`` where there is an interval, else ``stderr``."""

    name: str
    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""


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
        Path | None, typer.Option("--out", metavar="JSON", help="Write the numbers here too.")
    ] = None,
    most: Annotated[
        int, typer.Option("--rows", min=10, help="Rows compared at most, drawn at random.")
    ] = 1000,
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
    usual = _thin(usual, most, rng)
    if len(usual) < 5:
        raise BadInput(f"{data}: {len(usual)} usual rows to compare with; at least 5 are needed")
    with Bar(quiet=quiet) as bar:
        measures = _likelihood(estimator, _affordable(usual, rng, said), bar, said)
        measures += _samples(estimator, usual, train, rng, bar, said)
        if strange is not None:
            measures += _detection(estimator, dataset, strange, rng, bar)
    notes(dict.fromkeys(said), quiet=quiet)
    title = f"{folder} on {data}: {len(usual)} rows"
    table(title, ("measure", "value", "error", "meaning"), map(_line, measures), quiet=quiet)
    if out is not None:
        _write_json(out, {"run": str(folder), "data": data, "rows": len(usual)}, measures, said)
        tell(f"wrote {out}", quiet=quiet)


def _strange(dataset: Dataset, labels: str, said: list[str]) -> np.ndarray:
    """Which rows are strange, from a column of the file or the labels of an array or folder."""
    import numpy as np

    name, equals, wanted = labels.partition("=")
    if dataset.raw is not None and name in dataset.raw.columns:
        values = [str(v).strip() for v in dataset.raw[name].to_list()]
    elif dataset.labels is not None:
        values = [str(v).strip() for v in dataset.labels.tolist()]
    else:
        columns = [] if dataset.raw is None else dataset.raw.columns
        hint = nearest(name, columns) if columns else "the data has no labels"
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

    from energyscape.families.fitting import data_fingerprint

    known = estimator.info_.get("fingerprint")
    if data_fingerprint(dataset) == known:
        split = split_of(estimator, len(dataset))
        rows = np.sort(np.concatenate([split.validation, split.calibration]))
        if len(rows) < 5:
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
    return dataset, _training_rows(estimator, said), strange


def split_of(estimator: DensityEstimator, num_rows: int) -> Split:
    """The split that fitting made, drawn again: it is the first use of the run's seed."""
    import numpy as np

    from energyscape.data import split_rows

    settings = estimator.get_params()
    return split_rows(
        num_rows,
        settings["validation_fraction"],
        settings["calibration_fraction"],
        np.random.default_rng(estimator.info_["seed"]),
    )


def _training_rows(estimator: DensityEstimator, said: list[str]) -> Dataset | None:
    """The rows the model was fitted on, read again from where they were, if they still are."""
    from energyscape.data import DataError, load
    from energyscape.families.fitting import data_fingerprint

    record = estimator.info_["data"]
    source = record.get("source")
    try:
        if not source:
            raise DataError("their place was not recorded")
        again = load(
            source,
            types=record.get("types"),
            drop=record.get("drop"),
            size=record.get("size"),
            channels=record.get("channels"),
        )
        if data_fingerprint(again) != estimator.info_.get("fingerprint"):
            raise DataError(f"{source} has changed since")
    except DataError as error:
        said.append(f"no neighbour ratio: the training rows cannot be read again ({error})")
        return None
    return rows_of(again, split_of(estimator, len(again)).train)


def _thin(dataset: Dataset, most: int, rng: np.random.Generator) -> Dataset:
    import numpy as np

    if len(dataset) <= most:
        return dataset
    return rows_of(dataset, np.sort(rng.permutation(len(dataset))[:most]))


def _affordable(dataset: Dataset, rng: np.random.Generator, said: list[str]) -> Dataset:
    """All rows, or as many pictures as a density takes minutes for."""
    if dataset.kind == "table":
        return dataset
    pixels = math.prod(dataset.data.shape[1:])
    most = max(50, 80_000 // pixels)
    if len(dataset) > most:
        said.append(f"log_prob is the mean over {most} of {len(dataset)} pictures")
    return _thin(dataset, most, rng)


def _likelihood(
    estimator: DensityEstimator, dataset: Dataset, bar: Bar, said: list[str]
) -> list[Measure]:
    import numpy as np

    from energyscape.families import NoLogDensityError
    from energyscape.metrics import mean_with_error

    values, errors, kind = [], [], ""
    try:
        for part in bar.over("log-density", list(chunks(dataset, 128))):
            found = estimator.log_density(part)
            values.append(found.value)
            errors.append(found.stderr)
            kind = found.kind
    except NoLogDensityError as error:
        said.append(f"no log-probability: {error}")
        return []
    mean = mean_with_error(np.concatenate(values))
    if kind == "unnormalised":
        said.append(UNNORMALISED)
    # the estimator's own noise is independent of which rows were drawn; an unknown error (NaN)
    # concerns a constant that all rows share
    noise = np.nan_to_num(np.concatenate(errors))
    own = float(np.sqrt(np.mean(noise**2) / len(dataset)))
    lines = [
        Measure("log_prob", mean.value, math.hypot(mean.stderr, own), detail=f"nats a row, {kind}")
    ]
    if estimator.data_kind_ == "pictures" and kind != "unnormalised":
        scale = -1.0 / (math.log(2.0) * math.prod(estimator.codec_.event_shape))
        bits, error_of_bits = mean.value * scale, -lines[0].stderr * scale  # type: ignore[operator]
        lines.append(
            Measure("bits_per_dim", bits, error_of_bits, detail=f"{kind}, lower is better")
        )
    return lines


def _samples(
    estimator: DensityEstimator,
    real: Dataset,
    train: Dataset | None,
    rng: np.random.Generator,
    bar: Bar,
    said: list[str],
) -> list[Measure]:
    """Generated against real rows: as a whole, next to the training rows, column by column."""
    from energyscape import metrics

    seed = int(rng.integers(2**31))
    drawn = estimator.decode(estimator.sample_encoded(len(real), random_state=seed, progress=bar))
    x = estimator.encode(real).flatten(1).numpy()
    y = estimator.encode(drawn).flatten(1).numpy()
    accuracies = []
    repeats = 3
    for _ in bar.over("two-sample test", range(repeats), lambda _: 1):
        accuracies.append(metrics.two_sample_accuracy(x, y, rng, repeats=1))
    accuracy = sum(a.value for a in accuracies) / repeats
    # cross-validations of one pair of samples share its rows: their errors do not average away
    error = max(a.stderr for a in accuracies)
    lines = [Measure("two_sample_accuracy", accuracy, error, detail="0.5: a forest cannot tell")]
    if train is not None:
        base = estimator.encode(_thin(train, 20_000, rng)).flatten(1).numpy()
        lines.append(_neighbours(base, x, y, said))
    sliced = metrics.sliced_wasserstein(x, y, rng)
    lines.append(Measure("sliced_wasserstein", *sliced, detail="encoded units, 0 is the same"))
    pairs = metrics.correlation_difference(x, y)
    lines.append(Measure("correlation_difference", pairs, detail="mean over pairs of dimensions"))
    if estimator.data_kind_ == "table":
        shapes = metrics.column_shapes(_columns(estimator, real.data), _columns(estimator, drawn))
        average = sum(shapes.values()) / len(shapes)
        lines.append(Measure("column_shapes", average, detail="mean distance of the columns"))
        lines += [
            Measure(f"column {name}", d, detail="0 the same, 1 disjoint")
            for name, d in shapes.items()
        ]
    return lines


def _neighbours(base: np.ndarray, x: np.ndarray, y: np.ndarray, said: list[str]) -> Measure:
    from energyscape import metrics

    ratio = metrics.neighbour_ratio(base, x, y)
    if ratio.value < 0.5:
        said.append("generated rows are much closer to training rows than held-out ones: memorised")
    return Measure("neighbour_ratio", *ratio, detail="below 1 memorised, above 1 off the data")


def _columns(estimator: DensityEstimator, rows: Any) -> dict[str, np.ndarray]:
    """Modelled columns as arrays: numbers and dates as float64 with NaN, the rest as objects."""
    import numpy as np
    import polars as pl

    from energyscape.data import is_frame, to_polars
    from energyscape.data.values import keep, numbers

    schema = estimator.schema_
    if not is_frame(rows):
        table_ = np.asarray(rows, dtype=np.float64)
        places = {name: j for j, name in enumerate(schema.names)}
        return {c.name: table_[:, places[c.name]] for c in schema.modelled}
    frame = to_polars(rows)
    made = {}
    for column in schema.modelled:
        kept = keep(frame[column.name], column)
        if column.kind in ("category", "boolean"):
            made[column.name] = np.array(kept.cast(pl.String).to_list(), dtype=object)
        else:
            # also dates written as text: what is compared is when they were
            made[column.name] = numbers(kept, column)
    return made


def _detection(
    estimator: DensityEstimator,
    dataset: Dataset,
    strange: np.ndarray,
    rng: np.random.Generator,
    bar: Bar,
) -> list[Measure]:
    import numpy as np

    from energyscape import metrics

    parts = [
        estimator.anomaly_score(part)
        for part in bar.over("anomaly scores", list(chunks(replace(dataset, labels=None))))
    ]
    scores = np.concatenate(parts)
    share = float(strange.mean())
    area = metrics.bootstrap_interval(metrics.auroc, strange, scores, rng)
    precision = metrics.bootstrap_interval(metrics.average_precision, strange, scores, rng)
    return [
        Measure("auroc", area.value, None, area.low, area.high, "0.5 is chance, 95 % bootstrap"),
        Measure(
            "average_precision",
            precision.value,
            None,
            precision.low,
            precision.high,
            f"{share:.3g} is chance, 95 % bootstrap",
        ),
    ]


def _line(measure: Measure) -> tuple[str, str, str, str]:
    error = "" if measure.stderr is None else f"± {measure.stderr:.2g}"
    if measure.low is not None:
        error = f"{measure.low:.3f} to {measure.high:.3f}"
    return measure.name, f"{measure.value:.4g}", error, measure.detail


def _write_json(out: Path, head: dict[str, Any], measures: list[Measure], said: list[str]) -> None:
    rows: dict[str, Any] = {}
    columns: dict[str, float] = {}
    for measure in measures:
        prefix, _, column = measure.name.partition("column ")
        if not prefix and column:
            columns[column] = measure.value
            continue
        fields = {k: v for k, v in measure._asdict().items() if k != "name" and v not in (None, "")}
        rows[measure.name] = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in fields.items()
        }
    content = head | {"measures": rows} | ({"columns": columns} if columns else {})
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(content | {"notes": said}, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
