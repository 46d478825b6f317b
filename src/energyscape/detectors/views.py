r"""Two views of a table in which distances mean something, whatever its columns are.

A distance needs every column on a scale. Three rules, the same for every table:

- **A column weighs as much as it tells rows apart**: unit variance times ``w = sqrt(1 - sum p_v^2)``,
  the root of the probability that two rows differ in it. A measurement has w = 1; a column that is
  almost always 0 would otherwise have its rare values many standard deviations away. Of a column of
  two values, two different rows are then ``sqrt 2`` apart however rare one of them is, which is the
  distance of two one-hot vectors: numbers, flags and names meet on one scale.
- **Standard or ranked**: a column with heavier tails than a Gaussian (``E z^4 > 3``) packs most rows
  into a point next to a few far ones. The *ranked* view replaces such a column by its normal score
  ``Phi^{-1}((rank - 1/2) / (n + 1))``, which keeps order and spreads the bulk, and goes on beyond the
  range as ``log(1 + excess / std)``. Columns of lighter tails stay as they are: ranks would stretch
  their ends. The *standard* view leaves all columns linear, so that far means far.
- **What was never seen** (a category, a blank in a column without blanks, a change of a constant)
  is ``sqrt 2`` away from every row, in one coordinate of its own.

A blank stands at its column's mean, with a flag where training rows had blanks too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["TableRows", "View"]

_GAUSSIAN_KURTOSIS = 3.0


class TableRows(NamedTuple):
    """Rows as numbers, float64 [n, p] with NaN for blanks, and names as codes, int64 [n, q].

    Codes below 0 are no known name: ``-1`` unseen, ``-2`` blank.
    """

    numbers: NDArray[np.float64]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def checksum(self, start: int = 0) -> int:
        """A number that tells tables apart, of rows that stand at ``start`` and after.

        Checksums of consecutive parts add up (modulo 2^64) to that of the whole.

        >>> rows = TableRows(np.array([[1.0], [np.nan], [2.0]]), np.array([[0], [1], [-2]]))
        >>> first, rest = rows.take(np.array([0])), rows.take(np.array([1, 2]))
        >>> (first.checksum() + rest.checksum(1)) % 2**64 == rows.checksum()
        True
        """
        # Adding 0 makes -0.0 one with 0.0; every NaN is the same blank.
        numbers = np.where(np.isnan(self.numbers), np.nan, self.numbers + 0.0)
        total = _mixed(np.arange(start, start + len(self), dtype=np.uint64))
        for column in (*numbers.T, *self.codes.T):
            total = _mixed(total ^ np.ascontiguousarray(column).view(np.uint64))
        return int(total.sum(dtype=np.uint64))

    def take(self, rows: NDArray[np.int64]) -> TableRows:
        """Some of the rows."""
        return TableRows(self.numbers[rows], self.codes[rows])


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014), elementwise."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class View:
    """A table's rows as points; see the module's opening lines.

    Parameters
    ----------
    mean, std, weight : arrays of shape (p,)
    blanks, constant : bool arrays of shape (p,)
    order : for each number the sorted training values where it is ranked, else None.
    names : for each category the codes seen in training, blank (-2) among them.

    Examples
    --------
    >>> rows = TableRows(np.array([[0.0], [1.0], [1.0], [1.0]]), np.zeros((4, 0), dtype=np.int64))
    >>> points = View.fit(rows).transform(rows)
    >>> float(np.linalg.norm(points[0] - points[1]).round(6))
    1.414214
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weight: NDArray[np.float64]
    blanks: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    order: tuple[tuple[NDArray[np.float64], float, float] | None, ...]
    names: tuple[NDArray[np.int64], ...]

    @classmethod
    def fit(cls, rows: TableRows, *, ranked: bool = False) -> Self:
        """Measure scales, and with ``ranked`` the ranks of heavy-tailed columns.

        Raises
        ------
        ValueError
            If there is no row.
        """
        if not len(rows):
            raise ValueError("a view needs at least one row")
        columns = [column[~np.isnan(column)] for column in rows.numbers.T]
        mean = np.array([v.mean() if v.size else 0.0 for v in columns])
        std = np.array([v.std() if v.size else 0.0 for v in columns])
        constant = np.array([not v.size or v.min() == v.max() for v in columns], dtype=bool)
        constant |= std <= 1e-12 * np.maximum(1e-300, np.abs(mean))
        std = np.where(constant, 1.0, std)
        order: list[tuple[NDArray[np.float64], float, float] | None] = []
        for j, v in enumerate(columns):
            z = (v - mean[j]) / std[j]
            heavy = ranked and not constant[j] and np.mean(z**4) > _GAUSSIAN_KURTOSIS
            order.append(_ranks(v, std[j]) if heavy else None)
        return cls(
            mean,
            std,
            np.array([_diversity(v) for v in columns]),
            np.asarray(np.isnan(rows.numbers).any(axis=0)),
            constant,
            tuple(order),
            tuple(np.unique(column[column != -1]) for column in rows.codes.T),
        )

    def transform(self, rows: TableRows) -> NDArray[np.float64]:
        """Points of shape (n, D), finite."""
        z, blank, changed = self._numbers(rows)
        novel = changed.sum(axis=1) + (blank & ~self.blanks).sum(axis=1)
        parts = [z, np.sqrt(2.0) * blank[:, self.blanks]]
        for column, known_codes in zip(rows.codes.T, self.names, strict=True):
            parts.append((column[:, None] == known_codes).astype(np.float64))
            # Half of the squared distance to another name is in the missing 1 already.
            novel = novel + 0.5 * ~np.isin(column, known_codes)
        return np.concatenate([*parts, np.sqrt(2.0 * novel)[:, None]], axis=1)

    def cells(self, rows: TableRows) -> list[NDArray[np.float64]]:
        """The numbers of the same points column by column: a list of p arrays (n, 3).

        With 2 for two different names, the squared distances of all cells sum up to the squared
        distance of the points to a row that the view was fitted on.
        """
        z, blank, changed = self._numbers(rows)
        novel = np.sqrt(2.0) * (changed | (blank & ~self.blanks))
        flags = np.sqrt(2.0) * (blank & self.blanks)
        return [np.stack(three, axis=1) for three in zip(z.T, flags.T, novel.T, strict=True)]

    def _numbers(
        self, rows: TableRows
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Scaled numbers, which are blank, and which changed where training rows never did."""
        blank = np.isnan(rows.numbers)
        z = (np.where(blank, self.mean, rows.numbers) - self.mean) / self.std
        for j, known in enumerate(self.order):
            if known is not None:
                values, middle, scale = known
                score = _normal_score(rows.numbers[:, j], values, self.std[j])
                z[:, j] = np.where(blank[:, j], 0.0, (score - middle) / scale)
        changed = self.constant & ~blank & (rows.numbers != self.mean) & (np.abs(z) > 1e-9)
        return z * self.weight, blank, changed


def _diversity(values: NDArray[np.float64]) -> float:
    """``sqrt(1 - sum_v p_v^2)``: root of the chance that two rows differ."""
    if not values.size:
        return 0.0
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(np.sqrt(max(1.0 - float(share @ share), 0.0)))


def _ranks(values: NDArray[np.float64], std: float) -> tuple[NDArray[np.float64], float, float]:
    """Sorted values, and mean and standard deviation of their normal scores."""
    ordered = np.sort(values)
    scores = _normal_score(values, ordered, std)
    return ordered, float(scores.mean()), float(scores.std()) or 1.0


def _normal_score(
    x: NDArray[np.float64], ordered: NDArray[np.float64], std: float
) -> NDArray[np.float64]:
    x = np.where(np.isnan(x), ordered[0], x)
    below = np.searchsorted(ordered, x, side="left")
    up_to = np.searchsorted(ordered, x, side="right")
    score = np.asarray(ndtri((0.5 * (below + up_to) + 0.5) / (len(ordered) + 1)))
    score += np.log1p(np.maximum(x - ordered[-1], 0.0) / std)
    return np.asarray(score - np.log1p(np.maximum(ordered[0] - x, 0.0) / std))
