"""Whether new rows come from another law than those learned from: scores, and columns that moved."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.data import Schema
from energyscape.data.values import from_codes, from_numbers
from energyscape.detection import Drift, drift_test
from energyscape.detectors import TableRows, column_shifts
from energyscape.families.explaining import column_names, modelled_columns, shown

__all__ = ["DriftFound", "Moved", "measure_drift"]


class Moved(NamedTuple):
    """How a column moved: see `energyscape.detectors.ColumnShift`; ``change`` says it in words."""

    column: str
    distance: float
    p_value: float
    change: str


class DriftFound(NamedTuple):
    """Outcome of `drift` of a detector or a family.

    ``scores`` compares anomaly scores with those of calibration rows; ``columns`` has every column, the
    surest first, p-values for all of them together (Holm).
    """

    scores: Drift
    columns: tuple[Moved, ...]

    def moved(self, level: float = 0.01) -> list[Moved]:
        """Columns that moved: the chance that any of them has not is at most ``level``."""
        return [column for column in self.columns if column.p_value <= level]


def measure_drift(
    schema: Schema,
    reference: TableRows,
    new: TableRows,
    calibration: NDArray[np.float64],
    scores: NDArray[np.float64],
    *,
    stranger: bool,
) -> DriftFound:
    """Both tests; ``stranger`` makes that of the scores one-sided."""
    width, plain = reference.numbers.shape[1], bool(schema.array)
    names = column_names(schema, width, plain)
    shifts = column_shifts(reference, new)
    columns = modelled_columns(schema, plain)
    found = []
    for j, (name, shift) in enumerate(zip(names, shifts, strict=True)):
        if j < width:
            change = _numbers(reference.numbers[:, j], new.numbers[:, j], columns[j], plain)
        else:
            change = _names(reference.codes[:, j - width], new.codes[:, j - width], columns[j])
        found.append(Moved(name, shift.distance, shift.p_value, change))
    found.sort(key=lambda moved: (moved.p_value, -moved.distance))
    return DriftFound(drift_test(calibration, scores, stranger=stranger), tuple(found))


def _numbers(
    before: NDArray[np.float64], after: NDArray[np.float64], column: object, plain: bool
) -> str:
    """The median and the share of blanks, before and after."""
    words = []
    middles = [
        np.median(v[~np.isnan(v)]) if not np.isnan(v).all() else np.nan for v in (before, after)
    ]
    if not np.isnan(middles).any():
        told = [
            shown(float(m) if plain else from_numbers(np.array([m]), column)[0])  # type: ignore[arg-type]
            for m in middles
        ]
        words.append(f"median {told[0]} before, {told[1]} now")
    blank = [float(np.isnan(v).mean()) for v in (before, after)]
    if abs(blank[1] - blank[0]) > 0.005:
        words.append(f"blanks {blank[0]:.1%} before, {blank[1]:.1%} now")
    return "; ".join(words)


def _names(before: NDArray[np.int64], after: NDArray[np.int64], column: object) -> str:
    """The name whose share changed most."""
    known = np.unique(np.concatenate([before, after]))
    shares = np.array([[float((v == code).mean()) for v in (before, after)] for code in known])
    j = int(np.abs(shares[:, 1] - shares[:, 0]).argmax())
    code = int(known[j])
    if code == -1:
        what = "values never seen"
    elif code == -2:
        what = "blanks"
    else:
        what = shown(from_codes(np.array([code]), column)[0])  # type: ignore[arg-type]
    return f"{what} {shares[j, 0]:.1%} before, {shares[j, 1]:.1%} now"
