"""Bytes of a file to text: which encoding, and what is no text at all.

An encoding is never guessed from letter frequencies: a mark, valid UTF-8, or zero bytes where the
upper halves of UTF-16 stand say what it is; else it is Windows-1252, and that is said.
"""

from __future__ import annotations

import codecs

from energyscape.data.errors import DataError

__all__ = ["decode_bytes"]

# What a file begins with that is named like a table and is none.
_OTHER_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "save the sheet as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"BZh", "compressed with bzip2", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"ARROW1", "an Arrow file", "name it .arrow"),
    (b"\x93NUMPY", "a numpy array", "name it .npy"),
    (b"%PDF", "a PDF", "give a table"),
    (b"\x89PNG", "a picture", "give a table, or the folder of pictures"),
    (b"\xff\xd8\xff", "a picture", "give a table, or the folder of pictures"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data", "fetch the file itself"),
)
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)


def decode_bytes(raw: bytes, path: str, notes: list[str]) -> str:
    """Text of a file; anything but UTF-8 is said in ``notes``.

    UTF-8 with or without mark, UTF-16 and UTF-32 with a mark, UTF-16 without one, else
    Windows-1252. Where some lines are UTF-8 and others are not, as when files were joined, each
    line is read as what it is.

    Raises
    ------
    DataError : the file is of another format, which is named, or no text.

    Examples
    --------
    >>> notes: list[str] = []
    >>> decode_bytes("Malmö".encode("latin-1"), "f.csv", notes), notes
    ('Malmö', ['text is not UTF-8: read as Windows-1252'])
    """
    for start, what, advice in _OTHER_FORMATS:
        if raw.startswith(start):
            raise DataError(f"{path} is {what}; {advice}")
    if raw.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path} is a web page, not a table; download the file itself")
    for mark, encoding, name in _MARKS:
        if raw.startswith(mark):
            notes.append(f"text read as {name}")
            return _decoded(raw, encoding, path)
    bare = _utf16_without_mark(raw)
    if bare:
        notes.append("text read as UTF-16")
        return _decoded(raw, bare, path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _old_text(raw, path, notes)
    if "\x00" in text:
        raise DataError(f"{path}: holds zero bytes, so it is no text table; check the file")
    return text


def _decoded(raw: bytes, encoding: str, path: str) -> str:
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} begins like {encoding} and byte {error.start} is not; save it as UTF-8"
        ) from error


def _utf16_without_mark(raw: bytes) -> str:
    """The byte order of text whose upper halves are mostly zero, "" when it is no such text."""
    even, odd = raw[:20_000:2], raw[1:20_000:2]
    for encoding, upper, lower in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(upper) > 4 and upper.count(0) > 0.7 * len(upper) and not lower.count(0):
            return encoding
    return ""


def _old_text(raw: bytes, path: str, notes: list[str]) -> str:
    lines = raw.splitlines(keepends=True)
    joined = any(not line.isascii() and _is_utf8(line) for line in lines)
    try:
        if not joined:
            text = raw.decode("cp1252")
            notes.append("text is not UTF-8: read as Windows-1252")
            return text
        text = "".join(line.decode("utf-8" if _is_utf8(line) else "cp1252") for line in lines)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: neither UTF-8 nor Windows-1252 text (byte {error.start}); save it as UTF-8"
        ) from error
    notes.append("some lines are UTF-8 and others Windows-1252: each is read as what it is")
    return text.removeprefix("\ufeff")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
