r"""A number by its rank: for columns with spikes, clumps or islands, far tails or few whole values.

    u = F(v),    x = Phi^-1(u),    log|dx/dv| = log F'(v) - log phi(x)

with F the training rows' distribution function, linear between at most 129 knots at their quantiles
(at least 10 rows apart) and those at both ends of stretches that hold no rows, so that x is standard
normal in the training rows whatever the column's law. Beyond the range seen x goes on at its mean slope
over that range.

A spike is a value that many rows share and its neighbours do not: F jumps there from a to b, and the
value is spread over the jump, ``u ~ U[a, b)``, of density ``q(x) = phi(x) / (b - a)``. So
``-log q`` makes a *probability* of the value, where other values of the column have a density: the
law is one of a lump and a smooth part, and both are exact. Whole numbers are spread over their cell,
``v + w`` with ``w ~ U[0, 1)``, and F has knots at the cells' ends: all of theirs are probabilities.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["RankBlock", "ranked", "spikes", "stepped"]

_MOST_KNOTS, _MOST_STRETCHES = 128, 4096
_COARSE_SHARE = 0.1
_FEW_STEPS = 16
_ROWS_BETWEEN = 10
_GAP_SHARE = 0.8
_MANY_STRETCHES = 5
_EMPTY_SHARE, _EMPTY_TIMES, _EMPTY_NEAR = 0.2, 20.0, 10
_CLUMP_BINS, _CLUMP_RATIO, _CLUMP_WIDTH = 50, 10.0, 0.05
_SPIKE_SHARE, _SPIKE_ROWS, _SPIKE_RATIO, _SPIKE_NEIGHBOURS = 0.02, 10, 5.0, 5


def spikes(values: np.ndarray) -> np.ndarray:
    """Values that at least 2 % of the rows (and 10) share, and five times as many as share each of
    the ten nearest other values in the mean. Rounding makes no spikes: it ties neighbours alike.

    >>> v = np.concatenate([np.zeros(50), np.linspace(1, 2, 200)])
    >>> spikes(v), spikes(np.round(np.linspace(1, 2, 200), 1))
    (array([0.]), array([], dtype=float64))
    """
    known, counts = np.unique(values, return_counts=True)
    often = np.flatnonzero(counts >= max(_SPIKE_ROWS, _SPIKE_SHARE * len(values)))
    found = []
    for i in often:
        around = np.r_[max(i - _SPIKE_NEIGHBOURS, 0) : i, i + 1 : i + 1 + _SPIKE_NEIGHBOURS]
        around = around[around < len(known)]
        if not len(around) or counts[i] >= _SPIKE_RATIO * counts[around].mean():
            found.append(known[i])
    return np.array(found, dtype=np.float64)


def clumped(values: np.ndarray) -> bool:
    """Whether a number has lumps that are no ties: a fiftieth of the rows, a twentieth as wide as
    fiftieths are in the mean, with a neighbour ten times as wide.

    Values at the end of a scale that are measured with a little noise do. Tails do not (a Cauchy's
    fiftieths differ by 3, those of ``1 / u^2`` by 5), nor two modes of 500 rows up to 200 of their
    deviations apart, nor ties, of which rounding makes many.

    >>> v = np.linspace(-1, 1, 500)
    >>> clumped(np.concatenate([v, 0.001 * v])), clumped(np.tan(1.57 * v))
    (True, False)
    """
    v = values[~np.isnan(values)]
    bins = min(_CLUMP_BINS, len(v) // _ROWS_BETWEEN)
    if bins < _CLUMP_BINS // 2:
        return False
    # The outermost reach as far as the farthest row does.
    wide = np.diff(np.quantile(v, np.linspace(0, 1, bins + 1)))[1:-1]
    if not wide.all():
        return False
    narrow, other = np.sort([wide[1:], wide[:-1]], axis=0)
    lumps = (other >= _CLUMP_RATIO * narrow) & (narrow <= _CLUMP_WIDTH * wide.mean())
    return bool(lumps.any())


def stepped(values: np.ndarray) -> bool:
    """Whether whole numbers are few steps: at most 16 from the lowest to the highest."""
    v = values[~np.isnan(values)]
    return bool(len(v)) and 0 < np.ptp(v) < _FEW_STEPS


def islands(values: np.ndarray, *, least: int = 1) -> bool:
    """Whether stretches without rows between others are together a fifth of the range or more.

    Days of a few seasons lie so, and of ten years of them. A smooth density of all of them draws days
    between the seasons. ``least`` is how many such stretches there must be.

    >>> islands(np.r_[0:30, 365:395]), islands(np.r_[0:300, 5000])
    (True, False)
    """
    v = np.sort(values[~np.isnan(values)])
    left, right = empty_stretches(v)
    return len(left) >= least and bool((right - left).sum() >= _EMPTY_SHARE * (v[-1] - v[0]))


def empty_stretches(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the stretches of sorted values that hold none and are no chance: a fifth of the
    range with 2 % of the rows (10 at least) on each side, or 20 times as wide as the ten spacings of
    different values before it are in the mean, and the ten after it.

    In tails spacings grow with every value, so that hardly one is as wide beside those beyond it.

    >>> [end.tolist() for end in empty_stretches(np.r_[0:30, 365:395, 730:760])]
    [[29, 394], [365, 730]]
    """
    known = np.unique(v)
    width = np.diff(known)
    least = int(max(_SPIKE_ROWS, _SPIKE_SHARE * len(v)))
    found = np.zeros(len(width), dtype=bool)
    if len(v) >= 2 * least:
        inner = (known[:-1] >= v[least - 1]) & (known[1:] <= v[len(v) - least])
        found |= inner & (width >= _EMPTY_SHARE * (v[-1] - v[0]))
    at = np.arange(_EMPTY_NEAR, len(width) - _EMPTY_NEAR)
    if len(at):
        before = (known[at] - known[at - _EMPTY_NEAR]) / _EMPTY_NEAR
        after = (known[at + 1 + _EMPTY_NEAR] - known[at + 1]) / _EMPTY_NEAR
        found[at] |= width[at] >= _EMPTY_TIMES * np.maximum(before, after)
    return known[:-1][found], known[1:][found]


