"""The reverse kernel of a mixture, exactly: how it turns Gaussian, and what the steps are worth.

In the frame ``x_s = x_0 + s eps`` the law of ``x_s`` given ``x_t``, s < t, is for a mixture again one,

    p(x_s | x_t)  propto  p_s(x_s) N(x_t; x_s, (t^2 - s^2)),

with component variances ``1/(1/(v_k + s^2) + 1/(t^2 - s^2))``: its divergence from the Gaussian of
the same mean and variance is a sum over a grid. Rescaling x, as DDPM does, changes no divergence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.densities import GaussianMixture
from energyscape.diffusion import sample
from energyscape.lab.learning import fit, generator, seeded
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded, plane
from energyscape.metrics import energy_distance, neighbour_ratio
from energyscape.models import (
    Denoiser,
    EDMPreconditioning,
    FunctionDenoiser,
    PreconditionedDenoiser,
)
from energyscape.nn import ResidualMLP
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.report import plots
from energyscape.report.sections import Item, Table
from energyscape.schedules import EDM

__all__ = ["kernel_divergences", "reverse_kernel"]

_MEANS, _STDS, _WEIGHTS = np.array([-1.2, 0.8]), np.array([0.15, 0.3]), np.array([0.4, 0.6])


def kernel_divergences(levels: Sequence[float], *, points: int = 81) -> np.ndarray:
    """``E KL(p(x_s | x_t) || its Gaussian)`` of each step of a ladder, in nats, by quadrature.

    Parameters
    ----------
    levels : sequence of float
        Falling, all positive, for the mixture ``0.4 N(-1.2, 0.15^2) + 0.6 N(0.8, 0.3^2)``.
    points : int
        Nodes over x_t.

    Returns
    -------
    array of shape (len(levels) - 1,)

    Examples
    --------
    >>> large, small = kernel_divergences([1.0, 0.01]), kernel_divergences([1.0, 0.99])
    >>> bool(large > 0.1), bool(small < 1e-4)
    (True, True)
    """
    return np.array([_divergence(t, s, points) for t, s in itertools.pairwise(levels)])


def _divergence(t: float, s: float, points: int) -> float:
    """The mean over x_t of the divergence of the kernel from its Gaussian."""
    reach = 2.5 + 5 * np.sqrt(0.3**2 + t**2)
    x_t = np.linspace(-reach, reach, points)
    weight = _mixture_log(x_t, t)[1]
    weight = weight / weight.sum()
    gap = t**2 - s**2
    variance = _STDS**2 + s**2
    joint = _mixture_log(x_t, t)[0]
    share = np.exp(joint - joint.max(1, keepdims=True))
    share = share / share.sum(1, keepdims=True)
    within = 1 / (1 / variance + 1 / gap)
    centre = within * (_MEANS / variance + x_t[:, None] / gap)
    mean = (share * centre).sum(1)
    spread = (share * (within + centre**2)).sum(1) - mean**2
    unit = np.linspace(-8, 8, 801)
    grid = mean[:, None] + np.sqrt(spread)[:, None] * unit
    parts = share[:, None] * np.exp(-((grid[..., None] - centre[:, None]) ** 2) / (2 * within))
    p = (parts / np.sqrt(2 * np.pi * within)).sum(-1)
    log_q = -0.5 * unit**2 - 0.5 * np.log(2 * np.pi * spread)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        integrand = np.where(p > 0, p * (np.log(p) - log_q), 0.0)
    kl = integrand.sum(1) * (unit[1] - unit[0]) * np.sqrt(spread)
    return float((weight * np.maximum(kl, 0.0)).sum())


def _mixture_log(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Joint log-densities of components and the density of the blurred mixture."""
    v = _STDS**2 + t**2
    joint = np.log(_WEIGHTS) - (x[:, None] - _MEANS) ** 2 / (2 * v) - 0.5 * np.log(2 * np.pi * v)
    return joint, np.exp(joint).sum(1)


def reverse_kernel(
    data: Dataset | None = None,
    seed: int = 0,
    *,
    counts: Sequence[int] = (2, 4, 8, 16, 32, 64, 128),
    steps: int = 2000,
    samples: int = 500,
    rows: int = 500,
) -> Lesson:
    """How far the reverse kernel is from Gaussian, and the fit of samples, against the steps.

    Parameters
    ----------
    data : Dataset, optional
        For the second part, along two principal directions; two moons by default. The first part is
        about a mixture on the line, whose kernel is known.
    seed : int
    counts : sequence of int
        Numbers of reverse steps.
    steps : int
        Of training the denoiser.
    samples, rows : int
        Drawn, and trained on.

    Examples
    --------
    >>> lesson = reverse_kernel(counts=(2, 8), steps=3, samples=20, rows=40)
    >>> lesson.numbers["largest divergence, 8 steps"] < lesson.numbers["largest divergence, 2 steps"]
    True
    """
    counts = sorted(counts)
    schedule = EDM(0.01, 20.0)
    kl = {n: kernel_divergences(schedule.levels(n + 1).tolist()) for n in counts}
    numbers: dict[str, float] = {}
    for n, values in kl.items():
        numbers[f"largest divergence, {n} steps"] = float(values.max())
        numbers[f"summed divergence, {n} steps"] = float(values.sum())
    fits, notes = _samples(data, seed, counts, steps, samples, rows)
    for (name, measure), line in fits.items():
        numbers |= {f"{measure}, {name}, {n} steps": v for n, v in zip(counts, line, strict=True)}
    last, first = counts[-1], counts[0]
    ratio = fits["every row by heart", "nearest-neighbour ratio"][-1]
    finding = (
        f"the worst reverse step is {kl[first].max():.2g} nats from Gaussian with {first} steps and "
        f"{kl[last].max():.2g} with {last}; with {last} steps the denoiser that knows every row by "
        f"heart gives them back ({ratio:.2f} of a fresh row's distance), the trained one "
        f"{fits['trained', 'nearest-neighbour ratio'][-1]:.2f}"
    )
    copied, learned = (
        fits[name, "nearest-neighbour ratio"][-1] for name in ("every row by heart", "trained")
    )
    return Lesson(
        "Small steps make the reverse kernel Gaussian",
        "Each reverse step is close to Gaussian if it is small; that is why a network needs to give "
        "no more than its mean.",
        finding,
        bool(np.all(np.diff([v.max() for v in kl.values()]) < 0)),
        _text(first, last, rows, steps, copied, learned),
        numbers,
        [_kernel_figure(kl), _fit_figure(counts, fits)],
        [_table(counts, kl, fits)],
        notes,
    )


