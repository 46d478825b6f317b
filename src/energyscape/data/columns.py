"""From the values of one column to its :class:`Column`, once it is known what they are.

The rules these functions follow are listed in :mod:`energyscape.data.inference`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from energyscape.data.parsing import BOOLEAN_PAIRS, parse_numbers
from energyscape.data.schema import Column
from energyscape.data.values import labels, refuse_infinities

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "category_column",
    "date_column",
    "decimals_of",
    "is_code",
    "is_padded",
    "label_dtype",
    "number_column",
    "padded_column",
    "single_valued",
    "spelled_pair",
    "text_column",
]

MAX_CATEGORIES = 256


def is_code(present: pl.Series, parsed: pl.Series) -> bool:
    """A few codes, some of them words, each often: 0, 1, 2, 3+."""
    counts = present.value_counts()["count"]
    other = present.len() - parsed.drop_nulls().len()
    return counts.len() <= 12 and int(counts.min()) >= 5 and other / present.len() > 0.05  # type: ignore[arg-type]


def spelled_pair(present: pl.Series) -> tuple[str, str] | None:
    """(no, yes) in the file's most frequent spelling."""
    # A look at the first values spares the rest of the work for columns of many.
    if present.head(1000).str.to_lowercase().n_unique() > 2:
        return None
    low = present.str.to_lowercase()
    found = set(low.unique().to_list())
    for pair in BOOLEAN_PAIRS:
        if found == set(pair):
            spelled = [present.filter(low == word).mode().sort()[0] for word in pair]
            return spelled[0], spelled[1]
    return None


def single_valued(name: str, values: pl.Series, missing: float) -> Column:
    """One value: constant, unless blanks make being there or not the information."""
    import polars as pl

    dtype, kept = label_dtype(values)
    label = str(labels(kept.drop_nulls())[0])
    if dtype == "String" and values.dtype == pl.String:
        # A number stays one in the samples of a frame read from text.
        number = parse_numbers(values.drop_nulls().head(1))[0]
        if number is not None and np.isinf(number):
            refuse_infinities(parse_numbers(values), name)
    if missing > 0:
        note = "one value or blank"
        return Column(name, "category", dtype, missing, note, categories=(label,))
    return Column(name, "constant", dtype, note="left out of the density", categories=(label,))


def label_dtype(values: pl.Series) -> tuple[str, pl.Series]:
    """The name of the type that labels go back to, and the values in a type that holds them."""
    import polars as pl

    if values.dtype.is_float():
        refuse_infinities(values, values.name)
        return "Float64", values.cast(pl.Float64)
    if isinstance(values.dtype, pl.Datetime):
        zone = values.dtype.time_zone
        return f"Datetime(us{f', {zone}' if zone else ''})", values.dt.cast_time_unit("us")
    if isinstance(values.dtype, pl.Enum) or values.dtype == pl.Categorical:
        return "Categorical", values
    if values.dtype.is_integer() or values.dtype in (pl.Boolean, pl.Date, pl.String):
        return str(values.dtype), values
    return "String", values.cast(pl.String)


