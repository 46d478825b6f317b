"""No negatives, no density: what becomes of an energy that is only pushed down."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.lab.drawing import grid
from energyscape.lab.learning import Recorded, fit, generator, seeded
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded, plane
from energyscape.mcmc import ULA, run_chains
from energyscape.models import ConfinedEnergy, Energy, NetworkEnergy
from energyscape.nn import MLP
from energyscape.objectives import Aux, Contrastive, LossOutput, Objective
from energyscape.report import clouds, plots
from energyscape.report.sections import Item, number
from energyscape.report.sections import Table as PageTable
from energyscape.targets import Target

__all__ = ["collapse"]


class _PositiveOnly:
    """The mean energy of the data, and nothing that holds it up."""

    needs_double_backward = False

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state."""
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """E(x) of each row, shape (batch,)."""
        return LossOutput(model(x), aux, {})


class _Run(NamedTuple):
    """Energies on data and elsewhere along the training, and what the energy came to."""

    steps: list[int]
    on_data: list[float]
    elsewhere: list[float]
    log_density: np.ndarray
    held_out: float


def collapse(
    data: Dataset | None = None, seed: int = 0, *, steps: int = 800, chain_steps: int = 20
) -> Lesson:
    """An energy trained on data alone, and one with negatives from its own chains.

    Parameters
    ----------
    data : Dataset, optional
        Seen along two principal directions; two moons by default.
    seed : int
    steps : int
        Of each training.
    chain_steps : int
        Langevin steps of the negatives between training steps.

    Examples
    --------
    >>> lesson = collapse(steps=3, chain_steps=2)
    >>> len(lesson.figures)
    3
    """
    points = plane(encoded(data, "two-moons", seed))
    half = len(points.x) // 2
    x, held = points.x[:half], points.x[half:]
    low, high = points.x.amin(0) - 0.75, points.x.amax(0) + 0.75
    step = 0.01

    def langevin(target: Target, start: Tensor, rng: torch.Generator) -> Tensor:
        return run_chains(ULA(step), target, start, chain_steps, rng=rng, keep="last").x

    found = {
        "without negatives": _train(_PositiveOnly(), x, held, low, high, steps, seed),
        "with negatives": _train(
            Contrastive(langevin, buffer_size=2048), x, held, low, high, steps, seed
        ),
    }
    flat = -float((high - low).log().sum())
    numbers = {"held-out log-density, uniform over the picture": flat}
    rows = []
    for name, run in found.items():
        numbers[f"held-out log-density, {name}"] = run.held_out
        numbers[f"energy on data at the end, {name}"] = run.on_data[-1]
        numbers[f"energy elsewhere less that on data, {name}"] = run.elsewhere[-1] - run.on_data[-1]
        rows.append(
            [name, *(number(v) for v in (run.on_data[-1], run.elsewhere[-1], run.held_out))]
        )
    bare, whole = found.values()
    fell = [run[0] - run[-1] for run in (bare.on_data, bare.elsewhere)]
    finding = (
        f"without negatives the energy of the data fell by {fell[0]:.3g} and that elsewhere by "
        f"{fell[1]:.3g}: held-out rows have log-density {bare.held_out:.2f}, where a uniform density "
        f"has {flat:.2f} and the energy with negatives {whole.held_out:.2f}"
    )
    head = ["training", "energy on data", "energy elsewhere", "held-out log-density"]
    figures = [_energies(found)]
    x_ticks, y_ticks, nodes = grid(low, high)
    cell = float((x_ticks[1] - x_ticks[0]) * (y_ticks[1] - y_ticks[0]))
    for name, run in found.items():
        alt = f"Log-density over the plane learned {name}"
        markup = clouds.landscape(x_ticks, y_ticks, run.log_density, ("first", "second"), alt)
        share = float(
            np.exp(np.sort(run.log_density, axis=None)[-(len(nodes) // 100) :]).sum() * cell
        )
        told = f"Learned {name}, normalised over the picture"
        figures.append(Item(markup, f"{told}: 1 % of its area holds {share:.0%} of the mass."))
    return Lesson(
        "No negatives, no density",
        "An energy that is only lowered on data falls everywhere, and exp(-E) is no density of them.",
        finding,
        whole.held_out > max(bare.held_out, flat) and min(fell) > 0,
        [
            "The gradient of the likelihood has two terms: lower the energy of the data, raise it "
            "where the model itself puts its mass. Without the second the loss has no bottom, and "
            "the easiest way down is to lower everything.",
            f"The same network, {steps:,} steps: once on the data alone, once with negatives from "
            f"persistent chains, {chain_steps} Langevin steps on the energy at each training step. "
            "Densities are normalised by summing over the picture's grid.",
        ],
        numbers,
        figures,
        [PageTable(head, rows)],
        points.notes,
    )


def _energy(seed: int) -> Energy:
    with seeded(seed):
        network = MLP((2,), width=128, depth=3, scalar=True)
    # The same wide Gaussian holds both: chains cannot leave, and what is compared is the training.
    return ConfinedEnergy(NetworkEnergy(network), 4.0)


def _train(
    objective: Objective, x: Tensor, held: Tensor, low: Tensor, high: Tensor, steps: int, seed: int
) -> _Run:
    uniform = low + (high - low) * torch.rand(512, 2, generator=generator(seed))
    every = max(1, steps // 60)
    at, on_data, elsewhere = [], [], []
    seen = 0

    def watch(model: nn.Module) -> None:
        nonlocal seen
        if seen % every == 0 or seen == steps - 1:
            with torch.no_grad():
                on_data.append(float(model(held[:512]).mean()))
                elsewhere.append(float(model(uniform).mean()))
            at.append(seen + 1)
        seen += 1

    energy = fit(_energy(seed), Recorded(objective, watch), x, steps, seed, ema_decay=0.99)
    xs, ys, nodes = grid(low, high)
    cell = float((xs[1] - xs[0]) * (ys[1] - ys[0]))
    with torch.no_grad():
        value = -energy(nodes.float()).double()
        log_z = float(value.logsumexp(0)) + float(np.log(cell))
        held_out = float((-energy(held).double() - log_z).mean())
    log_density = (value - log_z).reshape(len(ys), len(xs)).numpy()
    return _Run(at, on_data, elsewhere, log_density, held_out)


def _energies(found: dict[str, _Run]) -> Item:
    panels = [
        (name, {"on data": (run.steps, run.on_data), "elsewhere": (run.steps, run.elsewhere)})
        for name, run in found.items()
    ]
    alt = "Mean energy on data and elsewhere along the training, without and with negatives"
    caption = "What counts for a density is the difference of the two, not their height."
    return Item(plots.curves(panels, "step", alt), caption)
