"""Detectors made of rows, and scores of rows by detectors that did not know them.

``cross``: one detector of all rows, each row scored by a detector without its fold. ``split``: a
detector of some rows, which scores the others. Either leaves out the strangest rows where told to trim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.data import DataError
from energyscape.detectors import EmpiricalDetector, TableRows

__all__ = ["Learned", "Learning", "learn_across", "learn_apart", "score_rows"]

_FOLDS = 5
_CHUNK = 8192
#: Of more rows than these only those are scored that calibrate.
_ALL_SCORED = 100_000

#: ``(done, total)``, for a bar.
Shown = Callable[[int, int], None] | None


class Learning(NamedTuple):
    """How detectors are made of rows."""

    trim: float
    max_rows: int
    rng: np.random.Generator

    def detector(self, rows: TableRows) -> tuple[EmpiricalDetector, NDArray[np.int64]]:
        """A detector, and which rows it compares with."""
        index = np.arange(len(rows))
        if len(rows) > self.max_rows:
            index = np.sort(self.rng.permutation(len(rows))[: self.max_rows])
        kept, fitted = index, EmpiricalDetector.fit(rows.take(index))
        stay = max(round((1 - self.trim) * len(index)), 2)
        # The second round judges by a reference that the first has cleaned.
        for _ in range(2 if stay < len(index) else 0):
            suspect = fitted.suspicion(rows.take(index), np.searchsorted(index, kept))
            kept = np.sort(index[np.argsort(suspect, kind="stable")[:stay]])
            fitted = EmpiricalDetector.fit(rows.take(kept))
        return fitted, kept

    def sample(self, rows: TableRows, kept: NDArray[np.int64]) -> TableRows:
        """Rows as they came, to see new ones drift from: the reference if it is not trimmed."""
        if self.trim:
            kept = np.sort(self.rng.permutation(len(rows))[: self.max_rows])
        return rows.take(kept)


class Learned(NamedTuple):
    """A detector, its reference rows, scores of all rows and those that calibrate.

    Of more than 100,000 rows that are split, those that neither calibrate nor are compared with have
    the score NaN: to the detector they are as good as new. ``sample`` are training rows as they came:
    the reference rows, unless some were trimmed.
    """

    detector: EmpiricalDetector
    reference: TableRows
    scores: NDArray[np.float64]
    calibration: NDArray[np.float64]
    sample: TableRows


def learn_across(rows: TableRows, how: Learning, shown: Shown = None) -> Learned:
    """A detector of all rows, calibrated on each by one of the rows of the other folds."""
    folds = min(_FOLDS, len(rows))
    fold = how.rng.permutation(len(rows)) % folds
    scores = np.empty(len(rows))
    for k in range(folds):
        rest = np.flatnonzero(fold != k)
        if len(rest) < 2:
            raise DataError(f"{len(rows)} rows are too few to learn and calibrate; 3 are needed")
        held = np.flatnonzero(fold == k)
        scores[held] = score_rows(how.detector(rows.take(rest))[0], rows.take(held))
        if shown is not None:
            shown(k + 1, folds + 1)
    detector, kept = how.detector(rows)
    sample = how.sample(rows, kept)
    return Learned(detector, rows.take(kept), scores, scores, sample)


def learn_apart(rows: TableRows, how: Learning, shown: Shown = None) -> Learned:
    """A detector of some rows, calibrated on the others."""
    n = len(rows)
    size = min(max(n // 10, min(1000, n // 4), 1), 20_000)
    order = how.rng.permutation(n)
    held, rest = order[:size], np.sort(order[size:])
    if len(rest) < 2:
        raise DataError(f"{n} rows are too few to learn and calibrate; 3 are needed")
    detector, kept = how.detector(rows.take(rest))
    scores = np.full(n, np.nan)
    scores[rest[kept]] = detector.own_scores
    others = held if n > _ALL_SCORED else np.setdiff1d(np.arange(n), rest[kept])
    scores[others] = score_rows(detector, rows.take(others), shown)
    sample = how.sample(rows, rest[kept])
    return Learned(detector, rows.take(rest[kept]), scores, scores[held], sample)


def score_rows(
    detector: EmpiricalDetector, rows: TableRows, shown: Shown = None
) -> NDArray[np.float64]:
    """The detector's scores, some thousand rows at a time."""
    parts = []
    for start in range(0, len(rows), _CHUNK):
        stop = min(start + _CHUNK, len(rows))
        parts.append(detector.score(rows.take(np.arange(start, stop))))
        if shown is not None:
            shown(stop, len(rows))
    return np.concatenate(parts) if parts else np.empty(0)
