"""Which network a family takes when the settings leave it open: by the shape of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from energyscape.nn import MLP, PictureNet, ResidualMLP

__all__ = ["energy_network", "field_network", "score_network"]

#: Pictures of fewer pixels than this are learned better, and faster, by a perceptron.
_SMALLEST_PICTURE = 100


def field_network(
    settings: Mapping[str, Any], event_shape: Sequence[int], num_labels: int = 0
) -> nn.Module:
    """A noise-conditional field: a residual perceptron, or a picture network for pictures.

    Parameters
    ----------
    settings : mapping
        ``network``, ``width``, ``blocks`` and ``dropout`` of a family.
    event_shape : sequence of int
        Shape of one encoded row.
    num_labels : int
        Number of classes; 0 for none.

    Raises
    ------
    ValueError
        If a picture network is asked for on a table.
    """
    width, blocks, dropout = settings["width"], settings["blocks"], settings["dropout"]
    if _is_picture(settings, event_shape):
        return PictureNet(
            event_shape,
            width=width or 32,
            blocks=blocks or 2,
            num_labels=num_labels,
            dropout=dropout,
        )
    return ResidualMLP(
        event_shape,
        width=width or 256,
        blocks=blocks or 4,
        num_labels=num_labels,
        dropout=dropout,
    )


def energy_network(settings: Mapping[str, Any], event_shape: Sequence[int]) -> nn.Module:
    """A smooth scalar network without noise level; chains call it often, so it is a small one.

    ``blocks`` counts the hidden layers of the perceptron.
    """
    width, blocks = settings["width"], settings["blocks"]
    if _is_picture(settings, event_shape):
        return PictureNet(
            event_shape, width=width or 16, blocks=blocks or 1, scalar=True, noise=False
        )
    wide = 128 if math.prod(event_shape) <= 16 else 256
    return MLP(event_shape, width=width or wide, depth=blocks or 3, scalar=True)


def score_network(settings: Mapping[str, Any], event_shape: Sequence[int]) -> nn.Module:
    """A smooth field without noise level, as small as an energy's network."""
    width, blocks = settings["width"], settings["blocks"]
    if _is_picture(settings, event_shape):
        return PictureNet(event_shape, width=width or 16, blocks=blocks or 1, noise=False)
    wide = 128 if math.prod(event_shape) <= 16 else 256
    return MLP(event_shape, width=width or wide, depth=blocks or 3)


def _is_picture(settings: Mapping[str, Any], event_shape: Sequence[int]) -> bool:
    kind = settings["network"]
    if kind == "picture" and len(event_shape) != 3:
        raise ValueError("network='picture' needs pictures; a table takes network='mlp'")
    if kind != "auto":
        return bool(kind == "picture")
    return len(event_shape) == 3 and math.prod(event_shape[1:]) >= _SMALLEST_PICTURE
