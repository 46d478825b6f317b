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

__all__ = ["frame_from_text", "separator_of"]

_SEPARATORS = (",", ";", "\t", "|")
_CAREFUL_BELOW = 8_000_000  # characters; about a third of a second


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
    DataError : nothing in it, rows of different length (the first is named), a quote that never
        closes.

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
    declared = re.match(r"sep=(.)\n", text)
    if declared:  # the line that Excel writes and reads
        separator, text = declared[1], text[declared.end() :].lstrip("\n")
        said.append(f"columns are separated by {_SPOKEN.get(separator, repr(separator))}")
    text = _without_comments(text, path, separator, names, said)
    if separator is None:
        separator = _sniff(text, path)
        if separator != ",":
            said.append(f"columns are separated by {_SPOKEN[separator]}")
    head = _rows(text[:200_000], path, separator, whole=False)
    _refuse_blanks_between(head, path)
    header = _has_header(head[0], head[1:1001], names)
    first = _evened(head, header, [])[0]
    if header:
        columns = _apart([name.strip() or f"column_{i + 1}" for i, name in enumerate(first)], said)
    else:
        columns = [f"column_{i + 1}" for i in range(len(first))]
        said.append(f"no header: columns are named column_1 to column_{len(first)}")
    careful = len(text) < _CAREFUL_BELOW or "\n\n" in text or f'{separator} "' in text
    frame = None if careful else _fast(text, separator, len(columns))
    if frame is None:
        rows = _evened(_rows(text, path, separator, said=said), header, said)
        _refuse_ragged(rows, path, header)
        cells = list(zip(*rows, strict=True))
        frame = pl.DataFrame(
            [pl.Series(f"{i}", cell, dtype=pl.String) for i, cell in enumerate(cells)]
        )
    frame = frame.slice(1) if header else frame
    frame.columns = columns
    frame = frame.with_columns(pl.all().str.strip_chars())
    frame = _without_repeats(frame, [c.strip() for c in first] if header else [], said)
    # Rows to score or to fill in are counted by their owner.
    return _without_hollow_end(frame, said) if names is None else frame


_SPOKEN = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def _apart(names: list[str], said: list[str]) -> list[str]:
    """Names of which no two are the same: "a", "a" are "a", "a_2"."""
    taken, out, repeated = set(names), [], []
    for i, name in enumerate(names):
        new, count = name, 1
        while new in out or (count > 1 and new in taken):
            count += 1
            new = f"{name}_{count}"
        if new != name:
            repeated.append(f"column {i + 1}, {name!r}, is {new!r} here")
        out.append(new)
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        said.append(f"columns of one name: {'; '.join(repeated[:5])}{more}")
    return out


def _without_comments(
    text: str, path: str, separator: str | None, names: Sequence[str] | None, said: list[str]
) -> str:
    """The text below lines at the top that begin with #, unless the last of them is the header."""
    found = re.match(r"(?:#[^\n]*\n+)+", text)
    if found is None:
        return text
    rest = text[found.end() :]
    lines = [line for line in found[0].split("\n") if line]
    cut = separator or _sniff(rest, path)
    below = _rows(rest[:200_000], path, cut, whole=False)
    last = _rows(lines[-1], path, cut, whole=False)
    named = _has_header(below[0], below[1:1001], names)
    if not named and last and len(last[0]) == len(below[0]):
        rest, lines = lines[-1] + "\n" + rest, lines[:-1]
    if lines:
        count = len(lines)
        said.append(f"{count} line{'s' * (count > 1)} at the top skipped, which begin with #")
    return rest


def _without_repeats(frame: pl.DataFrame, header: list[str], said: list[str]) -> pl.DataFrame:
    """Less the rows that repeat the header, as where files were joined."""
    import polars as pl

    if frame.width < 2 or not header:
        return frame
    same = pl.all_horizontal([frame[c] == h for c, h in zip(frame.columns, header, strict=True)])
    repeated = frame.select(same.alias("same")).to_series()
    if not repeated.any():
        return frame
    first, count = int(repeated.arg_max() or 0) + 1, int(repeated.sum())
    said.append(f"{count} row{'s' * (count > 1)} skipped that repeat the header (first: {first})")
    return frame.filter(~repeated)


