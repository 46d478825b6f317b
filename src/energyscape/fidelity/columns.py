"""Tables as columns, and the two dresses that measures see them in.

*For forests*, numbers as they are (NaN where blank) and a label's place in the list of labels:
trees cut by order and do not mind scales. *For distances*, every column between 0 and 1 apart:
a number by its rank among the reference rows, so that a heavy tail weighs no more than any other
column; labels differ or do not,

    d(a, b)^2 = sum over columns of  (F_j(a_j) - F_j(b_j))^2,   or 1 where labels differ.

A blank label is one more label; a blank number is at the median's rank, and 1 away besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Columns",
    "Space",
    "blanks",
    "checked",
    "codes_of",
    "forest_inputs",
    "is_number",
    "rows_at",
    "rows_in",
]

Columns = Mapping[str, np.ndarray]


def is_number(values: np.ndarray) -> bool:
    """Whether a column holds numbers; everything else is labels.

    >>> is_number(np.array([1.0, np.nan])), is_number(np.array(["a", None], dtype=object))
    (True, False)
    """
    return values.dtype.kind in "fiub"


def blanks(values: np.ndarray) -> NDArray[np.bool_]:
    """Which values are blank: NaN of numbers, None of labels."""
    if is_number(values):
        return np.asarray(np.isnan(values.astype(np.float64)))
    return np.array([value is None for value in values], dtype=bool)


def rows_in(table: Columns) -> int:
    """Number of rows."""
    return len(next(iter(table.values())))


def rows_at(table: Columns, rows: ArrayLike) -> dict[str, np.ndarray]:
    """Some rows of a table, by their places."""
    where = np.asarray(rows)
    return {name: values[where] for name, values in table.items()}


def checked(*tables: Mapping[str, ArrayLike]) -> list[dict[str, np.ndarray]]:
    """Arrays, in the first table's order of columns.

    Raises
    ------
    ValueError
        For no columns, a column that one table lacks, columns of different lengths or no rows, and
        a column that holds numbers here and labels there.
    """
    first = tables[0]
    if not first:
        raise ValueError("a table needs at least one column")
    made = []
    for table in tables:
        missing = [name for name in first if name not in table]
        if missing:
            raise ValueError(f"one of the tables lacks column {missing[0]!r}")
        arrays = {name: np.asarray(table[name]) for name in first}
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"columns of one table have {sorted(lengths)} rows")
        made.append(arrays)
    for name in first:
        if len({is_number(arrays[name]) for arrays in made}) > 1:
            raise ValueError(f"column {name!r} holds numbers in one table and labels in another")
    return made


def codes_of(*columns: np.ndarray) -> list[NDArray[np.int64]]:
    """Labels of several columns by their places in one sorted list; -1 where blank.

    >>> codes_of(np.array(["b", None], dtype=object), np.array(["a", "b"], dtype=object))
    [array([ 1, -1]), array([0, 1])]
    """
    words = [np.array([str(v) for v in values if v is not None], dtype=str) for values in columns]
    names = np.unique(np.concatenate(words)) if words else np.empty(0, dtype=str)
    made = []
    for values, there in zip(columns, words, strict=True):
        codes = np.full(len(values), -1, dtype=np.int64)
        codes[~blanks(values)] = np.searchsorted(names, there)
        made.append(codes)
    return made


def forest_inputs(*tables: Columns, without: str | None = None) -> list[np.ndarray]:
    """Tables as matrices for forests: float64 [N, columns], NaN where blank.

    Parameters
    ----------
    tables : read together, so that labels have the same places in all of them.
    without : a column to leave out, as it is what the forest must predict.
    """
    parts: list[list[np.ndarray]] = [[] for _ in tables]
    for name in tables[0]:
        if name == without:
            continue
        several = [table[name] for table in tables]
        if is_number(several[0]):
            shown = [values.astype(np.float64) for values in several]
        else:
            shown = [np.where(c < 0, np.nan, c.astype(np.float64)) for c in codes_of(*several)]
        for part, values in zip(parts, shown, strict=True):
            part.append(values)
    return [np.column_stack(part) for part in parts]


class Space(NamedTuple):
    """Where rows lie for distances; see the module's opening lines.

    Examples
    --------
    >>> reference = {"x": np.array([1.0, 2.0, 3.0, 400.0]), "c": np.array(["u", "v", "u", "u"])}
    >>> space = Space.of(reference)
    >>> a, b = space({"x": np.array([1.0, 400.0]), "c": np.array(["u", "v"])})
    >>> float(round(((a - b) ** 2).sum(), 4)) == round(0.75**2 + 1, 4)
    True
    """

    columns: tuple[tuple[str, np.ndarray, bool], ...]

    @classmethod
    def of(cls, reference: Columns) -> Space:
        """The space of a reference table, its real rows."""
        found = []
        for name, values in reference.items():
            there = values[~blanks(values)]
            number = is_number(values)
            known = np.sort(there.astype(np.float64)) if number else np.unique(there.astype(str))
            found.append((name, known, number))
        return cls(tuple(found))

    def __call__(self, table: Columns) -> np.ndarray:
        """Rows as points, float64 [N, D]. A label that the reference lacks is at the origin of its
        column's block, sqrt(1/2) from the others."""
        parts = []
        for name, known, number in self.columns:
            values = table[name]
            gone = blanks(values)[:, None]
            if number:
                ranks = np.full(len(values), 0.5)
                there = values[~gone[:, 0]].astype(np.float64)
                low, high = (np.searchsorted(known, there, side=side) for side in ("left", "right"))
                ranks[~gone[:, 0]] = (low + high) / 2 / max(len(known), 1)
                parts += [ranks[:, None], gone.astype(np.float64)]
            else:
                block = (values.astype(str)[:, None] == known[None, :]) & ~gone
                parts.append(np.column_stack([block, gone]) * np.sqrt(0.5))
        return np.concatenate(parts, axis=1)
