"""From a table as read to a :class:`Schema`: the rules, and why they are so.

- Two whole values 0 and 1, or a pair such as no/yes, are ``boolean``. Other whole numbers stay
  ``integer`` however few they are: their order is information (grades, counts, years) and uniform
  dequantisation gives them exact probabilities; a code is one ``--types COL=category`` away.
- Numbers that are all whole though written 41.0 are ``integer`` and come back as 41.0.
- Digits with zeros in front (02139), three or more and equally many, are codes: words, so that the
  zeros come back.
- Eight digits that are days of the years 1900 to 2099 in every row (20240131) are dates.
- Numbers in parentheses are below zero, as accountants write them.
- Whole numbers with more digits than a double holds are ``identifier`` where doubles confuse them.
- Where one column has decimal commas (1,5), 1,234 in another is 1.234 and not 1234.
- One currency, percent sign or unit around the numbers of a column is taken off and said.
- Among numbers and dates a word for nothing (None, n.a., #DIV/0!) is a blank, and said; among
  names it is a name.
- Left out as ``identifier``: text that is different in more than half of the rows or a column named
  like an id with many values; whole numbers that count rows. A floating-point column never is:
  measurements are all different too.
- Left out as ``text``: sentences (four words and 25 letters on average) of many kinds.
- A column that is mostly numbers (or dates) with a few other words is refused by row and value:
  guessing either way would change what the density means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from energyscape.data.columns import (
    category_column,
    date_column,
    decimals_of,
    is_code,
    is_padded,
    label_dtype,
    number_column,
    padded_column,
    single_valued,
    spelled_pair,
    text_column,
)
from energyscape.data.errors import DataError
from energyscape.data.parsing import (
    clean_text,
    date_format,
    first_offence,
    number_style,
    parse_dates,
    parse_numbers,
)
from energyscape.data.schema import Column, ColumnKind, Schema, unknown_column
from energyscape.data.values import is_text, keep, labels, refuse_infinities
from energyscape.data.writing import Affix, find_affix, take_off, without_words

if TYPE_CHECKING:
    import polars as pl

__all__ = ["infer_schema", "schema_from_array"]


def infer_schema(
    frame: pl.DataFrame,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] | None = None,
) -> Schema:
    """What each column is, by the rules above.

    Parameters
    ----------
    frame : as :func:`read_table` gives it (text), or any typed polars frame.
    types : column name to kind, instead of the rules; ``"datetime:%d/%m/%Y"`` gives a format.
    drop : columns to leave out.

    Raises
    ------
    DataError : a name in ``types`` or ``drop`` that is no column; a kind that does not exist; a
        value that does not fit; infinities; no column left to model.

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"size": ["1.5", "NA", "2.25"], "ok": ["yes", "no", "yes"]})
    >>> infer_schema(frame).kinds
    {'size': 'numeric', 'ok': 'boolean'}
    """
    chosen = dict(types or {})
    for name in [*chosen, *(drop or [])]:
        if name not in frame.columns:
            raise DataError(unknown_column(name, frame.columns))
    for name, kind in chosen.items():
        if kind.split(":", 1)[0] not in get_args(ColumnKind):
            raise DataError(
                f"column {name!r}: there is no type {kind!r}; "
                f"use one of {', '.join(get_args(ColumnKind))}"
            )
    columns = []
    for series in frame.iter_columns():
        if series.name in (drop or []):
            columns.append(Column(series.name, "text", dtype="String", note="dropped as asked"))
        else:
            columns.append(_infer(series, chosen.get(series.name)))
    if {"comma", "european"} & {column.number_style for column in columns}:
        for j, column in enumerate(columns):
            if column.number_style == "thousands":
                series = frame[column.name]
                columns[j] = _infer(series, chosen.get(column.name), decimal_commas=True)
    schema = Schema(tuple(columns))
    if not schema.modelled:
        raise DataError(
            "no usable column: "
            + "; ".join(f"{c.name!r} is {c.kind}, {c.describe()}" for c in columns[:8])
            + "; --types COL=TYPE overrules"
        )
    return schema


def _infer(series: pl.Series, forced: str | None, *, decimal_commas: bool = False) -> Column:
    import polars as pl

    name = series.name
    if forced in ("identifier", "text"):
        return Column(name, forced, dtype="String", note="left out as asked")  # type: ignore[arg-type]
    supported = series.dtype.is_numeric() or series.dtype.is_temporal() or is_text(series)
    supported = supported or series.dtype in (pl.Boolean, pl.Null)
    if not supported or series.dtype in (pl.Time, pl.Duration):
        return Column(name, "text", dtype="String", note=f"values of type {series.dtype}")
    values = clean_text(series) if is_text(series) else series
    if series.dtype.is_float():
        # Half precision is no dtype of a schema, and its arithmetic overflows at 65504.
        narrow = series.dtype not in (pl.Float32, pl.Float64)
        values = (series.cast(pl.Float32) if narrow else series).fill_nan(None)
    if isinstance(series.dtype, pl.Decimal) or series.dtype in (pl.Int128,):
        values = series.cast(pl.Float64)
    missing = values.null_count() / max(values.len(), 1)
    present = values.drop_nulls()
    if not present.len():
        return Column(name, "constant", dtype="String", missing=1.0, note="every value is blank")
    if forced is not None:
        return _forced(name, values, missing, forced, decimal_commas)
    if (present == present[0]).all():
        return single_valued(name, values, missing)
    if values.dtype == pl.Boolean:
        return Column(name, "boolean", "Boolean", missing, categories=("false", "true"))
    if values.dtype.is_temporal():
        return date_column(name, values, missing)
    if values.dtype.is_numeric():
        return number_column(name, values, values, missing)
    if is_text(series) and series.dtype != pl.String:
        return category_column(name, values, missing, dtype="Categorical")
    return _from_text(name, values, missing, decimal_commas)


def _from_text(name: str, text: pl.Series, missing: float, decimal_commas: bool) -> Column:
    present = text.drop_nulls()
    pair = spelled_pair(present)
    if pair is not None and set(pair) != {"0", "1"}:
        return Column(name, "boolean", "String", missing, categories=pair)
    bare = without_words(text)
    words = present.filter(bare.filter(text.is_not_null()).is_null())
    if words.len() and bare.null_count() < bare.len() and not is_code(present, bare.drop_nulls()):
        blank = bare.null_count() / bare.len()
        column = _numbers_or_dates(name, bare, blank, decimal_commas)
        words_stay = column is None or (column.kind == "category" and column.dtype == "String")
        if column is not None and not words_stay:
            read = ", ".join(map(repr, words.unique().sort().to_list()[:4])) + " read as blank"
            return replace(column, note=f"{column.note}; {read}" if column.note else read)
    column = _numbers_or_dates(name, text, missing, decimal_commas)
    return text_column(name, text, missing) if column is None else column


def _numbers_or_dates(
    name: str, text: pl.Series, missing: float, decimal_commas: bool
) -> Column | None:
    """The column when its values are numbers or dates; None when they are words."""
    present = text.drop_nulls()
    style = number_style(text, decimal_commas=decimal_commas)
    parsed = parse_numbers(text, style)
    share = parsed.drop_nulls().len() / present.len()
    affix = find_affix(present) if share < 1 else None
    if affix is not None:
        stripped = take_off(text, affix)
        style = number_style(stripped, decimal_commas=decimal_commas)
        inside = parse_numbers(stripped, style)
        if inside.drop_nulls().len() == present.len():
            column = number_column(name, stripped, inside, missing, style)
            note = f"{column.note}; {affix.describe()}" if column.note else affix.describe()
            return replace(column, before=affix.before, after=affix.after, note=note)
    if share == 1 and style == "plain" and _compact_dates(present):
        dates = parse_dates(text, "%Y%m%d")
        return date_column(name, dates, missing, "%Y%m%d", 86400.0, "read as %Y%m%d")
    if share == 1 and is_padded(present):
        return padded_column(name, text, missing)
    if share == 1:
        return number_column(name, text, parsed, missing, style)
    if share >= 0.5:
        if is_code(present, parsed):
            return None
        error = first_offence(
            text, parsed, name, "a number, as most others are", _advice(name, "category")
        )
        assert error is not None
        raise error
    found = date_format(text)
    if found is None:
        return None
    pattern, resolution, note = found
    dates = parse_dates(text, pattern)
    error = first_offence(
        text, dates, name, f"a date like the others ({pattern})", _advice(name, "category")
    )
    if error:
        raise error
    return date_column(name, dates, missing, pattern, resolution, note)


def _compact_dates(present: pl.Series) -> bool:
    """Whether whole numbers are days written 20240131: twelve different ones, every one a day."""
    if not present.str.contains(r"^(19|20)\d\d[01]\d[0-3]\d$").all() or present.n_unique() < 12:
        return False
    return not parse_dates(present, "%Y%m%d").null_count()


def _advice(name: str, kind: str) -> str:
    return f"mend it, or use --types '{name}={kind}' or --drop '{name}'"


def _forced(
    name: str, values: pl.Series, missing: float, forced: str, decimal_commas: bool
) -> Column:
    """The column read as the user says it is."""
    import polars as pl

    kind, _, pattern = forced.partition(":")
    is_string = values.dtype == pl.String
    note = "type given"
    if is_string and kind in ("numeric", "integer", "datetime"):
        values = without_words(values)
        missing = values.null_count() / values.len()
        if missing == 1:
            raise DataError(f"column {name!r} was given as {kind} and holds no value")
    if kind == "constant":
        present = values.drop_nulls()
        dtype, kept = label_dtype(values)
        if present.n_unique() > 1:
            raise DataError(
                f"column {name!r} was given as constant and has {present.n_unique()} values"
            )
        return Column(
            name, "constant", dtype, note=note, categories=(labels(kept.drop_nulls())[0],)
        )
    if kind == "category":
        column = category_column(name, values, missing)
    elif kind == "boolean":
        column = _forced_boolean(name, values, missing)
    elif kind == "datetime":
        column = _forced_dates(name, values, missing, pattern)
    else:
        affix = (find_affix(values.drop_nulls()) if is_string else None) or Affix()
        style = "plain"
        if is_string:
            style = number_style(take_off(values, affix), decimal_commas=decimal_commas)
        note = affix.describe() if any(affix) else note
        column = Column(
            name, kind, "Float64", missing,  # type: ignore[arg-type]
            number_style=style, before=affix.before, after=affix.after,
        )  # fmt: skip
        if kind == "integer":
            floats = values.dtype.is_float()
            dtype = "Float64" if floats else "Int64"
            dtype = str(values.dtype) if values.dtype.is_integer() else dtype
            column = replace(column, dtype=dtype)
        kept = keep(values, column)
        present = kept.drop_nulls()
        column = replace(
            column,
            low=float(present.min()),  # type: ignore[arg-type]
            high=float(present.max()),  # type: ignore[arg-type]
            decimals=decimals_of(present.to_numpy()) if kind == "numeric" else None,
        )
    return Column(**{**column.__dict__, "note": column.note or note})


def _forced_boolean(name: str, values: pl.Series, missing: float) -> Column:
    import polars as pl

    if values.dtype == pl.String:
        pair = spelled_pair(values.drop_nulls())
        if pair is not None:
            return Column(name, "boolean", "String", missing, categories=pair)
    column = category_column(name, values, missing)
    if len(column.categories) != 2:
        raise DataError(
            f"column {name!r} was given as boolean and has {len(column.categories)} values "
            f"({', '.join(column.categories[:5])}); a boolean has two"
        )
    return Column(name, "boolean", column.dtype, missing, categories=column.categories)


def _forced_dates(name: str, values: pl.Series, missing: float, pattern: str) -> Column:
    import polars as pl

    if values.dtype != pl.String:
        if not values.dtype.is_temporal():
            raise DataError(f"column {name!r} is {values.dtype}; give dates as text to read them")
        return date_column(name, values, missing)
    if pattern:
        from energyscape.data.parsing import DATE_FORMATS

        fine = "%S" in pattern
        step = 1e-6 if "%.f" in pattern else 1.0 if fine else 60.0 if "%M" in pattern else 86400.0
        found = (pattern, dict(DATE_FORMATS).get(pattern, step), "")
    else:
        guess = date_format(values)
        if guess is None:
            raise DataError(
                f"column {name!r} was given as datetime and reads by no known format; "
                f"give one: --types '{name}=datetime:%d/%m/%Y'"
            )
        found = guess
    dates = parse_dates(values, found[0])
    error = first_offence(
        values, dates, name, f"a date of the form {found[0]}", _advice(name, "category")
    )
    if error:
        raise error
    return date_column(name, dates, missing, *found)


def schema_from_array(array: Any) -> Schema:
    """The schema of a 2-D array: columns x0, x1, ...; decoding gives an array of its dtype.

    Floats are ``numeric`` whatever their values, whole dtypes ``integer``, NaN is a blank, a column
    of one value is ``constant``. Nothing is left out.

    Raises
    ------
    DataError : not a 2-D array of numbers, no column that varies, or an infinity (named).

    Examples
    --------
    >>> schema_from_array(np.array([[0.5, 2.0], [1.5, 2.0]])).kinds
    {'x0': 'numeric', 'x1': 'constant'}
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise DataError(f"expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] == 0:
        advice = "; reshape a single column with .reshape(-1, 1)" if array.ndim == 1 else ""
        raise DataError(f"expected a 2-D array [rows, columns], got shape {array.shape}{advice}")
    if not len(array):
        raise DataError(f"expected an array with rows, got shape {array.shape}")
    whole = array.dtype.kind != "f"
    columns = []
    for j in range(array.shape[1]):
        values = np.asarray(array[:, j], dtype=np.float64)
        blank = np.isnan(values)
        present = values[~blank]
        name, missing = f"x{j}", float(blank.mean())
        dtype = "Int64" if whole else "Float64"
        refuse_infinities(values, name)
        if not present.size:
            columns.append(Column(name, "constant", dtype, 1.0, "every value is blank"))
            continue
        low, high = float(present.min()), float(present.max())
        if low == high:
            label = str(int(low)) if whole else repr(low)
            if missing > 0:
                note = "one value or blank"
                columns.append(Column(name, "category", dtype, missing, note, categories=(label,)))
            else:
                columns.append(Column(name, "constant", dtype, categories=(label,)))
            continue
        # Beyond 2^53 a double no longer knows a whole number from the next.
        exact = whole and max(abs(low), abs(high)) < 2**53
        kind: ColumnKind = "integer" if exact else "numeric"
        columns.append(Column(name, kind, dtype, missing, low=low, high=high))
    schema = Schema(tuple(columns), array=str(array.dtype))
    if not schema.modelled:
        raise DataError(
            f"no usable column: each of the {array.shape[1]} holds a single value or none "
            f"in {len(array)} row{'s' * (len(array) > 1)}"
        )
    return schema
