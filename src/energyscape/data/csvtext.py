"""Separated text to columns of text: what separates, whether the first row names the columns.

Everything is read as text; types are decided later, on whole columns, in
:mod:`energyscape.data.inference`. Two readers give the same frame: Python's, which knows rows and
can name a ragged one, and polars' for large files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from energyscape.data.errors import DataError
from energyscape.data.parsing import MISSING

if TYPE_CHECKING:
    import polars as pl

__all__ = ["decode_bytes", "frame_from_text"]

_SEPARATORS = (",", ";", "\t", "|")
_CAREFUL_BELOW = 8_000_000  # characters; about a third of a second


def decode_bytes(raw: bytes, path: str, notes: list[str]) -> str:
    """Text of a file: UTF-8 (with or without mark), UTF-16 with mark, else Windows-1252 (said)."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        notes.append("text read as UTF-16")
        return raw.decode("utf-16")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: neither UTF-8 nor Windows-1252 text (byte {error.start}); "
                "save it as UTF-8"
            ) from error
        notes.append("text is not UTF-8: read as Windows-1252")
    if "\x00" in text:
        raise DataError(f"{path}: holds zero bytes, so it is no text table; check the file")
    return text


def frame_from_text(
    text: str,
    path: str,
    separator: str | None = None,
    names: Sequence[str] | None = None,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """A frame of text columns.

    Parameters
    ----------
    separator : None finds it among comma, semicolon, tab and bar.
    names : columns that are expected, if known: they settle whether there is a header.

    Raises
    ------
    DataError : nothing in it, rows of different length (the first is named), two columns of one
        name, a quote that never closes.

    Examples
    --------
    >>> frame_from_text("a;b\\n1; x\\n2;y\\n", "f.csv").to_dict(as_series=False)
    {'a': ['1', '2'], 'b': ['x', 'y']}
    """
    import polars as pl

    said = notes if notes is not None else []
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    if not text.strip():
        raise DataError(f"{path} is empty; give a table with rows")
    head = _rows(text[:200_000], path, separator or ",", whole=False)
    if separator is None:
        separator = _sniff(text, path)
        head = _rows(text[:200_000], path, separator, whole=False)
        if separator != ",":
            said.append(f"columns are separated by {_SPOKEN[separator]}")
    first, body = head[0], head[1:1001]
    header = _has_header(first, body, names)
    if header:
        columns = [name.strip() or f"column_{i + 1}" for i, name in enumerate(first)]
    else:
        columns = [f"column_{i + 1}" for i in range(len(first))]
        said.append(f"no header: columns are named column_1 to column_{len(first)}")
    for i, name in enumerate(columns):
        if name in columns[:i]:
            raise DataError(f"{path}: two columns are named {name!r}; give each its own name")
    careful = len(text) < _CAREFUL_BELOW or "\n\n" in text or f'{separator} "' in text
    frame = None if careful else _fast(text, separator, len(columns))
    if frame is None:
        rows = _rows(text, path, separator)
        _refuse_ragged(rows, path, header)
        cells = list(zip(*rows, strict=True))
        frame = pl.DataFrame(
            [pl.Series(f"{i}", cell, dtype=pl.String) for i, cell in enumerate(cells)]
        )
    frame = frame.slice(1) if header else frame
    frame.columns = columns
    return frame.with_columns(pl.all().str.strip_chars())


_SPOKEN = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def _rows(text: str, path: str, separator: str, whole: bool = True) -> list[list[str]]:
    """Rows that are not empty lines; of a cut text all but the last, which may be half."""
    limit = csv.field_size_limit(10_000_000)
    reader = csv.reader(
        io.StringIO(text), delimiter=separator, skipinitialspace=separator != "\t", strict=whole
    )
    rows: list[list[str]] = []
    try:
        rows.extend(row for row in reader if row)
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num}: {error}; check the quotes around that place"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows if whole or len(text) < 200_000 or len(rows) < 3 else rows[:-1]


def _sniff(text: str, path: str) -> str:
    """The separator that cuts the first rows into the same number of pieces, the most pieces."""
    best, best_rank = ",", (0.0, 0)
    for separator in _SEPARATORS:
        lengths = [len(row) for row in _rows(text[:200_000], path, separator, whole=False)[:500]]
        width = max(set(lengths), key=lengths.count)
        if width > 1:
            rank = (lengths.count(width) / len(lengths), width)
            if rank > best_rank:
                best, best_rank = separator, rank
    return best


def _refuse_ragged(rows: list[list[str]], path: str, header: bool) -> None:
    width = len(rows[0])
    for i, row in enumerate(rows):
        if len(row) != width:
            # A comma that ends every data row is an empty last column.
            raise DataError(
                f"{path} row {i if header else i + 1}: {len(row)} values where the first row has "
                f"{width}; check separators and quotes there"
            )


def _fast(text: str, separator: str, width: int) -> pl.DataFrame | None:
    """Polars' reader; None when its result might hide a ragged row."""
    import polars as pl

    try:
        frame = pl.read_csv(
            text.encode(),
            has_header=False,
            separator=separator,
            schema={f"{i}": pl.String for i in range(width)},
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.width != width or frame[:, -1].null_count():
        return None
    return frame


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return cell.strip().lower() not in ("nan", "inf", "infinity")


def _has_header(first: list[str], body: list[list[str]], names: Sequence[str] | None) -> bool:
    """Whether the first row names the columns.

    Text above a column of numbers is a name. Otherwise a number in the first row is data, and so is
    a row whose cells mostly come again below. A row of different words above words is a header.
    """
    cells = [cell.strip() for cell in first]
    if names:
        if set(cells) & set(names):
            return True
        if all(name.startswith("column_") for name in names):
            return False
    columns = [
        [row[i].strip() for row in body if i < len(row) and row[i].strip().lower() not in MISSING]
        for i in range(len(cells))
    ]
    numeric = [bool(column) and all(_is_number(v) for v in column) for column in columns]
    named = [cell.lower() not in MISSING and not _is_number(cell) for cell in cells]
    if any(n and is_name for n, is_name in zip(numeric, named, strict=True)):
        return True
    years = [int(c) for c in cells if re.fullmatch(r"(19|20)\d\d", c)]
    numbers = sum(_is_number(cell) for cell in cells)
    if len(years) == numbers >= 2 and len(set(np.diff(years).tolist())) == 1 and len(body) > 1:
        return years[0] != years[1]  # a table with one column for each year
    if numbers:
        return cells == [str(i) for i in range(len(cells))] and len(cells) > 1 and bool(body)
    if not body:
        return True
    again = [cell in set(column) for cell, column in zip(cells, columns, strict=True)]
    return sum(again) < 0.5 * len(cells)
