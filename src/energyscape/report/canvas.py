"""Figures in the page's ink, and their way into it as inline SVG.

Figures are built with matplotlib's objects, never through pyplot, so that no global state is read
or left behind. Text and axes are drawn in one reserved ink which becomes ``currentColor`` in the
SVG: the same figure is readable on a light and on a dark page.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "DATA",
    "INK",
    "SAMPLES",
    "colour_of",
    "figure",
    "put_colour_bar",
    "put_legend",
    "put_title",
    "svg",
]

DATA = "#7d8da6"
SAMPLES = "#e8743b"
INK = "#010203"
_SURE = {
    "Data": DATA,
    "Samples": SAMPLES,
    "chains": SAMPLES,
    "training": DATA,
    "validation": SAMPLES,
    "without a model": DATA,
    "model": SAMPLES,
}


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
            spine.set_color(INK)
            spine.set_alpha(0.35)
        ax.tick_params(colors=INK, labelsize=8, length=3)
        for text in (ax.xaxis.label, ax.yaxis.label):
            text.set_color(INK)
            text.set_size(9)
    return fig, axes


def svg(fig: Figure, alt: str) -> str:
    """The figure as an inline ``<svg>`` that scales with the page and says what it shows."""
    buffer = io.StringIO()
    salt = re.sub(r"\W+", "-", alt)[:60]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        fig.savefig(buffer, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
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


def put_title(ax: Axes, text: str) -> None:
    """A small title at the left."""
    ax.set_title(text, loc="left", color=INK, fontsize=9.5)


def put_legend(ax: Axes, **options: Any) -> None:
    """A legend without a frame."""
    legend = ax.legend(frameon=False, fontsize=8, **options)
    for text in legend.get_texts():
        text.set_color(INK)


def colour_of(name: str, i: int) -> str:
    """The colour of a thing that has one, or the i-th of the others."""
    return _SURE.get(name, ("#2a9d8f", "#8e6bbf", "#c9a227", "#457b9d")[i % 4])


def put_colour_bar(fig: Figure, image: Any, ax: Any, label: str = "") -> None:
    """A bar that says what the colours of an image mean."""
    bar = fig.colorbar(image, ax=ax, shrink=0.8)
    bar.ax.tick_params(colors=INK, labelsize=7)
    bar.set_label(label, color=INK, fontsize=8)
    bar.ax.spines["outline"].set_visible(False)
