"""The naive sheet of samples, one small noise level, beside that of a ladder of levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.data import Dataset
from energyscape.lab.learning import fit, generator, seeded
from energyscape.lab.lesson import Lesson
from energyscape.lab.points import Points, encoded
from energyscape.mcmc import annealed_langevin, largest_pairwise_distance
from energyscape.metrics import energy_distance, neighbour_ratio, two_sample_accuracy
from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
from energyscape.nn import ResidualMLP
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.report import clouds, plots, sheets
from energyscape.report.sections import Item, Table
from energyscape.schedules import Geometric, Ladder

__all__ = ["naive_samples"]

_ARTICLES = {"one level": "one level", "ladder": "the ladder"}


def naive_samples(
    data: Dataset | None = None,
    seed: int = 0,
    *,
    steps: int = 1500,
    levels: int = 32,
    steps_per_level: int = 6,
    samples: int = 300,
    width: int = 192,
) -> Lesson:
    """Langevin at one small level beside annealed Langevin, at equal training and evaluations.

    Parameters
    ----------
    data : Dataset, optional
        The digits of scikit-learn by default.
    seed : int
    steps : int
        Of training each of the two networks.
    levels, steps_per_level : int
        Of the ladder; the naive chains take the product of the two.
    samples : int
    width : int
        Of the networks.

    Examples
    --------
    >>> from energyscape.data import load
    >>> tiny = dict(steps=2, levels=3, steps_per_level=1, samples=20, width=16)
    >>> sorted(naive_samples(load("two-moons"), **tiny).numbers)[0]
    'classifier accuracy, ladder'
    """
    points = encoded(data, "digits", seed)
    held = min(samples, len(points.x) // 4)
    test, train = points.x[:held], points.x[held:]
    centre, scale = train.mean(0), float(train.std(0).square().mean().sqrt())
    x = (train - centre) / scale
    smallest, largest = 0.1, float(largest_pairwise_distance(x))
    sigmas = Geometric(smallest, largest).levels(levels)
    rng = generator(seed)
    drawn = {}
    for name, ladder in {"one level": sigmas[-1:], "ladder": sigmas}.items():
        model = _train(x, ladder, steps, width, seed)
        each = steps_per_level * levels // len(ladder)
        x0 = largest * torch.randn(held, x.shape[1], generator=rng)
        # The naive chains take the steps that fit their level, as the ladder's last ones do.
        size = None if name == "ladder" else 0.3 * smallest**2
        walk = annealed_langevin(
            model.at, ladder, x0, rng=rng, steps_per_level=each, step_size=size
        )
        drawn[name] = walk.x * scale + centre
    numbers, rows = _measures(points, train, test, drawn, seed)
    ladder_score, naive = (numbers[f"classifier accuracy, {n}"] for n in ("ladder", "one level"))
    far = {n: numbers[f"energy distance to held-out rows, {n}"] for n in drawn}
    finding = (
        f"samples of one level are {far['one level']:.3g} from held-out rows in energy distance, those "
        f"of the ladder {far['ladder']:.3g}; a classifier tells the first from held-out rows in "
        f"{naive:.0%} of cases, the others in {ladder_score:.0%} (50 % is chance)"
    )
    text = [
        "Both sheets come from the same kind of network, starts of the same law, and as many training "
        "steps and evaluations. "
        f"The naive one learned the score at one small level ({smallest:g} of the spread) and walks "
        "there from noise: it starts where that score was never learned, in steps as "
        f"small as its level. The other walks down {levels} levels from the largest distance in the "
        "data.",
        "Each ends with a step without noise.",
    ]
    head = ["samples", "classifier accuracy", "nearest-neighbour ratio", "energy distance"]
    return Lesson(
        "The naive sheet of samples, and the ladder's",
        "Langevin at one small noise level, from noise, ends far from the data; down a ladder of "
        "levels it ends among them.",
        finding,
        far["ladder"] < far["one level"],
        text,
        numbers,
        _figures(points, test, drawn),
        [
            Table(
                head,
                rows,
                "0.5 and 1 are perfect; a ratio below 1 is memorised, above 1 off the data",
            )
        ],
        points.notes,
    )


def _train(x: Tensor, ladder: Tensor, steps: int, width: int, seed: int) -> Any:
    """The same residual network for one level and for many."""
    with seeded(seed):
        network: nn.Module = ResidualMLP((x.shape[1],), width=width, blocks=3)
    denoiser = PreconditionedDenoiser(network, EDMPreconditioning(1.0))
    law = Ladder(ladder) if len(ladder) > 1 else _OneLevel(float(ladder[0]))
    return fit(denoiser, DenoisingLoss(law, edm_weight(1.0)), x, steps, seed)


class _OneLevel:
    """The law of a single level."""

    def __init__(self, sigma: float) -> None:
        self.value = sigma

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """The level, `n` times."""
        return torch.full((n,), self.value, dtype=torch.float64, device=device)


def _measures(
    points: Points, train: Tensor, test: Tensor, drawn: dict[str, Tensor], seed: int
) -> tuple[dict[str, float], list[list[str]]]:
    numbers: dict[str, float] = {"training rows": len(train), "dimensions": train.shape[1]}
    rows = []
    for name, x in drawn.items():
        back = _again(points, x)
        rng = np.random.default_rng(seed)
        told = two_sample_accuracy(_again(points, test), back, rng, repeats=1, num_trees=30)
        near = neighbour_ratio(train.numpy(), test.numpy(), x.numpy())
        numbers[f"classifier accuracy, {name}"] = told.value
        numbers[f"nearest-neighbour ratio, {name}"] = near.value
        apart = energy_distance(test.numpy(), x.numpy())
        numbers[f"energy distance to held-out rows, {name}"] = apart
        rows.append(
            [name, f"{told.value:.3f} ± {told.stderr:.3f}", f"{near.value:.2f}", f"{apart:.3f}"]
        )
    return numbers, rows


def _again(points: Points, x: Tensor) -> np.ndarray:
    """Decoded and encoded without noise, as rows and samples are compared in their own values."""
    decoded = points.codec.decode(x.double().numpy().reshape(-1, *points.codec.event_shape))
    return points.codec.encode(decoded, None).x.reshape(len(x), -1)


def _figures(points: Points, test: Tensor, drawn: dict[str, Tensor]) -> list[Item]:
    if len(points.codec.event_shape) == 3:
        items = [_sheet(points, test, "Held-out pictures")]
        return [
            *items,
            *(_sheet(points, x, f"Samples of {_ARTICLES[n]}") for n, x in drawn.items()),
        ]
    if test.shape[1] == 1:
        values = {"Data": test[:, 0].numpy()} | {n: x[:, 0].numpy() for n, x in drawn.items()}
        return [Item(plots.histograms(values, "encoded", "Data and samples"), "The one column.")]
    directions = torch.linalg.svd(test - test.mean(0), full_matrices=False)[2][:2].T
    panels = [("Data", ((test - test.mean(0)) @ directions).numpy())]
    panels += [(n, ((x - test.mean(0)) @ directions).numpy()) for n, x in drawn.items()]
    alt = "Data, samples of one level and samples of the ladder along two principal directions"
    return [Item(clouds.scatters(panels, alt), "Along two principal directions of the data.")]


def _sheet(points: Points, x: Tensor, caption: str) -> Item:
    shape = points.codec.event_shape
    pictures = points.codec.decode(x[:48].double().numpy().reshape(-1, *shape)).astype(np.float64)
    top = 255 if pictures.max() > 16 else max(float(pictures.max()), 1.0)
    shown = np.clip(np.round(pictures * (255 / top)), 0, 255).astype(np.uint8)
    columns = min(12, max(1, math.ceil(len(shown) / 2)))
    return Item(sheets.picture_html(shown, columns, caption, cell=40), caption)
