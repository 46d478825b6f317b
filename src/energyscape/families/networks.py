"""Which network a family takes when the settings leave it open: by the shape of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from energyscape.nn import PictureNet, ResidualMLP

__all__ = ["make_network"]


def make_network(
    settings: Mapping[str, Any],
    event_shape: Sequence[int],
    *,
    scalar: bool = False,
    noise: bool = True,
) -> nn.Module:
    """A residual perceptron for tables and tiny pictures, a picture network otherwise.

    Parameters
    ----------
    settings : mapping
        ``network``, ``width``, ``blocks`` and ``dropout`` of a family.
    event_shape : sequence of int
        Shape of one encoded row.
    scalar, noise : bool
        As in `energyscape.nn.ResidualMLP`.

    Raises
    ------
    ValueError
        If a picture network is asked for on a table.
    """
    kind, width, blocks = settings["network"], settings["width"], settings["blocks"]
    if kind == "picture" and len(event_shape) != 3:
        raise ValueError("network='picture' needs pictures; a table takes network='mlp'")
    if kind == "auto":
        kind = "picture" if len(event_shape) == 3 and math.prod(event_shape[1:]) > 100 else "mlp"
    if kind == "picture":
        return PictureNet(
            event_shape,
            width=width,
            blocks=blocks or 2,
            scalar=scalar,
            noise=noise,
            dropout=settings["dropout"],
        )
    wide = 512 if len(event_shape) == 3 else 256
    return ResidualMLP(
        event_shape,
        width=width or wide,
        blocks=blocks or 4,
        scalar=scalar,
        noise=noise,
        dropout=settings["dropout"],
    )
