"""Table files larger than memory, read in pieces: Parquet by rows, separated text by whole records.

A piece of text is the file's header and so many of its bytes, cut where a record ends, and is read as
a file of its own: the same rules, the same remarks. A piece knows where the next one begins, so that
reading can go on there on another day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from energyscape.data.bytetext import decode_bytes
from energyscape.data.csvtext import frame_from_text, separator_of
from energyscape.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LARGE", "Piece", "is_large", "read_pieces"]

#: Bytes of a file from which on it is read in pieces; bytes and rows of a piece, at most.
LARGE = 64_000_000
PIECE_BYTES = 16_000_000
PIECE_ROWS = 65_536
HEAD_BYTES = 1_000_000
_TEXT = (".csv", ".tsv")
# Marks of text that is not read byte by byte, and lines above a header.
_WHOLE = (b"\xff\xfe", b"\xfe\xff", b"#", b"sep=", b"\n", b"\r")


class Piece(NamedTuple):
    """Rows as read, with all their columns.

    ``start`` and ``stop`` are places in the file (bytes of text, rows of Parquet), ``size`` its end in
    the same measure.
    """

    frame: pl.DataFrame
    start: int
    stop: int
    size: int
    notes: list[str]


def is_large(path: Path, *, finer: int = 1) -> bool:
    """Whether a file is read in pieces: large, Parquet or plain text with its header at the top.

    ``finer`` is how many times smaller a large file and its pieces are, where a row takes long.
    """
    if not path.is_file() or path.stat().st_size < LARGE // finer:
        return False
    if path.suffix.lower() == ".parquet":
        return True
    if path.suffix.lower() not in _TEXT:
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return not head.startswith(_WHOLE) and b"\x00" not in head


def read_pieces(
    path: Path, names: Sequence[str], start: int = 0, *, finer: int = 1
) -> Iterator[Piece]:
    """The pieces of a table from a place on.

    Parameters
    ----------
    path : a .parquet, .csv or .tsv file.
    names : columns that are expected; of Parquet no others are read.
    start : ``stop`` of the last piece that was read; 0 for all.
    finer : how many times smaller pieces are than usual.

    Raises
    ------
    DataError : what :func:`read_table` would raise, with the place in the file.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path, names, start, max(1, PIECE_ROWS // finer))
    else:
        yield from _text(path, names, start, finer)


def _parquet(path: Path, names: Sequence[str], start: int, rows: int) -> Iterator[Piece]:
    import polars as pl

    try:
        lazy = pl.scan_parquet(path)
        known = lazy.collect_schema().names()
        size = int(lazy.select(pl.len()).collect().item())
        wanted = [name for name in known if name in set(names)] or known[:1]
        for first in range(start, size, rows):
            frame = lazy.slice(first, rows).select(wanted).collect()
            yield Piece(frame, first, first + frame.height, size, [])
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path} cannot be read as .parquet: {str(error).splitlines()[0]}"
        ) from error


def _text(path: Path, names: Sequence[str], start: int, finer: int) -> Iterator[Piece]:
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(HEAD_BYTES)
        line = len(raw) / max(raw.count(b"\n"), 1)
        count = max(1, min(PIECE_BYTES, int(PIECE_ROWS * line)) // finer)
        head, separator = _head(raw, path, names)
        place = max(start, len(head))
        while place < size:
            file.seek(place)
            body = _records(file, count)
            said: list[str] = []
            text = decode_bytes(head + body, str(path), said)
            stop = place + len(body)
            if body.strip():
                try:
                    frame = frame_from_text(text, str(path), separator, names, said)
                except DataError as error:
                    raise DataError(f"{error} (rows counted in bytes {place} to {stop})") from error
                yield Piece(frame, place, stop, size, said)
            place = stop


def _head(raw: bytes, path: Path, names: Sequence[str]) -> tuple[bytes, str]:
    """The header with its line's end, empty where there is none, and what separates."""
    text = decode_bytes(raw[: raw.rfind(b"\n") + 1] or raw, str(path), [])
    separator = "\t" if path.suffix.lower() == ".tsv" else separator_of(text, str(path))
    bytes_ = np.frombuffer(raw, dtype=np.uint8)
    quoted = np.cumsum(bytes_ == ord('"'), dtype=np.int64) & 1
    ends = np.flatnonzero((bytes_ == ord("\n")) & (quoted == 0))
    line = raw[: int(ends[0]) + 1] if ends.size else raw
    frame = frame_from_text(text, str(path), separator, names, [])
    unnamed = frame.columns == [f"column_{i + 1}" for i in range(frame.width)]
    return (b"" if unnamed else line), separator


def _records(file: object, size: int) -> bytes:
    """About so many bytes of whole records: up to a line's end outside of quotes, or the file's end."""
    body = b""
    while True:
        more = file.read(size)  # type: ignore[attr-defined]
        body += more
        if len(more) < size:
            return body
        bytes_ = np.frombuffer(body, dtype=np.uint8)
        quoted = np.cumsum(bytes_ == ord('"'), dtype=np.int64) & 1
        ends = np.flatnonzero((bytes_ == ord("\n")) & (quoted == 0))
        # A quote within a bare cell leaves no such end for long: records then end with their line.
        if not ends.size and len(body) >= 4 * size:
            ends = np.flatnonzero(bytes_ == ord("\n"))
        if ends.size:
            cut = int(ends[-1]) + 1
            return body[:cut]