_Fits = dict[tuple[str, str], list[float]]


def _samples(
    data: Dataset | None, seed: int, counts: Sequence[int], steps: int, samples: int, rows: int
) -> tuple[_Fits, list[str]]:
    """Distance to held-out rows and nearest-neighbour ratio, of two denoisers, for each count."""
    points = plane(encoded(data, "two-moons", seed))
    x = (points.x - points.x.mean(0)) / points.x.std()
    cut = min(rows, len(x) // 2)
    train, test = x[:cut], x[cut : cut + samples]
    width = float(EDM.for_data(1.0).sigma_min)
    known = GaussianMixture(torch.ones(cut), train, torch.zeros(cut, x.shape[1], x.shape[1]))
    by_heart = FunctionDenoiser(lambda z, s: known.denoise(z, s).to(z.dtype))
    with seeded(seed):
        network: nn.Module = ResidualMLP((x.shape[1],), width=128, blocks=2)
    trained = fit(
        PreconditionedDenoiser(network, EDMPreconditioning(1.0)),
        DenoisingLoss(EDM.for_data(1.0), edm_weight(1.0)), train, steps, seed,
    )  # fmt: skip
    schedule = EDM(width, 20.0)
    fits: _Fits = {}
    denoisers: dict[str, Denoiser] = {"trained": trained, "every row by heart": by_heart}
    for name, denoiser in denoisers.items():
        for n in counts:
            z = _draw(denoiser, schedule, n, samples, x.shape[1], seed)
            far = energy_distance(test.numpy(), z)
            near = neighbour_ratio(train.numpy(), test.numpy(), z).value
            fits.setdefault((name, "distance to held-out rows"), []).append(far)
            fits.setdefault((name, "nearest-neighbour ratio"), []).append(near)
    return fits, points.notes


def _draw(
    denoiser: Denoiser, schedule: EDM, count: int, samples: int, dim: int, seed: int
) -> np.ndarray:
    """Ancestral samples with `count` steps; the last goes from the smallest level to 0."""
    levels = schedule.levels(count)
    with torch.no_grad():
        drawn: Tensor = sample(
            denoiser, (samples, dim), sampler="ancestral", levels=levels.tolist(),
            rng=generator(seed), dtype=torch.float32,
        )  # fmt: skip
    return drawn.double().numpy()


def _text(first: int, last: int, rows: int, steps: int, copied: float, learned: float) -> list[str]:
    told = ""
    if copied < 0.2 and learned > 3 * copied:
        told = (
            " The one by heart returns training rows; that the network does not is its own doing, not "
            "the loss's."
        )
    return [
        "The forward steps are Gaussian by choice. The reverse step is not: given x_t, x_s may have "
        "come from several modes. Only if the step is small is one of them left within reach. For a "
        "mixture on the line the kernel is known, and its divergence from the Gaussian of the same "
        "mean and variance is computed by quadrature.",
        f"In the plane, samples were drawn with {first} to {last} ancestral steps from two denoisers "
        f"of the same {rows} rows: a network trained for {steps:,} steps, and the exact minimiser of "
        f"its loss, which knows every row by heart.{told}",
    ]


def _kernel_figure(kl: dict[int, np.ndarray]) -> Item:
    counts = list(kl)
    lines = {
        "largest step": (counts, [float(v.max()) for v in kl.values()]),
        "sum over steps": (counts, [float(v.sum()) for v in kl.values()]),
    }
    alt = "Divergence of the reverse kernel from a Gaussian against the number of steps"
    markup = plots.curves(
        [("nats from the Gaussian", lines)], "number of steps", alt, log_x=True, log_y=[True]
    )
    return Item(
        markup, "The sum bounds how far samples of Gaussian steps with exact moments can be."
    )


def _fit_figure(counts: Sequence[int], fits: _Fits) -> Item:
    panels = [
        (measure, {name: (counts, v) for (name, m), v in fits.items() if m == measure})
        for measure in dict.fromkeys(m for _, m in fits)
    ]
    alt = "Fit and memorisation of samples against the number of steps, for two denoisers"
    markup = plots.curves(panels, "number of steps", alt, log_x=True)
    return Item(markup, "A ratio of 1 is a fresh row's distance; 0 is a training row given back.")


def _table(counts: Sequence[int], kl: dict[int, np.ndarray], fits: _Fits) -> Table:
    head = ["steps", "largest KL, nats", "summed KL", *(f"{m}, {n}" for n, m in fits)]
    rows = [
        [
            str(n),
            f"{kl[n].max():.2g}",
            f"{kl[n].sum():.2g}",
            *(f"{v[i]:.3f}" for v in fits.values()),
        ]
        for i, n in enumerate(counts)
    ]
    return Table(head, rows)
