"""One door for data: a table file, an array file, a folder of pictures, or a built-in name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from energyscape.data.builtin import BUILTIN, built_in
from energyscape.data.errors import DataError
from energyscape.data.inference import infer_schema, schema_from_array
from energyscape.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Dataset", "as_dataset", "load"]


@dataclass(frozen=True)
class Dataset:
    """What was read.

    Parameters
    ----------
    kind : ``"table"`` or ``"pictures"``.
    name : of the file, folder or built-in set.
    frame : a table's kept columns, typed, in the schema's order (None for pictures).
    pictures : uint8 [N, H, W, C] (None for tables).
    schema : of a table (None for pictures).
    labels : [N] when the source tells classes apart, else None; never part of the density.
    notes : a line for everything left out, converted or decided.
    raw : a table with all its columns as read, also those left out.
    array : the 2-D array a table came as, when it did.
    """

    kind: Literal["table", "pictures"]
    name: str
    frame: pl.DataFrame | None = None
    pictures: np.ndarray | None = None
    schema: Schema | None = None
    labels: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    raw: pl.DataFrame | None = None
    array: np.ndarray | None = None

    @property
    def data(self) -> Any:
        """What a codec takes: the pictures, the array or the frame; rows by ``data[indices]``."""
        if self.pictures is not None:
            return self.pictures
        return self.frame if self.array is None else self.array

    def take(self, rows: Any) -> Dataset:
        """Some rows, by a slice or by their places; what the file held besides is left behind."""
        return replace(
            self,
            raw=None,
            frame=None if self.frame is None else self.frame[rows],
            array=None if self.array is None else self.array[rows],
            pictures=None if self.pictures is None else self.pictures[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    def __len__(self) -> int:
        return len(self.data)


def load(
    source: str | Path,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    schema: Schema | None = None,
    min_rows: int | None = None,
) -> Dataset:
    """Read data from anywhere.

    Parameters
    ----------
    source : a table file (.csv .tsv .parquet .jsonl .ndjson .arrow .feather .ipc), .npy or .npz
        (2-D a table, 3-D and 4-D whole numbers pictures; ``file.npz::key`` chooses an array), a
        folder of pictures, or a name in ``BUILTIN``.
    types, drop : for tables: kinds of columns to set, columns to leave out.
    size, channels : for folders of pictures: see :func:`read_pictures`.
    schema : of a fitted model; the table is brought into line with it instead of inferred anew.
    min_rows : fewer rows are refused; by default 2, or 1 with a ``schema``.

    Raises
    ------
    DataError : anything about the source that its owner can mend, in one line.

    Examples
    --------
    >>> load("digits").pictures.shape
    (1797, 8, 8, 1)
    >>> load("iris").schema["species"].kind
    'category'
    """
    text = str(source)
    if not text.strip():
        raise DataError("the name of the data is empty; give a file, a folder or a built-in name")
    path = Path(text)
    least = min_rows if min_rows is not None else (1 if schema is not None else 2)
    is_array = Path(text.split("::", 1)[0]).suffix.lower() in (".npy", ".npz")
    if (size is not None or channels is not None) and not path.is_dir():
        raise DataError(
            f"{text} is no folder of pictures, and nothing else is resized or converted: "
            "leave out size and channels"
        )
    if text in BUILTIN or not (path.suffix or path.exists() or is_array):
        dataset = _from_builtin(text, types, drop, schema)
    elif path.is_dir():
        _tables_only(types, drop, text)
        dataset = _from_folder(path, size, channels)
    elif is_array:
        dataset = _from_array_file(text, types, drop, schema)
    else:
        from energyscape.data.tables import read_table

        notes: list[str] = []
        names = schema.names if schema is not None else None
        frame = read_table(path, min_rows=least, names=names, notes=notes)
        dataset = _table(frame, path.name, types, drop, schema, notes)
    if len(dataset) < least:
        raise DataError(f"{text} has {len(dataset)} row(s) or pictures; {least} are needed")
    if least > 1 and dataset.pictures is not None:
        _refuse_copies(dataset.pictures, text)
    return dataset


def _refuse_copies(pictures: np.ndarray, source: str) -> None:
    """A point has no density; tables of such rows are refused by their constant columns."""
    first = pictures[0]
    if (pictures[1] == first).all() and (pictures == first).all():
        raise DataError(f"{source}: all {len(pictures)} pictures are the same; none can be learned")


def as_dataset(
    data: Any,
    labels: Any = None,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] | None = None,
    schema: Schema | None = None,
    name: str = "data",
) -> Dataset:
    """A :class:`Dataset` from memory: a frame, a 2-D array, or pictures uint8 [N, H, W(, C)].

    Examples
    --------
    >>> as_dataset(np.zeros((5, 2)) + np.arange(5.0)[:, None]).schema.kinds
    {'x0': 'numeric', 'x1': 'numeric'}
    """
    from energyscape.data.frames import is_frame, to_polars

    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return load(data, types=types, drop=drop, schema=schema)
    y = None if labels is None else np.asarray(labels)
    if is_frame(data):
        made = _table(to_polars(data), name, types, drop, schema, [])
    else:
        made = _from_array(np.asarray(data), name, types, drop, schema, [])
    return Dataset(**{**made.__dict__, "labels": y if y is not None else made.labels})


def _tables_only(types: Any, drop: Any, source: str) -> None:
    if types or drop:
        raise DataError(f"{source} holds pictures, which have no columns: leave out types and drop")


def _table(
    frame: pl.DataFrame,
    name: str,
    types: Mapping[str, str] | None,
    drop: Sequence[str] | None,
    schema: Schema | None,
    notes: list[str],
    labels: np.ndarray | None = None,
) -> Dataset:
    from energyscape.data.frames import conform

    if schema is None:
        schema = infer_schema(frame, types, drop)
        notes = [*notes, *schema.notes]
    kept = conform(frame, schema, notes)
    return Dataset("table", name, kept, schema=schema, labels=labels, notes=notes, raw=frame)


def _from_builtin(
    name: str,
    types: Mapping[str, str] | None,
    drop: Sequence[str] | None,
    schema: Schema | None,
) -> Dataset:
    import polars as pl

    made = built_in(name)
    if made.pictures is not None:
        _tables_only(types, drop, name)
        return Dataset("pictures", name, pictures=made.pictures, labels=made.labels)
    assert made.columns is not None
    frame = pl.DataFrame({key: pl.Series(key, value) for key, value in made.columns.items()})
    return _table(frame, name, types, drop, schema, [], made.labels)


def _from_folder(path: Path, size: int | Sequence[int] | None, channels: int | None) -> Dataset:
    from energyscape.data.pictures import read_pictures

    found = read_pictures(path, size, channels)
    return Dataset(
        "pictures", path.name, pictures=found.pictures, labels=found.labels, notes=found.notes
    )


def _from_array_file(
    source: str,
    types: Mapping[str, str] | None,
    drop: Sequence[str] | None,
    schema: Schema | None,
) -> Dataset:
    file, _, key = source.partition("::")
    path = Path(file)
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the name")
    notes: list[str] = []
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            array, labels = loaded, None
        else:
            with loaded:
                array, labels = _pick(loaded, path, key, notes)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, _bad_zip()) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "pickle" in reason:
            reason = "damaged, or pickled objects, which are never read; save plain numbers"
        raise DataError(f"{path} cannot be read as an array file: {reason}") from error
    made = _from_array(array, path.name, types, drop, schema, notes)
    return Dataset(**{**made.__dict__, "labels": labels})


def _bad_zip() -> type[Exception]:
    import zipfile

    return zipfile.BadZipFile


def _pick(
    archive: Any, path: Path, key: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The array and, when one of its length is named like labels, the labels."""
    keys = list(archive.files)
    if key and key not in keys:
        raise DataError(f"{path} has no array {key!r}; it has {', '.join(keys)}")
    if not key:
        key = next((k for k in ("X", "x", "x_train", "X_train", "data") if k in keys), "")
        if not key and len(keys) != 1:
            raise DataError(
                f"{path} holds several arrays ({', '.join(keys)}); choose: {path}::{keys[0]}"
                if keys
                else f"{path} holds no array"
            )
        key = key or keys[0]
    array = archive[key]
    twin = {"x": "y", "X": "y"}.get(key[:1], "y") + key[1:]
    label_key = next((k for k in (twin, twin.upper(), "y", "labels") if k in keys and k != key), "")
    labels = archive[label_key] if label_key else None
    if labels is not None and (labels.ndim != 1 or array.ndim == 0 or len(labels) != len(array)):
        labels, label_key = None, ""
    rest = [k for k in keys if k not in (key, label_key)]
    if len(keys) > 1:
        said = f"array {key!r} is read" + (f", {label_key!r} are its labels" if label_key else "")
        notes.append(said + (f"; not read: {', '.join(rest)}" if rest else ""))
    return array, labels


