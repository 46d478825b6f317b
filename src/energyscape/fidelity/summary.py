"""All measures of a table in one table, each with its interval and with what real rows reach.

Intervals are value +- 1.96 standard errors, cut to the measure's range: the errors of shapes, pairs,
utility, coverage and privacy from 100 bootstrap resamples of the held-out and of the drawn rows
(percentiles would not do: a resample is farther from another than the samples are), those of the
classifier from its cross-validation. Forests are trained once: the interval of the utility is that of
the test rows alone. ``real`` is the measure with training rows in the place of drawn ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from energyscape.fidelity.columns import Columns, Space, checked, forest_inputs, rows_at, rows_in
from energyscape.fidelity.coverage import NEIGHBOURS, covered, expected_coverage
from energyscape.fidelity.pairs import PairTable
from energyscape.fidelity.privacy import closer_to_training, copied, nearest
from energyscape.fidelity.shapes import column_shapes
from energyscape.fidelity.utility import Predicted, predict, skill, targets_of
from energyscape.metrics import Estimate, neighbour_ratio, two_sample_accuracy

__all__ = ["FEWEST", "Finding", "fidelity_table"]

#: Rows that each table needs.
FEWEST = NEIGHBOURS + 1
_RESAMPLES = 100
_MOST_KNOWN = 20_000


class Finding(NamedTuple):
    """One measure: ``real`` is what real rows reach, NaN where that is not known."""

    name: str
    value: float
    low: float
    high: float
    real: float
    detail: str


def fidelity_table(
    real: Mapping[str, ArrayLike],
    drawn: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    *,
    train: Mapping[str, ArrayLike] | None = None,
    targets: Sequence[str] | None = None,
    num_trees: int = 100,
    repeats: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Every measure of drawn rows against held-out ones.

    Parameters
    ----------
    real, drawn : tables of the same columns: rows that the model never saw, and rows drawn from it.
    rng : resamples, cuts and forests.
    train : the rows that the model was trained on; without them there is nothing on privacy, and no
        ``real``.
    targets : columns that are predicted for the utility; without it up to 8 spread over the table.
    num_trees, repeats : of the forests, and of the classifier's cross-validation.
    progress : told (done, of) after each measure.

    Returns
    -------
    list of Finding
        The measures, followed by ``column NAME`` for the shape of each column.

    Raises
    ------
    ValueError
        For tables of different columns, or fewer than 6 rows in one of them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def rows(n):
    ...     x = rng.normal(size=n)
    ...     return {"x": x, "y": x + rng.normal(size=n)}
    >>> found = fidelity_table(rows(80), rows(80), rng, train=rows(80), num_trees=5, repeats=1)
    >>> [f.name for f in found][:4]
    ['column_shapes', 'pair_trends', 'two_sample_accuracy', 'train_on_drawn']
    """
    tables = checked(real, drawn, *(() if train is None else (train,)))
    a, b, c = tables[0], tables[1], (tables[2] if train is not None else None)
    if min(rows_in(table) for table in tables) < FEWEST:
        raise ValueError(f"fidelity needs at least {FEWEST} rows of each table")
    if c is not None and rows_in(c) > _MOST_KNOWN:
        c = rows_at(c, rng.permutation(rows_in(c))[:_MOST_KNOWN])
    stand_in = None
    if c is not None:
        stand_in = rows_at(c, rng.permutation(rows_in(c))[: rows_in(b)])
    work: list[Callable[[], list[Finding]]] = [
        lambda: _shapes(a, b, stand_in, rng),
        lambda: _pairs(a, b, stand_in, rng),
        lambda: _telling(a, b, stand_in, rng, num_trees, repeats),
        lambda: _utility(a, b, c, rng, targets, num_trees),
        lambda: _coverage(a, b, c, stand_in, rng),
    ]
    if c is not None:
        work.append(lambda: _privacy(c, a, b, rng))
    found: list[Finding] = []
    for done, measure in enumerate(work, start=1):
        found += measure()
        if progress is not None:
            progress(done, len(work))
    columns = [f for f in found if f.name.startswith("column ")]
    return [f for f in found if not f.name.startswith("column ")] + columns


def _finding(
    name: str, value: float, error: float, real: float, detail: str, low: float, high: float
) -> Finding:
    half = 1.96 * error
    ends = (max(low, value - half), min(high, value + half)) if half == half else (low, high)
    return Finding(name, float(value), float(ends[0]), float(ends[1]), float(real), detail)


