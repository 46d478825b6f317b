"""A convolutional network for pictures of any height, width and number of channels.

A UNet made cheap for a CPU, where copies and normalisations cost more than products:

- larger pictures are cut into 2x2 patches that become channels, so that nothing runs at full
  resolution with many channels; the last convolution's channels become pixels again;
- most weights lie where the picture is smallest, and a step costs little for them: 1.6 million at 28x28
  take 20 GFLOP a step of 64, and 47 with one level less and twice the blocks;
- no group normalisation: each block divides by the root mean square over the channels of a pixel,
  ``x / sqrt(mean_c x_c^2 + 1e-4)`` (the pixel norm of 2312.02696, section 2), once;
- activations lie channels last.

Sides that cannot be halved are rounded up and cut again on the way back. A learned map of positions
is added at the start: pictures are often centred, and a convolution cannot see where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.nn.embeddings import Conditioning
from energyscape.products import Linear

__all__ = ["PictureNet"]


class PictureNet(nn.Module):
    """A small UNet: a field of the picture's shape, or with ``scalar=True`` one number a row.

    Parameters
    ----------
    event_shape : (channels, height, width)
    width : int, optional
        Channels at the first resolution; by default 32, or 40 with patches.
    levels : int, optional
        Resolutions; by default as many as keep the smallest side, rounded up, at 4 or more, at most 3.
    blocks : int
        Residual blocks a level, on the way down and on the way up.
    growth : sequence of int
        Channels at each resolution in units of `width`; the last one holds for all that follow.
    patch : int, optional
        Side of the patches that become channels; by default 2 where both sides are at least 16,
        else 1.
    scalar, noise, num_labels, dropout
        As in `ResidualMLP`.

    Raises
    ------
    ValueError
        If `event_shape` is not that of a picture, or x has another shape.

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
        width: int | None = None,
        levels: int | None = None,
        blocks: int = 1,
        growth: Sequence[int] = (1, 2, 4),
        patch: int | None = None,
        scalar: bool = False,
        noise: bool = True,
        num_labels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(event_shape) != 3:
            raise ValueError(f"pictures have shape (channels, height, width), got {event_shape}")
        channels, height, wide = event_shape
        self.event_shape = tuple(event_shape)
        self.scalar = scalar
        self.noise = noise
        self.patch = patch or (2 if min(height, wide) >= 16 else 1)
        width = width or (40 if self.patch > 1 else 32)
        rows, columns = -(-height // self.patch), -(-wide // self.patch)
        levels = levels or _levels(min(rows, columns))
        self.condition = Conditioning(2 * width, noise=noise, num_labels=num_labels)
        sizes = [width * growth[min(i, len(growth) - 1)] for i in range(levels)]
        pixels = channels * self.patch**2
        self.position = nn.Parameter(torch.zeros(1, width, rows, columns))
        self.input = nn.Conv2d(pixels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = width
        for size in sizes:
            self.down.append(_stage(last, size, blocks, self.condition.dim, dropout))
            last = size
        for size in reversed(sizes):
            self.up.append(_stage(last + size, size, blocks, self.condition.dim, dropout))
            last = size
        self.output = nn.Conv2d(last, 1 if scalar else pixels, 3, padding=1)
        if not scalar:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(cast(Tensor, self.output.bias))

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """A field, shape of x, or with ``scalar=True`` numbers of shape (batch,)."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"expected pictures {self.event_shape}, got {tuple(x.shape[1:])}")
        condition = self.condition(x.shape[0], c_noise, label)
        h = self.input(to_patches(x, self.patch)) + self.position
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
                h = F.interpolate(h, scale_factor=2, mode="nearest")
                h = h[:, :, : skip.shape[2], : skip.shape[3]]
            h = torch.cat([h, skip], dim=1)
            for block in cast(nn.ModuleList, stage):
                h = block(h, condition)
        out = self.output(F.silu(_normalise(h)))
        if self.scalar:
            return cast(Tensor, out.flatten(1).sum(1))
        return to_pixels(out, self.patch, self.event_shape)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Pictures with the pixels of a patch as channels, sides rounded up, channels last."""
    if patch > 1:
        bottom, right = -x.shape[2] % patch, -x.shape[3] % patch
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        x = F.pixel_unshuffle(x, patch)
    return x.contiguous(memory_format=torch.channels_last)


def to_pixels(out: Tensor, patch: int, shape: Sequence[int]) -> Tensor:
    """What `to_patches` did, undone; cut to the shape of a picture."""
    if patch > 1:
        out = F.pixel_shuffle(out, patch)
    return out[:, :, : shape[1], : shape[2]].contiguous()


def _levels(side: int) -> int:
    """How often a side can be halved, rounding up, and stay at 4 or more, at most twice; and one."""
    halved = -(-side // 2)
    return 1 + (halved >= 4) + (-(-halved // 2) >= 4)


def _stage(fan_in: int, size: int, blocks: int, condition: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(
        _Block(size if i else fan_in, size, condition, dropout) for i in range(blocks)
    )


def _normalise(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-4)


class _Block(nn.Module):
    """``skip(x) + f(x)`` with two convolutions, modulated between them."""

    def __init__(self, fan_in: int, fan_out: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.skip = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else None
        self.first = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.second = nn.Conv2d(fan_out, fan_out, 3, padding=1)
        self.modulation = Linear(condition, 2 * fan_out) if condition else None
        self.dropout = nn.Dropout(dropout) if dropout else None
        nn.init.zeros_(cast(Tensor, self.second.bias))
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        z = self.first(F.silu(_normalise(x)))
        if self.modulation is not None:
            scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
            z = torch.addcmul(shift, z, 1 + scale)
        z = F.silu(z)
        if self.dropout is not None:
            z = self.dropout(z)
        return cast(Tensor, (x if self.skip is None else self.skip(x)) + self.second(z))
