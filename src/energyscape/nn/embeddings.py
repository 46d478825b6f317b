"""Embeddings of a noise level and of a label, and the vector that carries both to the blocks."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.products import Linear, linear

__all__ = [
    "Conditioning",
    "FourierEmbedding",
    "LabelEmbedding",
    "Waves",
    "required_level",
]


class FourierEmbedding(nn.Module):
    """Cosines and sines of a scalar at geometric frequencies (2006.10739).

    Parameters
    ----------
    dim : int
        Even number of features.
    lowest, highest : float
        Angular frequencies; log sigma runs over about ten units, so the defaults resolve steps from
        the whole range down to 2 % of a level.
    """

    def __init__(self, dim: int = 64, lowest: float = 0.1, highest: float = 30.0) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"an embedding needs an even dimension of at least 2, got {dim}")
        frequencies = torch.logspace(math.log10(lowest), math.log10(highest), dim // 2)
        self.register_buffer("frequencies", frequencies)

    def forward(self, c_noise: Tensor) -> Tensor:
        """Features of shape (batch, dim) with unit mean square, for c_noise of shape (batch,)."""
        angles = c_noise[:, None] * self.get_buffer("frequencies").to(c_noise.dtype)
        return math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)


class Waves(nn.Module):
    """Coordinates beside learned waves ``sin(w x + b)`` through them (2006.10739).

    Wavelengths start log-uniform between twenty and three quarters of a standard deviation of data at
    unit scale, in random directions: narrow modes and long ridges are both a few units away.

    Parameters
    ----------
    dim, count : int
        Coordinates, and waves through them.
    low, high : float
        Angular frequencies between which the waves start.

    Examples
    --------
    >>> Waves(2, 6)(torch.zeros(3, 2)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, count: int, low: float = 0.3, high: float = 8.0) -> None:
        super().__init__()
        direction = F.normalize(torch.randn(count, dim), dim=1)
        self.frequency = nn.Parameter(direction * low * (high / low) ** torch.rand(count, 1))
        self.phase = nn.Parameter(2 * math.pi * torch.rand(count))

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, dim) and its waves, shape (batch, dim + count)."""
        return torch.cat([x, torch.sin(linear(x, self.frequency, self.phase))], dim=1)


class LabelEmbedding(nn.Module):
    """A vector per class, and one for "no label" (index -1), which guidance needs.

    Parameters
    ----------
    num_labels, dim : int
    """

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        self.table = nn.Embedding(num_labels + 1, dim)

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        """Vectors of shape (batch, dim); None stands for "no label" in every row."""
        weight = self.table.weight
        if label is None:
            return weight[-1].expand(batch, -1)
        index = torch.where(label < 0, self.num_labels, label)
        return cast(Tensor, self.table(index))


class Conditioning(nn.Module):
    """The vector that modulates a network's blocks: ``silu(W fourier(c_noise) + table[label])``.

    Parameters
    ----------
    dim : int
        Length of the vector; the attribute `dim` is 0 where there is nothing to condition on.
    noise : bool
        Whether a level is given.
    num_labels : int
        Number of classes; 0 for none.

    Examples
    --------
    >>> import torch
    >>> Conditioning(16, num_labels=3)(2, torch.zeros(2), torch.tensor([0, -1])).shape
    torch.Size([2, 16])
    """

    def __init__(self, dim: int, *, noise: bool = True, num_labels: int = 0) -> None:
        super().__init__()
        self.dim = dim if noise or num_labels else 0
        self.embedding = FourierEmbedding(64) if noise else None
        self.linear = Linear(64, dim) if noise else None
        self.labels = LabelEmbedding(num_labels, dim) if num_labels else None

    def forward(
        self, batch: int, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor | None:
        """Vectors of shape (batch, dim), or None where there is nothing to condition on.

        Raises
        ------
        ValueError
            If the level is missing, or a label is given to a network without labels.
        """
        if label is not None and self.labels is None:
            raise ValueError("this network takes no labels; train with labels to condition on them")
        vectors: Tensor | None = None
        if self.embedding is not None and self.linear is not None:
            vectors = self.linear(self.embedding(required_level(c_noise)))
        if self.labels is not None:
            by_label = self.labels(label, batch)
            vectors = by_label if vectors is None else vectors + by_label
        return None if vectors is None else F.silu(vectors)


def required_level(c_noise: Tensor | None) -> Tensor:
    """`c_noise`, or an error that says it is missing."""
    if c_noise is None:
        raise ValueError("this network is conditioned on the noise level: pass c_noise")
    return c_noise
