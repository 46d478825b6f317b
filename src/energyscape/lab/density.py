"""Where a learned score is wrong: its error against the density of the data."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.densities import GaussianMixture
from energyscape.lab.drawing import grid, maps
from energyscape.lab.learning import fit, generator, score_field
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded, plane, published_mixture, stand_in
from energyscape.objectives import SlicedScoreMatching
from energyscape.report import plots
from energyscape.report.sections import Item

__all__ = ["score_error"]


def score_error(
    data: Dataset | None = None, seed: int = 0, *, steps: int = 4000, rows: int = 20_000
) -> Lesson:
    """Error of a score learned by variance-reduced sliced score matching, over the plane.

    Parameters
    ----------
    data : Dataset, optional
        A mixture fitted to it takes the place of the published toy.
    seed : int
    steps : int
        Of training; the paper takes 10,000.
    rows : int
        Drawn from the mixture.

    Examples
    --------
    >>> lesson = score_error(steps=3, rows=200)
    >>> lesson.numbers["error among the data"] > 0
    True
    """
    if data is None:
        p, notes = published_mixture(), list[str]()
        low, high = torch.full((2,), -8.0), torch.full((2,), 8.0)
    else:
        points = plane(encoded(data, "", seed))
        p, notes = stand_in(points, seed)
        low, high = points.x.amin(0) - 0.3, points.x.amax(0) + 0.3
    x = p.sample(rows, generator(seed)).float()
    model = fit(score_field(2, seed), SlicedScoreMatching(), x, steps, seed)
    fresh = p.sample(4000, generator(seed + 1))
    across, up, nodes = grid(low, high)
    error, log_p = _error(p, model, nodes), p.log_prob(nodes)
    among = _error(p, model, fresh)
    typical = p.log_prob(fresh).quantile(0.05)
    rare = log_p < typical - 5
    numbers = {
        "error among the data": float(among.mean()),
        "error where the density is e^5 below that of the rarest 5 %": float(error[rare].mean()),
        "mean length of the true score among the data": float(p.score(fresh).norm(dim=1).mean()),
        "share of the picture where the error exceeds the score": float(
            (error > p.score(nodes).norm(dim=1)).double().mean()
        ),
        "rank correlation of error and log-density": _rank_correlation(error, log_p),
        "rows": rows,
        "training steps": steps,
    }
    far = numbers["error where the density is e^5 below that of the rarest 5 %"]
    near = numbers["error among the data"]
    length = numbers["mean length of the true score among the data"]
    finding = (
        f"the learned score is {near:.2f} off among the data, where the true one is {length:.2f} long, "
        f"and {far:.2f} off, {far / near:.2g} times as much, where there are none"
    )
    side = len(up)
    shape = (side, len(across))
    panels = [
        ("log-density", log_p.clamp(min=float(log_p.max()) - 30).reshape(shape).numpy(), "nats"),
        ("error of the score", error.log10().reshape(shape).numpy(), "log10 of its length"),
    ]
    alt = (
        "Log-density of the data, and the length of the error of the learned score, over the plane"
    )
    picture = maps(across, up, panels, alt, points=x[:400].numpy())
    text = [
        "Score matching weighs errors with the data's density: E||s - grad log p||^2 over the data. "
        "Where there are none, nothing is asked of the network, and it answers with whatever it "
        "extrapolates. A chain that starts from noise starts there.",
        "A field of three hidden layers of 128 softplus units was trained by variance-reduced "
        f"sliced score matching for {steps:,} steps of 128 rows (1907.05600 section 3.2).",
    ]
    return Lesson(
        "The score is wrong where there is no data",
        "A learned score is accurate among the data and arbitrary elsewhere.",
        finding,
        far > 2 * near and near < length / 2,
        text,
        numbers,
        [
            Item(picture, "White dots are training rows; the scale of the error is logarithmic."),
            _by_density(error, log_p),
        ],
        (),
        notes,
    )


def _error(p: GaussianMixture, model: nn.Module, x: Tensor) -> Tensor:
    """Length of the difference to the true score, shape (batch,)."""
    with torch.no_grad():
        learned = model(x.float()).double()
    return (learned - p.score(x)).norm(dim=1)


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def _by_density(error: Tensor, log_p: Tensor) -> Item:
    """Median error in slices of log-density, over the picture."""
    below = (log_p.max() - log_p).numpy()
    edges = np.linspace(0, min(60.0, float(below.max())), 25)
    middle, median = [], []
    for low, high in itertools.pairwise(edges):
        inside = (below >= low) & (below < high)
        if inside.sum() >= 5:
            middle.append(float(low + high) / 2)
            median.append(float(np.median(error.numpy()[inside])))
    alt = "Median error of the score against how far the log-density is below its top"
    markup = plots.curves(
        [("median error of the score", {"error": (middle, median)})],
        "nats below the densest point",
        alt,
        log_y=[True],
    )
    return Item(markup, "To the left the data, to the right the emptiness around and between them.")
