"""Multi-layer perceptrons for tables, small arrays and flattened pictures.

Both give a field of the event's shape, or with ``scalar=True`` one number a row (an energy). Their
activations are smooth, so an energy's score is differentiable; nothing mixes the rows of a batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.nn.embeddings import Conditioning, FourierEmbedding, Waves, required_level
from energyscape.products import Linear

__all__ = ["MLP", "ResidualMLP"]


class MLP(nn.Module):
    """A plain perceptron, optionally conditioned on a level by concatenating its features.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one row.
    width, depth : int
        Hidden units, and the number of hidden layers.
    scalar : bool
        One number a row instead of a field.
    noise : bool
        Whether ``c_noise`` is an input.
    activation : Module, default SiLU

    Examples
    --------
    >>> import torch
    >>> MLP((2,), width=16, scalar=True)(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int = 128,
        depth: int = 3,
        scalar: bool = False,
        noise: bool = False,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.scalar = scalar
        dim = math.prod(self.event_shape)
        self.embedding = FourierEmbedding(32) if noise else None
        act = nn.SiLU() if activation is None else activation
        sizes = [dim + (32 if noise else 0), *[width] * depth]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [Linear(fan_in, fan_out), act]
        layers.append(Linear(sizes[-1], 1 if scalar else dim))
        self.layers = nn.Sequential(*layers)

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """A field, shape of x, or with ``scalar=True`` numbers of shape (batch,)."""
        if label is not None:
            raise ValueError("this network takes no labels")
        h = x.flatten(1)
        if self.embedding is not None:
            h = torch.cat([h, self.embedding(required_level(c_noise))], dim=1)
        out = self.layers(h)
        return cast(Tensor, out.squeeze(1) if self.scalar else out.reshape(x.shape))

    def plain_layers(self) -> nn.Sequential | None:
        """The layers, where the network is their sequence on flattened rows and nothing more."""
        if type(self) is not MLP or not self.scalar or self.embedding is not None:
            return None
        return self.layers


class ResidualMLP(nn.Module):
    """Residual blocks with layer normalisation, modulated by level and label.

    Each block adds ``W_2 silu(W_1 (norm(h) (1 + scale) + shift))`` with W_2 zero at the start, so that
    the network begins as a linear map and trains stably at any depth. The level and the label come
    through a narrow vector: as wide as the blocks it would cost as much as they do.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one row.
    width, blocks : int
    scalar : bool
        One number a row instead of a field.
    noise : bool
        Whether ``c_noise`` is an input.
    num_labels : int
        Number of classes; 0 for an unconditional network.
    dropout : float
        Inside the blocks, in training mode.
    waves : int
        Number of waves through the coordinates that the first layer sees beside them; see `Waves`.
    outputs : int, optional
        So many numbers a row, shape (batch, outputs), instead of a field.

    Examples
    --------
    >>> import torch
    >>> net = ResidualMLP((1, 8, 8), width=32, blocks=1)
    >>> net(torch.zeros(3, 1, 8, 8), torch.zeros(3)).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int = 256,
        blocks: int = 4,
        scalar: bool = False,
        noise: bool = True,
        num_labels: int = 0,
        dropout: float = 0.0,
        waves: int = 0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.scalar = scalar
        self.noise = noise
        self.outputs = outputs
        dim = math.prod(self.event_shape)
        self.condition = Conditioning(min(width, 128), noise=noise, num_labels=num_labels)
        self.waves = Waves(dim, waves) if waves else None
        self.input = Linear(dim + waves, width)
        self.blocks = nn.ModuleList(
            _ResidualBlock(width, self.condition.dim, dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = Linear(width, 1 if scalar else outputs or dim)
        if not scalar:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """A field, shape of x, or numbers of shape (batch,) or (batch, outputs)."""
        condition = self.condition(x.shape[0], c_noise, label)
        h = x.flatten(1)
        h = self.input(h if self.waves is None else self.waves(h))
        for block in self.blocks:
            h = block(h, condition)
        out = self.output(F.silu(self.norm(h)))
        if self.outputs is not None:
            return cast(Tensor, out)
        return cast(Tensor, out.squeeze(1) if self.scalar else out.reshape(x.shape))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not condition)
        self.first = Linear(width, width)
        self.second = Linear(width, width)
        self.modulation = Linear(condition, 2 * width) if condition else None
        self.dropout = nn.Dropout(dropout) if dropout else None
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        z = self.norm(h)
        if self.modulation is not None:
            scale, shift = self.modulation(condition).chunk(2, dim=1)
            z = torch.addcmul(shift, z, 1 + scale)
        z = F.silu(self.first(z))
        if self.dropout is not None:
            z = self.dropout(z)
        return h + cast(Tensor, self.second(z))