def _resampled(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sizes: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """The standard error of each number that `measure` makes of rows of either table."""
    draws = [
        measure(rng.integers(sizes[0], size=sizes[0]), rng.integers(sizes[1], size=sizes[1]))
        for _ in range(_RESAMPLES)
    ]
    return np.asarray(np.std(np.asarray(draws), axis=0, ddof=1))


def _shapes(a: Columns, b: Columns, c: Columns | None, rng: np.random.Generator) -> list[Finding]:
    def measure(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        shapes = np.array(list(column_shapes(rows_at(a, i), rows_at(b, j)).values()))
        return np.append(shapes, shapes.mean())

    shapes = column_shapes(a, b)
    errors = _resampled(measure, (rows_in(a), rows_in(b)), rng)
    known = dict.fromkeys(shapes, math.nan) if c is None else column_shapes(a, c)
    mean = float(np.mean(list(shapes.values())))
    detail = "mean distance of the columns, 0 the same, 1 disjoint"
    real = float(np.mean(list(known.values())))
    first = _finding("column_shapes", mean, float(errors[-1]), real, detail, 0, 1)
    return [first] + [
        _finding(f"column {name}", d, float(error), known[name], "0 the same, 1 disjoint", 0, 1)
        for (name, d), error in zip(shapes.items(), errors[:-1], strict=True)
    ]


def _pairs(a: Columns, b: Columns, c: Columns | None, rng: np.random.Generator) -> list[Finding]:
    table = PairTable.of(dict(a), dict(b))
    if not table.pairs:
        return []
    n, m = rows_in(a), rows_in(b)
    value = float(table.distances(np.arange(n), np.arange(m)).mean())
    errors = _resampled(lambda i, j: table.distances(i, j).mean(keepdims=True), (n, m), rng)
    real = math.nan
    if c is not None:
        other = PairTable.of(dict(a), dict(c))
        real = float(other.distances(np.arange(n), np.arange(rows_in(c))).mean())
    detail = "mean distance of the pairs of columns, 0 the same"
    return [_finding("pair_trends", value, float(errors[0]), real, detail, 0, 1)]


def _telling(
    a: Columns,
    b: Columns,
    c: Columns | None,
    rng: np.random.Generator,
    num_trees: int,
    repeats: int,
) -> list[Finding]:
    def accuracy(other: Columns, times: int) -> Estimate:
        x, y = _filled(*forest_inputs(a, other))
        return two_sample_accuracy(x, y, rng, repeats=times, num_trees=num_trees)

    found = accuracy(b, repeats)
    real = math.nan if c is None else accuracy(c, 1).value
    detail = "0.5: a forest cannot tell"
    return [_finding("two_sample_accuracy", *found, real, detail, 0, 1)]


def _filled(*inputs: np.ndarray) -> list[np.ndarray]:
    """Blanks as a value below all others: a tree cuts it off as well as any."""
    x = np.concatenate(inputs)
    gone = np.isnan(x)
    lowest = np.where(gone, np.inf, x).min(0)
    lowest = np.where(np.isfinite(lowest), lowest, 0.0)
    x = np.where(gone, lowest - 1.0 - np.abs(lowest), x)
    return np.split(x, np.cumsum([len(part) for part in inputs])[:-1])


def _utility(
    a: Columns,
    b: Columns,
    c: Columns | None,
    rng: np.random.Generator,
    targets: Sequence[str] | None,
    num_trees: int,
) -> list[Finding]:
    names = targets_of(dict(a)) if targets is None else list(targets)
    unknown = [name for name in names if name not in a]
    if unknown:
        raise ValueError(f"there is no column {unknown[0]!r} to predict")
    if len(a) < 2:
        return []
    n = rows_in(b) if c is None else min(rows_in(b), rows_in(c))

    def trained(table: Columns) -> list[Predicted]:
        part = rows_at(table, rng.permutation(rows_in(table))[:n])
        known = a if c is None else c
        made = [predict(part, dict(a), name, rng, real=known[name], num_trees=num_trees)
                for name in names]  # fmt: skip
        return [one for one in made if one is not None]

    ours = trained(b)
    theirs = [] if c is None else trained(c)
    if not ours:
        return []
    draws = []
    for _ in range(_RESAMPLES):
        weight = np.bincount(rng.integers(rows_in(a), size=rows_in(a)), minlength=rows_in(a))
        draws.append(_mean_skill(ours, weight))
    detail = "trained on samples, tested on real rows: " + (
        "skill, mean over columns" if len(names) > 1 else f"skill on {names[0]}"
    )
    error = float(np.nanstd(draws, ddof=1))
    real = _mean_skill(theirs) if theirs else math.nan
    return [_finding("train_on_drawn", _mean_skill(ours), error, real, detail, -1, 1)]


def _mean_skill(found: list[Predicted], weight: np.ndarray | None = None) -> float:
    values = np.array([skill(one, weight) for one in found])
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def _coverage(
    a: Columns,
    b: Columns,
    c: Columns | None,
    stand_in: Columns | None,
    rng: np.random.Generator,
) -> list[Finding]:
    space = Space.of(a if c is None else c)
    x = space(a)
    found = covered(x, space(b)).astype(np.float64)
    real = expected_coverage(rows_in(a), rows_in(b))
    if stand_in is not None:
        real = float(covered(x, space(stand_in)).mean())
    error = float(found.std() / math.sqrt(len(found)))
    detail = f"real rows with a sample among their {NEIGHBOURS} nearest"
    return [_finding("coverage", float(found.mean()), error, real, detail, 0, 1)]


def _privacy(c: Columns, a: Columns, b: Columns, rng: np.random.Generator) -> list[Finding]:
    space = Space.of(c)
    x, y, z = space(c), space(a), space(b)
    found = []
    if nearest(y, x).any():
        ratio = neighbour_ratio(x, y, z)
        detail = "distance to the closest training record; below 1 memorised, above 1 off the data"
        found.append(_finding("neighbour_ratio", *ratio, 1.0, detail, 0, math.inf))
    closer = closer_to_training(x, y, z, rng)
    error = float(closer.std() / math.sqrt(len(closer)))
    detail = "samples nearer to training rows than to held-out ones, 0.5: nothing leaked"
    found.append(_finding("closer_to_training", float(closer.mean()), error, 0.5, detail, 0, 1))
    same = copied(dict(c), dict(b)).astype(np.float64)
    error = float(same.std() / math.sqrt(len(same)))
    held = float(copied(dict(c), dict(a)).mean())
    detail = "samples that equal a training row; real: held-out rows that do"
    found.append(_finding("copies", float(same.mean()), error, held, detail, 0, 1))
    return found
