"""Lines, histograms and matrices as pieces of a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from energyscape.report.canvas import (
    DATA,
    INK,
    SAMPLES,
    colour_of,
    figure,
    put_colour_bar,
    put_legend,
    put_title,
    svg,
)

__all__ = ["correlations", "curves", "histograms", "marginals", "quantiles", "traces"]


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
            colour = colour_of(name, i)
            ax.plot(x, y, color=colour, lw=1.6, marker=mark, ms=3, label=name)
        put_title(ax, title)
        ax.set_xlabel(x_label)
        if log_x:
            ax.set_xscale("log")
            _tick_values(ax, [v for x, _ in lines.values() for v in x])
        if j < len(log_y) and log_y[j]:
            ax.set_yscale("log")
        ax.grid(color=INK, alpha=0.08)
        _calm(ax, lines)
        if len(lines) > 1:
            put_legend(ax)
    return svg(fig, alt)


def _tick_values(ax: Axes, x: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the values drawn, where they are few, in plain numbers."""
    values = np.unique(np.asarray(x, dtype=float))
    if not 2 <= len(values) <= 12 or values[0] <= 0:
        return
    apart = math.log(values[-1] / values[0]) / 9
    kept = [values[0]]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= apart:
            kept.append(value)
    ax.set_xticks(kept, [f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in kept])
    ax.set_xticks([], minor=True)


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
        put_title(ax, title)
        ax.grid(color=INK, alpha=0.08)
    axes[-1].set_xlabel("step of the chain")
    return svg(fig, alt)


def histograms(values: Mapping[str, np.ndarray], x_label: str, alt: str, *, bins: int = 40) -> str:
    """Densities of several sets of numbers over one another."""
    fig, (ax,) = figure(width=5.4, height=2.9)
    _overlay(ax, values, bins)
    ax.set_xlabel(x_label)
    put_legend(ax)
    return svg(fig, alt)


def _overlay(ax: Axes, values: Mapping[str, np.ndarray], bins: int) -> None:
    """Histograms with common bins, between the extreme per mille of all values."""
    pooled = np.concatenate(list(values.values()))
    low, high = np.quantile(pooled, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1).tolist()
    for i, (name, v) in enumerate(values.items()):
        colour = colour_of(name, i)
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
        put_title(ax, name if len(name) <= 28 else name[:27] + "…")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    handles = [_patch(DATA, 0.55), _patch(SAMPLES, 1.0)]
    legend = fig.legend(
        handles, ["Data", "Samples"], loc="outside lower right", ncols=2, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_color(INK)
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
        put_title(ax, title)
        ax.set_xticks(range(len(labels)), short, rotation=90, fontsize=size)
        ax.set_yticks(range(len(labels)), short if title == "Data" else [], fontsize=size)
    put_colour_bar(fig, image, axes)
    return svg(fig, alt)


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
    ax.plot([0, 1], [0, 1], color=INK, alpha=0.4, lw=1)
    ax.plot(i / (n + 1), np.sort(p_values), color=SAMPLES, lw=1.6)
    ax.set_xlabel("expected p-value")
    ax.set_ylabel("p-value of samples")
    ax.set_aspect("equal")
    return svg(fig, alt)
