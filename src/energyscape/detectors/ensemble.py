r"""The default detector: the energy of the data in two views, and how it changes between neighbours.

Three members, each read as surprise in nats (:mod:`energyscape.detectors.surprise`) and averaged with
weights 2, 2 and 1; nothing is chosen per table and no label is looked at:

1. the energy at sigma = 1/2 in the standard view: far from the data in its own units;
2. the energy at sigma = 1/2 in the ranked view: far from the data in a heavy-tailed column's bulk;
3. the contrast in the standard view: how much wider a row's surroundings are than those of its ten
   nearest rows, ``log r(x) - log mean r(neighbours)`` (as the local outlier factor, Breunig et al.
   2000, which compares reachabilities), for rows that lie just outside a dense cluster.

Members are calibrated on the training rows themselves, each without itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from energyscape.detectors.crowds import MANY, two_surroundings
from energyscape.detectors.downhill import downhill
from energyscape.detectors.energies import Surroundings, kth_distances, surroundings
from energyscape.detectors.surprise import TailLaw
from energyscape.detectors.views import TableRows, View

__all__ = ["EmpiricalDetector"]

Pair = tuple[View, View]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]

_LEVEL = 0.5
_NEIGHBOURS = 10
_WEIGHTS = (2.0, 2.0, 1.0)
#: No group of anomalies is taken to be one row in so many, or more.
_HIDING = 5
#: Added to distances (in standard deviations), so that duplicates have a finite contrast.
_FLOOR = 1e-3


class EmpiricalDetector(NamedTuple):
    """How strange rows are beside reference rows.

    Parameters
    ----------
    views : the standard and the ranked view.
    points : reference rows in each view, arrays of shape (n, D).
    reach : array of shape (n,)
        Mean distance of each reference row to its nearest ones, standard view.
    own : array of shape (n, 3)
        Each member's score of the reference rows, each without itself.
    laws : of the columns of ``own``.

    Examples
    --------
    >>> numbers = np.random.default_rng(0).normal(size=(200, 2))
    >>> rows = TableRows(numbers, np.zeros((200, 0), dtype=np.int64))
    >>> far = TableRows(np.array([[0.0, 0.0], [9.0, 9.0]]), np.zeros((2, 0), dtype=np.int64))
    >>> near, away = EmpiricalDetector.fit(rows).score(far)
    >>> bool(near < 1 < 5 < away)
    True
    """

    views: Pair
    points: Points
    reach: NDArray[np.float64]
    own: NDArray[np.float64]
    laws: tuple[TailLaw, ...]

    @classmethod
    def fit(cls, rows: TableRows) -> Self:
        """Views, points and laws of reference rows; O(n^2 D) time, O(n D) memory.

        Raises
        ------
        ValueError
            Fewer than two rows.
        """
        if len(rows) < 2:
            raise ValueError(f"at least 2 rows are needed to compare, got {len(rows)}")
        views, points = _look(rows)
        near, ranked = _near(views, points, points, np.arange(len(rows)))
        members = _members(near, ranked, near.reach)
        return cls(views, points, near.reach, members, _laws(members))

    @classmethod
    def restore(cls, rows: TableRows, reach: NDArray[np.float64], own: NDArray[np.float64]) -> Self:
        """The detector again from its reference rows and what fitting measured on them; O(n D)."""
        return cls(*_look(rows), reach, own, _laws(own))

    @property
    def own_scores(self) -> NDArray[np.float64]:
        """Scores of the reference rows, each without itself, shape (n,)."""
        return _combine(self.own, self.laws)

    def suspicion(self, rows: TableRows, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """How suspect each row of a training table is, where anomalies may vouch for one another.

        The score of each row, reference rows without themselves, plus the mean surprise, over the two
        views, of the distance to the k-th nearest reference row, k being a fifth of them: a group of
        anomalies that is smaller than that has its k-th neighbour outside of itself.

        Parameters
        ----------
        rows : TableRows
            Of shape (n, ...).
        kept : int array
            Which of them are the reference rows, in order.

        Returns
        -------
        ndarray of shape (n,), larger is more suspect.
        """
        others = np.setdiff1d(np.arange(len(rows)), kept)
        rest = rows.take(others)
        total = np.empty(len(rows))
        total[kept] = self.own_scores
        if len(others):
            total[others] = self.score(rest)
        k = max(len(kept) // _HIDING, 1)
        for view, points in zip(self.views, self.points, strict=True):
            own = kth_distances(points, points, k, own=np.arange(len(points)))
            law = TailLaw.fit(own)
            total[kept] += 0.5 * law.surprise(own)
            if len(others):
                far = kth_distances(view.transform(rest), points, k)
                total[others] += 0.5 * law.surprise(far)
        return total

    def downhill(
        self,
        rows: TableRows,
        free: Sequence[Sequence[int]],
        reference: TableRows,
        own: NDArray[np.int64] | None = None,
    ) -> TableRows:
        """Rows moved down in the first member's energy along their free cells, as by
        `energyscape.detectors.downhill.downhill`; `reference` is what the detector was fitted on.
        """
        return downhill(rows, free, reference, self.views[0], self.points[0], _LEVEL, own=own)

    def members(self, rows: TableRows, own: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Each member's own score, shape (m, 3): larger is stranger; ``own`` as in `score`."""
        x = (self.views[0].transform(rows), self.views[1].transform(rows))
        return _members(*_near(self.views, x, self.points, own), self.reach)

    def score(self, rows: TableRows, own: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Mean surprise over the members in nats, shape (m,); a function of the row alone.

        ``own`` are places of reference rows, one for each row, that it is not compared with.
        """
        return _combine(self.members(rows, own), self.laws)


def _look(rows: TableRows) -> tuple[Pair, Points]:
    views = (View.fit(rows), View.fit(rows, ranked=True))
    return views, (views[0].transform(rows), views[1].transform(rows))


def _alike(views: Pair) -> bool:
    """Whether no column is ranked, so that the two views are one."""
    return all(known is None for known in views[1].order)


def _laws(members: NDArray[np.float64]) -> tuple[TailLaw, ...]:
    return tuple(TailLaw.fit(scores) for scores in members.T)


def _near(
    views: Pair, x: Points, rows: Points, own: NDArray[np.int64] | None = None
) -> tuple[Surroundings, Surroundings]:
    """What is near in each view; neighbours in the standard view alone."""
    k = min(_NEIGHBOURS, len(rows[0]) - (own is not None))
    if len(rows[0]) >= MANY:
        return two_surroundings(x, rows, _LEVEL, k, own=own)
    near = surroundings(x[0], rows[0], _LEVEL, k, own=own)
    if _alike(views):
        return near, near
    return near, surroundings(x[1], rows[1], _LEVEL, 0, own=own)


def _members(
    near: Surroundings, ranked: Surroundings, reach: NDArray[np.float64]
) -> NDArray[np.float64]:
    around = reach[near.nearest].mean(axis=1)
    contrast = np.log(near.reach + _FLOOR) - np.log(around + _FLOOR)
    return np.stack([near.energy, ranked.energy, contrast], axis=1)


def _combine(members: NDArray[np.float64], laws: tuple[TailLaw, ...]) -> NDArray[np.float64]:
    parts = [law.surprise(scores) for law, scores in zip(laws, members.T, strict=True)]
    return np.average(np.stack(parts), axis=0, weights=_WEIGHTS)
