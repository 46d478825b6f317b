"""Data with a hard edge: where integration by parts fails, and what can be done.

By parts, on an interval [a, b] where p does not vanish at the ends,

    E[s p'/p] = -E[s'] + [p s]_a^b,

so the loss ``E[s^2/2 + s']`` lacks the boundary term: a field that falls steeply at b and rises
steeply at a is rewarded by ``p(b) s(b) - p(a) s(a)`` without bound. Two cures: noise, which gives
the density smooth tails (and teaches the blurred density), and the coordinate
``y = log((x - a)/(b - x))``, whose density vanishes at both ends; the density of x follows by the
change of variables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.lab.learning import Recorded, fit, generator, score_field
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import Points, encoded
from energyscape.objectives import DenoisingScoreMatching, ExactScoreMatching
from energyscape.report import plots
from energyscape.report.sections import Item, Table, number

__all__ = ["hard_edges"]

#: Share of rows within 1 % of the range from an end: an even density has 2 %, a bell far less.
_EDGE = 0.015


class _Sample(NamedTuple):
    """One column of numbers, its name, and what was done to it."""

    x: Tensor
    name: str
    notes: list[str]


class _Learned(NamedTuple):
    """A density and score on the grid, and the mean loss over the first and last tenth of training."""

    density: np.ndarray
    score: np.ndarray
    first: float
    last: float


def hard_edges(data: Dataset | None = None, seed: int = 0, *, steps: int = 1500) -> Lesson:
    """Score matching on one column that ends at an edge: plain, with noise, and in logits.

    Parameters
    ----------
    data : Dataset, optional
        The column with the most rows near one of its ends is taken; else a uniform density.
    seed : int
    steps : int
        Of each training.

    Examples
    --------
    >>> "held-out log-density, by parts" in hard_edges(steps=3).numbers
    True
    """
    sample = _uniform(seed) if data is None else _edgiest(data, seed)
    half = len(sample.x) // 2
    x, held = sample.x[:half], sample.x[half:].double().numpy()
    low, high = float(sample.x.min()), float(sample.x.max())
    margin = 0.005 * (high - low)
    low, high = (-1.0, 1.0) if data is None else (low - margin, high + margin)
    grid = np.linspace(low - 0.25 * (high - low), high + 0.25 * (high - low), 1201)
    learned = {
        "by parts": _plain(x, grid, steps, seed),
        "with noise": _noisy(x, grid, steps, seed),
        "in logits": _logits(x, grid, low, high, steps, seed),
    }
    numbers, rows, each = {}, [], {}
    for name, found in learned.items():
        fitted = np.interp(held, grid, found.density, left=0, right=0)
        each[name] = np.log(np.maximum(fitted, 1e-12))
        numbers[f"held-out log-density, {name}"] = float(each[name].mean())
        rows.append(
            [
                name,
                number(found.first),
                number(found.last),
                f"{numbers[f'held-out log-density, {name}']:.3f}",
            ]
        )
    numbers["loss by parts at the end of training"] = learned["by parts"].last
    if data is None:
        inside = np.abs(grid) < 0.9
        numbers["held-out log-density, the truth"] = -float(np.log(2))
        numbers["loss by parts of the true score"] = 0.0
        for name, found in learned.items():
            square = float(np.mean(found.score[inside] ** 2))
            numbers[f"mean squared score within 0.9 (truth 0), {name}"] = square
    a, b = (numbers[f"held-out log-density, {n}"] for n in ("by parts", "in logits"))
    gain = each["in logits"] - each["by parts"]
    error = float(gain.std() / len(gain) ** 0.5)
    numbers["gain of logits over by parts"] = b - a
    numbers["standard error of that gain"] = error
    finding = (
        f"held-out rows have log-density {a:.3f} by parts and {b:.3f} in logits, "
        f"{abs(b - a):.3f} ± {error:.3f} {'more' if b > a else 'less'}"
    )
    if data is None:
        finding += (
            f"; by parts the loss fell to {learned['by parts'].last:.2f}, though that of the true "
            "score is 0"
        )
    return Lesson(
        "Data with hard edges",
        "Where the data end at an edge the boundary term of integration by parts does not vanish, "
        "and score matching learns walls that are not there.",
        finding,
        b - a > 2 * error,
        _text(sample.name),
        numbers,
        _figures(grid, learned, sample, data is None),
        [Table(["method", "loss at first", "loss at last", "held-out log-density"], rows,
               "Losses are each method's own and not comparable")],
        sample.notes,
    )  # fmt: skip


def _uniform(seed: int) -> _Sample:
    u = torch.rand(8000, generator=generator(seed))
    return _Sample(
        2 * u - 1, "uniform on [-1, 1]", ["No data were given: a uniform density is used."]
    )


def _edgiest(data: Dataset, seed: int) -> _Sample:
    """The encoded column with the most rows within 1 % of its range from an end, but for clumps."""
    points = encoded(data, "", seed, most=8000)
    x = points.x
    spread = x.amax(0) - x.amin(0)
    near = (x < x.amin(0) + 0.01 * spread) | (x > x.amax(0) - 0.01 * spread)
    many = torch.tensor([len(c.unique()) > 20 and _widest_gap(c) < 0.2 for c in x.T])
    if not bool(many.any()):
        raise ValueError(
            "hard edges need a column of numbers with more than 20 different values and without wide "
            "gaps between them"
        )
    best = int(torch.where(many, near.float().mean(0), -1.0).argmax())
    name = _name(points, best)
    share = float(near[:, best].float().mean())
    told = [
        f"{name!r}, encoded, has {share:.1%} of its rows within 1 % of its range from an end, the most "
        "of all."
    ]
    if share < _EDGE:
        told.append(
            "A column without an edge has about as few: the lesson is about other data than these."
        )
    return _Sample(x[:, best], name, [*points.notes, *told])


def _widest_gap(column: Tensor) -> float:
    """The widest gap between neighbouring values in the middle 98 %, as a share of their range.

    Rows in a few clumps crowd at the ends as well, and what is hard about them is not an edge.
    """
    values = column.sort().values
    cut = len(values) // 100
    middle = values[cut : len(values) - cut]
    return float(middle.diff().max() / (middle[-1] - middle[0]).clamp_min(1e-12))


def _name(points: Points, index: int) -> str:
    """What an encoded dimension is called: its column, or the row and column of its pixel."""
    shape = points.codec.event_shape
    if len(shape) == 3:
        row, column = divmod(index % (shape[1] * shape[2]), shape[2])
        return f"pixel in row {row + 1}, column {column + 1}"
    groups = getattr(points.codec, "groups", [])
    return next((name for name, part in groups if part.start <= index < part.stop), f"x{index}")


def _train(x: Tensor, objective: Any, steps: int, seed: int) -> tuple[nn.Module, float, float]:
    record = Recorded(objective)
    model = fit(score_field(1, seed, width=64), record, x[:, None], steps, seed, batch_size=512)
    tenth = max(1, steps // 10)
    return model, float(np.mean(record.losses[:tenth])), float(np.mean(record.losses[-tenth:]))


def _score(model: nn.Module, grid: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = model(torch.as_tensor(grid, dtype=torch.float32)[:, None])
    return found[:, 0].double().numpy()


def _density(grid: np.ndarray, score: np.ndarray) -> np.ndarray:
    """exp of the score's integral, with mass one over the grid."""
    step = np.diff(grid)
    potential = np.concatenate([[0.0], np.cumsum(0.5 * (score[1:] + score[:-1]) * step)])
    p = np.exp(potential - potential.max())
    return p / np.trapezoid(p, grid)