def number_column(
    name: str, values: pl.Series, parsed: pl.Series, missing: float, style: str = "plain"
) -> Column:
    """``values`` as read (text or numbers), ``parsed`` the numbers in them."""
    import polars as pl

    refuse_infinities(parsed, name)
    present = parsed.drop_nulls()
    longest = _confused_digits(values, present)
    if longest:
        reason = f"whole numbers of {longest} digits, which doubles cannot tell apart"
        return Column(name, "identifier", "String", missing, reason)
    if (present == present[0]).all():  # "1" and "1.0"
        dtype = "Float64" if present.dtype.is_float() else str(present.dtype)
        label = str(labels(present)[0])
        if missing > 0:
            return Column(name, "category", dtype, missing, "one value", categories=(label,))
        return Column(name, "constant", dtype, categories=(label,))
    low, high = float(present.min()), float(present.max())  # type: ignore[arg-type]
    whole = present.dtype.is_integer() or bool((present == present.round(0)).all())
    if not whole or max(abs(low), abs(high)) >= 2**53:
        dtype = "Float32" if parsed.dtype == pl.Float32 else "Float64"
        decimals = None if dtype == "Float32" else decimals_of(present.to_numpy())
        return Column(
            name, "numeric", dtype, missing, _style_note(values, style), low=low, high=high,
            number_style=style, decimals=decimals,
        )  # fmt: skip
    note = _style_note(values, style)
    if values.dtype == pl.String:
        dtype = "Float64" if values.drop_nulls().str.contains(r"\.\d*$|[eE]").any() else "Int64"
        dtype = dtype if style in ("plain", "thousands") else "Int64"
    else:
        dtype = str(values.dtype)
        note = "whole numbers held as decimals" if values.dtype.is_float() else ""
    if (low, high) == (0, 1):
        pair = ("0.0", "1.0") if dtype.startswith("Float") else ("0", "1")
        return Column(name, "boolean", dtype, missing, categories=pair)
    reason = _counts_rows(name, parsed.cast(pl.Float64))
    if reason:
        return Column(name, "identifier", dtype, missing, reason)
    return Column(name, "integer", dtype, missing, note, low=low, high=high, number_style=style)


_STYLE_NOTES = {
    "thousands": "1,234 is read as 1234",
    "comma": "1,5 is read as 1.5",
    "european": "1.234,5 is read as 1234.5",
}


def _style_note(values: pl.Series, style: str) -> str:
    """How numbers are read where another reading is possible."""
    import polars as pl

    if style in _STYLE_NOTES or values.dtype != pl.String:
        return _STYLE_NOTES.get(style, "")
    grouped = values.drop_nulls().str.contains(r"\d[\s\u{00A0}\u{202F}\u{2009}']\d").any()
    return "blanks between digits are taken off" if grouped else ""


def _confused_digits(values: pl.Series, present: pl.Series) -> int:
    """The most digits of a text column of whole numbers when many become the same double, else 0.

    Keys of databases have 18 digits and more; a double keeps 15.
    """
    import polars as pl

    if values.dtype != pl.String or max(-present.min(), present.max()) < 2**53:  # type: ignore[operator, type-var]
        return 0
    text = values.drop_nulls()
    kinds = text.n_unique()
    if not text.str.contains(r"^[+-]?\d+$").all() or present.n_unique() > 0.5 * kinds:
        return 0
    return int(text.str.len_chars().max())  # type: ignore[arg-type]


def is_padded(present: pl.Series) -> bool:
    """Whether digits are codes: equally many, three or more, and zeros in front of some."""
    if not present.str.contains(r"^0\d\d").any():
        return False
    return present.str.len_chars().n_unique() == 1 and bool(present.str.contains(r"^\d+$").all())


def padded_column(name: str, text: pl.Series, missing: float) -> Column:
    """Digits with zeros in front as words, and how to have them as numbers."""
    column = text_column(name, text, missing)
    advice = f"codes with zeros in front; --types '{name}=integer' makes them numbers"
    note = f"{column.note}; {advice}" if column.note else advice
    return Column(**{**column.__dict__, "note": note})


def decimals_of(values: np.ndarray) -> int | None:
    """Digits after the point when every value has at most six."""
    for digits in range(1, 7):
        if np.array_equal(np.round(values, digits), values):
            return digits
    return None


_ID_WORDS = {"id", "ids", "uid", "uuid", "guid", "key", "index", "idx", "identifier", "rowid"}
_TIME_WORDS = {"year", "date", "time", "age", "month", "day", "hour", "week", "quarter", "score"}


