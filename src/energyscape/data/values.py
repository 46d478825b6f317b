"""One column between the three dresses a value wears.

*as read*: whatever a file or frame held (text, numbers, dates); *kept*: what frames of this
project hold and samples come back as (numbers are numbers, blanks are null, a date is as it was
written); *bare*: the arrays a codec works on (float64 numbers with NaN for blanks, or integer codes
with ``BLANK`` and ``UNSEEN``). ``keep`` goes from the first to the second and is idempotent;
``numbers``/``codes`` and their inverses go between the second and the third.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from energyscape.data.errors import DataError
from energyscape.data.parsing import (
    clean_text,
    first_offence,
    number_style,
    parse_dates,
    parse_numbers,
)
from energyscape.data.schema import Column
from energyscape.data.writing import Affix, take_off, without_words

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "BLANK",
    "UNSEEN",
    "codes",
    "dtype_of",
    "from_codes",
    "from_labels",
    "from_numbers",
    "is_text",
    "iso_dates",
    "keep",
    "labels",
    "numbers",
    "refuse_infinities",
]

BLANK = -2
UNSEEN = -1


def dtype_of(name: str) -> Any:
    """The polars dtype of a :class:`Column`'s ``dtype``.

    >>> dtype_of("Datetime(us, UTC)")
    Datetime(time_unit='us', time_zone='UTC')
    """
    import polars as pl

    if name.startswith("Datetime"):
        inner = re.fullmatch(r"Datetime\((ms|us|ns)(?:, (.+))?\)", name)
        if inner:
            unit: Any = inner.group(1)
            return pl.Datetime(unit, inner.group(2))
    elif name in _PLAIN_DTYPES:
        return getattr(pl, name)
    raise DataError(f"the schema names an unknown dtype {name!r}; known: {_PLAIN_DTYPES}")


_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_PLAIN_DTYPES = (*_INTEGERS, "Float32", "Float64", "Boolean", "String", "Categorical", "Date")


def is_text(series: pl.Series) -> bool:
    """Whether the values are text in any of polars' forms."""
    import polars as pl

    return series.dtype in (pl.String, pl.Categorical) or isinstance(series.dtype, pl.Enum)


def keep(series: pl.Series, column: Column) -> pl.Series:
    """The column as it is kept, checked against what the schema says.

    Raises
    ------
    DataError : a value that is no number, whole number or date where one is due, or an infinity;
        the message names column, row (from 1) and value.
    """
    import polars as pl

    if column.kind in ("numeric", "integer"):
        return _keep_numbers(series, column).alias(column.name)
    if column.kind == "datetime" or column.dtype.startswith("Date"):
        return _dress_dates(_to_dates(series, column), column).alias(column.name)
    text = clean_text(series) if is_text(series) else series
    dtype = dtype_of(column.dtype)
    if column.kind == "boolean" and text.dtype == dtype == pl.String:
        text = _spelled(text, column.categories)
    if text.dtype == pl.String and dtype != pl.String:
        text = without_words(text)
    if text.dtype.is_float():
        text = text.fill_nan(None)
    if text.dtype == dtype:
        return text.alias(column.name)
    if dtype == pl.Boolean and text.dtype == pl.String:
        kept = text.str.to_lowercase().replace_strict(
            {"true": True, "false": False, "1": True, "0": False},
            default=None,
            return_dtype=pl.Boolean,
        )
    elif text.dtype == pl.String and dtype.is_integer():
        kept = parse_numbers(text).cast(dtype, strict=False)
    else:
        kept = text.cast(dtype, strict=False)
    offence = first_offence(text, kept, column.name, f"of type {column.dtype}", _TYPES_HINT)
    if offence:
        raise offence
    return kept.alias(column.name)


def _spelled(text: pl.Series, pair: tuple[str, ...]) -> pl.Series:
    """Yes and no in the spelling of the training file, as it had all of "yes", "Yes" and "YES"."""
    import polars as pl

    words = {word.lower(): word for word in pair}
    if len(words) < len(pair):  # a column of the two words "yes" and "Yes"
        return text
    known = text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.String)
    return known.zip_with(known.is_not_null(), text)


_TYPES_HINT = "the column held that type when the schema was made; mend the value"


