"""Plots as pieces of a page: inline SVG that takes the page's ink, and PNG for pictures.

Figures are built with matplotlib's objects, never through pyplot, so that no global state is read
or left behind. Text and axes are drawn in one reserved ink which becomes ``currentColor`` in the
SVG: the same figure is readable on a light and on a dark page.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "DATA",
    "SAMPLES",
    "correlations",
    "curves",
    "figure",
    "histograms",
    "landscape",
    "marginals",
    "picture_grid",
    "picture_html",
    "quantiles",
    "save_picture_grid",
    "scatters",
    "svg",
    "traces",
]

DATA = "#7d8da6"
SAMPLES = "#e8743b"
_INK = "#010203"
_SURE = {
    "Data": DATA,
    "Samples": SAMPLES,
    "chains": SAMPLES,
    "training": DATA,
    "validation": SAMPLES,
    "without a model": DATA,
    "model": SAMPLES,
}


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


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 3.0, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A transparent figure with plain axes in the page's ink."""
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(fig.subplots(rows, columns, **grid)).ravel().tolist()
    for ax in axes:
        ax.set_facecolor("none")
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for spine in ax.spines.values():
            spine.set_color(_INK)
            spine.set_alpha(0.35)
        ax.tick_params(colors=_INK, labelsize=8, length=3)
        for text in (ax.xaxis.label, ax.yaxis.label):
            text.set_color(_INK)
            text.set_size(9)
    return fig, axes


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", color=_INK, fontsize=9.5)


def svg(fig: Figure, alt: str) -> str:
    """The figure as an inline ``<svg>`` that scales with the page and says what it shows."""
    buffer = io.StringIO()
    salt = re.sub(r"\W+", "-", alt)[:60]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        fig.savefig(buffer, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;\"]*", r"font-size: \2px", text)
    label = html.escape(alt, quote=True)
    head = re.search(r'viewBox="[^"]*"', text)
    box = head[0] if head else ""
    width = fig.get_size_inches()[0] * 96
    size = "wide" if width > 560 else "narrow"
    return re.sub(
        r"<svg[^>]*>",
        lambda _: (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'{box} role="img" aria-label="{label}" class="{size}" style="max-width:{width:.0f}px">'
        ),
        text,
        count=1,
    )


def _legend(ax: Axes, **options: Any) -> None:
    legend = ax.legend(frameon=False, fontsize=8, **options)
    for text in legend.get_texts():
        text.set_color(_INK)


def _colour(name: str, i: int) -> str:
    return _SURE.get(name, ("#2a9d8f", "#8e6bbf", "#c9a227", "#457b9d")[i % 4])


def curves(
    panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]],
    x_label: str,
    alt: str,
    *,
    log_x: bool = False,
    log_y: Sequence[bool] = (),
) -> str:
    """Panels of named lines (x, y); a logarithmic axis where asked for."""
    fig, axes = figure(1, len(panels), width=4.6 * len(panels), height=2.9)
    for j, (ax, (title, lines)) in enumerate(zip(axes, panels, strict=True)):
        for i, (name, (x, y)) in enumerate(lines.items()):
            mark = "o" if len(x) < 40 else None
            colour = _colour(name, i)
            ax.plot(x, y, color=colour, lw=1.6, marker=mark, ms=3, label=name)
        _title(ax, title)
        ax.set_xlabel(x_label)
        if log_x:
            ax.set_xscale("log")
        if j < len(log_y) and log_y[j]:
            ax.set_yscale("log")
        ax.grid(color=_INK, alpha=0.08)
        _calm(ax, lines)
        if len(lines) > 1:
            _legend(ax)
    return svg(fig, alt)


