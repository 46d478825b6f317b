"""Embeddings of a noise level and of a label."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["FourierEmbedding", "LabelEmbedding"]


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
