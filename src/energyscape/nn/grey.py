"""Noise of a few grey levels: a network of its own, which sees where a pixel stands within its level.

Pictures of 256 grey levels have detail a hundred times finer than their scale, and most of their bits
are there. A network that is smooth in a pixel's value cannot follow it: to name the noise at a level of
half a grey level it must multiply a pixel by hundreds, and in bfloat16 the digits it needs are gone
before the first product. Here the network sees waves ``sin, cos(2 pi x / T)`` of every pixel, T from
one grey level up (the Fourier features of 2107.00630). What is left to know of what is around is near:
three convolutions at half resolution do, at a twentieth of the cost of a step of the large network,
which keeps the levels above (`ByLevel`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.nn.embeddings import Conditioning, required_level
from energyscape.nn.picture import to_patches, to_pixels
from energyscape.products import Linear

__all__ = ["ByLevel", "GreyNet"]

_PATCH, _OCTAVES = 2, 6


class GreyNet(nn.Module):
    """A field of the picture's shape from the nearest surroundings of every pixel.

    Parameters
    ----------
    event_shape : (channels, height, width)
    cell : float
        Width of a grey level, in units of the input.
    width : int
        Channels.

    Examples
    --------
    >>> import torch
    >>> net = GreyNet((1, 7, 9), cell=0.01, width=8)
    >>> net(torch.zeros(2, 1, 7, 9), torch.zeros(2)).shape
    torch.Size([2, 1, 7, 9])
    """

    def __init__(self, event_shape: Sequence[int], *, cell: float, width: int = 32) -> None:
        super().__init__()
        channels, height, wide = event_shape
        self.event_shape = tuple(event_shape)
        periods = cell * 2.0 ** torch.arange(_OCTAVES)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)
        pixels = channels * _PATCH**2
        self.condition = Conditioning(2 * width, noise=True, num_labels=0)
        self.position = nn.Parameter(
            torch.zeros(1, width, -(-height // _PATCH), -(-wide // _PATCH))
        )
        self.input = nn.Conv2d(pixels * (1 + 2 * _OCTAVES), width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Conv2d(width, pixels, 3, padding=1)
        self.modulation = Linear(self.condition.dim, 4 * width)
        for layer in (self.modulation, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """A field, shape of x; labels say nothing at so little noise."""
        # Before anything is rounded: autocast leaves waves alone.
        angles = (x[:, :, None] * self.get_buffer("frequencies")[:, None, None]).flatten(1, 2)
        seen = to_patches(torch.cat([x, angles.sin(), angles.cos()], 1), _PATCH)
        levels = self.condition(len(x), required_level(c_noise), None)
        scale, shift, again, beside = self.modulation(levels)[:, :, None, None].chunk(4, 1)
        h = F.silu(torch.addcmul(shift, self.input(seen) + self.position, 1 + scale))
        h = h + F.silu(torch.addcmul(beside, self.middle(h), 1 + again))
        return to_pixels(self.output(h), _PATCH, self.event_shape)


class ByLevel(nn.Module):
    """Two networks of one field: one below a level, the other from it up.

    Parameters
    ----------
    low, high : Module
        Called as ``network(x, c_noise, label)``.
    border : float
        The ``c_noise`` at which the second one begins.
    """

    def __init__(self, low: nn.Module, high: nn.Module, border: float) -> None:
        super().__init__()
        self.low, self.high, self.border = low, high, border

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """The field, each row by the network of its level."""
        c_noise = required_level(c_noise)
        below = c_noise < self.border
        few = int(below.sum())
        if few in (0, len(x)):
            asked, idle = (self.low, self.high) if few else (self.high, self.low)
            out = cast(Tensor, asked(x, c_noise, label))
            if self.training:  # both always have a gradient, if of 0: processes add them up as one
                beside = idle(x[:1], c_noise[:1], None if label is None else label[:1])
                out = out + 0 * beside.sum()
            return out
        labels = [None if label is None else label[rows] for rows in (below, ~below)]
        low = self.low(x[below], c_noise[below], labels[0])
        high = self.high(x[~below], c_noise[~below], labels[1])
        out = torch.empty(
            x.shape, dtype=torch.promote_types(low.dtype, high.dtype), device=x.device
        )
        out[below], out[~below] = low.to(out.dtype), high.to(out.dtype)
        return out
