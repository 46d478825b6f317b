"""Rows in memory, and which of them make up a batch.

The batch of step s is a pure function of (seed, s): positions ``[s B, (s+1) B)`` of an endless
stream of permutations. A resumed run therefore sees the same rows without replaying anything, and
each of several processes takes its own slice of the same global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["EncodedRows", "PermutationStream", "PictureRows", "Rows", "TensorRows"]


class Rows(Protocol):
    """Training rows: `len`, and batches by index."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batch(
        self, indices: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The rows `indices` as a float batch, and their labels where there are any."""
        ...


class TensorRows:
    """Rows held as one tensor on the training device.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
    label : Tensor of shape (n,), optional
    """

    def __init__(self, x: Tensor, label: Tensor | None = None) -> None:
        if len(x) == 0:
            raise ValueError("there are no rows to train on")
        if label is not None and label.shape != x.shape[:1]:
            raise ValueError(f"{len(x)} rows need as many labels, got {tuple(label.shape)}")
        self.x = x
        self.label = label

    def __len__(self) -> int:
        return len(self.x)

    def batch(
        self, indices: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The rows as they are."""
        return self.x.index_select(0, indices), None if self.label is None else self.label[indices]


class PictureRows:
    """Pictures dequantised afresh in every batch: ``e_v + (e_{v+1} - e_v) u``, u about 1/2.

    Parameters
    ----------
    pictures : uint8 Tensor of shape (n, channels, height, width)
    edges : Tensor of shape (levels + 1,)
        Edges of the grey levels' cells, rising from -1 to 1.
    label : Tensor of shape (n,), optional
    dtype : torch.dtype
    spread : float
        Share of a cell that the noise covers: ``u ~ U[(1 - spread)/2, (1 + spread)/2)``.
    """

    def __init__(
        self,
        pictures: Tensor,
        edges: Tensor,
        label: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        spread: float = 1.0,
    ) -> None:
        widths = edges.diff()
        self.pictures = pictures
        self.low = (edges[:-1] + 0.5 * (1 - spread) * widths).to(pictures.device, dtype)
        self.width = (spread * widths).to(pictures.device, dtype)
        self.label = label

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(
        self, indices: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The pictures on [-1, 1] with fresh uniform noise inside each grey level."""
        v = self.pictures.index_select(0, indices).long()
        u = torch.rand(v.shape, generator=rng, dtype=self.low.dtype, device=v.device)
        x = torch.addcmul(self.low[v], self.width[v], u)
        return x, None if self.label is None else self.label[indices]


class EncodedRows:
    """Table rows whose encoding draws noise, drawn afresh every `refresh` steps.

    Parameters
    ----------
    encode : callable
        ``encode(rng) -> ndarray (n, ...)``: all rows, with fresh noise.
    n : int
    seed : int
        The noise of a refresh depends on (seed, refresh number) alone.
    refresh : int
        Steps between two encodings.
    label, dtype, device
        As in `TensorRows`.
    """

    def __init__(
        self,
        encode: Callable[[np.random.Generator], np.ndarray],
        n: int,
        *,
        seed: int,
        refresh: int,
        label: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.encode = encode
        self.n = n
        self.seed = seed
        self.refresh = refresh
        self.label = label
        self.dtype = dtype
        self.device = device
        self._version = -1
        self._x: Tensor | None = None

    def __len__(self) -> int:
        return self.n

    def batch(
        self, indices: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The rows with the noise of this step's refresh."""
        version = step // self.refresh
        if self._x is None or version != self._version:
            x = self.encode(np.random.default_rng([self.seed, version]))
            self._x = torch.as_tensor(x, dtype=self.dtype, device=self.device)
            self._version = version
        return self._x.index_select(0, indices), None if self.label is None else self.label[indices]


class PermutationStream:
    """An endless stream of row numbers, each epoch a fresh permutation, at any position."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            self._order = torch.randperm(self.n, generator=torch.Generator().manual_seed(seed))
            self._epoch = epoch
        return self._order

    def take(self, start: int, count: int) -> Tensor:
        """Row numbers at positions [start, start + count) of the stream."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.n)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
