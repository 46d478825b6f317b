"""Data in and out: files and frames to rows, a schema that names every column, codecs to R^D.

The way in is :func:`load` (files, folders, built-in names) or :func:`as_dataset` (arrays and
frames in memory); the way to numbers and back is a codec. Randomness is an explicit
``numpy.random.Generator``. Names are imported on first use, so that importing the room is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energyscape.data.builtin import BUILTIN, built_in
    from energyscape.data.codecs import Codec, Encoded
    from energyscape.data.errors import DataError
    from energyscape.data.frames import conform, is_frame, like, to_polars
    from energyscape.data.inference import infer_schema, schema_from_array
    from energyscape.data.intervals import draws_for, with_intervals
    from energyscape.data.picture_codec import PictureCodec, detect_levels
    from energyscape.data.pictures import read_pictures
    from energyscape.data.schema import Column, Schema
    from energyscape.data.source import Dataset, as_dataset, load
    from energyscape.data.splits import Split, split_rows
    from energyscape.data.streaming import Piece, is_large, read_pieces
    from energyscape.data.suited import codec_from_state, fit_codec
    from energyscape.data.table_codec import TableCodec
    from energyscape.data.tables import read_table, write_table

_HOME = {
    "BUILTIN": "builtin",
    "Codec": "codecs",
    "Column": "schema",
    "DataError": "errors",
    "Dataset": "source",
    "Encoded": "codecs",
    "PictureCodec": "picture_codec",
    "Piece": "streaming",
    "Schema": "schema",
    "Split": "splits",
    "TableCodec": "table_codec",
    "as_dataset": "source",
    "built_in": "builtin",
    "codec_from_state": "suited",
    "conform": "frames",
    "detect_levels": "picture_codec",
    "draws_for": "intervals",
    "fit_codec": "suited",
    "infer_schema": "inference",
    "is_frame": "frames",
    "is_large": "streaming",
    "like": "frames",
    "load": "source",
    "read_pictures": "pictures",
    "read_pieces": "streaming",
    "read_table": "tables",
    "schema_from_array": "inference",
    "split_rows": "splits",
    "to_polars": "frames",
    "with_intervals": "intervals",
    "write_table": "tables",
}

__all__ = [
    "BUILTIN",
    "Codec",
    "Column",
    "DataError",
    "Dataset",
    "Encoded",
    "PictureCodec",
    "Piece",
    "Schema",
    "Split",
    "TableCodec",
    "as_dataset",
    "built_in",
    "codec_from_state",
    "conform",
    "detect_levels",
    "draws_for",
    "fit_codec",
    "infer_schema",
    "is_frame",
    "is_large",
    "like",
    "load",
    "read_pictures",
    "read_pieces",
    "read_table",
    "schema_from_array",
    "split_rows",
    "to_polars",
    "with_intervals",
    "write_table",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
