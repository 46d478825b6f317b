"""Table files in and out. Reading coerces nothing; writing is aside and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyscape.data.bytetext import decode_bytes
from energyscape.data.csvtext import frame_from_text
from energyscape.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TABLE_SUFFIXES", "read_table", "write_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".arrow", ".feather", ".ipc")

_OTHER_SUFFIXES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as .csv"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"), "unpack it first"),
    **dict.fromkeys((".txt", ".dat", ".data"), "if it is separated text, name it .csv or .tsv"),
    ".json": "write one object a line, as .jsonl",
}


def read_table(
    path: str | Path,
    *,
    min_rows: int = 2,
    names: Sequence[str] | None = None,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """A table file as a polars frame: text columns from .csv and .tsv, typed ones from the others.

    Parameters
    ----------
    path : .csv, .tsv, .parquet, .jsonl, .ndjson, .arrow, .feather or .ipc.
    min_rows : fewer rows are refused (2 to learn from, 1 to score).
    names : expected columns, if known: they settle whether a text file has a header.
    notes : a list that gets a line for every decision taken in reading.

    Raises
    ------
    DataError : no such file, a suffix that is no table, an empty or damaged file, too few rows,
        ragged rows, two columns of one name.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t.csv"
    >>> _ = path.write_text("a,b\\n1,x\\n2,y\\n")
    >>> read_table(path).rows()
    [('1', 'x'), ('2', 'y')]
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(f"there is no file {path}; check the name")
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected a table file")
    if suffix not in TABLE_SUFFIXES:
        if suffix in _OTHER_SUFFIXES:
            raise DataError(f"{path}: {suffix} files are not read; {_OTHER_SUFFIXES[suffix]}")
        raise DataError(
            f"{path}: cannot tell the format by {suffix or 'no suffix'!r}; "
            f"known are {', '.join(TABLE_SUFFIXES)}"
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; give a table with rows")
        frame = _read(path, suffix, names, notes if notes is not None else [])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if frame.width == 0:
        raise DataError(f"{path} has no column; give a table with rows")
    if frame.height < min_rows:
        raise DataError(
            f"{path} has {frame.height} row{'s' * (frame.height != 1)} of data; "
            f"at least {min_rows} {'are' if min_rows > 1 else 'is'} needed"
        )
    return frame


def _read(path: Path, suffix: str, names: Sequence[str] | None, notes: list[str]) -> pl.DataFrame:
    import polars as pl

    if suffix in (".csv", ".tsv"):
        text = decode_bytes(path.read_bytes(), str(path), notes)
        return frame_from_text(text, str(path), "\t" if suffix == ".tsv" else None, names, notes)
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        if suffix in (".jsonl", ".ndjson"):
            return _read_lines(path, notes)
        return _read_arrow(path)
    except pl.exceptions.PolarsError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "damaged")
        raise DataError(f"{path} cannot be read as {suffix}: {reason}") from error


def _read_lines(path: Path, notes: list[str]) -> pl.DataFrame:
    """JSON lines; the first line that is no object is named."""
    import json

    import polars as pl

    text = decode_bytes(path.read_bytes(), str(path), notes)
    try:
        return pl.read_ndjson(text.encode(), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is no JSON: {error}") from error
            if not isinstance(value, dict):
                raise DataError(
                    f"{path} line {number} is no JSON object; give one object a line, "
                    'such as {"a": 1, "b": "x"}'
                ) from None
        raise


def _read_arrow(path: Path) -> pl.DataFrame:
    """An Arrow file, or the stream that some writers leave under the same name."""
    import polars as pl

    with path.open("rb") as file:
        stream = file.read(4) == b"\xff\xff\xff\xff"
    return pl.read_ipc_stream(path) if stream else pl.read_ipc(path)


def write_table(frame: pl.DataFrame | Mapping[str, Any], path: str | Path) -> Path:
    """Write by suffix, aside and renamed, so that a half-written file never stands at ``path``.

    Besides the suffixes of :func:`read_table`, ``.npy`` takes a table of numbers.

    Raises
    ------
    DataError : unknown suffix, no such folder, no room on the disk, or any other system error.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t.csv"
    >>> write_table({"a": [1, 2]}, path).read_text()
    'a\\n1\\n2\\n'
    """
    import polars as pl

    path = Path(path)
    table = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(dict(frame))
    suffix = path.suffix.lower()
    if suffix not in (*TABLE_SUFFIXES, ".npy"):
        raise DataError(
            f"{path}: cannot tell the format by {suffix or 'no suffix'!r}; "
            f"known are {', '.join((*TABLE_SUFFIXES, '.npy'))}"
        )
    if suffix == ".npy" and not all(dtype.is_numeric() for dtype in table.dtypes):
        raise DataError(f"a .npy file holds numbers only; write {path.stem}.csv instead")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent}; make it first")
    room, need = shutil.disk_usage(path.parent).free, table.estimated_size()
    if room < need:
        raise DataError(
            f"{path}: about {need / 1e6:.0f} MB to write and {room / 1e6:.0f} MB free; make room"
        )
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(table, aside, suffix)
        os.replace(aside, path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot write {path}: {reason.splitlines()[0]}") from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def _write(table: pl.DataFrame, path: Path, suffix: str) -> None:
    if suffix in (".csv", ".tsv"):
        table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        table.write_parquet(path)
    elif suffix in (".jsonl", ".ndjson"):
        table.write_ndjson(path)
    elif suffix == ".npy":
        import numpy as np

        with path.open("wb") as file:
            np.save(file, table.to_numpy(), allow_pickle=False)
    else:
        table.write_ipc(path)
