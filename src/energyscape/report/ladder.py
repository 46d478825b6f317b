"""Down the ladder of levels: the score field at several of them, and chains as they descend.

Chains that follow ``p_sigma`` at every level have there the spread of blurred data,
``sqrt(v + sigma^2)`` with v the variance of the data: a ratio above 1 says that a level was left too
early, or that steps were too large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from energyscape.models import Denoiser, ScoreField
from energyscape.objectives import level_losses
from energyscape.report import clouds, sheets
from energyscape.report.plane import plane_of
from energyscape.report.sections import Item, Section, Table, number, stretched
from energyscape.report.subject import Subject, affordable

__all__ = ["descent", "score_fields"]

_SIDE = 18


def score_fields(subject: Subject) -> Section | None:
    """Arrows of the score over the plane at up to four levels; None unless rows are points of one."""
    model = subject.estimator.model_
    if subject.data_x.shape[1:] != (2,) or not isinstance(model, Denoiser | ScoreField):
        return None
    points = subject.data_x.astype(np.float64)
    low, high = points.min(0), points.max(0)
    if not bool((high > low).all()):
        return None
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    x, y = (np.linspace(low[i], high[i], _SIDE) for i in (0, 1))
    grid = torch.as_tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), dtype=torch.float32)
    grid = grid.to(next((p.device for p in model.parameters()), grid.device))
    levels: list[Any] = [None]
    if isinstance(model, Denoiser):
        ladder = np.sort(np.asarray(subject.estimator.levels_, dtype=np.float64))
        ends = max(ladder[0], 0.02 * float(points.std())), min(ladder[-1], 2 * float(points.std()))
        levels = np.geomspace(*ends, 4).tolist() if ends[0] < ends[1] else [float(ladder[0])]
    panels, eps = [], np.random.default_rng(0).normal(size=points.shape)
    for sigma in levels:
        with torch.no_grad():
            score = model.score(grid, sigma).cpu().double().numpy()
        title = "score" if sigma is None else f"noise {sigma:.2g}"
        rows = points + (0.0 if sigma is None else sigma) * eps
        panels.append((title, rows, score.reshape(_SIDE, _SIDE, 2)))
    names = [f"{name}, as encoded" for name in (subject.names * 2)[:2]]
    alt = "Arrows of the learned score over the plane of the two columns, with held-out rows"
    caption = (
        "Arrows point uphill in log-density; their lengths are compressed. Dots are held-out rows"
        + (", blurred to the level." if levels != [None] else ".")
    )
    return Section("Score fields", "", [Item(clouds.fields(x, y, panels, names, alt), caption)], [])


def descent(subject: Subject, *, seed: int = 0, seconds: float = 4.0) -> Section | None:
    """Annealed Langevin chains at each level, with its loss; None where that is not the sampler."""
    est = subject.estimator
    if getattr(est, "default_sampler", "") != "langevin":
        return None
    seen: dict[int, tuple[list[float], list[Tensor]]] = {}

    def walk(n: int) -> Any:
        seen[n] = est.sample_levels(n, random_state=seed)
        return seen[n]

    count = affordable(walk, 16, 200, seconds)
    ladder, states = seen.get(count) or walk(count)
    items = [_picture_strip(subject, ladder, states)] if subject.pictures else []
    if not subject.pictures:
        item = _clouds(subject, ladder, states)
        items = [] if item is None else [item]
    return Section(
        "Down the ladder",
        f"{count} chains of annealed Langevin dynamics, {len(ladder)} levels, the largest first.",
        items,
        [_levels_table(subject, ladder, states, seed)],
    )


def _shown(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def _picture_strip(subject: Subject, ladder: list[float], states: list[Tensor]) -> Item:
    chosen = _shown(len(ladder), 10)
    strip = torch.stack([states[i][:5] for i in chosen], dim=1).flatten(0, 1)
    pictures = stretched(subject, subject.estimator.codec_.decode(strip.double().numpy()))
    named = ", ".join(f"{ladder[i]:.2g}" for i in chosen)
    alt = "Five chains of pictures as they stand at the end of each level"
    caption = f"Five chains at the end of levels {named}; the last before noise is taken away."
    return Item(sheets.picture_html(pictures, len(chosen), alt), caption)


def _clouds(subject: Subject, ladder: list[float], states: list[Tensor]) -> Item | None:
    chart = plane_of(subject)
    if chart is None:
        return None
    panels = [
        (f"noise {ladder[i]:.2g}", chart.coordinates(states[i].double().numpy()))
        for i in _shown(len(ladder), 7)
    ]
    panels.append(("Data", chart.coordinates(subject.data_x)))
    alt = "Chains at the end of several levels, the largest first, and held-out rows"
    markup = clouds.scatters(panels, alt, names=chart.names, shared=False)
    return Item(markup, "Chains as each level leaves them; limits follow the cloud.")


def _levels_table(subject: Subject, ladder: list[float], states: list[Tensor], seed: int) -> Table:
    x = torch.as_tensor(subject.data_x, dtype=torch.float32)[:200]
    model = subject.estimator.model_
    x = x.to(next((p.device for p in model.parameters()), x.device))
    losses = level_losses(model, x, ladder, torch.Generator(x.device).manual_seed(seed)).cpu()
    variance = float((x - x.mean(0)).square().mean())
    rows = []
    for i in _shown(len(ladder), 16):
        state = states[i].double()
        spread = float((state - state.mean(0)).square().mean().sqrt())
        ratio = spread / (variance + ladder[i] ** 2) ** 0.5
        trivial = min(1.0, variance / ladder[i] ** 2)
        rows.append([number(v) for v in (ladder[i], float(losses[i]), trivial, ratio)])
    head = ["noise level", "loss", "loss without a model", "spread of chains / of blurred data"]
    caption = (
        "Loss: mean squared error of the noise, per coordinate, on held-out rows; without a model one "
        "would answer the noisy row, or the mean."
    )
    return Table(head, rows, caption)
