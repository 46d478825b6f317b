"""Rows set apart: training, validation (early stopping) and calibration (p-values, nothing else).

Calibration rows train nothing and stop nothing early, so the three never overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from energyscape.data.errors import DataError

__all__ = ["Split", "split_rows"]


class Split(NamedTuple):
    """Index arrays (int64, each sorted): disjoint, together ``0 .. n-1``."""

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray


def split_rows(
    n: int, validation_fraction: float, calibration_fraction: float, rng: np.random.Generator
) -> Split:
    """A random split of ``n`` rows.

    A part with a fraction above 0 gets ``round(fraction * n)`` rows, at least one while two rows or
    more would still be left to train on; training always gets at least one row.

    Raises
    ------
    DataError : n below 1, a fraction outside [0, 1), or fractions that sum to 1 or more.

    Examples
    --------
    >>> split = split_rows(10, 0.2, 0.1, np.random.default_rng(0))
    >>> [len(part) for part in split]
    [7, 2, 1]
    """
    if n < 1:
        raise DataError(f"cannot split {n} rows; give at least one")
    for name, value in (("validation", validation_fraction), ("calibration", calibration_fraction)):
        if not 0 <= value < 1:
            raise DataError(f"{name}_fraction is {value}; it must be at least 0 and below 1")
    if validation_fraction + calibration_fraction >= 1:
        raise DataError(
            f"validation_fraction + calibration_fraction is "
            f"{validation_fraction + calibration_fraction:g}; below 1 leaves rows to train on"
        )
    left = n
    sizes = []
    for fraction in (validation_fraction, calibration_fraction):
        wanted = max(round(fraction * n), 1) if fraction > 0 else 0
        size = wanted if left - wanted >= 2 or wanted == 0 else max(left - 2, 0)
        sizes.append(size)
        left -= size
    order = rng.permutation(n)
    validation, calibration = order[: sizes[0]], order[sizes[0] : sum(sizes)]
    return Split(np.sort(order[sum(sizes) :]), np.sort(validation), np.sort(calibration))
