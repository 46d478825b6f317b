"""Why rows do not belong, in their own columns, units and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from energyscape.data import Column, Schema, TableCodec, conform, to_polars
from energyscape.data.values import from_codes, from_numbers, refuse_infinities
from energyscape.detectors import EmpiricalDetector, Expected, Reasons, TableRows
from energyscape.detectors.reasons import find_rows

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Blame",
    "Explanation",
    "as_rows",
    "column_names",
    "explain_known",
    "explain_rows",
    "modelled_columns",
    "shown",
]


class Blame(NamedTuple):
    """A cell that does not go with the rest of its row.

    ``odds`` are nats by which the cell is likelier as one from elsewhere. ``expected`` is what the rest
    of the row leads to expect, ``low`` and ``high`` an interval (numbers, dates) and ``likely`` a set
    (names) that holds the cell of an ordinary row as often as stated; None and empty where a blank is
    expected. ``usual``: the cell is within them nevertheless.
    """

    column: str
    value: Any
    expected: Any
    low: Any
    high: Any
    likely: tuple[Any, ...]
    odds: float
    usual: bool = False

    def describe(self) -> str:
        """What the cell is and what was expected, in a few words.

        Examples
        --------
        >>> Blame("kind", "dog", "cat", None, None, ("cat", "fox"), 3.0).describe()
        'kind dog (expected cat or fox)'
        """
        if self.likely:
            rest = len(self.likely) - 3
            names = [shown(name) for name in self.likely[:3]] + ["..."] * (rest > 0)
            wanted = " or ".join(names)
        elif self.low is None:
            wanted = shown(self.expected)
        else:
            wanted = f"{shown(self.expected)}, {shown(self.low)} to {shown(self.high)}"
        return f"{self.column} {shown(self.value)} (expected {wanted})"


class Explanation(NamedTuple):
    """Why a row is strange: blamed cells, first the worst; the row as it would be typical.

    ``typical`` is the row with blamed cells as expected and moved down in energy along them alone
    (`energyscape.detectors.downhill`), or left as expected where that scores less, and
    ``typical_score`` its anomaly score; ``nearest`` is the reference row that agrees most in the cells
    not blamed.
    """

    score: float
    blamed: tuple[Blame, ...]
    typical: dict[str, Any]
    typical_score: float
    nearest: dict[str, Any]

    def describe(self) -> str:
        """The blamed cells on one line: what each is, and what was expected.

        Cells that go with the rest of their row (odds of 0 or less, or as expected) are not named:
        where no cell alone stands out it is the row as a whole that has few like it, and that is said.

        Examples
        --------
        >>> cell = Blame("age", 200, 41, 17, 79, (), 9.0)
        >>> Explanation(5.0, (cell,), {}, 0.1, {}).describe()
        'age 200 (expected 41, 17 to 79)'
        """
        named = [cell.describe() for cell in self.blamed if cell.odds > 0 and not cell.usual]
        return "; ".join(named) or "no cell alone: few rows are like this one as a whole"


def shown(value: Any) -> str:
    """A cell in few letters.

    >>> shown(None), shown(1234.5678), shown(2.0), len(shown("word " * 20))
    ('blank', '1235', '2', 40)
    """
    if value is None:
        return "blank"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"


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
    data: Any,
    schema: Schema,
    detector: EmpiricalDetector,
    reasons: Reasons,
    most: int,
    reference: TableRows,
    *,
    among: bool,
) -> list[Explanation]:
    """Explanations of checked rows: an array, or a frame of any make.

    ``reference`` are the rows the detector compares with; ``among`` them each row is scored and
    explained by the others.
    """
    plain = isinstance(data, np.ndarray)
    table = data if plain else conform(to_polars(data), schema)
    rows = as_rows(table, schema)
    if not len(rows):
        return []
    words = _Words(schema, rows.numbers.shape[1], plain)
    # As they stand in the table: there are names among them that no row learned from had.
    actual = words.rows(rows) if plain else _as_rows(table, words.names)
    return _explain(rows, actual, words, detector, reasons, most, reference, among)


def _as_rows(table: pl.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some columns; a name may be a pattern to polars (``*``)."""
    columns = [table[name].to_list() for name in names]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def explain_known(
    rows: TableRows,
    schema: Schema,
    detector: EmpiricalDetector,
    reasons: Reasons,
    most: int,
    reference: TableRows,
) -> list[tuple[dict[str, Any], Explanation]]:
    """Reference rows in words, and why each is strange beside the others."""
    words = _Words(schema, rows.numbers.shape[1], bool(schema.array))
    actual = words.rows(rows)
    found = _explain(rows, actual, words, detector, reasons, most, reference, True)
    return list(zip(actual, found, strict=True))