def _from_array(
    array: np.ndarray,
    name: str,
    types: Mapping[str, str] | None,
    drop: Sequence[str] | None,
    schema: Schema | None,
    notes: list[str],
) -> Dataset:
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        # Numbers longer than a double are this machine's own, and no file format holds them.
        array = array.astype(np.float64)
    if array.ndim in (3, 4):
        _tables_only(types, drop, name)
        return Dataset("pictures", name, pictures=_as_pictures(array, name, notes), notes=notes)
    import polars as pl

    found = schema_from_array(array) if schema is None or (types or drop) else schema
    frame = pl.DataFrame({f"x{j}": array[:, j] for j in range(array.shape[1])})
    if types or drop:
        return _table(frame, name, types, drop, schema, notes)
    if len(found) != array.shape[1]:
        raise DataError(
            f"{name} has {array.shape[1]} columns, the model was fitted on {len(found)}"
        )
    if not found.array:
        return _table(frame, name, types, drop, found, notes)
    said = notes + (found.notes if schema is None else [])
    return Dataset("table", name, frame, schema=found, notes=said, raw=frame, array=array)


def _as_pictures(array: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if array.dtype.kind not in "iub":
        raise DataError(
            f"{name} is a {array.ndim}-D array of {array.dtype}; pictures hold whole numbers "
            "0 to 255: convert it to uint8 first"
        )
    if array.size == 0:
        raise DataError(f"{name} is an array of shape {array.shape}: there is nothing in it")
    if array.ndim == 3:
        array = array[..., None]
    elif array.shape[3] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = np.moveaxis(array, 1, 3)
        notes.append("channels were the second axis, and are the last now")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        raise DataError(f"{name} holds values {low} to {high}; pictures hold 0 to 255")
    return np.ascontiguousarray(array.astype(np.uint8))