def _words(name: str) -> list[str]:
    """The words of a column name: "Individual ID", "userId", "row_id"."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9#]+", split) if word]


def _named_id(name: str) -> bool:
    words = _words(name)
    return bool(words) and (words[-1] in _ID_WORDS or words[0] in {"id", "uuid", "unnamed"})


def _counts_rows(name: str, values: pl.Series) -> str:
    """Why a whole-number column identifies rows instead of measuring them, "" when it does not."""
    present = values.drop_nulls().to_numpy()
    n, distinct = present.size, np.unique(present).size
    steps = np.diff(present)
    nameless = not name.strip() or name.lower().startswith("unnamed")
    if distinct == n and n >= 3 and (steps == 1).all() and (nameless or _named_id(name)):
        return "counts the rows"
    if _named_id(name) and distinct > max(20, 0.3 * n):
        return f"named like an identifier, {distinct} different values in {n} rows"
    if n < 20 or _TIME_WORDS & set(_words(name)):
        return ""
    restarts = present[1:][steps != 1]
    if (steps == 1).mean() >= 0.95 and (restarts <= present[0]).all() and present[0] in (0, 1):
        return "counts the rows" if distinct == n else "counts up from row to row, starting again"
    if (steps > 0).all() and present[-1] - present[0] <= 3 * n:
        return "goes up with every row, almost without gaps"
    return ""


def text_column(name: str, text: pl.Series, missing: float) -> Column:
    """A column of words: free text and identifiers are left out by name, the rest are categories."""
    present = text.drop_nulls()
    kinds = present.unique()
    n, distinct = present.len(), kinds.len()
    words = float(kinds.str.count_matches(r"\S+").mean())  # type: ignore[arg-type]
    letters = float(kinds.str.len_chars().mean())  # type: ignore[arg-type]
    sentences = words >= 4 and letters >= 25
    if sentences and distinct > max(8, 0.1 * n):
        return Column(
            name, "text", "String", missing, f"free text, {distinct} different in {n} values"
        )
    many = distinct > 0.5 * n and n >= 20
    named = _named_id(name) and distinct > max(10, 0.3 * n)
    if many or named or (_named_id(name) and distinct == n):
        return Column(
            name, "identifier", "String", missing, f"{distinct} different values in {n} rows"
        )
    if distinct > MAX_CATEGORIES:
        return Column(
            name, "identifier", "String", missing,
            f"{distinct} categories, more than {MAX_CATEGORIES}; "
            f"--types '{name}=category' keeps them",
        )  # fmt: skip
    return category_column(name, text, missing)


def category_column(
    name: str, values: pl.Series, missing: float, dtype: str | None = None
) -> Column:
    """A column of labels, in numerical order where they are numbers."""
    found, kept = label_dtype(values)
    names = labels(kept.drop_nulls().unique()).to_list()
    if found[:3] in ("Int", "UIn", "Flo"):
        names.sort(key=float)
    else:
        names.sort()
    return Column(name, "category", dtype or found, missing, categories=tuple(names))


def date_column(
    name: str, dates: pl.Series, missing: float,
    pattern: str = "", resolution: float | None = None, note: str = "",
) -> Column:  # fmt: skip
    """A column of dates or times, at the coarsest resolution that keeps all of them.

    A pattern's own ``resolution`` is the finest: days are often written with a midnight each.
    """
    import polars as pl

    dtype = "String" if pattern else label_dtype(dates)[0]
    if isinstance(dates.dtype, pl.Datetime) and not pattern:
        zone = dates.dtype.time_zone
        dtype = f"Datetime({dates.dtype.time_unit}{f', {zone}' if zone else ''})"
        dates = dates.dt.cast_time_unit("us")
    micros = dates.cast(pl.Datetime("us") if dates.dtype == pl.Date else dates.dtype).to_physical()
    present = micros.drop_nulls().to_numpy()
    steps = (86400.0, 3600.0, 60.0, 1.0)
    kept = next((s for s in steps if not (present % round(s * 1e6)).any()), 1e-6)
    resolution = kept if resolution is None else max(kept, resolution)
    if present.min() == present.max():  # one moment in two spellings
        return Column(name, "text", dtype, missing, "one date written in several ways")
    return Column(
        name, "datetime", dtype, missing, note,
        low=present.min() / 1e6, high=present.max() / 1e6, format=pattern, resolution=resolution,
    )  # fmt: skip