def _explain(
    rows: TableRows,
    known: Sequence[dict[str, Any]],
    words: _Words,
    detector: EmpiricalDetector,
    reasons: Reasons,
    most: int,
    reference: TableRows,
    among: bool,
) -> list[Explanation]:
    own = reasons.find(rows) if among else None
    blamed, odds = reasons.blame(rows, most, own)
    expected = reasons.expected(rows, blamed, own)
    nearest = reasons.nearest(rows, blamed, own)
    mended = _mended(rows, blamed, expected)
    place = find_rows(rows, reference) if among else np.full(len(rows), -1)
    typical, typical_scores = _typical(mended, blamed, detector, reference, place)
    scores = detector.score(rows)
    if among:
        scores = np.where(place >= 0, detector.own_scores[place], scores)
    near = words.rows(reasons.rows.take(nearest))
    found = []
    for i, columns in enumerate(blamed):
        actual = known[i]
        cells = tuple(
            words.blame(j, actual[words.names[j]], what, float(odds[i, j]), _cell(rows, i, j))
            for j, what in zip(columns, expected[i], strict=True)
        )
        moved = {words.names[j]: words.cell(j, _cell(typical, i, j)) for j in columns}
        instead = actual | moved
        found.append(
            Explanation(float(scores[i]), cells, instead, float(typical_scores[i]), near[i])
        )
    return found


def _cell(rows: TableRows, i: int, j: int) -> float:
    """A cell as number or code."""
    width = rows.numbers.shape[1]
    return float(rows.numbers[i, j] if j < width else rows.codes[i, j - width])


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


def _typical(
    mended: TableRows,
    blamed: Sequence[Sequence[int]],
    detector: EmpiricalDetector,
    reference: TableRows,
    place: np.ndarray,
) -> tuple[TableRows, np.ndarray]:
    """Mended rows moved down in energy, each where that lowers its score, and the scores.

    Rows that stand somewhere among the reference rows are not compared with themselves as they were.
    """
    numbers, codes = mended.numbers.copy(), mended.codes.copy()
    scores = np.empty(len(mended))
    for known in (False, True):
        some = np.flatnonzero((place >= 0) == known)
        if not len(some):
            continue
        start, own = mended.take(some), place[some] if known else None
        low = detector.downhill(start, [blamed[int(i)] for i in some], reference, own)
        before, after = detector.score(start, own), detector.score(low, own)
        better = after <= before
        numbers[some[better]], codes[some[better]] = low.numbers[better], low.codes[better]
        scores[some] = np.minimum(before, after)
    return TableRows(numbers, codes), scores


class _Words:
    """Numbers and codes in the words of the schema; columns are numbers first, then names."""

    def __init__(self, schema: Schema, width: int, plain: bool) -> None:
        self.width, self.plain = width, plain
        self.columns = modelled_columns(schema, plain)
        self.names = [column.name for column in self.columns]

    def column(self, j: int, values: np.ndarray) -> list[Any]:
        """Values as they stand in the table; None for a blank."""
        if self.plain:
            return [None if np.isnan(value) else float(value) for value in values]
        if j < self.width:
            return from_numbers(values, self.columns[j]).to_list()
        return from_codes(values.astype(np.int64), self.columns[j]).to_list()

    def cell(self, j: int, value: float) -> Any:
        """One value as it stands in the table."""
        return self.column(j, np.array([value]))[0]

    def rows(self, rows: TableRows) -> list[dict[str, Any]]:
        """Whole rows."""
        columns = [self.column(j, values) for j, values in enumerate(rows.numbers.T)]
        columns += [self.column(self.width + j, codes) for j, codes in enumerate(rows.codes.T)]
        return [dict(zip(self.names, cells, strict=True)) for cells in zip(*columns, strict=True)]

    def blame(self, j: int, value: Any, what: Expected, odds: float, bare: float) -> Blame:
        """A blamed cell in words; ``bare`` as it stands among the numbers or codes."""
        if j < self.width:
            three = [self.cell(j, v) for v in (what.middle, what.low, what.high)]
            usual = bool(what.low <= bare <= what.high)
            return Blame(self.names[j], value, three[0], three[1], three[2], (), odds, usual)
        likely = tuple(self.cell(j, code) for code in what.names)
        usual = bare in what.names
        return Blame(self.names[j], value, likely[0], None, None, likely, odds, usual)


def modelled_columns(schema: Schema, plain: bool) -> list[Column]:
    """The columns in the order of `TableRows`: numbers, then names; of an array all as they stand."""
    columns = list(schema if plain else schema.modelled)
    named = [not plain and column.kind in ("category", "boolean") for column in columns]
    both = list(zip(columns, named, strict=True))
    return [c for c, n in both if not n] + [c for c, n in both if n]


def column_names(schema: Schema, width: int, plain: bool) -> list[str]:
    """The columns in the order of `TableRows`."""
    return _Words(schema, width, plain).names
