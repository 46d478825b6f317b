"""Columns two by two: what goes with what, in the drawn rows and in the real ones.

    two numbers      |r - r'| / 2, r Spearman's rank correlation over rows that have both
    otherwise        total variation of the joint frequencies, numbers cut at the real deciles

with blanks as a place of their own in the second. Each is 0 for one law, at most 1, and the measure
is their mean over all pairs (or over the pairs of the first 40 columns). These are the definitions of
the Synthetic Data Vault's quality report, as distances and with ranks instead of values, which one
far value cannot turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyscape.fidelity.columns import blanks, checked, codes_of, is_number

__all__ = ["PairTable", "pair_trends"]

_MOST_COLUMNS = 40


def pair_trends(
    real: Mapping[str, ArrayLike], drawn: Mapping[str, ArrayLike]
) -> dict[tuple[str, str], float]:
    """The distance of each pair of columns, in [0, 1].

    Raises
    ------
    ValueError
        For tables of different columns.

    Examples
    --------
    >>> x = np.arange(4.0)
    >>> pair_trends({"x": x, "y": x}, {"x": x, "y": -x})
    {('x', 'y'): 1.0}
    >>> c = np.array(["a", "b", "a", "b"])
    >>> pair_trends({"c": c, "d": c}, {"c": c, "d": c[::-1]})
    {('c', 'd'): 1.0}
    """
    a, b = checked(real, drawn)
    table = PairTable.of(a, b)
    size = len(next(iter(a.values()))), len(next(iter(b.values())))
    found = table.distances(np.arange(size[0]), np.arange(size[1])).tolist()
    return dict(zip(table.pairs, found, strict=True))


class PairTable(NamedTuple):
    """Both tables as ranks and codes, made once, so that resampling them is cheap."""

    names: list[str]
    numbers: list[str]
    ranks: tuple[np.ndarray, np.ndarray]
    codes: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]

    @classmethod
    def of(cls, real: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> PairTable:
        """Checked tables of the same columns."""
        names = list(real)[:_MOST_COLUMNS]
        numbers = [name for name in names if is_number(real[name])]
        ranks = tuple(
            np.column_stack([_ranks(table[name]) for name in numbers])
            if numbers
            else np.empty((len(next(iter(table.values()))), 0))
            for table in (real, drawn)
        )
        codes = {}
        for name in names:
            a, b = real[name], drawn[name]
            if is_number(a):
                there = a[~blanks(a)].astype(np.float64)
                cuts = np.quantile(there, np.arange(1, 10) / 10) if len(there) else np.empty(0)
                edges = np.unique(cuts)
                cut = [np.searchsorted(edges, x.astype(np.float64), side="left") for x in (a, b)]
                pair = [np.where(blanks(x), -1, c) for x, c in zip((a, b), cut, strict=True)]
            else:
                pair = codes_of(a, b)
            codes[name] = (pair[0] + 1, pair[1] + 1)
        return cls(names, numbers, (ranks[0], ranks[1]), codes)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names two by two, in the order of `distances`."""
        return [(p, q) for i, p in enumerate(self.names) for q in self.names[i + 1 :]]

    def distances(self, real: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distance of each pair over these rows of either table."""
        place = {name: j for j, name in enumerate(self.numbers)}
        one, two = _correlations(self.ranks[0][real]), _correlations(self.ranks[1][drawn])
        found = []
        for p, q in self.pairs:
            if p in place and q in place:
                found.append(abs(one[place[p], place[q]] - two[place[p], place[q]]) / 2)
                continue
            width = int(max(c.max() for c in self.codes[q])) + 1
            joint = [self.codes[p][k][rows] * width + self.codes[q][k][rows]
                     for k, rows in ((0, real), (1, drawn))]  # fmt: skip
            cells = int(max(c.max() for c in joint)) + 1
            share = [np.bincount(c, minlength=cells) / len(c) for c in joint]
            found.append(0.5 * np.abs(share[0] - share[1]).sum())
        return np.array(found)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values.astype(np.float64), nan_policy="omit"))


def _correlations(ranks: np.ndarray) -> np.ndarray:
    """Correlations of columns over the rows that have both; 0 where one hardly varies."""
    there = ~np.isnan(ranks)
    if there.all():
        centred = ranks - ranks.mean(0)
        scale = np.sqrt((centred**2).sum(0))
        unit = np.where(scale > 1e-9, centred / np.where(scale > 0, scale, 1.0), 0.0)
        return np.asarray(unit.T @ unit)
    w = there.astype(np.float64)
    x = np.where(there, ranks - np.nanmean(ranks, 0), 0.0)
    n = np.maximum(w.T @ w, 1.0)
    first, second, product = x.T @ w, (x**2).T @ w, x.T @ x
    covariance = product - first * first.T / n
    variance = second - first**2 / n
    scale = np.sqrt(np.maximum(variance * variance.T, 0.0))
    return np.where(scale > 1e-9, covariance / np.where(scale > 0, scale, 1.0), 0.0)