def _keep_numbers(series: pl.Series, column: Column) -> pl.Series:
    import polars as pl

    if is_text(series):
        text = take_off(without_words(clean_text(series)), Affix(column.before, column.after))
        values = parse_numbers(text, column.number_style)
        if values.null_count() > text.null_count():
            # A file of ours writes 1.5 whatever the style of the file it was learned from.
            again = parse_numbers(text, number_style(text))
            values = again if again.null_count() == text.null_count() else values
        if values.null_count() > text.null_count() and (column.low, column.high) == (0, 1):
            # An array of yes and no is written as true and false.
            words = {"true": 1.0, "false": 0.0}
            again = text.str.to_lowercase().replace_strict(
                words, default=None, return_dtype=pl.Float64
            )
            values = again if again.null_count() == text.null_count() else values
        original = text
    elif series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null):
        original = series.fill_nan(None) if series.dtype.is_float() else series
        values = original if original.dtype.is_integer() else original.cast(pl.Float64)
    else:
        raise DataError(
            f"column {column.name!r} is {series.dtype}, expected numbers ({column.kind})"
        )
    offence = first_offence(
        original,
        values,
        column.name,
        "a number",
        f"mend the value, or use --types '{column.name}=category' or --drop '{column.name}'",
    )
    if offence:
        raise offence
    refuse_infinities(values, column.name)
    if column.kind == "integer" and values.dtype.is_float():
        broken = values.is_not_null() & (values != values.round(0))
        if broken.any():
            row = int(np.flatnonzero(broken.fill_null(False).to_numpy())[0])
            raise DataError(
                f"column {column.name!r} row {row + 1}: {values[row]!r} is not a whole number; "
                f"mend the value, or fit with --types '{column.name}=numeric'"
            )
    kept = values.cast(dtype_of(column.dtype), strict=False)
    if kept.null_count() > values.null_count():
        # A narrow type (UInt8) met a larger value: nothing is wrong with it.
        kept = values.cast(pl.Int64 if column.kind == "integer" else pl.Float64)
    return kept


# Squares of larger values leave float64, and no scale could be measured on them.
LARGEST = 1e100


def refuse_infinities(values: pl.Series | np.ndarray, name: str) -> None:
    """DataError naming the first row with an infinity, or a number above 1e100 in size."""
    array = values if isinstance(values, np.ndarray) else values.to_numpy()
    if array.dtype.kind != "f":
        return
    # In float32 the bound itself would be infinite, and nothing above it.
    infinite = np.flatnonzero(np.abs(array.astype(np.float64)) > LARGEST)
    if infinite.size:
        row = int(infinite[0])
        raise DataError(
            f"column {name!r} row {row + 1}: the value is {array[row]}, which no density can hold; "
            f"leave it blank or mend it ({infinite.size} such)"
        )


def _to_dates(series: pl.Series, column: Column) -> pl.Series:
    """Datetime in microseconds without zone (UTC where there was one)."""
    import polars as pl

    if series.dtype == pl.Date:
        return series.cast(pl.Datetime("us"))
    if isinstance(series.dtype, pl.Datetime):
        dates = series.dt.cast_time_unit("us")
        if series.dtype.time_zone is not None:
            dates = dates.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return dates
    if series.dtype == pl.Null:
        return series.cast(pl.Datetime("us"))
    if not is_text(series):
        raise DataError(f"column {column.name!r} is {series.dtype}, expected dates")
    text = without_words(clean_text(series))
    if column.format:
        dates = parse_dates(text, column.format)
        expected = f"a date of the form {column.format}"
    else:
        dates = iso_dates(text, dtype_of(column.dtype))
        expected = "an ISO date"
    offence = first_offence(
        text,
        dates,
        column.name,
        expected,
        f"mend the value, or use --types '{column.name}=category' or --drop '{column.name}'",
    )
    if offence:
        raise offence
    return dates


def iso_dates(text: pl.Series, dtype: Any) -> pl.Series:
    """What our own files write for a frame's dates; without an offset in the column's zone."""
    import polars as pl

    iso = text.str.replace(" ", "T", literal=True).str.replace(r"Z$", "+00:00")
    offset = parse_dates(iso, "%Y-%m-%dT%H:%M:%S%.f%z")
    naive = parse_dates(iso, "%Y-%m-%dT%H:%M:%S%.f")
    naive = naive.zip_with(naive.is_not_null(), parse_dates(iso, "%Y-%m-%d"))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        there = naive.dt.replace_time_zone(dtype.time_zone, ambiguous="earliest")
        naive = there.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return offset.zip_with(offset.is_not_null(), naive)