def ranked(values: np.ndarray, cell: bool) -> bool:
    """Whether a column is better learned by its ranks: it has spikes, clumps or many islands, or counts
    coarsely or in islands (``cell``).

    A smooth density tells whole numbers apart whose most frequent one holds less than a tenth of the
    rows; others need cells that are wide where they are frequent.
    """
    v = values[~np.isnan(values)]
    if len(v) < 2 or v.min() == v.max():
        return False
    if cell and np.unique(v, return_counts=True)[1].max() >= _COARSE_SHARE * len(v):
        return True
    # A network learns a few modes of a continuous law by itself, and without the kinks of ranks.
    if islands(v, least=1 if cell else _MANY_STRETCHES):
        return True
    return bool(len(spikes(v))) or (not cell and clumped(v))


class RankBlock(NamedTuple):
    """A number by its rank; see the module's opening lines.

    Examples
    --------
    >>> v = np.concatenate([np.zeros(100), np.exp(np.linspace(0, 5, 100))])
    >>> block = RankBlock.fit(v, False, 0.0, float(v.max()))
    >>> x, log_abs_det = block.encode(np.array([0.0, 0.0, 20.0]), np.random.default_rng(0))
    >>> block.decode(x).round(9).tolist()
    [0.0, 0.0, 20.0]
    >>> bool(x[0] != x[1]), bool((x[:2] < 0).all())
    (True, True)
    """

    knots: np.ndarray
    ranks: np.ndarray
    cell: bool
    low: float
    high: float

    @property
    def width(self) -> int:
        """Dimensions."""
        return 1

    @classmethod
    def fit(cls, values: np.ndarray, cell: bool, low: float, high: float) -> Self:
        """Knots from values [N], NaN for blanks; ``low`` and ``high`` bound what is decoded."""
        v = np.sort(values[~np.isnan(values)])
        n = len(v)
        least = 0.5 / (n + 1)
        if cell:
            known, counts = np.unique(v, return_counts=True)
            # Both ends of each cell that holds rows: between them F is flat where no rows are.
            knots = np.unique(np.concatenate([known, known + 1]))
            below = np.concatenate([[0], np.cumsum(counts)])
            ranks = below[np.searchsorted(known, knots)] / n
            if len(knots) > _MOST_KNOTS:
                knots, ranks = _thinned(knots, ranks, v)
        else:
            knots, ranks = _continuous(v)
        ranks = least + (1 - 2 * least) * ranks
        # A flat piece would have no inverse: every value has at least a little of the mass.
        floor = least / max(len(ranks), 1)
        ranks = np.cumsum(np.concatenate([[0.0], np.maximum(np.diff(ranks), floor)]))
        ranks = least + (1 - 2 * least) * ranks / max(ranks[-1], 1e-300)
        return cls(knots, ranks, cell, low, high)

    def _slope(self) -> float:
        """dx/dv beyond the knots."""
        ends = ndtri(self.ranks[[0, -1]])
        return float((ends[1] - ends[0]) / (self.knots[-1] - self.knots[0]))

    def encode(
        self, values: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x [N, 1] and log_abs_det [N]; rows that are NaN come back as NaN."""
        w = np.full(values.shape, 0.5) if rng is None else rng.random(values.shape)
        v = values + w if self.cell else values
        last = len(self.knots) - 1
        right = np.searchsorted(self.knots, v, side="right")
        left = np.searchsorted(self.knots, v, side="left")
        spiked = right - left > 1  # on a knot that is there twice
        i = np.clip(np.where(spiked, left, right - 1), 0, last - 1)
        rise = self.ranks[i + 1] - self.ranks[i]
        run = np.where(spiked, 1.0, self.knots[i + 1] - self.knots[i])
        run = np.where(run > 0, run, 1.0)
        part = np.where(spiked, w, (v - self.knots[i]) / run)
        u = self.ranks[i] + rise * np.clip(part, 0.0, 1.0)
        x = ndtri(u)
        log_slope = np.log(rise) - np.log(run) + 0.5 * x**2 + 0.5 * np.log(2 * np.pi)
        slope = self._slope()
        for out, end in ((v < self.knots[0], 0), (v > self.knots[-1], last)):
            x = np.where(out, ndtri(self.ranks[end]) + (v - self.knots[end]) * slope, x)
            log_slope = np.where(out, np.log(slope), log_slope)
        x = np.where(np.isnan(values), np.nan, x)
        return x[:, None], log_slope

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Values [N] within [low, high]; whole when the column is."""
        v = np.interp(ndtr(x[:, 0]), self.ranks, self.knots)
        return np.clip(np.floor(v) if self.cell else v, self.low, self.high)


def _levels(n: int) -> np.ndarray:
    """Ranks of the knots: even, and towards both ends halved down to ten rows, so that tails keep
    their shape."""
    pieces = int(np.clip(n // _ROWS_BETWEEN, 1, _MOST_KNOTS))
    halves = int(np.log2(max(n / pieces / _ROWS_BETWEEN, 1.0)))
    ends = 0.5 ** np.arange(1, halves + 1) / pieces
    return np.unique(np.concatenate([np.linspace(0, 1, pieces + 1), ends, 1 - ends]))


def _stretches(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the widest stretches without rows, in order."""
    left, right = empty_stretches(v)
    widest = np.sort(np.argsort(left - right, kind="stable")[:_MOST_STRETCHES])
    return left[widest], right[widest]


def _gaps(v: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Both ends of a spacing that is nearly all of the piece between two knots.

    Without knots there the map would spread the piece's rows over the gap. The outermost pieces are
    tails, whose spacings are as wide as they are few.
    """
    ends: list[int] = []
    for first, last in pairwise(places[1:-1]):
        spacing = np.diff(v[first : last + 1])
        widest = int(spacing.argmax())
        if spacing[widest] > _GAP_SHARE * (v[last] - v[first]):
            ends += [first + widest, first + widest + 1]
    return np.array(ends, dtype=np.int64)


def _continuous(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots at quantiles of sorted values, those of spikes twice, and the share of rows below."""
    n = len(v)
    places = np.unique((_levels(n) * (n - 1)).round().astype(int))
    left, right = _stretches(v)
    sides = np.searchsorted(v, np.concatenate([left, right]))
    places = np.unique(np.concatenate([places, _gaps(v, places), sides]))
    knots = np.unique(v[places])
    ranks = (np.searchsorted(v, knots, "left") + np.searchsorted(v, knots, "right")) / (2 * n)
    # A knot's rank is that of the middle of its rows; what has no rows has no share at all.
    below = np.searchsorted(v, left, "right") / n
    lone = np.isin(left, right)  # a value between two stretches keeps its own
    ranks[np.searchsorted(knots, left[~lone])] = below[~lone]
    lone = np.isin(right, left)
    ranks[np.searchsorted(knots, right[~lone])] = below[~lone]
    lumps = spikes(v)
    if len(lumps):
        ends = [np.searchsorted(v, lumps, side) / n for side in ("left", "right")]
        keep = ~np.isin(knots, lumps)
        knots = np.concatenate([knots[keep], lumps, lumps])
        ranks = np.concatenate([ranks[keep], *ends])
        order = np.lexsort((ranks, knots))
        knots, ranks = knots[order], ranks[order]
    ranks = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
    return knots, ranks


def _thinned(knots: np.ndarray, ranks: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots at quantiles, and both ends of cells that hold 2 % of the rows or more, and of the widest
    stretches without rows."""
    at = np.searchsorted(ranks, _levels(len(v)))
    large = np.flatnonzero(np.diff(ranks) >= _SPIKE_SHARE)
    left, right = _stretches(v)
    empty = np.searchsorted(knots, np.concatenate([left + 1, right]))
    kept = np.unique(np.concatenate([at, large, large + 1, empty, [0, len(knots) - 1]]))
    kept = kept[kept < len(knots)]
    return knots[kept], ranks[kept]
