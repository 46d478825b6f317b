"""The cost of one training step of exact and of sliced score matching against the dimension."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from energyscape.data import Dataset
from energyscape.lab.learning import generator, score_field
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded
from energyscape.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    Objective,
    SlicedScoreMatching,
)
from energyscape.report import plots
from energyscape.report.sections import Item, Table

__all__ = ["slicing"]

_METHODS: dict[str, Objective] = {
    "exact": ExactScoreMatching(),
    "sliced": SlicedScoreMatching(),
    "denoising": DenoisingScoreMatching(0.1),
}


def slicing(
    data: Dataset | None = None,
    seed: int = 0,
    *,
    dims: Sequence[int] = (2, 8, 32, 64, 128, 256),
    repeats: int = 7,
) -> Lesson:
    """Processor time of one loss and its gradient, at a fixed network, for several dimensions.

    Parameters
    ----------
    data : Dataset, optional
        Its dimension is measured as well, on its own rows.
    seed : int
    dims : sequence of int
    repeats : int
        The fastest counts, so that other programs on the machine weigh on no method.

    Examples
    --------
    >>> lesson = slicing(dims=(2, 16), repeats=1)
    >>> lesson.numbers["exact over sliced, 16 dimensions"] > 0
    True
    """
    rng = generator(seed)
    sets = {d: torch.randn(128, d, generator=rng) for d in dims}
    notes: list[str] = []
    if data is not None:
        points = encoded(data, "", seed, most=128)
        notes = [*points.notes, f"These data have {points.x.shape[1]} encoded dimensions."]
        sets[points.x.shape[1]] = points.x
    dims = sorted(sets)
    times: dict[str, list[float]] = {name: [] for name in _METHODS}
    for dim in dims:
        for name, least in _measure(sets[dim], repeats, seed).items():
            times[name].append(least)
    ratio = [a / b for a, b in zip(times["exact"], times["sliced"], strict=True)]
    numbers = {f"exact over sliced, {d} dimensions": r for d, r in zip(dims, ratio, strict=True)}
    above = [i for i, d in enumerate(dims) if d >= 8] or [0]
    if len(above) > 1:
        log_d = np.log([dims[i] for i in above])
        for name in ("exact", "sliced"):
            slope = np.polyfit(log_d, np.log([times[name][i] for i in above]), 1)[0]
            numbers[f"power of the dimension in the cost, {name}"] = float(slope)
    powers = {n: numbers.get(f"power of the dimension in the cost, {n}") for n in _METHODS}
    exact, sliced = powers["exact"], powers["sliced"]
    finding = (
        f"at {dims[-1]} dimensions one exact step costs {ratio[-1]:.1f} sliced ones, at {dims[0]} "
        f"dimensions {ratio[0]:.1f}"
    )
    flat = True
    if exact is not None and sliced is not None:
        flat = sliced < exact / 2
        finding += (
            f"; from {dims[above[0]]} dimensions on exact steps cost as the power {exact:.2f} of "
            f"their number, sliced ones as {sliced:.2f}"
        )
    lines = {name: (dims, values) for name, values in times.items()}
    alt = (
        "Milliseconds of one training step against the dimension, by method, both axes logarithmic"
    )
    figure = plots.curves(
        [("milliseconds a step", lines)], "dimension", alt, log_x=True, log_y=[True]
    )
    rows = [
        [str(d), *(f"{times[name][i]:.2f}" for name in _METHODS), f"{ratio[i]:.1f}"]
        for i, d in enumerate(dims)
    ]
    text = [
        "Exact score matching needs the trace of the score's Jacobian: one backward pass for each "
        "coordinate. Slicing looks along one random direction v, and v'(ds/dx)v is a single "
        "vector-Jacobian product; its mean over directions is the trace. Denoising needs no "
        "derivative of the network in the loss at all.",
        "Measured: processor time of one loss and its gradient on 128 rows, for the same network of "
        "three hidden layers of 128.",
    ]
    return Lesson(
        "The cost of a trace",
        "The cost of exact score matching grows with the dimension of the data; that of sliced "
        "score matching does not.",
        finding,
        ratio[-1] > 2 * ratio[0] and flat,
        text,
        numbers,
        [Item(figure, "Lines that rise are passes over the network; the flat ones take a few.")],
        [Table(["dimension", *(f"{n}, ms" for n in _METHODS), "exact / sliced"], rows)],
        notes,
    )


def _measure(x: Tensor, repeats: int, seed: int) -> dict[str, float]:
    """Least processor milliseconds of each method's step; the methods take turns."""
    rng = generator(seed)
    model = score_field(x.shape[1], seed)

    def step(objective: Objective) -> None:
        model.zero_grad()
        objective(model, x, None, rng).loss.mean().backward()

    def timed(run: Callable[[Objective], None], objective: Objective) -> float:
        began = time.process_time()
        run(objective)
        return 1000 * (time.process_time() - began)

    for objective in _METHODS.values():
        step(objective)
    found = {name: [timed(step, objective)] for name, objective in _METHODS.items()}
    for _ in range(repeats - 1):
        for name, objective in _METHODS.items():
            if found[name][0] < 1000:
                found[name].append(timed(step, objective))
    return {name: min(values) for name, values in found.items()}
