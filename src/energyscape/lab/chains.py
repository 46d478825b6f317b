"""Lessons on Markov chains: modes that are not crossed, and tests against plain steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from energyscape.data import Dataset
from energyscape.densities import GaussianMixture
from energyscape.lab.learning import generator
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded, plane, published_mixture, stand_in
from energyscape.lab.quadrature import annealed_weight
from energyscape.mcmc import (
    MALA,
    ULA,
    Kernel,
    RandomWalk,
    annealed_langevin,
    largest_pairwise_distance,
    run_chains,
)
from energyscape.report import clouds, plots
from energyscape.report.sections import Item, Table, number
from energyscape.targets import Target

__all__ = ["crossing", "metropolis"]

#: Of untested steps on N(0, 1).
_STEP_SIZES = (0.05, 0.1, 0.2, 0.5, 1.0)


class _Walk(NamedTuple):
    """What is walked on: the density, its levels, a box of starts, and the two step sizes."""

    density: GaussianMixture
    at: Callable[[float], Target]
    levels: list[float]
    low: Tensor
    high: Tensor
    step: float
    annealed_step: float | None
    notes: list[str]


def _published() -> _Walk:
    """The toy of 1907.05600 section 3.2; its eps of 0.1 is a step of 0.05 here."""
    p = published_mixture()
    levels = np.geomspace(20, 1, 10).tolist()
    box = torch.full((2,), 8.0, dtype=torch.float64)
    return _Walk(p, lambda s: published_mixture(s).at(0.0), levels, -box, box, 0.05, 0.05, [])


def _of_data(data: Dataset, seed: int) -> _Walk:
    points = plane(encoded(data, "", seed))
    p, notes = stand_in(points, seed)
    narrow = float(torch.linalg.eigvalsh(p.covariances).min().sqrt())
    widest = float(largest_pairwise_distance(points.x))
    count = max(10, math.ceil(3 * math.log(widest / (0.3 * narrow))))
    levels = np.geomspace(widest, 0.3 * narrow, count).tolist()
    low, high = points.x.amin(0).double(), points.x.amax(0).double()
    return _Walk(p, p.at, levels, low, high, 0.05 * narrow**2, None, notes)


def _weights(p: GaussianMixture, x: Tensor) -> Tensor:
    """Share of points nearest, in probability, to each component."""
    return torch.bincount(p.responsibilities(x).argmax(1), minlength=len(p.weights)) / len(x)


def crossing(
    data: Dataset | None = None, seed: int = 0, *, chains: int = 1280, steps: int = 1000
) -> Lesson:
    """Mode weights of Langevin and of annealed Langevin chains with exact scores.

    Parameters
    ----------
    data : Dataset, optional
        A mixture fitted to it takes the place of the published toy.
    seed : int
    chains : int
    steps : int
        Of Langevin, and over all levels of the annealed walk.

    Examples
    --------
    >>> lesson = crossing(chains=64, steps=200)
    >>> sorted(lesson.numbers)[:2]
    ['Langevin weight', 'annealed weight']
    """
    rng = generator(seed)
    walk = _published() if data is None else _of_data(data, seed)
    p = walk.density
    u = torch.rand(chains, 2, generator=rng, dtype=torch.float64)
    x0 = walk.low + (walk.high - walk.low) * u
    plain = run_chains(ULA(walk.step), p.at(0.0), x0, steps, rng=rng, keep="last").x
    each = max(1, steps // len(walk.levels))
    annealed = annealed_langevin(
        walk.at, walk.levels, x0, rng=rng, steps_per_level=each, step_size=walk.annealed_step,
        adjusted=False, denoise=False,
    ).x  # fmt: skip
    exact = p.sample(chains, rng)
    truth = _weights(p, p.sample(50_000, rng))
    found = {"Langevin": _weights(p, plain), "annealed": _weights(p, annealed)}
    apart = {k: float(0.5 * (w - truth).abs().sum()) for k, w in found.items()}
    chance = float((0.5 * truth * (1 - truth) / (math.pi * chains)).sqrt().sum())
    numbers = {f"distance of {name} weights": d for name, d in apart.items()}
    numbers["distance of as many exact draws' weights, expected"] = chance
    numbers["number of chains"] = chains
    tables, figures = [_table(truth, found)], [_clouds(exact, plain, annealed)]
    if data is None:
        numbers |= {"true weight": 0.2, **{f"{k} weight": float(w[0]) for k, w in found.items()}}
        expected, item, table = _expectations(walk.levels)
        numbers |= expected
        figures.append(item)
        tables.append(table)
    # Three times what exact draws show by chance: a distance below that says nothing.
    better = apart["Langevin"] > max(3 * chance, 2 * apart["annealed"])
    finding = (
        f"Langevin's mode weights are {apart['Langevin']:.3f} off in total variation, those of "
        f"annealed Langevin {apart['annealed']:.3f}, with the same {steps:,} steps; as many exact "
        f"draws are {chance:.3f} off by chance"
    )
    text = [
        "Both walks use the exact score, so nothing here is an error of learning. Where two modes "
        "are far apart, the score near one does not depend on how much mass the other has: a chain "
        "ends in the mode whose basin it started in. At a large noise level there is one basin, "
        "and the chains divide by the true weights before the levels separate it.",
        f"Chains start uniform over a box. Langevin takes {steps:,} steps of {walk.step:.3g}; the "
        f"annealed walk {each} at each of {len(walk.levels)} levels from {walk.levels[0]:.3g} to "
        f"{walk.levels[-1]:.3g}, the largest first.",
    ]
    title = "Chains that cannot cross between modes"
    claim = (
        "Langevin dynamics keeps wrong mode weights however good the score is; walking down a "
        "ladder of noise levels mends them."
    )
    return Lesson(title, claim, finding, better, text, numbers, figures, tables, walk.notes)


def _table(truth: Tensor, found: dict[str, Tensor]) -> Table:
    head = ["mode", "true weight", *found]
    rows = [
        [str(k + 1), f"{float(truth[k]):.3f}", *(f"{float(w[k]):.3f}" for w in found.values())]
        for k in range(len(truth))
    ]
    return Table(head, rows, "Share of chains at each mode")


def _clouds(exact: Tensor, plain: Tensor, annealed: Tensor) -> Item:
    panels = [("Data", exact), ("Langevin", plain), ("annealed Langevin", annealed)]
    alt = "Where exact draws, Langevin chains and annealed Langevin chains end in the plane"
    markup = clouds.scatters([(name, x[:1500].numpy()) for name, x in panels], alt)
    return Item(markup, "As many points each: compare their shares at the modes.")


def _expectations(levels: Sequence[float]) -> tuple[dict[str, float], Item, Table]:
    """Expected weights by quadrature: as published, with finer steps, and with longer walks."""
    factors = (1, 2, 4, 8)
    finer = [annealed_weight(levels, 100 * k, 0.05 / k) for k in factors]
    longer = [annealed_weight(levels, 100 * k, 0.05) for k in factors]
    numbers = {
        "expected Langevin weight": annealed_weight([1.0], 1000, 0.05),
        "expected annealed weight": longer[0],
        "expected annealed weight, 8 times finer steps": finer[-1],
        "expected annealed weight, 8 times more steps": longer[-1],
    }
    lines = {
        "finer steps, as long": (factors, finer),
        "more steps, as coarse": (factors, longer),
        "true weight": (factors, [0.2] * len(factors)),
    }
    alt = "Expected weight of the smaller mode against how many times more steps are taken"
    markup = plots.curves([("expected weight of the smaller mode", lines)], "times the steps", alt)
    caption = (
        "By quadrature, without sampling error. What is left of the bias at the published settings "
        "is mostly the shortness of the walk, not the coarseness of its steps."
    )
    rows = [
        [str(k), f"{f:.4f}", f"{m:.4f}"] for k, f, m in zip(factors, finer, longer, strict=True)
    ]
    head = ["times the steps", "steps as much smaller", "steps as large"]
    return numbers, Item(markup, caption), Table(head, rows, "Expected annealed weight")


def metropolis(
    data: Dataset | None = None, seed: int = 0, *, chains: int = 32, steps: int = 2000
) -> Lesson:
    """Metropolis against Langevin on Gaussians: the bias of steps untested, the price of each draw.

    Parameters
    ----------
    data : Dataset, optional
        Its covariance gives the Gaussian; else dimensions 2, 10 and 50 with spreads from 0.3 to 1.
    seed : int
    chains, steps : int

    Examples
    --------
    >>> lesson = metropolis(chains=8, steps=200)
    >>> lesson.numbers["Metropolis acceptance, 2 dimensions"] > 0.1
    True
    """
    rng = generator(seed)
    if data is None:
        notes: list[str] = []
        covariances = {
            d: torch.diag(torch.linspace(0.3, 1, d).square()).double() for d in (2, 10, 50)
        }
    else:
        points = encoded(data, "", seed)
        notes = [*points.notes, "The target is the Gaussian with the covariance of the data."]
        cov = torch.atleast_2d(torch.cov(points.x.double().T))
        eye = torch.eye(len(cov), dtype=torch.float64)
        covariances = {len(cov): cov + 0.01 * cov.diagonal().mean() * eye}
    numbers, item, worst = _bias(chains, steps, rng)
    rows, gains = [], []
    for dim, cov in covariances.items():
        target = GaussianMixture(torch.ones(1), torch.zeros(1, dim), cov[None])
        x0 = target.sample(chains, rng)
        speed = {}
        kernels: dict[str, Kernel] = {"Metropolis": RandomWalk(0.5), "MALA": MALA(0.3)}
        for name, kernel in kernels.items():
            run = run_chains(kernel, target.at(0.0), x0, steps, warmup=500, rng=rng)
            found = run.diagnostics
            speed[name] = 1000 * found.ess_bulk / (chains * steps)
            accepted = float(found.acceptance or 0.0)
            numbers[f"{name} acceptance, {dim} dimensions"] = accepted
            numbers[f"{name} draws' worth per 1,000 steps, {dim} dimensions"] = speed[name]
            size = number(float(run.kernel.step_size))
            rows.append([str(dim), name, size, f"{accepted:.2f}", f"{speed[name]:.1f}"])
        gains.append(speed["MALA"] / speed["Metropolis"])
    last = max(covariances)
    finding = (
        f"one step of MALA, with one gradient, is worth {gains[-1]:.1f} Metropolis steps in "
        f"{last} dimensions; untested steps missed a variance of 1 by up to {worst:.0%}, where "
        f"1/(1 - h/2) says {max(_STEP_SIZES) / (2 - max(_STEP_SIZES)):.0%}"
    )
    text = [
        "Metropolis proposes blindly and asks the energy whether to go; Langevin follows the score "
        "and asks nobody. Blind moves must shrink as the dimension grows. Untested steps of size h "
        "sample a density that is wider than the target: on N(0, 1) of variance 1/(1 - h/2).",
        "MALA puts the test on Langevin's proposal: no bias, one gradient a step. Step sizes were "
        "adapted in warm-up to the acceptance that theory asks for (0.234 and 0.574), then frozen.",
    ]
    head = ["dimensions", "kernel", "step size", "acceptance", "effective draws per 1,000 steps"]
    return Lesson(
        "Metropolis against Langevin",
        "The score carries a chain further with each step than blind moves do, the more so the "
        "higher the dimension; without a test its steps leave a bias of order h.",
        finding,
        # Effective sizes of so few chains err by a tenth or two; in one dimension alone nothing grows.
        gains[-1] > 1.5 and gains[-1] >= gains[0],
        text,
        numbers,
        [item],
        [Table(head, rows, "The same Gaussian, walked by both")],
        notes,
    )


def _bias(chains: int, steps: int, rng: torch.Generator) -> tuple[dict[str, float], Item, float]:
    """Stationary variance on N(0, 1) against the step, measured and by formula."""
    normal = GaussianMixture.isotropic(torch.zeros(1, 1), 1.0).at(0.0)
    sizes = _STEP_SIZES
    many = 100 * chains
    numbers: dict[str, float] = {}
    measured: list[float] = []
    tested: list[float] = []
    for h in sizes:
        x0 = torch.randn(many, 1, generator=rng, dtype=torch.float64)
        after = max(20, math.ceil(4 / h), steps // 20)
        pairs: tuple[tuple[Kernel, list[float]], ...] = ((ULA(h), measured), (MALA(h), tested))
        for kernel, store in pairs:
            run = run_chains(kernel, normal, x0, after, rng=rng)
            store.append(float(run.draws[after // 2 :].var(correction=0)))
        numbers[f"variance of untested steps, h = {h:g}"] = measured[-1]
        numbers[f"variance by formula, h = {h:g}"] = 1 / (1 - h / 2)
    lines = {
        "Langevin, untested": (sizes, measured),
        "by formula": (sizes, [1 / (1 - h / 2) for h in sizes]),
        "with the Metropolis test": (sizes, tested),
    }
    alt = "Variance of chains on a standard normal against the step size, with and without a test"
    markup = plots.curves([("variance of the chains on N(0, 1)", lines)], "step size h", alt)
    worst = max(abs(v - 1) for v in measured)
    return numbers, Item(markup, "The truth is 1 at every step size."), worst
