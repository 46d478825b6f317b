"""Which codec suits a data set, and a codec again from what was stored of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from energyscape.data.codecs import Codec
from energyscape.data.errors import DataError
from energyscape.data.picture_codec import (
    FEW_LEVELS,
    PictureCodec,
    detect_levels,
    frequency_edges,
)
from energyscape.data.table_codec import TableCodec

__all__ = ["codec_from_state", "fit_codec"]


def fit_codec(dataset: Any, rows: np.ndarray | None = None) -> Codec:
    """The codec that fits a :class:`Dataset`, with scales measured on ``rows`` (all when None).

    Examples
    --------
    >>> from energyscape.data import load
    >>> fit_codec(load("digits")).event_shape
    (1, 8, 8)
    """
    data = dataset.data
    part = data if rows is None else data[rows]
    if dataset.kind == "pictures":
        levels = detect_levels(data)
        if levels > FEW_LEVELS:
            return PictureCodec(data.shape[1:], levels).fit(part)
        edges = frequency_edges(part, levels)
        return PictureCodec(data.shape[1:], levels, 0.5, edges).fit(part)
    return TableCodec(dataset.schema).fit(part)


def codec_from_state(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Codec:
    """The codec of any kind that :meth:`Codec.state` described; DataError when it is none."""
    kind = meta.get("codec")
    if kind == "table":
        return TableCodec.from_state(arrays, meta)
    if kind == "pictures":
        return PictureCodec.from_state(arrays, meta)
    raise DataError(f"unknown codec {kind!r}; known are 'table' and 'pictures'")
