"""Rows of a frame or an array as the columns that measures take."""

from __future__ import annotations

from typing import Any

import numpy as np

from energyscape.data import Schema, is_frame, to_polars
from energyscape.data.values import keep, numbers

__all__ = ["columns_of"]


def columns_of(rows: Any, schema: Schema) -> dict[str, np.ndarray]:
    """The modelled columns as arrays: numbers and dates as float64 with NaN, the rest as objects.

    Parameters
    ----------
    rows : a frame with the schema's columns, or an array of a schema made from one.

    Examples
    --------
    >>> import polars as pl
    >>> from energyscape.data import infer_schema
    >>> frame = pl.DataFrame({"x": [1.5, None, 2.5], "c": ["a", "b", None]})
    >>> columns_of(frame, infer_schema(frame))
    {'x': array([1.5, nan, 2.5]), 'c': array(['a', 'b', None], dtype=object)}
    """
    import polars as pl

    if not is_frame(rows):
        array = np.asarray(rows, dtype=np.float64)
        places = {name: j for j, name in enumerate(schema.names)}
        return {c.name: array[:, places[c.name]] for c in schema.modelled}
    frame = to_polars(rows)
    made = {}
    for column in schema.modelled:
        kept = keep(frame[column.name], column)
        if column.kind in ("category", "boolean"):
            made[column.name] = np.array(kept.cast(pl.String).to_list(), dtype=object)
        else:
            # also dates written as text: what is compared is when they were
            made[column.name] = numbers(kept, column)
    return made
