r"""Scores of different kinds on one scale: how surprising they are, in nats.

A score s of a new row says something only beside the scores ``s_1 .. s_n`` of rows like the training
rows. Its surprise is ``-log P(S >= s)``: up to a high quantile u from their ranks (ties count half),
and beyond it from an exponential tail,

    -log P(S >= s) = -log(k/n) + (s - u)/m,      m = mean excess over u of the k highest,

the law of excesses with shape 0 (Pickands 1975): unlike ranks it goes on past the highest known score,
so that strange rows stay in order. For a row that belongs, surprise is about exponential with mean 1;
detectors are combined by the (weighted) mean of theirs, as Fisher combines p-values. No label is looked
at, and what comes out is a score like any other: error rates are the calibration's business
(:mod:`energyscape.detection`).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["TailLaw"]

_TAIL = 0.1
_LARGEST_TAIL = 200


class TailLaw(NamedTuple):
    """The law of a score on ordinary rows: sorted scores [n], where the tail starts, its mean excess.

    Examples
    --------
    >>> law = TailLaw.fit(np.arange(100.0))
    >>> law.surprise(np.array([0.0, 49.5, 99.0, 990.0])).round(2).tolist()
    [0.01, 0.69, 4.11, 182.31]
    """

    scores: NDArray[np.float64]
    start: int
    excess: float

    @classmethod
    def fit(cls, scores: NDArray[np.float64]) -> Self:
        """From the scores of ordinary rows, each scored as a new row would be.

        Raises
        ------
        ValueError
            No score, or one that is not finite.
        """
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        if not ordered.size or not np.isfinite(ordered).all():
            raise ValueError("a tail law needs finite scores, at least one")
        n = ordered.size
        start = max(int(n * (1 - _TAIL)), n - _LARGEST_TAIL)
        start = min(start, n - 1)
        top, bulk = ordered[start + 1 :], ordered[start] - np.median(ordered)
        excess = float((top - ordered[start]).mean()) if top.size else 0.0
        # Ties at the top leave no excess; an exponential has 0.62 of this distance.
        excess = max(excess, 0.05 * float(bulk))
        return cls(ordered, start, excess if excess > 0 else 1.0)

    def surprise(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """``-log P(S >= s)`` in nats, at least about 0, increasing in the score."""
        n, u = self.scores.size, self.scores[self.start]
        below = np.searchsorted(self.scores, scores, side="left")
        up_to = np.searchsorted(self.scores, scores, side="right")
        bulk = -np.log((n - 0.5 * (below + up_to) + 0.5) / (n + 1))
        tail = -np.log((n - self.start) / (n + 1)) + (scores - u) / self.excess
        return np.where(scores > u, tail, bulk)
