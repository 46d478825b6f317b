r"""Whether new rows come from another law than the reference rows, column by column.

Under no drift both are samples of one law, and each test's p-value satisfies ``P(p <= a) <= a``:

- **numbers**: two-sample Kolmogorov-Smirnov on the values with blanks below all of them, so that a
  change in the share of blanks counts too. Ties make the test careful, not liberal.
- **names**: chi-squared on the table of counts, levels that are expected fewer than five times in
  either sample counted as one.

Over the columns p-values are Holm's (1979): the chance of naming any column that has not moved is at
most the level, however columns depend on one another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from energyscape.detection import drift_test
from energyscape.detectors.views import TableRows

__all__ = ["ColumnShift", "column_shifts", "holm"]

_LEAST_COUNT = 5.0


class ColumnShift(NamedTuple):
    """How a column moved.

    ``distance`` is the largest difference of the distribution functions (numbers) or the total
    variation (names), ``p_value`` Holm's over all columns of the table.
    """

    distance: float
    p_value: float


def column_shifts(reference: TableRows, new: TableRows) -> list[ColumnShift]:
    """Compare every column of two tables, numbers first, then names.

    Parameters
    ----------
    reference, new : TableRows
        Of the same columns.

    Raises
    ------
    ValueError
        A table without rows, or columns that differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> names = np.zeros((200, 0), dtype=np.int64)
    >>> one, two = rng.normal(size=(2, 200, 2))
    >>> found = column_shifts(TableRows(one, names), TableRows(two + [0.0, 1.0], names))
    >>> [shift.p_value < 0.01 for shift in found]
    [False, True]
    """
    if not len(reference) or not len(new):
        raise ValueError(f"drift needs rows on both sides, got {len(reference)} and {len(new)}")
    if [a.shape[1] for a in reference] != [a.shape[1] for a in new]:
        raise ValueError("drift is measured between tables of the same columns")
    found = [_numbers(a, b) for a, b in zip(reference.numbers.T, new.numbers.T, strict=True)] + [
        _names(a, b) for a, b in zip(reference.codes.T, new.codes.T, strict=True)
    ]
    adjusted = holm(np.array([p for _, p in found]))
    return [ColumnShift(d, float(p)) for (d, _), p in zip(found, adjusted, strict=True)]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's adjusted p-values: those at most ``a`` hold a false one with probability at most ``a``.

    Sorted upwards, ``p_(i) -> max_{j <= i} (m - j + 1) p_(j)`` (Holm 1979, procedure of section 3).

    Examples
    --------
    >>> holm(np.array([0.01, 0.5, 0.02])).round(3).tolist()
    [0.03, 0.5, 0.04]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(scaled)
    return np.minimum(adjusted, 1.0)


def _numbers(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    both = np.concatenate([a, b])
    # Ranks keep the order and give blanks a place below all.
    values, place = np.unique(both[~np.isnan(both)], return_inverse=True)
    ranks = np.full(len(both), -1.0)
    ranks[~np.isnan(both)] = place
    if len(values) + np.isnan(both).any() < 2:
        return 0.0, 1.0
    found = drift_test(ranks[: len(a)], ranks[len(a) :])
    return found.statistic, found.p_value


def _names(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float]:
    known = np.unique(np.concatenate([a, b]))
    counts = np.stack(
        [np.bincount(np.searchsorted(known, c), minlength=len(known)) for c in (a, b)]
    ).astype(np.float64)
    distance = 0.5 * float(np.abs(counts[0] / len(a) - counts[1] / len(b)).sum())
    expected = counts.sum(axis=0) * min(len(a), len(b)) / (len(a) + len(b))
    rare = expected < _LEAST_COUNT
    pooled = np.concatenate([counts[:, ~rare], counts[:, rare].sum(axis=1, keepdims=True)], axis=1)
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    # What is rare even together joins the commonest name.
    if pooled.shape[1] > 1 and rare.any() and expected[rare].sum() < _LEAST_COUNT:
        pooled[:, pooled[:, :-1].sum(axis=0).argmax()] += pooled[:, -1]
        pooled = pooled[:, :-1]
    if pooled.shape[1] < 2:
        return distance, 1.0
    share = pooled.sum(axis=1, keepdims=True) * pooled.sum(axis=0) / pooled.sum()
    statistic = float(((pooled - share) ** 2 / share).sum())
    return distance, float(chdtrc(pooled.shape[1] - 1, statistic))
