"""Text to numbers, dates and yes/no, with nothing coerced silently.

A parser returns null where a value cannot be read; the caller turns the first such place into a
:class:`DataError` with column, row and value. Rows are counted from 1, a header not counted.
Numbers come in four styles, told apart by where commas and points stand in the *whole* column;
a date format is accepted only when every value reads by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energyscape.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "BOOLEAN_PAIRS",
    "DATE_FORMATS",
    "MISSING",
    "clean_text",
    "date_format",
    "first_offence",
    "number_style",
    "parse_dates",
    "parse_numbers",
]

# Compared in lower case after stripping blanks.
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "?", "-"})

# (no, yes)
BOOLEAN_PAIRS = (
    ("false", "true"),
    ("no", "yes"),
    ("n", "y"),
    ("f", "t"),
    ("off", "on"),
    ("0", "1"),
)

_DAYS = (
    ("%Y-%m-%d", 86400.0),
    ("%Y/%m/%d", 86400.0),
    ("%Y.%m.%d", 86400.0),
    ("%d/%m/%Y", 86400.0),
    ("%m/%d/%Y", 86400.0),
    ("%d.%m.%Y", 86400.0),
    ("%d-%m-%Y", 86400.0),
    ("%m-%d-%Y", 86400.0),
    ("%d %b %Y", 86400.0),
    ("%d-%b-%Y", 86400.0),
    ("%d/%b/%Y", 86400.0),
    ("%b %d, %Y", 86400.0),
    ("%d %B %Y", 86400.0),
    ("%B %d, %Y", 86400.0),
    ("%d/%m/%y", 86400.0),
    ("%m/%d/%y", 86400.0),
    ("%d.%m.%y", 86400.0),
    ("%d-%b-%y", 86400.0),
    ("%d %b %y", 86400.0),
)
_TIMES = (("%H:%M:%S", 1.0), ("%H:%M", 60.0), ("%H:%M:%S%.f", 1e-6))
_CLOCKS = (*_TIMES, ("%I:%M:%S %p", 1.0), ("%I:%M %p", 60.0))
DATE_FORMATS: tuple[tuple[str, float], ...] = (
    *_DAYS,
    *((f"{day} {time}", step) for day, _ in _DAYS for time, step in _CLOCKS),
    *((f"%Y-%m-%dT{time}{zone}", s) for time, s in _TIMES for zone in ("", "Z", "%z")),
    *((f"%Y-%m-%d {time}{zone}", s) for time, s in _TIMES for zone in ("%z", "+00", " UTC")),
)
# Times of day; they are held as moments of the first of January 1970.
_CLOCK = r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(\s?[AaPp][Mm])?$"

_SHORT_YEARS = r"^\d{1,2}([/.]\d{1,2}[/.]|[- ][A-Za-z]{3}[- ])\d{2}\b"

_STYLES = {
    "thousands": r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?$",
    "comma": r"^[+-]?\d*,\d*([eE][+-]?\d+)?$",
    "european": r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$",
}
_INNER_BLANKS = r"(\d)[\s\u{00A0}\u{202F}\u{2009}'](\d)"


def clean_text(series: pl.Series) -> pl.Series:
    """Text without outer blanks; the markers of :data:`MISSING` become null.

    >>> import polars as pl
    >>> clean_text(pl.Series([" a ", "NA", "?", "", "b"])).to_list()
    ['a', None, None, None, 'b']
    """
    import polars as pl

    # One expression: for tables of thousands of columns the calls cost more than the work.
    text = pl.col("v").cast(pl.String).str.strip_chars()
    kept = pl.when(~text.str.to_lowercase().is_in(sorted(MISSING))).then(text)
    return series.to_frame("v").select(kept.alias(series.name)).to_series()


def number_style(text: pl.Series, *, decimal_commas: bool = False) -> str:
    """The one style in which most of the values of a cleaned text column are numbers.

    With "1,234" alone a comma is read as a separator of thousands; one value such as "1,5" in the
    same column makes every comma a decimal one, and so does ``decimal_commas``: other columns of
    the table have them.

    >>> import polars as pl
    >>> number_style(pl.Series(["1,5", "2,25"])), number_style(pl.Series(["1,234", "20"]))
    ('comma', 'thousands')
    >>> number_style(pl.Series(["1.234,5", "20,1"]))
    'european'
    """
    values = text.drop_nulls()
    if not values.len() or not values.str.contains(",", literal=True).any():
        return "plain"
    counts = {s: parse_numbers(values, s).drop_nulls().len() for s in ("plain", *_STYLES)}
    with_comma = values.filter(values.str.contains(",", literal=True))
    groups = int(with_comma.str.contains(_STYLES["thousands"]).sum())
    decimal = decimal_commas or groups < with_comma.len()
    if decimal and counts["comma"] >= counts["thousands"]:
        counts["thousands"] = -1
    order = ("plain", "thousands", "comma", "european")
    return max(order, key=lambda style: (counts[style], -order.index(style)))


def parse_numbers(text: pl.Series, style: str = "plain") -> pl.Series:
    """Float64, null where the value is not a number in this style ("inf" is one).

    >>> import polars as pl
    >>> parse_numbers(pl.Series(["1 234,5", "x", None, "7"]), "comma").to_list()
    [1234.5, None, None, 7.0]
    >>> parse_numbers(pl.Series(["12.50", "(3.25)"])).to_list()  # as accountants write below zero
    [12.5, -3.25]
    """
    import polars as pl

    plain = text.cast(pl.Float64, strict=False)
    # Polars reads NaN as a number; here it is a missing marker or an offence.
    if plain.null_count() == text.null_count() and style in ("plain", "thousands"):
        return plain.fill_nan(None)
    # Twice: neighbouring groups share a digit, which one pass cannot use again.
    joined = (
        text.str.replace(r"^\u{2212}\s*", "-")
        .str.replace(r"^\((\d[\d.,]*)\)$", "-${1}")
        .str.replace_all(_INNER_BLANKS, "${1}${2}")
        .str.replace_all(_INNER_BLANKS, "${1}${2}")
    )
    if style == "comma":
        # A point among decimal commas is an offence, not a second way to write the same.
        flat = joined.str.replace(".", "x", literal=True).str.replace(",", ".", literal=True)
        joined = _where(joined, r"[.,]", flat)
    elif style == "thousands":
        joined = _where(joined, _STYLES["thousands"], joined.str.replace_all(",", ""))
    elif style == "european":
        flat = joined.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        pattern = f"({_STYLES['european']})|({_STYLES['comma']})"
        refused = joined.str.replace_all(r"[.,]", "x")
        joined = _where(joined, pattern, flat).zip_with(
            joined.str.contains(pattern).fill_null(True), refused
        )
    return joined.cast(pl.Float64, strict=False).fill_nan(None)


def _where(text: pl.Series, pattern: str, then: pl.Series) -> pl.Series:
    import polars as pl

    frame = pl.DataFrame({"t": text, "m": text.str.contains(pattern), "r": then})
    return frame.select(pl.when("m").then("r").otherwise("t").alias("t"))["t"]


def parse_dates(text: pl.Series, pattern: str) -> pl.Series:
    """Datetime in microseconds (offsets go to UTC), null where the value does not read."""
    import polars as pl

    if "%d" not in pattern and "%-d" not in pattern:
        text, pattern = "1970-01-01 " + text, f"%Y-%m-%d {pattern}"
    if pattern.endswith(("%z", "%:z")):
        text = text.str.replace(r"[Zz]$", "+00:00")  # of several sources some write UTC so
    dates = text.str.to_datetime(pattern, time_unit="us", strict=False)
    if isinstance(dates.dtype, pl.Datetime) and dates.dtype.time_zone is not None:
        dates = dates.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return dates


def date_format(text: pl.Series) -> tuple[str, float, str] | None:
    """(strftime pattern, resolution in seconds, note) that reads half of the values, or None.

    What does not read by it is the caller's to name. Times of day are told only where all are.
    The pattern that reads most values wins; among equals the first of :data:`DATE_FORMATS`, so that
    3/4/2020 is the 3rd of April, which the note says.

    >>> import polars as pl
    >>> date_format(pl.Series(["2007-11-11", "2008-01-02"]))[:2]
    ('%Y-%m-%d', 86400.0)
    >>> date_format(pl.Series(["9:05", "17:30"]))[:2]
    ('%-H:%M', 60.0)
    >>> date_format(pl.Series(["3 Jan 2020x"])) is None
    True
    """
    values = text.drop_nulls()
    # A date has a digit; this spares columns of names some eighty attempts.
    probe = values.head(200)
    if not values.len() or probe.str.contains(r"\d").mean() < 0.9:  # type: ignore[operator]
        return None
    if probe.str.contains(_CLOCK).all():
        return _clock_format(values)
    years = probe.str.contains(r"\b\d{4}\b|^\d{4}").mean() >= 0.9  # type: ignore[operator]
    if not years and not probe.str.contains(_SHORT_YEARS).all():
        return None
    best: tuple[int, str, float] | None = None
    rivals: list[str] = []
    for pattern, resolution in DATE_FORMATS:
        # Parsers take 3.4.21 for the year 3 where the pattern says %Y.
        if years != ("%Y" in pattern):
            continue
        found = probe.len() - parse_dates(probe, pattern).null_count()
        if found < 0.5 * probe.len():
            continue
        found = values.len() - parse_dates(values, pattern).null_count()
        if found >= 0.5 * values.len():
            if best is None or found > best[0]:
                best, rivals = (found, pattern, resolution), []
            elif found == best[0]:
                rivals.append(pattern)
    if best is None:
        return None
    _, pattern, resolution = best
    swapped = pattern.replace("%d", "%_").replace("%m", "%d").replace("%_", "%m")
    note = f"read as {pattern}"
    if swapped != pattern and swapped in rivals:
        note += ", day and month could be the other way round"
    if "%z" in pattern:
        note += ", comes back in UTC"
    return _as_written(values, pattern), resolution, note


def _clock_format(values: pl.Series) -> tuple[str, float, str] | None:
    for pattern, resolution in _CLOCKS:
        if not parse_dates(values, pattern).null_count():
            return _as_written(values, pattern), resolution, f"times of day, read as {pattern}"
    return None


def _as_written(values: pl.Series, pattern: str) -> str:
    """The pattern with the zeros, decimals and colons that the file has (1/2/2020, 10:00:00.250)."""
    if "%z" in pattern:
        colons = values.str.contains(r"[+-]\d{2}:\d{2}$|Z$").all()
        return pattern.replace("%z", "%:z") if colons else pattern
    dates = parse_dates(values, pattern)
    exact = [pattern.replace("%.f", f"%.{digits}f") for digits in (3, 6)]
    bare = pattern.replace("%d", "%-d").replace("%m", "%-m")
    bare_day = pattern.replace("%d", "%-d")
    bare_hour = pattern.replace("%H", "%-H").replace("%I", "%-I")
    for candidate in (*exact, pattern, bare, bare_day, bare_hour):
        if (dates.dt.strftime(candidate) == values).all():
            return candidate
    return pattern


def first_offence(
    original: pl.Series, parsed: pl.Series, name: str, what: str, advice: str
) -> DataError | None:
    """The error for the first value that was there and did not parse, or None."""
    if parsed.null_count() == original.null_count():
        return None
    bad = np.flatnonzero((parsed.is_null() & original.is_not_null()).to_numpy())
    if not bad.size:
        return None
    row = int(bad[0])
    count = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
    value = str(original[row])
    shown = value if len(value) <= 40 else value[:37] + "..."
    return DataError(f"column {name!r} row {row + 1}: {shown!r} is not {what}{count}; {advice}")