def _plain(x: Tensor, grid: np.ndarray, steps: int, seed: int) -> _Learned:
    model, first, last = _train(x, ExactScoreMatching(), steps, seed)
    score = _score(model, grid)
    return _Learned(_density(grid, score), score, first, last)


def _noisy(x: Tensor, grid: np.ndarray, steps: int, seed: int) -> _Learned:
    sigma = 0.2 * float(x.std())
    model, first, last = _train(x, DenoisingScoreMatching(sigma), steps, seed)
    score = _score(model, grid)
    return _Learned(_density(grid, score), score, first, last)


def _logits(
    x: Tensor, grid: np.ndarray, low: float, high: float, steps: int, seed: int
) -> _Learned:
    """Learned for ``y = log((x-a)/(b-x))``, then carried back to x."""
    y = ((x - low) / (high - x)).log()
    centre, scale = float(y.mean()), float(y.std())
    model, first, last = _train((y - centre) / scale, ExactScoreMatching(), steps, seed)
    inside = (grid > low) & (grid < high)
    at = grid[inside]
    logit = np.log((at - low) / (high - at))
    fine = np.linspace(logit.min(), logit.max(), 4001)
    by_y = _density(fine, _score(model, (fine - centre) / scale) / scale)
    slope = 1 / (at - low) + 1 / (high - at)
    density, score = np.zeros_like(grid), np.zeros_like(grid)
    density[inside] = np.interp(logit, fine, by_y) * slope
    density = density / np.trapezoid(density, grid)
    turn = 1 / (high - at) - 1 / (at - low)
    score[inside] = _score(model, (logit - centre) / scale) / scale * slope + turn
    return _Learned(density, score, first, last)


def _text(name: str) -> list[str]:
    return [
        "Score matching never sees the data's score: integration by parts trades it for the "
        "model's own derivative, and drops a boundary term p s that is zero only where the density "
        "fades out. At an edge it is not, and a field that falls off a cliff there is rewarded for "
        "nothing, the more the steeper it is. The loss has no minimum.",
        f"Three small networks learn the same column ({name}): by parts as it stands, by denoising "
        "at a fifth of the standard deviation, and by parts in logits, whose density fades out at "
        "both ends. Densities are integrals of the learned scores over the grid.",
    ]


def _figures(
    grid: np.ndarray, learned: dict[str, _Learned], sample: _Sample, known: bool
) -> list[Item]:
    counts, edges = np.histogram(sample.x.numpy(), bins=60, density=True)
    density: dict[str, Any] = {name: (grid, found.density) for name, found in learned.items()}
    density["Data"] = ((edges[1:] + edges[:-1]) / 2, counts)
    score: dict[str, Any] = {
        name: (grid, np.clip(found.score, -40, 40)) for name, found in learned.items()
    }
    alt = "Learned densities of the three ways beside a histogram of the data, and their scores"
    markup = plots.curves([("density", density), ("score, cut at 40", score)], sample.name, alt)
    caption = "The true score is 0 between the edges." if known else "The edges are the data's own."
    return [Item(markup, caption)]