def _dress_dates(dates: pl.Series, column: Column) -> pl.Series:
    import polars as pl

    if column.format:
        if "%z" in column.format or "%:z" in column.format:
            dates = dates.dt.replace_time_zone("UTC")
        return dates.dt.strftime(column.format)
    dtype = dtype_of(column.dtype)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            dates = dates.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
        return dates.dt.cast_time_unit(dtype.time_unit)
    return dates.cast(dtype)


def numbers(kept: pl.Series, column: Column) -> np.ndarray:
    """Float64 for a codec, NaN for blanks: numbers less their offset, dates in ticks.

    Whole numbers and dates are taken relative to the lowest one before they become float64, so
    that large values (identifiers, microseconds) keep every digit.
    """
    import polars as pl

    if column.kind == "numeric":
        return _floats(kept.cast(pl.Float64))
    low = column.low or 0.0
    if column.kind == "integer":
        whole = kept if kept.dtype.is_integer() else kept.cast(pl.Int64, strict=False)
        return _floats((whole.cast(pl.Int64) - round(low)).cast(pl.Float64))
    ticks = _to_dates(kept, column).to_physical() - round(low * 1e6)
    if column.resolution >= 1:
        return _floats((ticks // round(column.resolution * 1e6)).cast(pl.Float64))
    return _floats(ticks.cast(pl.Float64)) / 1e6


def from_numbers(values: np.ndarray, column: Column) -> pl.Series:
    """The inverse of :func:`numbers`, NaN to null."""
    import polars as pl

    series = pl.Series(column.name, values, dtype=pl.Float64).fill_nan(None)
    if column.kind == "numeric":
        if column.decimals is not None:
            series = series.round(column.decimals)
        return series.cast(dtype_of(column.dtype))
    low = column.low or 0.0
    if column.kind == "integer":
        return (series.round(0).cast(pl.Int64) + round(low)).cast(dtype_of(column.dtype))
    step = round(column.resolution * 1e6) if column.resolution >= 1 else 1
    ticks = series if column.resolution >= 1 else series * 1e6
    micros = ticks.round(0).cast(pl.Int64) * step + round(low * 1e6)
    return _dress_dates(micros.cast(pl.Datetime("us")), column).alias(column.name)


def _floats(series: pl.Series) -> np.ndarray:
    """Float64 with NaN for nulls."""
    return np.array(series.to_numpy(), dtype=np.float64)


def labels(kept: pl.Series) -> pl.Series:
    """Values as text, the form in which :class:`Column` holds categories."""
    import polars as pl

    return kept.cast(pl.String)


def from_labels(text: pl.Series, column: Column) -> pl.Series:
    """The inverse of :func:`labels`."""
    import polars as pl

    dtype = dtype_of(column.dtype)
    if dtype == pl.Boolean:
        return (text == "true").alias(column.name)
    if isinstance(dtype, pl.Datetime):
        dates = text.str.slice(0, 26).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us")
        if dtype.time_zone is not None:
            dates = dates.dt.replace_time_zone(dtype.time_zone)
        return dates.dt.cast_time_unit(dtype.time_unit).alias(column.name)
    if dtype == pl.Date:
        return text.str.to_date("%Y-%m-%d").alias(column.name)
    return text.cast(dtype).alias(column.name)


def codes(kept: pl.Series, column: Column) -> np.ndarray:
    """Position in ``column.categories`` (int64); ``BLANK`` for null, ``UNSEEN`` for another."""
    import polars as pl

    text = labels(kept)
    known = {label: i for i, label in enumerate(column.categories)}
    found = text.replace_strict(known, default=UNSEEN, return_dtype=pl.Int64)
    array = np.array(found.fill_null(UNSEEN).to_numpy(), dtype=np.int64)
    array[text.is_null().to_numpy()] = BLANK
    return array


def from_codes(array: np.ndarray, column: Column) -> pl.Series:
    """The inverse of :func:`codes`: a negative code is null."""
    import polars as pl

    names = from_labels(pl.Series("v", list(column.categories), dtype=pl.String), column)
    index = pl.Series("i", array, dtype=pl.Int64)
    index = index.to_frame().select(pl.when(pl.col("i") >= 0).then(pl.col("i")))["i"]
    return names.gather(index).alias(column.name)
