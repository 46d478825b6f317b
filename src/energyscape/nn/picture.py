"""A convolutional network for pictures of any height, width and number of channels.

A UNet whose residual blocks have no group normalisation: activations keep unit scale by scaled
residual sums and one normalisation over channels per block, which is cheap on a CPU. Odd sizes are
halved with rounding up and brought back to the size of their skip connection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.nn.embeddings import FourierEmbedding, LabelEmbedding

__all__ = ["PictureNet"]


class PictureNet(nn.Module):
    """A small UNet: a field of the picture's shape, or with ``scalar=True`` one number a row.

    Parameters
    ----------
    event_shape : (channels, height, width)
    width : int
        Channels at full resolution; doubled once below it.
    levels : int, optional
        Resolutions; by default as many as keep the smallest side at 4 or more, at most 3.
    blocks : int
        Residual blocks a level.
    scalar, noise, num_labels
        As in `ResidualMLP`.

    Examples
    --------
    >>> import torch
    >>> net = PictureNet((1, 7, 9), width=8)
    >>> net(torch.zeros(2, 1, 7, 9), torch.zeros(2)).shape
    torch.Size([2, 1, 7, 9])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int = 32,
        levels: int | None = None,
        blocks: int = 2,
        scalar: bool = False,
        noise: bool = True,
        num_labels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(event_shape) != 3:
            raise ValueError(f"pictures have shape (channels, height, width), got {event_shape}")
        channels, height, wide = event_shape
        if levels is None:
            levels = max(1, min(3, int(math.log2(max(min(height, wide), 4) / 4)) + 1))
        self.event_shape = tuple(event_shape)
        self.scalar = scalar
        self.noise = noise
        self.position = nn.Parameter(torch.zeros(1, width, height, wide))
        self.embedding = FourierEmbedding(64) if noise else None
        self.embedding_layer = nn.Linear(64, 2 * width) if noise else None
        self.labels = LabelEmbedding(num_labels, 2 * width) if num_labels else None
        cond = 2 * width if noise or num_labels else 0
        sizes = [width if i == 0 else 2 * width for i in range(levels)]
        self.input = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        last = width
        for size in sizes:
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(_Block(last, size, cond, dropout))
                last = size
            self.down.append(stage)
        for size in reversed(sizes):
            stage = nn.ModuleList()
            for i in range(blocks):
                stage.append(_Block(last + (size if i == 0 else 0), size, cond, dropout))
                last = size
            self.up.append(stage)
        self.output = nn.Conv2d(last, 1 if scalar else channels, 3, padding=1)
        if not scalar:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(cast(Tensor, self.output.bias))

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """A field, shape of x, or with ``scalar=True`` numbers of shape (batch,)."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"expected pictures {self.event_shape}, got {tuple(x.shape[1:])}")
        condition = self._condition(x, c_noise, label)
        h = self.input(x) + self.position
        skips = []
        for i, stage in enumerate(self.down):
            if i:
                h = F.avg_pool2d(h, 2, ceil_mode=True)
            for block in cast(nn.ModuleList, stage):
                h = block(h, condition)
            skips.append(h)
        for stage in self.up:
            skip = skips.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, size=skip.shape[-2:], mode="nearest")
            h = torch.cat([h, skip], dim=1)
            for block in cast(nn.ModuleList, stage):
                h = block(h, condition)
        out = self.output(F.silu(h))
        return cast(Tensor, out.flatten(1).sum(1) if self.scalar else out)

    def _condition(self, x: Tensor, c_noise: Tensor | None, label: Tensor | None) -> Tensor | None:
        if label is not None and self.labels is None:
            raise ValueError("this network takes no labels; train with labels to condition on them")
        condition: Tensor | None = None
        if self.embedding is not None and self.embedding_layer is not None:
            if c_noise is None:
                raise ValueError("this network is conditioned on the noise level: pass c_noise")
            condition = self.embedding_layer(self.embedding(c_noise))
        if self.labels is not None:
            vectors = self.labels(label, x.shape[0])
            condition = vectors if condition is None else condition + vectors
        return None if condition is None else F.silu(condition)


class _Block(nn.Module):
    """``skip(x) + f(x)`` with two convolutions, modulated between them."""

    def __init__(self, fan_in: int, fan_out: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.skip = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else None
        self.first = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.second = nn.Conv2d(fan_out, fan_out, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * fan_out) if condition else None
        self.dropout = nn.Dropout(dropout) if dropout else None
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        z = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-4)
        z = self.first(F.silu(z))
        if self.modulation is not None:
            scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
            z = torch.addcmul(shift, z, 1 + scale)
        z = F.silu(z)
        if self.dropout is not None:
            z = self.dropout(z)
        z = self.second(z)
        return cast(Tensor, (x if self.skip is None else self.skip(x)) + z)
