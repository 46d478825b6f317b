"""Pictures of whole grey levels as continuous arrays on [-1, 1].

A level ``v in {0, .., L-1}`` becomes ``x = 2 (v + u) / L - 1`` with ``u ~ U[0, 1)``. Integrating a
density of x over that cell bounds the probability of the picture,
``log P(v) >= E_u[log p(x)] + D log(2 / L)`` with D the number of pixels times channels: for L = 256
that is ``bits/dim = -log2 p(x) / D + 7`` (Theis et al. 1511.01844, section 3.1). Without a
generator ``u = 1/2``, the middle of the cell.

With few levels the cells are wide, and a smooth model blurs their hard edges: background pixels come
out one level up. Two remedies keep the bound exact. The noise covers only the middle share w of a cell,
``u ~ U[(1-w)/2, (1+w)/2)`` (variational dequantisation, 1902.00275 eq. 12, with this q), and cells may
differ in width: ``x = e_v + (e_{v+1} - e_v) u`` with edges e rising from -1 to 1, so that a level many
pixels share, such as a plain background, has room for the model's error. Then

    log P(v) >= E_u[log p(x)] + sum over pixels of log(w (e_{v+1} - e_v)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from energyscape.data.codecs import Encoded
from energyscape.data.errors import DataError

__all__ = ["PictureCodec", "detect_levels", "frequency_edges"]

#: Up to this many levels, cells follow the levels' frequencies and noise covers their middle half.
FEW_LEVELS = 64


def detect_levels(pictures: np.ndarray) -> int:
    """Number of grey levels of uint8 pictures: the largest value + 1 up to 64, else 256.

    >>> detect_levels(np.array([[0, 16]], dtype=np.uint8))
    17
    >>> detect_levels(np.array([[0, 130]], dtype=np.uint8))
    256
    """
    top = int(pictures.max()) if pictures.size else 255
    return max(top + 1, 2) if top < 64 else 256


def frequency_edges(pictures: np.ndarray, levels: int, *, power: float = 0.5) -> np.ndarray:
    """Edges of cells as wide as a power of their level's frequency, shape (levels + 1,).

    Levels never seen count as half a pixel. Power 0 gives equal cells, 1 a uniform marginal.

    >>> frequency_edges(np.array([[0, 0, 0, 1]]), 2, power=1.0).round(2).tolist()
    [-1.0, 0.4, 1.0]
    """
    counts = np.bincount(pictures.ravel(), minlength=levels)[:levels] + 0.5
    widths = (counts / counts.sum()) ** power
    edges = 2 * np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum() - 1
    edges[-1] = 1.0
    return edges


class PictureCodec:
    """Pictures uint8 [N, H, W, C] to x [N, C, H, W] in [-1, 1] and back.

    Parameters
    ----------
    shape : (H, W, C) of one picture.
    levels : number of grey levels L, 2 to 256.
    spread : share w of a level's cell that the noise covers, in (0, 1].
    edges : of the cells, shape (levels + 1,), rising from -1 to 1; equal cells by default.

    Examples
    --------
    >>> codec = PictureCodec((2, 2, 1), levels=4)
    >>> pictures = np.array([[[[0], [1]], [[2], [3]]]], dtype=np.uint8)
    >>> x, log_abs_det = codec.encode(pictures)
    >>> x.ravel().tolist(), x.shape, round(float(log_abs_det[0]), 4)
    ([-0.75, -0.25, 0.25, 0.75], (1, 1, 2, 2), -2.7726)
    >>> bool((codec.decode(x) == pictures).all())
    True
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 256,
        spread: float = 1.0,
        edges: np.ndarray | None = None,
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"a picture's shape is (height, width, channels), not {tuple(shape)}")
        if not 2 <= levels <= 256:
            raise DataError(f"levels is {levels}; a picture has 2 to 256 grey levels")
        if not 0 < spread <= 1:
            raise DataError(f"spread is {spread}; the noise covers a share in (0, 1] of a cell")
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.levels = int(levels)
        self.spread = float(spread)
        given = np.linspace(-1, 1, self.levels + 1) if edges is None else edges
        self.edges = np.asarray(given, dtype=np.float64)
        if self.edges.shape != (self.levels + 1,) or not (np.diff(self.edges) > 0).all():
            raise DataError(f"edges are {self.levels + 1} rising numbers from -1 to 1")

    def __repr__(self) -> str:
        return f"PictureCodec(shape={self.shape}, levels={self.levels}, spread={self.spread:g})"

    @property
    def cell(self) -> float:
        """Width of the narrowest cell, on [-1, 1]."""
        return float(np.diff(self.edges).min())

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width, channels = self.shape
        return (channels, height, width)

    def fit(self, data: np.ndarray, rng: np.random.Generator | None = None) -> Self:
        """Nothing is measured: the scale is the same for every picture. Checks and returns self."""
        self._check(data)
        return self

    def prepare(self, data: np.ndarray) -> np.ndarray:
        """The pictures, checked."""
        return self._check(data)

    def encode(self, data: np.ndarray, rng: np.random.Generator | None = None) -> Encoded:
        """Pictures to [-1, 1]; with ``rng`` uniform noise about the middle of each level is drawn.

        Raises
        ------
        DataError : pictures of another shape, or a value that is no level.
        """
        pictures = self._check(data)
        v = np.moveaxis(pictures, 3, 1)
        widths = np.diff(self.edges)[v]
        u = 0.5 if rng is None else 0.5 + self.spread * (rng.random(v.shape) - 0.5)
        log_abs_det = np.log(self.spread * widths).reshape(len(v), -1).sum(1)
        return Encoded(self.edges[v] + widths * u, log_abs_det)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Back to uint8 [N, H, W, C]; values outside [-1, 1] go to the nearest level."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape[1:] != self.event_shape:
            raise DataError(f"encoded pictures have shape [N, {self.event_shape}], not {x.shape}")
        if not np.isfinite(x).all():
            raise DataError("encoded pictures hold NaN or infinity; they cannot be decoded")
        inner = self.edges[1:-1]
        return np.searchsorted(inner, np.moveaxis(x, 1, 3), side="right").astype(np.uint8)

    def cells(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the cell that each x lies in; the outermost cells are open.

        >>> codec = PictureCodec((1, 1, 1), levels=4)
        >>> [end.item() for end in codec.cells(np.full((1, 1, 1, 1), -0.2))]
        [-0.5, 0.0]
        >>> [end.item() for end in codec.cells(np.full((1, 1, 1, 1), -0.9))]
        [-inf, -0.5]
        """
        ends = np.concatenate([[-np.inf], self.edges[1:-1], [np.inf]])
        v = np.searchsorted(self.edges[1:-1], x, side="right")
        return ends[v], ends[v + 1]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The edges; shape, levels and spread."""
        meta = {"shape": list(self.shape), "levels": self.levels, "spread": self.spread}
        return {"edges": self.edges}, {"codec": "pictures", **meta}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Self:
        """The codec again."""
        shape = tuple(meta["shape"])
        return cls(shape, int(meta["levels"]), float(meta["spread"]), arrays["edges"])

    def _check(self, data: np.ndarray) -> np.ndarray:
        pictures = np.asarray(data)
        if pictures.ndim == 3:
            pictures = pictures[..., None]
        if pictures.ndim != 4 or pictures.shape[1:] != self.shape or len(pictures) == 0:
            height, width, channels = self.shape
            raise DataError(
                f"expected pictures of {height} x {width} with {channels} channel(s), "
                f"got an array of shape {np.shape(data)}; pass size= and channels= when reading"
            )
        if not np.issubdtype(pictures.dtype, np.integer):
            raise DataError(f"pictures hold whole grey levels, not {pictures.dtype}")
        low, high = int(pictures.min()), int(pictures.max())
        if low < 0 or high >= self.levels:
            raise DataError(
                f"a picture holds the value {low if low < 0 else high}; "
                f"this model knows the levels 0 to {self.levels - 1}"
            )
        return pictures
