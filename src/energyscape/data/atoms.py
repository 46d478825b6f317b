"""Where a column of few values lies in its dimensions: one Gaussian for each value."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np

__all__ = ["Atoms"]


class Atoms(NamedTuple):
    """The law of each value of a column as it is encoded, ``N(c_k, noise_k^2 I)`` in d dimensions.

    A centre is one step along one dimension, from the column's origin or (anchored = 0) from 0:
    ``c_k = anchored_k origin + step_k e_axis_k``.

    Attributes
    ----------
    origin : array of shape (d,)
    axis, step, anchored, noise : arrays of shape (K,)

    Examples
    --------
    >>> Atoms(np.array([-1.0, -2.0]), np.arange(2), np.full(2, 3.0), np.ones(2), np.ones(2)).centres
    array([[ 2., -2.],
           [-1.,  1.]])
    """

    origin: np.ndarray
    axis: np.ndarray
    step: np.ndarray
    anchored: np.ndarray
    noise: np.ndarray

    @classmethod
    def on_a_line(cls, centres: np.ndarray, noise: float) -> Self:
        """In one dimension."""
        k = len(centres)
        return cls(np.zeros(1), np.zeros(k, dtype=np.int64), centres, np.ones(k), np.full(k, noise))

    @property
    def centres(self) -> np.ndarray:
        """Shape (K, d)."""
        out = self.anchored[:, None] * self.origin
        out[np.arange(len(out)), self.axis] += self.step
        return out

    def with_blank(self) -> Self:
        """And one more for the rows in which the column is blank, N(0, I)."""
        return self._replace(
            axis=np.append(self.axis, 0),
            step=np.append(self.step, 0.0),
            anchored=np.append(self.anchored, 0.0),
            noise=np.append(self.noise, 1.0),
        )

    def shares(self, x: np.ndarray) -> np.ndarray:
        """How often each is the likeliest of encoded rows [n, d], half a row added; shape (K,)."""
        counts = self.counts(x) + 0.5
        return np.asarray(counts / counts.sum())

    def counts(self, x: np.ndarray) -> np.ndarray:
        """Of how many encoded rows [n, d] each is the likeliest; shape (K,)."""
        square = (self.centres**2).sum(1)
        along = self.anchored * (x @ self.origin)[:, None] + self.step * x[:, self.axis]
        distance = (x**2).sum(1)[:, None] - 2 * along + square
        likely = -0.5 * distance / self.noise**2 - len(self.origin) * np.log(self.noise)
        return np.bincount(likely.argmax(1), minlength=len(self.step))

    def facts(self, start: int, x: np.ndarray) -> dict[str, Any]:
        """As plain numbers: of a column whose dimensions begin at `start` of encoded rows [n, D]."""
        shares = self.shares(x[:, start : start + len(self.origin)])
        return {
            "start": start,
            **{name: value.tolist() for name, value in self._asdict().items()},
            "share": shares.tolist(),
        }