def _without_hollow_end(frame: pl.DataFrame, said: list[str]) -> pl.DataFrame:
    """Less the rows at the end that hold separators only, as spreadsheets leave them."""
    import polars as pl

    held = frame.select(pl.any_horizontal(pl.all() != "")).to_series().arg_true()
    end = int(held[-1]) + 1 if held.len() else frame.height
    if end == frame.height or frame.width < 2:
        return frame
    count = frame.height - end
    said.append(f"{count} row{'s' * (count > 1)} skipped at the end, which hold nothing")
    return frame.head(end)


def _rows(
    text: str, path: str, separator: str, whole: bool = True, said: list[str] | None = None
) -> list[list[str]]:
    """Rows that are not empty lines; of a cut text all but the last, which may be half."""
    limit = csv.field_size_limit(10_000_000)
    reader = csv.reader(
        io.StringIO(text), delimiter=separator, skipinitialspace=separator != "\t", strict=whole
    )
    rows: list[list[str]] = []
    empty = 0
    try:
        for row in reader:
            if row:
                rows.append(row)
            else:
                empty += 1
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num}: {error}; check the quotes around that place"
        ) from error
    finally:
        csv.field_size_limit(limit)
    if empty and said is not None:
        said.append(f"{empty} empty line{'s' * (empty > 1)} skipped")
    return rows if whole or len(text) < 200_000 or len(rows) < 3 else rows[:-1]


def separator_of(text: str, path: str) -> str:
    """What separates the columns of a text.

    >>> separator_of("a;b\\n1;2\\n", "f.csv")
    ';'
    """
    return _sniff(text.replace("\r\n", "\n").strip("\n"), path)


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


def _refuse_blanks_between(rows: list[list[str]], path: str) -> None:
    """One column whose header and rows fall into as many words, some of them numbers, is several."""
    words = [row[0].split() for row in rows[:100] if len(row) == 1]
    if len(words) < min(len(rows), 100) or len(words) < 3 or len(words[0]) < 2:
        return
    if len({len(row) for row in words}) > 1 or any(_is_number(word) for word in words[0]):
        return
    if any(all(_is_number(row[i]) for row in words[1:]) for i in range(len(words[0]))):
        raise DataError(
            f"{path}: values seem to be separated by blanks; save it with commas, tabs, "
            "semicolons or bars between them"
        )


def _evened(rows: list[list[str]], header: bool, said: list[str]) -> list[list[str]]:
    """Rows all one value longer than the header: row names in front, or a separator at the end."""
    width, body = len(rows[0]), rows[1:]
    if not header or not body or any(len(row) != width + 1 for row in body):
        return rows
    if all(not row[-1].strip() for row in body):
        said.append("every row ends with a separator: the empty column after it is left away")
        return [rows[0], *(row[:-1] for row in body)]
    names = [row[0].strip() for row in body]
    words = not any(_is_number(name) for name in names)
    if len(set(names)) == len(names) and (words or all(name.isdigit() for name in names)):
        said.append("the header has one name too few: the first column is taken for row names")
        return [["", *rows[0]], *body]
    return rows


def _refuse_ragged(rows: list[list[str]], path: str, header: bool) -> None:
    width = len(rows[0])
    lengths = [len(row) for row in rows]
    usual = max(set(lengths), key=lengths.count)
    if width != usual and lengths.count(usual) > 0.8 * len(rows) and len(rows) > 4:
        raise DataError(
            f"{path}: the first row has {_values(width)} and most have {usual}; take away what "
            "stands above the header, or check its separators"
        )
    for i, length in enumerate(lengths):
        if length != width:
            raise DataError(
                f"{path} row {i if header else i + 1}: {_values(length)} where the first row has "
                f"{width}; check separators and quotes there"
            )


def _values(count: int) -> str:
    return f"{count} value{'s' * (count != 1)}"


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


def _present(rows: list[list[str]], width: int) -> list[list[str]]:
    """The values of each column that are there."""
    return [
        [row[i].strip() for row in rows if i < len(row) and row[i].strip().lower() not in MISSING]
        for i in range(width)
    ]


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
    columns = _present(body, len(cells))
    # Files that were joined repeat the header between them.
    fresh = _present([row for row in body if row != first], len(cells))
    numeric = [bool(column) and all(_is_number(v) for v in column) for column in fresh]
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
