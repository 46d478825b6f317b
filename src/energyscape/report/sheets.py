"""Pictures side by side: sheets as arrays, as PNG files and inside a page."""

from __future__ import annotations

import base64
import html
import io
import math
from pathlib import Path

import numpy as np

__all__ = ["picture_grid", "picture_html", "save_picture_grid"]


def picture_grid(pictures: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Pictures side by side in one picture.

    Parameters
    ----------
    pictures : uint8 array of shape (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H, W, 4)
        Drawn as they are; stretch few grey levels to 0..255 first.
    columns : int, optional
        Pictures a row; about square when not given.
    gap : int
        Pixels between pictures, of half the largest value.

    Returns
    -------
    uint8 array of shape (rows * (H + gap) + gap, columns * (W + gap) + gap, C)

    Raises
    ------
    ValueError
        For arrays of another type or shape, no picture at all, or fewer than 1 column.

    Examples
    --------
    >>> picture_grid(np.zeros((5, 8, 8), dtype=np.uint8), columns=3).shape
    (19, 28, 1)
    """
    pictures = np.asarray(pictures)
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] not in (1, 3, 4):
        raise ValueError(
            "a grid is made of uint8 pictures [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, "
            f"got {pictures.dtype} of shape {pictures.shape}"
        )
    n, height, width, channels = pictures.shape
    if n == 0:
        raise ValueError("a grid needs at least one picture, got none")
    if columns is None:
        columns = math.ceil(math.sqrt(n))
    if columns < 1:
        raise ValueError(f"a grid needs at least 1 column, got {columns}")
    rows = math.ceil(n / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    sheet = np.full(shape, 127, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def save_picture_grid(
    pictures: np.ndarray, path: Path, columns: int | None = None, *, smallest: int = 320
) -> Path:
    """Write `picture_grid` as a PNG, enlarged by a whole factor to `smallest` pixels a side.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_picture_grid(np.zeros((4, 8, 8), np.uint8), Path(folder) / "grid.png")
    ...     path.stat().st_size > 0
    True
    """
    sheet = picture_grid(pictures, columns)
    factor = max(1, math.ceil(smallest / max(sheet.shape[:2])))
    Path(path).write_bytes(_png(sheet.repeat(factor, 0).repeat(factor, 1)))
    return Path(path)


def _png(sheet: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()


def picture_html(pictures: np.ndarray, columns: int, alt: str, *, cell: int | None = None) -> str:
    """A grid of pictures as an ``<img>`` with its data inside, each `cell` CSS pixels wide."""
    sheet = picture_grid(pictures, columns)
    if cell is None:
        cell = int(np.clip(2 * pictures.shape[2], 44, 96))
    width = min(columns * cell, 960)
    data = base64.b64encode(_png(sheet)).decode()
    return (
        f'<img class="pixels" style="width:{width}px" alt="{html.escape(alt, quote=True)}" '
        f'src="data:image/png;base64,{data}">'
    )