def _calm(ax: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Keep the first few steps, which may be enormous, from flattening the rest of a line."""
    values = np.concatenate([np.asarray(y, dtype=float) for _, y in lines.values()])
    values = values[np.isfinite(values)]
    if ax.get_yscale() != "linear" or len(values) < 20:
        return
    low, high = np.quantile(values, [0.02, 0.98])
    if np.ptp(values) > 4 * (high - low) > 0:
        ax.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))


def traces(panels: Sequence[tuple[str, np.ndarray]], alt: str) -> str:
    """Chains over their steps: one panel for each quantity, an array of shape (steps, chains)."""
    fig, axes = figure(len(panels), 1, width=7.2, height=1.7 * len(panels) + 0.4, sharex=True)
    for ax, (title, values) in zip(axes, panels, strict=True):
        for chain in values.T:
            ax.plot(chain, lw=0.8, alpha=0.75, color=None)
        _title(ax, title)
        ax.grid(color=_INK, alpha=0.08)
    axes[-1].set_xlabel("step of the chain")
    return svg(fig, alt)


def histograms(values: Mapping[str, np.ndarray], x_label: str, alt: str, *, bins: int = 40) -> str:
    """Densities of several sets of numbers over one another."""
    fig, (ax,) = figure(width=5.4, height=2.9)
    _overlay(ax, values, bins)
    ax.set_xlabel(x_label)
    _legend(ax)
    return svg(fig, alt)


def _overlay(ax: Axes, values: Mapping[str, np.ndarray], bins: int) -> None:
    """Histograms with common bins, between the extreme per mille of all values."""
    pooled = np.concatenate(list(values.values()))
    low, high = np.quantile(pooled, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1).tolist()
    for i, (name, v) in enumerate(values.items()):
        colour = _colour(name, i)
        inside = np.clip(v, low, high)
        weights = np.full(len(v), 1 / max(len(v), 1))
        if i == 0:
            ax.hist(inside, edges, weights=weights, color=colour, alpha=0.55, label=name)
        else:
            ax.hist(
                inside, edges, weights=weights, histtype="step", color=colour, lw=1.7, label=name
            )
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def marginals(data: Mapping[str, Any], samples: Mapping[str, Any], alt: str) -> str:
    """One small panel for each column: numbers as histograms, words as bars of their shares."""
    names = list(data)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    fig, axes = figure(rows, columns, width=2.5 * columns, height=1.75 * rows)
    for ax, name in zip(axes, names, strict=False):
        a, b = np.asarray(data[name]), np.asarray(samples[name])
        if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            if len(a) and len(b):
                whole = a.dtype.kind in "iu" and len(np.unique(a)) <= 24
                bins = len(np.unique(a)) if whole else int(np.clip(2 * len(a) ** 0.5, 8, 30))
                _overlay(ax, {"Data": a, "Samples": b}, bins)
        else:
            _shares(ax, a.astype(str), b.astype(str))
        _title(ax, name if len(name) <= 28 else name[:27] + "…")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    handles = [_patch(DATA, 0.55), _patch(SAMPLES, 1.0)]
    legend = fig.legend(
        handles, ["Data", "Samples"], loc="outside lower right", ncols=2, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_color(_INK)
    return svg(fig, alt)


def _patch(colour: str, alpha: float) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, alpha=alpha)


def _shares(ax: Axes, a: np.ndarray, b: np.ndarray, most: int = 8) -> None:
    words, counts = np.unique(a, return_counts=True)
    words = words[np.argsort(-counts)][:most]
    at = np.arange(len(words))
    for offset, v, colour, alpha in ((-0.2, a, DATA, 0.55), (0.2, b, SAMPLES, 1.0)):
        share = [float((v == w).mean()) for w in words]
        ax.barh(at + offset, share, 0.38, color=colour, alpha=alpha)
    ax.set_yticks(at, [w if len(w) <= 14 else w[:13] + "…" for w in words], fontsize=7)
    ax.invert_yaxis()
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)


def correlations(data: np.ndarray, samples: np.ndarray, labels: Sequence[str], alt: str) -> str:
    """Two matrices of correlations, of data and of samples, beside one another."""
    fig, axes = figure(1, 2, width=9.4, height=4.6)
    image = None
    short = [name if len(name) <= 16 else name[:15] + "…" for name in labels]
    size = 8 if len(labels) <= 20 else 6
    for ax, (title, matrix) in zip(axes, {"Data": data, "Samples": samples}.items(), strict=True):
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        _title(ax, title)
        ax.set_xticks(range(len(labels)), short, rotation=90, fontsize=size)
        ax.set_yticks(range(len(labels)), short if title == "Data" else [], fontsize=size)
    _colour_bar(fig, image, axes)
    return svg(fig, alt)


def _colour_bar(fig: Figure, image: Any, ax: Any, label: str = "") -> None:
    bar = fig.colorbar(image, ax=ax, shrink=0.8)
    bar.ax.tick_params(colors=_INK, labelsize=7)
    bar.set_label(label, color=_INK, fontsize=8)
    bar.ax.spines["outline"].set_visible(False)


def quantiles(p_values: np.ndarray, alt: str) -> str:
    """p-values in order against a flat law's, with its pointwise 95 % band."""
    from scipy.stats import beta

    n = len(p_values)
    i = np.arange(1, n + 1)
    fig, (ax,) = figure(width=3.3, height=3.1)
    ax.fill_between(
        i / (n + 1), beta.ppf(0.025, i, n - i + 1), beta.ppf(0.975, i, n - i + 1),
        color=DATA, alpha=0.3, lw=0,
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=_INK, alpha=0.4, lw=1)
    ax.plot(i / (n + 1), np.sort(p_values), color=SAMPLES, lw=1.6)
    ax.set_xlabel("expected p-value")
    ax.set_ylabel("p-value of samples")
    ax.set_aspect("equal")
    return svg(fig, alt)


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
        _title(ax, title)
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
    ax.quiver(
        x[cut[1]], y[cut[0]], (along_x * scale)[cut], (along_y * scale)[cut],
        color="white", alpha=0.7, width=0.0028, angles="uv",
    )  # fmt: skip
    if marks is not None:
        within = (marks >= (x[0], y[0])).all(1) & (marks <= (x[-1], y[-1])).all(1)
        ax.plot(*marks[within].T, "x", color=SAMPLES, ms=6, mew=1.6)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    _colour_bar(fig, mesh, ax, "log-density, nats")
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
        ax.quiver(x, y, arrows[..., 0], arrows[..., 1], color=_INK, width=0.004, angles="uv")
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(y[0], y[-1])
        _title(ax, title)
    axes[0].set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return svg(fig, alt)
