r"""How one column becomes a few standardised dimensions, and what that does to a density.

Numbers. ``x = (T(v) - m) / s`` with m, s the mean and standard deviation of ``T(v)`` on the
training rows; ``log|dx/dv| = log T'(v) - log s``. T is the identity, or for heavy tails
``T(v) = asinh((v - median) / r)``, ``log T' = -log r - log(1 + ((v - median)/r)^2)/2``. Heavy means

    q(99.5 %) - q(0.5 %) > 2 x 3.82 IQR    (twice a Gaussian's), or    max - min > 15 IQR:

the second because one wild value would otherwise set s and squeeze the rest into a point. Here
IQR = 1.349 r; when half the values are tied, r is the median distance of the others to the median.
Whole numbers are first spread over their cell, ``v + u`` with ``u ~ U[0, 1)`` of density 1. Columns
with spikes, and whole numbers that are coarse or lie in islands (days of several seasons), go by their
ranks instead (:mod:`energyscape.data.ranks`); whole numbers of at most 16 values from lowest to highest
stay steps, ``(v - m) / s + 0.075 e / s``.

Names. A category of k values is ``x = a (onehot - p) + tau e`` with ``e ~ N(0, I_k)``, p the
training frequencies and ``a = min(1 / sqrt(1 - sum p^2), 4)``, so that the block's total variance
is about that of one number. ``tau = a / 10``: two coordinates change order with probability
``Phi(-10 / sqrt 2) = 7.7e-13``, so the largest coordinate gives the value back with a leak below
``(k - 1) 7.7e-13``. A boolean is one dimension, ``a (+-1 - m + 0.15 e)`` with m the mean of the signs
and ``a = min(1 / std, 4)`` (leak ``Phi(-1/0.15) = 1.3e-11``).
A value never seen sits at the block's origin before centring (no category). log_abs_det is
``-log q(noise)``.

Blanks. In a column with blanks in training one more dimension says so, as a boolean does: the rarer
blanks are, the farther out. The value dimensions of a blank are N(0, 1) with ``-log N`` accounted,
which is exact when the model learns that law; and read as importance sampling it estimates the
density of the other columns, which is what a blank in a column without indicator gets.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np

from energyscape.data.atoms import Atoms
from energyscape.data.ranks import RankBlock
from energyscape.data.values import BLANK

__all__ = ["SIGN_NOISE", "LabelBlock", "NumberBlock", "SignBlock", "StepBlock", "draw", "log_q"]

SIGN_NOISE = 0.15
_CATEGORY_NOISE = 0.1
_LARGEST_SCALE = 4.0


def draw(shape: tuple[int, ...], rng: np.random.Generator | None) -> np.ndarray:
    """Standard normal noise, or its centre 0 without a generator."""
    return np.zeros(shape) if rng is None else rng.standard_normal(shape)


def log_q(e: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """log-density of ``scale * e`` under N(0, scale^2 I): shape [N, k] to [N].

    >>> float(log_q(np.zeros((1, 2))).round(4)[0])
    -1.8379
    """
    width = e.shape[1] * (0.5 * np.log(2 * np.pi) + np.log(scale))
    return -0.5 * np.einsum("nk,nk->n", e, e) - width


class NumberBlock(NamedTuple):
    """A number or a whole number (``cell = 1``); see the module's opening lines."""

    mean: float
    std: float
    median: float
    spread: float
    heavy: bool
    cell: bool
    low: float
    high: float

    @property
    def width(self) -> int:
        """Dimensions."""
        return 1

    @classmethod
    def fit(cls, values: np.ndarray, cell: bool, low: float, high: float) -> Self:
        """Scales from values [N], NaN for blanks; ``low`` and ``high`` bound what is decoded."""
        v = values[~np.isnan(values)]
        if not v.size:
            return cls(0.0, 1.0, 0.0, 1.0, False, cell, low, high)
        v = v + 0.5 if cell else v
        median, spread, heavy = _tails(v)
        block = cls(0.0, 1.0, median, spread, heavy, cell, low, high)
        y = block._forward(v)
        # A cell of width 1 adds its own variance, 1/12 of the squared slope.
        extra = np.mean(np.exp(2 * block._log_slope(v))) / 12 if cell else 0.0
        std = float(np.sqrt(np.var(y) + extra))
        tiny = 1e-12 * max(1.0, float(np.abs(y).max()))
        return block._replace(mean=float(np.mean(y)), std=std if std > tiny else 1.0)

    def _forward(self, v: np.ndarray) -> np.ndarray:
        return np.arcsinh((v - self.median) / self.spread) if self.heavy else v

    def _log_slope(self, v: np.ndarray) -> np.ndarray:
        if not self.heavy:
            return np.zeros_like(v)
        # hypot does not overflow where the square of a wild value would.
        return -np.log(self.spread) - np.log(np.hypot(1.0, (v - self.median) / self.spread))

    def encode(
        self, values: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x [N, 1] and log_abs_det [N]; rows that are NaN come back as NaN."""
        v = values
        if self.cell:
            v = values + (0.5 if rng is None else rng.random(values.shape))
        x = (self._forward(v) - self.mean) / self.std
        return x[:, None], self._log_slope(v) - np.log(self.std)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Values [N] within [low, high]; whole when the column is."""
        top = self.high + 1 if self.cell else self.high
        ends = self._forward(np.array([self.low, top]))
        # Clipped before the inverse, where sinh of a wild x would overflow.
        y = np.clip(x[:, 0] * self.std + self.mean, *ends)
        v = np.sinh(y) * self.spread + self.median if self.heavy else y
        return np.clip(np.floor(v) if self.cell else v, self.low, self.high)


def _tails(v: np.ndarray) -> tuple[float, float, bool]:
    """(median, r, heavy) of the rule in the module's opening lines."""
    q = np.quantile(v, [0.005, 0.25, 0.5, 0.75, 0.995])
    median, iqr = float(q[2]), float(q[3] - q[1])
    if iqr <= 0:
        away = np.abs(v - median)
        away = away[away > 0]
        iqr = 1.349 * float(np.median(away)) if away.size else 0.0
    if iqr <= 0:
        return median, 1.0, False
    heavy = q[4] - q[0] > 2 * 3.82 * iqr or float(np.ptp(v)) > 15 * iqr
    return median, iqr / 1.349, bool(heavy)


class SignBlock(NamedTuple):
    """A yes or no in one dimension, ``a (+-1 - mean) + 0.15 a e``; mean and scale a of training rows.

    The scale makes a rare answer as far from the mean as it is rare, a = min(1 / std, 4): left at 1 a
    blank of one row in thirty would be a thirtieth of a number's variance, and be learned last.
    """

    mean: float = 0.0
    scale: float = 1.0

    @property
    def width(self) -> int:
        """Dimensions."""
        return 1

    @classmethod
    def fit(cls, codes: np.ndarray) -> Self:
        """Mean and scale from codes 0, 1 (negative ones not counted)."""
        known = codes[codes >= 0]
        if not len(known):
            return cls()
        mean = float(2.0 * known.mean() - 1.0)
        return cls(mean, float(1 / max(np.sqrt(1 - mean**2), 1 / _LARGEST_SCALE)))

    def encode(
        self, codes: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes 0, 1 (negative: neither) to x [N, 1] and log_abs_det [N]."""
        e = draw((len(codes), 1), rng)
        sign = np.where(codes < 0, 0.0, 2.0 * codes - 1.0) - self.mean
        noise = SIGN_NOISE * self.scale
        return self.scale * sign[:, None] + noise * e, -log_q(e, noise)

    @property
    def atoms(self) -> Atoms:
        """No and yes."""
        return Atoms.on_a_line(
            self.scale * (np.array([-1.0, 1.0]) - self.mean), SIGN_NOISE * self.scale
        )

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Codes [N]."""
        return (x[:, 0] / self.scale + self.mean > 0).astype(np.int64)


class StepBlock(NamedTuple):
    """Few whole values in one dimension, ``(v - mean) / std + 0.075 e / std``, in their order.

    The noise is that of a yes or no (two steps of 1 instead of one of 2), so a value leaks into each of
    its neighbours with probability ``Phi(-0.5 / 0.075) = 1.3e-11``.
    """

    mean: float
    std: float
    low: float
    high: float
    #: Those of the training rows, and the ends; none in runs from before they were kept.
    values: np.ndarray = np.zeros(0)

    @property
    def width(self) -> int:
        """Dimensions."""
        return 1

    @classmethod
    def fit(cls, values: np.ndarray, low: float, high: float) -> Self:
        """Mean and deviation of values [N], NaN for blanks; ``low``, ``high`` bound what is decoded."""
        v = values[~np.isnan(values)]
        std = max(float(v.std()), 0.5 / _LARGEST_SCALE)
        return cls(float(v.mean()), std, low, high, np.unique(np.append(v, [low, high])))

    def encode(
        self, values: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x [N, 1] and log_abs_det [N]; rows that are NaN come back as NaN."""
        e, noise = draw((len(values), 1), rng), SIGN_NOISE / 2 / self.std
        return (values[:, None] - self.mean) / self.std + noise * e, -log_q(e, noise)

    @property
    def atoms(self) -> Atoms | None:
        """The values that there were."""
        if not len(self.values):
            return None
        return Atoms.on_a_line((self.values - self.mean) / self.std, SIGN_NOISE / 2 / self.std)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Whole values [N] within [low, high]."""
        return np.clip(np.round(x[:, 0] * self.std + self.mean), self.low, self.high)


class LabelBlock(NamedTuple):
    """A category of k values in k dimensions (0 when there is only one)."""

    frequency: np.ndarray
    scale: float

    @property
    def width(self) -> int:
        """Dimensions."""
        return len(self.frequency)

    @classmethod
    def fit(cls, codes: np.ndarray, k: int) -> Self:
        """Frequencies p and scale a from codes [N] in 0..k-1 (negative ones not counted)."""
        if k < 2:
            return cls(np.zeros(0), 1.0)
        counts = np.bincount(codes[codes >= 0], minlength=k).astype(np.float64)
        p = counts / counts.sum() if counts.sum() else np.full(k, 1 / k)
        return cls(p, float(1 / np.sqrt(max(1 - p @ p, _LARGEST_SCALE**-2))))

    def encode(
        self, codes: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (negative: no category) to x [N, k] and log_abs_det [N]."""
        e = draw((len(codes), self.width), rng)
        x = np.broadcast_to(-self.scale * self.frequency, e.shape).copy()
        if self.width:
            rows = np.flatnonzero(codes >= 0)
            x[rows, codes[rows]] += self.scale
        tau = _CATEGORY_NOISE * self.scale
        return x + tau * e, -log_q(e, tau)

    @property
    def atoms(self) -> Atoms | None:
        """The names; None where there is one only."""
        k = self.width
        if not k:
            return None
        noise = np.full(k, _CATEGORY_NOISE * self.scale)
        origin = -self.scale * self.frequency
        return Atoms(origin, np.arange(k), np.full(k, self.scale), np.ones(k), noise)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Codes [N]: the largest coordinate."""
        if not self.width:
            return np.zeros(len(x), dtype=np.int64)
        return np.argmax(x + self.scale * self.frequency, axis=1)


def blank_rows(values: np.ndarray) -> np.ndarray:
    """Where a column's bare values are blank (NaN, or the code for it)."""
    return np.isnan(values) if values.dtype.kind == "f" else values == BLANK


def block_state(block: Any) -> tuple[list[float], np.ndarray]:
    """(numbers, frequencies) that describe a block; :func:`block_from_state` is the inverse."""
    if isinstance(block, RankBlock):
        ends = [float(block.cell), block.low, block.high]
        return ends, np.concatenate([block.knots, block.ranks])
    if isinstance(block, LabelBlock):
        return [block.scale], block.frequency
    if isinstance(block, StepBlock):
        return [float(value) for value in block[:4]], block.values
    return [float(value) for value in block], np.zeros(0)


def block_from_state(kind: str, values: np.ndarray, frequency: np.ndarray) -> Any:
    """The block of a column of this kind."""
    if kind == "boolean":
        return SignBlock(*(float(value) for value in values))  # none in runs of the first version
    if kind == "category":
        return LabelBlock(np.asarray(frequency, dtype=np.float64), float(values[0]))
    if len(values) == 4:
        mean, std, low, high = (float(value) for value in values)
        return StepBlock(mean, std, low, high, np.asarray(frequency, dtype=np.float64))
    if len(frequency):
        knots, ranks = np.split(np.asarray(frequency, dtype=np.float64), 2)
        return RankBlock(knots, ranks, bool(values[0]), float(values[1]), float(values[2]))
    mean, std, median, spread, heavy, cell, low, high = (float(value) for value in values)
    return NumberBlock(mean, std, median, spread, bool(heavy), bool(cell), low, high)
