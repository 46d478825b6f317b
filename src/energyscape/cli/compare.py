"""``energyscape compare``: which of two runs gives data the higher probability, and how surely."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from energyscape.cli.console import Bar, notes, table, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import Data, Device, Overwrite, Quiet, Run, Seed, refuse_existing
from energyscape.cli.runs import chunks, open_run, read_for, rows_of

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape compare runs/edm runs/ebm held-out.csv --out ratios.csv"


class Likelihood(NamedTuple):
    """log p of each row under one run, its kind, and the standard error of each row's value."""

    value: np.ndarray
    kind: str
    stderr: np.ndarray


def run(
    first: Run,
    second: Run,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Table of the ratio of each row to write."
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Compare two runs by the likelihood ratio of the rows of DATA.

    A ratio is log p(row) under the first RUN less that under the second, in nats: positive rows are
    more probable under the first. Its standard error holds the choice of rows and the models' own
    errors, which all rows share. Rows that either run was fitted on are left out. Both runs must
    have learned the same columns; the ratio of unnormalised energies lacks a constant, which is said.
    A log-density is a function of the row alone, so --seed changes nothing here.
    """
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
        from energyscape.data.tables import TABLE_SUFFIXES

        if out.suffix.lower() not in TABLE_SUFFIXES:
            raise BadInput(f"{out}: ratios are written as {', '.join(TABLE_SUFFIXES)}")
    estimators = [open_run(folder, device) for folder in (first, second)]
    _refuse_different(estimators[0], estimators[1], str(first), str(second))
    readings = [read_for(estimator, data) for estimator in estimators]
    said = [text for reading in readings for text in reading.notes]
    datasets = [reading.dataset for reading in readings]
    kept = _unseen(estimators, datasets, said)
    with Bar(quiet=quiet) as bar:
        pair = [
            _likelihood(estimator, rows_of(dataset, kept), folder, bar)
            for estimator, dataset, folder in zip(
                estimators, datasets, (first, second), strict=True
            )
        ]
    ratio = pair[0].value - pair[1].value
    stderr = [_own_error(p) for p in pair]
    missing = [str(f) for f, p in zip((first, second), pair, strict=True) if p.kind == _UNKNOWN]
    if missing:
        said.append(_what_is_missing(missing))
    notes(dict.fromkeys(said), quiet=quiet)
    title = f"{first} against {second} on {data}: {len(ratio)} rows"
    lines = _lines(ratio, math.hypot(*stderr), [p.kind for p in pair], known=not missing)
    table(title, ("measure", "value", "error", "meaning"), lines, quiet=quiet)
    if out is not None:
        _write(out, kept, pair, ratio, known=not missing)
        tell(f"wrote {len(ratio)} ratios to {out}", quiet=quiet)


_UNKNOWN = "unnormalised"


def _refuse_different(a: DensityEstimator, b: DensityEstimator, first: str, second: str) -> None:
    """BadInput unless both are densities of the same thing."""
    if a.data_kind_ != b.data_kind_:
        raise BadInput(
            f"{first} learned {a.data_kind_} and {second} {b.data_kind_}: not comparable"
        )
    if a.data_kind_ == "pictures":
        what = [(tuple(e.codec_.event_shape), getattr(e.codec_, "levels", None)) for e in (a, b)]
        if what[0] != what[1]:
            raise BadInput(
                f"{first} learned pictures of (channels, height, width) {what[0][0]} with "
                f"{what[0][1]} grey levels, {second} {what[1][0]} with {what[1][1]}: not comparable"
            )
        return
    columns = [{c.name: c.kind for c in e.schema_.modelled} for e in (a, b)]
    alone = [sorted(set(columns[i]) - set(columns[1 - i])) for i in (0, 1)]
    parts = [
        f"only {folder} has {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
        for folder, names in zip((first, second), alone, strict=True)
        if names
    ]
    parts += [
        f"{name} is {kind} in {first} and {columns[1][name]} in {second}"
        for name, kind in columns[0].items()
        if name in columns[1] and columns[1][name] != kind
    ]
    if parts:
        raise BadInput(
            "the runs learned different columns, so their densities are not comparable: "
            + "; ".join(parts)
        )


def _unseen(
    estimators: list[DensityEstimator], datasets: list[Dataset], said: list[str]
) -> np.ndarray:
    """Rows that neither run was fitted on; all, with a word about it, where there are too few."""
    import numpy as np

    from energyscape.families.rereading import is_training_data, split_of

    total = len(datasets[0])
    rows = np.arange(total)
    for estimator, dataset in zip(estimators, datasets, strict=True):
        if is_training_data(estimator, dataset):
            split = split_of(estimator, total)
            rows = np.setdiff1d(rows, split.train)
    if len(rows) == total:
        return rows
    if len(rows) < 5:
        said.append("the runs were fitted on this data and held too few rows out: all are compared")
        return np.arange(total)
    said.append(
        f"of data the runs were fitted on, {len(rows)} of {total} rows were held out: these"
    )
    return rows


def _likelihood(
    estimator: DensityEstimator, dataset: Dataset, folder: Path, bar: Bar
) -> Likelihood:
    import numpy as np

    from energyscape.families import NoLogDensityError

    parts = []
    try:
        for part in bar.over(f"log-density of {folder.name}", list(chunks(dataset, 128))):
            parts.append(estimator.log_density(part))
    except NoLogDensityError as error:
        raise BadInput(f"{folder}: {error}") from error
    value, stderr = (np.concatenate([getattr(p, k) for p in parts]) for k in ("value", "stderr"))
    return Likelihood(value, parts[0].kind, stderr)


def _own_error(likelihood: Likelihood) -> float:
    """The model's own error of a mean over rows.

    Rows share log Z, and the probes of a trace, so their errors do not average away.
    """
    import numpy as np

    return float(np.nan_to_num(likelihood.stderr).mean())


def _what_is_missing(runs: list[str]) -> str:
    each = " and ".join(f"log Z of {name}" for name in runs)
    return (
        f"the ratio lacks {each}: rows can be ranked by it, but no total is told; `score` or the "
        "report say why log Z is not known; fit with normalise=true, longer, or another family"
    )


def _lines(
    ratio: np.ndarray, own: float, kinds: list[str], *, known: bool
) -> list[tuple[str, str, str, str]]:
    """What the terminal shows."""
    from energyscape.metrics import mean_with_error

    mean = mean_with_error(ratio)
    if not known:
        spread = float(ratio.std())
        return [("spread of the ratio", f"{spread:.4g}", "", "nats; its level is not known")]
    n, sampling = len(ratio), 0.0 if math.isnan(mean.stderr) else mean.stderr
    error = math.hypot(sampling, own)
    sure = abs(mean.value) > 2 * error
    verdict = f"{'first' if mean.value > 0 else 'second'} more probable" if sure else "undecided"
    share = float((ratio > 0).mean())
    return [
        ("log ratio per row", f"{mean.value:.4g}", f"± {error:.2g}", f"nats; {' / '.join(kinds)}"),
        ("log ratio in total", f"{n * mean.value:.5g}", f"± {n * error:.2g}", f"nats; {verdict}"),
        ("rows for the first", f"{share:.3f}", f"± {_binomial(share, n):.2g}", "0.5 is even"),
    ]


def _binomial(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)


def _write(
    out: Path, rows: np.ndarray, pair: list[Likelihood], ratio: np.ndarray, *, known: bool
) -> None:
    """One line a row: both values, the ratio and the standard error of its own."""
    import numpy as np

    from energyscape.data.tables import write_table

    error = np.hypot(*(p.stderr for p in pair)) if known else np.full(len(ratio), math.nan)
    columns: dict[str, Any] = {"row": (rows + 1).tolist()}
    for name, part in zip(("first", "second"), pair, strict=True):
        columns[f"log_prob_{name}"] = part.value
        columns[f"kind_{name}"] = [part.kind] * len(rows)
    write_table(columns | {"log_ratio": ratio, "stderr": error}, out)
