"""Lessons on noise: a little makes training stable, one level is a compromise, a ladder is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.densities import GaussianMixture
from energyscape.lab.learning import PLAIN, Recorded, fit, generator, score_field, seeded
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import encoded, plane, published_mixture, stand_in
from energyscape.mcmc import ULA, annealed_langevin, run_chains
from energyscape.metrics import energy_distance
from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    Perturbed,
    SlicedScoreMatching,
    simple_weight,
)
from energyscape.report import clouds, plots
from energyscape.report.sections import Item, Table, number
from energyscape.schedules import Geometric, Ladder

__all__ = ["noise_level", "tiny_noise"]


def tiny_noise(
    data: Dataset | None = None,
    seed: int = 0,
    *,
    steps: int = 1500,
    sigma: float = 0.1,
    dim: int = 32,
) -> Lesson:
    """Sliced score matching on rows of low dimension in a space of high, with and without noise.

    Parameters
    ----------
    data : Dataset, optional
        Flattened and encoded without noise; fewer than 8 columns are turned into `dim` directions.
        By default two moons, a set in the plane, lie in `dim` dimensions.
    seed : int
    steps : int
    sigma : float
        The noise, in units of the rows' root mean square deviation.
    dim : int

    Examples
    --------
    >>> lesson = tiny_noise(steps=10)
    >>> "end of the loss, without noise" in lesson.numbers
    True
    """
    points = encoded(data, "two-moons", seed, noise=False)
    x, notes = points.x - points.x.mean(0), list(points.notes)
    if x.shape[1] < 8:
        turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator(seed)))[0]
        notes.append(
            f"The {x.shape[1]} columns are turned into {dim} dimensions, of which they fill a few."
        )
        x = x @ turn[: x.shape[1]]
    spread = torch.linalg.svdvals(x) / len(x) ** 0.5
    scale = float(spread.square().sum().sqrt()) / min(len(spread), 8) ** 0.5
    x, spread = x / scale, spread / scale
    thin = int((spread < 0.1 * sigma).sum()) + max(0, x.shape[1] - len(spread))
    losses, ends = {}, {}
    for name, level in {"without noise": 0.0, f"noise {sigma:g}": sigma}.items():
        record = Recorded(Perturbed(SlicedScoreMatching(), level))
        fit(score_field(x.shape[1], seed), record, x, steps, seed, **PLAIN)
        losses[name] = np.asarray(record.losses)
        tail = losses[name][-max(2, steps // 4) :]
        ends[name] = (float(tail.mean()), float(tail.std()), float(tail.min()))
    bare, noisy = ends.values()
    bound = -0.5 * float((1 / (spread.square() + sigma**2)).sum())
    bound -= 0.5 * max(0, x.shape[1] - len(spread)) / sigma**2
    numbers = {
        "dimensions": x.shape[1],
        "directions without any spread": thin,
        "end of the loss, without noise": bare[0],
        "end of the loss, with noise": noisy[0],
        "fluctuation at the end, without noise": bare[1],
        "fluctuation at the end, with noise": noisy[1],
        "relative fluctuation at the end, without noise": bare[1] / abs(bare[0]),
        "relative fluctuation at the end, with noise": noisy[1] / abs(noisy[0]),
        "loss of the Gaussian with the covariance of the noisy rows": bound,
    }
    finding = (
        f"over the last quarter of training the loss fluctuates by {bare[1]:.3g} without noise and "
        f"by {noisy[1]:.3g} with it; it ends at {bare[0]:.3g} and {noisy[0]:.3g}"
    )
    text = [
        "Rows that fill only a few of their dimensions have no density: along the others the score "
        "would have to be infinitely steep. The loss of score matching has no lower bound there, "
        "and training chases steeper and steeper walls. Noise of standard deviation sigma, too small "
        "to see, makes the density exist everywhere and the loss bounded.",
        f"The same network, the same rows, {steps:,} steps of Adam at a constant rate and without "
        f"clipping: {thin} of {x.shape[1]} directions have next to no spread of their own.",
    ]
    return Lesson(
        "A little noise makes training stable",
        "On data that lie on a thin set, score matching fluctuates and diverges; with tiny noise "
        "its loss settles.",
        finding,
        bare[1] > 3 * noisy[1],
        text,
        numbers,
        [_two_losses(losses)],
        (),
        notes,
    )


def _two_losses(losses: dict[str, np.ndarray]) -> Item:
    panels = []
    for name, values in losses.items():
        panels.append(
            (f"loss, {name}", {name: (np.arange(1, len(values) + 1).tolist(), values.tolist())})
        )
    alt = "Training losses without and with noise, side by side"
    markup = plots.curves(panels, "step", alt)
    return Item(markup, "Each has its own scale. The loss is that of sliced score matching.")


def _conditional(seed: int, scale: float) -> PreconditionedDenoiser:
    with seeded(seed):
        network = MLP((2,), width=128, depth=3, noise=True, activation=nn.SiLU())
        return PreconditionedDenoiser(network, EDMPreconditioning(scale))


def noise_level(
    data: Dataset | None = None,
    seed: int = 0,
    *,
    levels: Sequence[float] = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0),
    steps: int = 800,
    chains: int = 600,
    chain_steps: int = 600,
) -> Lesson:
    """Samples of single noise levels, small to large, beside those of a ladder of all.

    Parameters
    ----------
    data : Dataset, optional
        A mixture fitted to it takes the place of the published toy; `levels` are then scaled by its
        spread over that of the toy.
    seed : int
    levels : sequence of float
    steps : int
        Of training each network; the ladder's has as many as one of the others.
    chains, chain_steps : int

    Examples
    --------
    >>> lesson = noise_level(levels=(0.3, 3.0), steps=3, chains=64, chain_steps=20)
    >>> sorted(lesson.numbers)[0]
    'distance of exact draws'
    """
    toy = published_mixture()
    p, notes = toy, list[str]()
    if data is not None:
        p, notes = stand_in(plane(encoded(data, "", seed)), seed)
    unit = float((p.covariance.trace() / toy.covariance.trace()).sqrt())
    sigmas = [unit * s for s in levels]
    rng = generator(seed)
    x = p.sample(20_000, rng).float()
    scale = float(x.std(0).square().mean().sqrt())
    held = p.sample(chains, rng).numpy()
    reach = 1.2 * x.abs().amax(0)
    x0 = reach * (2 * torch.rand(chains, 2, generator=rng) - 1)
    drawn, distance, blur = {}, {}, {}
    error_far: dict[str, float] = {}
    for sigma in sigmas:
        one = DenoisingScoreMatching(sigma, conditional=True, stable=True)
        model = fit(_conditional(seed, scale), one, x, steps, seed)
        kernel = ULA(0.05 * (unit**2 + sigma**2))
        walk = run_chains(kernel, model.at(sigma), x0, chain_steps, rng=rng, keep="last").x
        name = f"{sigma:.2g}"
        drawn[name] = walk
        distance[name] = energy_distance(held, walk.double().numpy())
        error_far[name] = _relative_error(p, model, x0, sigma)
        blur[name] = energy_distance(held, p.sample(chains, rng, sigma).numpy())
    ladder = Geometric(min(sigmas), 2.5 * float(reach.max())).levels(12)
    all_levels = DenoisingLoss(Ladder(ladder), simple_weight, stable=True)
    whole = fit(_conditional(seed, scale), all_levels, x, steps, seed)
    each = max(1, chain_steps // len(ladder))
    ends = annealed_langevin(whole.at, ladder, x0, rng=rng, steps_per_level=each).x
    distance["ladder"], drawn["ladder"] = energy_distance(held, ends.double().numpy()), ends
    singles = {k: v for k, v in distance.items() if k != "ladder"}
    best = min(singles, key=lambda k: singles[k])
    numbers = {f"distance of samples, sigma = {k}": v for k, v in singles.items()}
    numbers["distance of samples, ladder"] = distance["ladder"]
    numbers["distance of exact draws"] = energy_distance(held, p.sample(chains, rng).numpy())
    numbers |= {f"distance of the blurred density, sigma = {k}": v for k, v in blur.items()}
    numbers |= {f"relative error where chains start, sigma = {k}": v for k, v in error_far.items()}
    finding = (
        f"the best single level, {best}, is {singles[best]:.2f} from the data in energy distance, "
        f"the smallest {distance[f'{sigmas[0]:.2g}']:.2f}, the largest "
        f"{distance[f'{sigmas[-1]:.2g}']:.2f}, and the ladder {distance['ladder']:.2f}"
    )
    rows = [[k, number(v), number(error_far.get(k))] for k, v in distance.items()]
    head = ["sigma", "distance of samples", "relative error of the score where chains start"]
    return Lesson(
        "Too little noise, too much, and the ladder",
        "At one small level the score is wrong where chains start and they do not cross; at one "
        "large level what is learned is not the data any more. A ladder of levels has neither fault.",
        finding,
        distance["ladder"] < singles[best],
        _level_text(steps, chain_steps),
        numbers,
        [
            _trade_off(sigmas, singles, blur, distance["ladder"], error_far),
            _samples(held, drawn, sigmas),
        ],
        [Table(head, rows)],
        notes,
    )


def _level_text(steps: int, chain_steps: int) -> list[str]:
    return [
        "Noise fills the space between the data, so that the score is learned there too and chains "
        "can move between modes. But what a network learns at level sigma is the data blurred by "
        "sigma. One level is a compromise between the two; a ladder walks from the one to the other.",
        f"One network for each level, by denoising score matching, {steps:,} steps each, then "
        f"{chain_steps:,} steps of Langevin from a uniform box. The ladder's network had as many "
        "training steps in all as each of the others, and its chains as many steps; all of them stand "
        "behind a skip that vanishes at high levels, so that none need learn to copy noise.",
    ]


def _relative_error(
    p: GaussianMixture, model: PreconditionedDenoiser, x: Tensor, sigma: float
) -> float:
    """Root mean square error of the score over that of the score of the blurred density."""
    with torch.no_grad():
        learned = model.score(x, sigma).double()
    truth = p.score(x.double(), sigma)
    return float(((learned - truth).square().sum() / truth.square().sum()).sqrt())


def _trade_off(
    sigmas: Sequence[float],
    singles: dict[str, float],
    blur: dict[str, float],
    ladder: float,
    error: dict[str, float],
) -> Item:
    lines = {
        "one level": (sigmas, list(singles.values())),
        "the blur alone": (sigmas, list(blur.values())),
        "ladder": (sigmas, [ladder] * len(sigmas)),
    }
    wrong = {"one level": (sigmas, list(error.values()))}
    panels = [("distance of samples to data", lines), ("error of the score at the start", wrong)]
    alt = "Distance of samples to data, and error of the score, against the noise level"
    markup = plots.curves(panels, "noise level sigma", alt, log_x=True)
    return Item(
        markup, "Energy distance; the error is relative to the score of the blurred density."
    )


def _samples(held: np.ndarray, drawn: dict[str, Tensor], sigmas: Sequence[float]) -> Item:
    chosen = [f"{sigmas[0]:.2g}", f"{sigmas[-1]:.2g}"]
    panels = [("Data", held)]
    panels += [(f"sigma {k}", drawn[k].numpy()) for k in dict.fromkeys(chosen)]
    panels.append(("ladder", drawn["ladder"].numpy()))
    alt = "Data, and samples of the smallest level, of the largest level and of the ladder"
    return Item(
        clouds.scatters(panels, alt), "Where the chains of one level and of the ladder end."
    )
