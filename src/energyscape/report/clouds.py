"""What lies in a plane: clouds of points, landscapes of log-density, fields of arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from energyscape.report.canvas import DATA, INK, SAMPLES, figure, put_colour_bar, put_title, svg

__all__ = ["fields", "landscape", "scatters"]


def scatters(
    panels: Sequence[tuple[str, np.ndarray]],
    alt: str,
    *,
    names: Sequence[str] = ("", ""),
    shared: bool = True,
) -> str:
    """Clouds of points, one panel each, in common limits or each in its own."""
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    fig, axes = figure(
        rows, columns, width=2.7 * columns, height=2.6 * rows, sharex=shared, sharey=shared
    )
    for ax, (title, xy) in zip(axes, panels, strict=False):
        colour = DATA if title == "Data" else SAMPLES
        ax.scatter(xy[:, 0], xy[:, 1], s=7, color=colour, alpha=0.6, lw=0, rasterized=True)
        put_title(ax, title)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    axes[0].set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return svg(fig, alt)


def landscape(
    x: np.ndarray,
    y: np.ndarray,
    log_density: np.ndarray,
    names: Sequence[str],
    alt: str,
    *,
    marks: np.ndarray | None = None,
) -> str:
    """Log-density over a grid, [len(y), len(x)], with arrows along its gradient.

    Values more than 10 nats below the highest share the darkest colour. Arrows show directions,
    with lengths compressed; the axes are scaled to a unit square first. `marks`, shape (K, 2), are
    drawn as crosses where they lie within.
    """
    top = float(np.nanmax(log_density))
    shown = np.maximum(log_density, top - 10)
    fig, (ax,) = figure(width=5.6, height=4.6)
    mesh = ax.pcolormesh(x, y, shown, cmap="viridis", shading="gouraud", rasterized=True)
    ax.contour(
        x, y, shown, levels=top - np.array([8.0, 4.0, 2.0, 1.0]), colors="white", linewidths=0.5
    )
    unit_x, unit_y = x / np.ptp(x), y / np.ptp(y)
    along_y, along_x = np.gradient(shown, unit_y, unit_x)
    length = np.hypot(along_x, along_y)
    scale = np.where(length > 0, np.log1p(length) / np.where(length > 0, length, 1), 0)
    step = max(1, len(x) // 16)
    cut = (slice(step // 2, None, step), slice(step // 2, None, step))
    # Where all is cut off the slope is rounding, which would be stretched to full length.
    scale = np.where(length > 1e-6, scale, 0)
    if bool((scale[cut] > 0).any()):
        ax.quiver(
            x[cut[1]], y[cut[0]], (along_x * scale)[cut], (along_y * scale)[cut],
            color="white", alpha=0.7, width=0.0028, angles="uv",
        )  # fmt: skip
    if marks is not None:
        within = (marks >= (x[0], y[0])).all(1) & (marks <= (x[-1], y[-1])).all(1)
        ax.plot(*marks[within].T, "x", color=SAMPLES, ms=6, mew=1.6)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    put_colour_bar(fig, mesh, ax, "log-density, nats")
    return svg(fig, alt)


def fields(
    x: np.ndarray,
    y: np.ndarray,
    panels: Sequence[tuple[str, np.ndarray, np.ndarray]],
    names: Sequence[str],
    alt: str,
) -> str:
    """Vector fields over a grid, [len(y), len(x), 2], each over a cloud of points."""
    width = 2.9 * len(panels) if len(panels) > 1 else 4.2
    fig, axes = figure(1, len(panels), width=width, height=3.0, sharex=True, sharey=True)
    scale = np.array([np.ptp(x), np.ptp(y)])
    for ax, (title, points, field) in zip(axes, panels, strict=True):
        ax.scatter(points[:, 0], points[:, 1], s=5, color=DATA, alpha=0.5, lw=0, rasterized=True)
        arrows = field * scale
        length = np.linalg.norm(arrows, axis=2, keepdims=True)
        arrows = arrows * np.log1p(length) / np.maximum(length, 1e-12)
        ax.quiver(x, y, arrows[..., 0], arrows[..., 1], color=INK, width=0.004, angles="uv")
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
        put_title(ax, title)
    axes[0].set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return svg(fig, alt)
