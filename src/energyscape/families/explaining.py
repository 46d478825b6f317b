"""Why rows do not belong, in their own columns, units and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.data import Column, Schema, TableCodec, conform, to_polars
from energyscape.data.values import from_codes, from_numbers, refuse_infinities
from energyscape.detectors import EmpiricalDetector, Expected, Reasons, TableRows

__all__ = ["Blame", "Explanation", "as_rows", "explain_rows"]


class Blame(NamedTuple):
    """A cell that does not go with the rest of its row.

    ``odds`` are nats by which the cell is likelier as one from elsewhere. ``expected`` is what the rest
    of the row leads to expect, ``low`` and ``high`` an interval (numbers, dates) and ``likely`` a set
    (names) that holds the cell of an ordinary row as often as stated; None and empty where a blank is
    expected.
    """

    column: str
    value: Any
    expected: Any
    low: Any
    high: Any
    likely: tuple[Any, ...]
    odds: float


class Explanation(NamedTuple):
    """Why a row is strange: blamed cells, first the worst; the row as it would be typical.

    ``typical`` is the row with blamed cells as expected, moved down in energy along them alone, and
    ``typical_score`` its anomaly score; ``nearest`` is the reference row that agrees most in the cells
    that are not blamed.
    """

    score: float
    blamed: tuple[Blame, ...]
    typical: dict[str, Any]
    typical_score: float
    nearest: dict[str, Any]


def as_rows(data: Any, schema: Schema) -> TableRows:
    """Checked rows as numbers and codes."""
    if isinstance(data, np.ndarray):
        plain = np.asarray(data, dtype=np.float64)
        for j in range(plain.shape[1]):
            refuse_infinities(plain[:, j], f"x{j}")
        return TableRows(plain, np.zeros((len(plain), 0), dtype=np.int64))
    columns = TableCodec(schema).prepare(data).columns
    numbers = [column for column in columns if column.dtype.kind == "f"]
    codes = [column for column in columns if column.dtype.kind != "f"]
    n = len(columns[0])
    return TableRows(
        np.stack(numbers, axis=1) if numbers else np.zeros((n, 0)),
        np.stack(codes, axis=1) if codes else np.zeros((n, 0), dtype=np.int64),
    )


def explain_rows(
    data: Any, schema: Schema, detector: EmpiricalDetector, reasons: Reasons, most: int
) -> list[Explanation]:
    """Explanations of checked rows: an array, or a frame of any make."""
    plain = isinstance(data, np.ndarray)
    table = data if plain else conform(to_polars(data), schema)
    rows = as_rows(table, schema)
    words = _Words(schema, rows.numbers.shape[1], plain)
    blamed, odds = reasons.blame(rows, most)
    expected = reasons.expected(rows, blamed)
    nearest = reasons.nearest(rows, blamed)
    mended = _mended(rows, blamed, expected)
    scores, typical = detector.score(rows), detector.score(mended)
    found = []
    for i, columns in enumerate(blamed):
        actual = words.row(rows, i, table)
        cells = tuple(
            words.blame(j, actual[words.names[j]], what, float(odds[i, j]))
            for j, what in zip(columns, expected[i], strict=True)
        )
        instead = actual | {cell.column: cell.expected for cell in cells}
        near = words.row(reasons.rows, int(nearest[i]))
        found.append(Explanation(float(scores[i]), cells, instead, float(typical[i]), near))
    return found


def _mended(
    rows: TableRows, blamed: Sequence[Sequence[int]], expected: Sequence[Sequence[Expected]]
) -> TableRows:
    """The rows with blamed cells as expected."""
    numbers, codes = rows.numbers.copy(), rows.codes.copy()
    width = numbers.shape[1]
    for i, (columns, cells) in enumerate(zip(blamed, expected, strict=True)):
        for j, cell in zip(columns, cells, strict=True):
            if j < width:
                numbers[i, j] = cell.middle
            else:
                codes[i, j - width] = cell.names[0]
    return TableRows(numbers, codes)


class _Words:
    """Numbers and codes in the words of the schema; columns are numbers first, then names."""

    def __init__(self, schema: Schema, width: int, plain: bool) -> None:
        self.width, self.plain = width, plain
        columns = list(schema if plain else schema.modelled)
        if not plain:
            named = [column.kind in ("category", "boolean") for column in columns]
            columns = [c for c, n in zip(columns, named, strict=True) if not n] + [
                c for c, n in zip(columns, named, strict=True) if n
            ]
        self.columns: list[Column] = columns
        self.names = [column.name for column in columns]

    def cell(self, j: int, value: Any) -> Any:
        """One value as it stands in the table; None for a blank."""
        if self.plain or j < self.width:
            if np.isnan(value):
                return None
            if self.plain:
                return float(value)
            return from_numbers(np.array([value]), self.columns[j])[0]
        return from_codes(np.array([value]), self.columns[j])[0]

    def row(self, rows: TableRows, i: int, table: Any = None) -> dict[str, Any]:
        """A whole row; as it stands in ``table`` where there is one, as names may be unknown."""
        if table is not None and not self.plain:
            return {name: table[name][i] for name in self.names}
        numbers = [self.cell(j, value) for j, value in enumerate(rows.numbers[i])]
        codes = [self.cell(self.width + j, code) for j, code in enumerate(rows.codes[i])]
        return dict(zip(self.names, numbers + codes, strict=True))

    def blame(self, j: int, value: Any, what: Expected, odds: float) -> Blame:
        """A blamed cell in words."""
        if j < self.width:
            three = [self.cell(j, v) for v in (what.middle, what.low, what.high)]
            return Blame(self.names[j], value, three[0], three[1], three[2], (), odds)
        likely = tuple(self.cell(j, code) for code in what.names)
        return Blame(self.names[j], value, likely[0], None, None, likely, odds)


def column_names(schema: Schema, width: int, plain: bool) -> list[str]:
    """The columns in the order of `TableRows`."""
    return _Words(schema, width, plain).names


def table_columns(rows: TableRows) -> list[NDArray[Any]]:
    """The columns in that order, numbers as float64 and names as codes."""
    return [*rows.numbers.T, *rows.codes.T]
