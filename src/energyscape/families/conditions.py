"""Conditions on columns: read in original units, checked for sense, compared with bare values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.data import Column, DataError, TableCodec
from energyscape.data.blocks import blank_rows
from energyscape.data.values import (
    UNSEEN,
    codes,
    from_codes,
    from_numbers,
    iso_dates,
    keep,
    numbers,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["OPERATORS", "Condition", "read_conditions"]

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}
_NAMED = ("boolean", "category")
_COUNTED = 1_000_000


class Condition(NamedTuple):
    """One column compared with a value; `bare` is the value as the codec holds it."""

    column: Column
    sign: str
    value: Any
    bare: float

    def __str__(self) -> str:
        return f"{self.column.name}{self.sign}{self.value}"

    def met(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of these bare values meet it; a blank meets nothing but ``= None``."""
        blank = blank_rows(column)
        if self.value is None:
            return blank
        return np.asarray(OPERATORS[self.sign](column, self.bare) & ~blank)


def read_conditions(codec: TableCodec, given: Mapping[Any, Any]) -> list[Condition]:
    """The conditions in words of the codec.

    Parameters
    ----------
    codec : TableCodec
    given : mapping
        Column to a value, to ``(sign, value)`` with a sign of `OPERATORS`, or to a list of these,
        all of which must hold. Values are given in original units; text is read as in a file, and
        None stands for a blank. For models of arrays the place of a column will do.

    Raises
    ------
    ValueError
        For an unknown column or sign, a comparison by size of names, two fixed values, or conditions
        that no row can meet: samples stay within the range and the names of the training table.
    DataError
        For a value that the column cannot hold, or a category never seen.
    """
    modelled = {column.name: column for column in codec.schema.modelled}
    conditions: list[Condition] = []
    for key, wanted in given.items():
        name = codec.schema.names[key] if isinstance(key, int) and codec.schema.array else str(key)
        if name not in modelled:
            known = ", ".join(list(modelled)[:12])
            raise ValueError(f"given: the model has no column {name!r}; it has {known}")
        several = wanted if isinstance(wanted, list) else [wanted]
        read = [_condition(codec, modelled[name], one) for one in several]
        if sum(c.sign == "=" for c in read) > 1:
            raise ValueError(f"given: column {name!r} is fixed to two values; give one")
        conditions += _possible(codec, read)
    return conditions


def _condition(codec: TableCodec, column: Column, wanted: Any) -> Condition:
    sign, value = wanted if isinstance(wanted, tuple) else ("=", wanted)
    sign = "=" if sign == "==" else sign
    if sign not in OPERATORS:
        raise ValueError(f"given: {sign!r} is no comparison; there are {', '.join(OPERATORS)}")
    kept = _kept(column, sign, value)
    named = column.kind in _NAMED
    if named and sign not in ("=", "!="):
        raise ValueError(
            f"given: column {column.name!r} is {column.kind}, which has no order; use = or !="
        )
    if kept[0] is None and sign != "=":
        raise ValueError(f"given: column {column.name!r} cannot be compared with a blank")
    bare = (codes if named else numbers)(kept, column)[0]
    if named and bare == UNSEEN:
        shown = ", ".join(column.categories[:12])
        raise DataError(f"column {column.name!r} was never {value!r} in training; it knows {shown}")
    if sign == "=":
        codec.encode_given({column.name: kept[0]}, 1)
    return Condition(column, sign, kept[0], float(bare))


def _kept(column: Column, sign: str, value: Any) -> pl.Series:
    """The value in the column's own type; dates also as ISO, whatever their form in the file."""
    import polars as pl

    words = pl.Series(column.name, [value], strict=False)
    try:
        return keep(words, column)
    except DataError as error:
        if column.kind == "datetime" and isinstance(value, str):
            dates = iso_dates(words, pl.Datetime("us", "UTC"))
            if dates.null_count() == 0:
                return keep(dates, column)
        # Of a file it would be told which row, and how to read the column instead.
        reason = str(error).partition(" row 1: ")[2].partition(";")[0] or str(error)
        raise DataError(f"given {column.name}{sign}{value}: {reason}") from error


def _possible(codec: TableCodec, read: list[Condition]) -> list[Condition]:
    """The conditions on one column, as one value where they leave no other.

    Raises
    ------
    ValueError
        If they leave none.
    """
    column, asked = read[0].column, ", ".join(map(str, read))
    ranges = [c for c in read if c.sign != "="]
    fixed = [c for c in read if c.sign == "="]
    if fixed:
        values = np.array([fixed[0].bare])
        if not all(c.met(values)[0] for c in ranges):
            raise ValueError(f"given {asked}: these contradict each other")
        return fixed
    block = codec.blocks[[c.name for c in codec.schema.modelled].index(column.name)]
    if column.kind in _NAMED:
        left = np.arange(len(column.categories), dtype=np.float64)
        known = ", ".join(column.categories[:12])
    else:
        low, high = float(block.low), float(block.high)
        ends = from_numbers(np.array([low, high]), column)
        known = f"{ends[0]} to {ends[1]}"
        if not block.cell or high - low > _COUNTED:
            tight = [_bound(c, low, high) for c in ranges]
            if max(b[0] for b in tight) > min(b[1] for b in tight):
                raise ValueError(
                    f"given {asked}: no row can; samples of {column.name!r} are {known}"
                )
            return read
        left = np.arange(low, high + 1)
    for condition in ranges:
        left = left[condition.met(left)]
    if not len(left):
        raise ValueError(f"given {asked}: no row can; samples of {column.name!r} are {known}")
    if len(left) > 1:
        return read
    value = (
        from_codes(left.astype(np.int64), column)
        if column.kind in _NAMED
        else from_numbers(left, column)
    )[0]
    return [Condition(column, "=", value, float(left[0]))]


def _bound(condition: Condition, low: float, high: float) -> tuple[float, float]:
    """The range that one comparison leaves."""
    if condition.sign in (">", ">="):
        return max(
            low, condition.bare if condition.sign == ">=" else np.nextafter(condition.bare, np.inf)
        ), high
    if condition.sign in ("<", "<="):
        return low, min(
            high,
            condition.bare if condition.sign == "<=" else np.nextafter(condition.bare, -np.inf),
        )
    return low, high
