"""Pictures that only lessons need, in the ink of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from energyscape.report import canvas

__all__ = ["grid", "maps"]


def grid(low: Tensor, high: Tensor, side: int = 64) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Ticks along x and y, and the points of the grid row by row, shape (side^2, 2), float64."""
    x, y = (np.linspace(float(low[i]), float(high[i]), side) for i in (0, 1))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return x, y, torch.as_tensor(points)


def maps(
    x: np.ndarray,
    y: np.ndarray,
    panels: Sequence[tuple[str, np.ndarray, str]],
    alt: str,
    *,
    points: np.ndarray | None = None,
) -> str:
    """Colour maps (title, values [len(y), len(x)], unit) side by side, with a few points on top."""
    fig, axes = canvas.figure(1, len(panels), width=4.3 * len(panels), height=3.5)
    for ax, (title, values, unit) in zip(axes, panels, strict=True):
        ink = ax.xaxis.label.get_color()
        mesh = ax.pcolormesh(x, y, values, cmap="viridis", shading="gouraud", rasterized=True)
        if points is not None:
            ax.scatter(points[:, 0], points[:, 1], s=2, color="white", alpha=0.5, lw=0)
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
        ax.set_title(title, loc="left", color=ink, fontsize=9.5)
        bar = fig.colorbar(mesh, ax=ax, shrink=0.85)
        bar.ax.tick_params(colors=ink, labelsize=7)
        bar.set_label(unit, color=ink, fontsize=8)
        bar.ax.spines["outline"].set_visible(False)
    return canvas.svg(fig, alt)
