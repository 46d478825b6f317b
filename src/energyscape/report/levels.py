"""The section on levels of noise: what noise does to rows, and how well it is taken away.

A denoiser is judged at every level by its error against two answers that need no model: the noisy
point itself, with mean squared error sigma^2 per coordinate, and the mean of the data, with the
data's variance. The posterior mean is below both. Strips of pictures are drawn in the frame of DDPM,
``x_sigma / sqrt(1 + sigma^2)``, where pictures fade while noise comes up.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from energyscape.models import Denoiser
from energyscape.report import clouds, plots, sheets
from energyscape.report.sections import Item, Section, stretched
from energyscape.report.subject import Subject

__all__ = ["levels"]

_STOPS = 10


def levels(subject: Subject, *, seed: int = 0) -> Section | None:
    """Noise added and taken away, level by level; None for models of a single level."""
    est = subject.estimator
    ladder = getattr(est, "levels_", None)
    if ladder is None or not isinstance(est.model_, Denoiser):
        return None
    ladder = np.sort(np.asarray(ladder, dtype=np.float64).ravel())
    x = torch.as_tensor(subject.data_x, dtype=torch.float32)
    rng = torch.Generator().manual_seed(seed)
    items = [_error_by_level(est.model_, x, ladder, rng)]
    if subject.pictures:
        items += [
            _noised_pictures(subject, x[:3], ladder, rng),
            _denoised_pictures(subject, x[:8], ladder, rng),
            _generated_pictures(subject, ladder, rng),
        ]
    elif x[0].numel() == 2:
        items += _denoised_points(est.model_, x, ladder, rng)
    text = (
        f"The model knows the data blurred at levels from {ladder[0]:.3g} to {ladder[-1]:.3g}, "
        "in units in which it sees the data."
    )
    return Section("Levels of noise", text, items, [])


def _between(ladder: np.ndarray, count: int, low: float = 0.0, high: float = np.inf) -> list[float]:
    """Levels even in their logarithm within the ladder and within [low, high], increasing."""
    low, high = max(float(ladder[0]), low), min(float(ladder[-1]), high)
    if low >= high:
        low, high = float(ladder[0]), float(ladder[-1])
    return np.geomspace(low, high, count).tolist()


def _denoise(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    with torch.no_grad():
        device = next((p.device for p in model.parameters()), x.device)
        return model(x.to(device), sigma).cpu()


def _error_by_level(model: Denoiser, x: Tensor, ladder: np.ndarray, rng: torch.Generator) -> Item:
    x = x[:200]
    variance = float((x - x.mean(0)).square().mean())
    shown = _between(ladder, 16)
    errors = []
    for sigma in shown:
        noisy = x + sigma * torch.randn(x.shape, generator=rng)
        errors.append(float((_denoise(model, noisy, sigma) - x).square().mean()))
    trivial = [min(s**2, variance) for s in shown]

    def lines(scale: list[float]) -> dict[str, tuple[list[float], list[float]]]:
        both = {"model": errors, "without a model": trivial}
        return {
            name: (shown, [e / s for e, s in zip(values, scale, strict=True)])
            for name, values in both.items()
        }

    panels = [
        ("Error of the clean row / variance of the data", lines([variance] * len(shown))),
        ("Error of the noise (the simple loss)", lines([s**2 for s in shown])),
    ]
    alt = "Loss of the denoiser at each noise level, beside the better of two trivial answers"
    markup = plots.curves(panels, "noise level", alt, log_x=True, log_y=(True, True))
    return Item(
        markup,
        "How well noise is taken away from held-out rows, mean squared errors: of the clean row, and "
        "the same divided by the noise's variance. Without a model one would answer the noisy row "
        "itself, or the mean.",
    )


def _noised_pictures(subject: Subject, x: Tensor, ladder: np.ndarray, rng: torch.Generator) -> Item:
    """One path of the forward process for each picture, the clean one first."""
    shown = _between(ladder, _STOPS - 1)
    state, before, seen = x, 0.0, [x]
    for sigma in shown:
        state = state + (sigma**2 - before**2) ** 0.5 * torch.randn(x.shape, generator=rng)
        before = sigma
        seen.append(state / (1 + sigma**2) ** 0.5)
    order = torch.stack(seen, dim=1).flatten(0, 1)
    pictures = stretched(subject, subject.estimator.codec_.decode(order.numpy()))
    named = ", ".join(f"{sigma:.2g}" for sigma in shown)
    alt = "Held-out pictures fading into noise from left to right"
    caption = (
        f"Forward: held-out pictures, and their noise growing along one path to levels {named}."
    )
    return Item(sheets.picture_html(pictures, len(seen), alt), caption)


def _denoised_pictures(
    subject: Subject, x: Tensor, ladder: np.ndarray, rng: torch.Generator
) -> Item:
    est = subject.estimator
    shown = _between(ladder, 8, 0.05, 10.0)
    eps = torch.randn(x.shape, generator=rng)
    strips = []
    for k in range(3):
        noisy = [x[k] + sigma * eps[k] for sigma in shown]
        clean = [
            _denoise(est.model_, picture[None], sigma)[0]
            for picture, sigma in zip(noisy, shown, strict=True)
        ]
        strips += [*noisy, *clean]
    pictures = stretched(subject, est.codec_.decode(torch.stack(strips).numpy()))
    named = ", ".join(f"{sigma:.2g}" for sigma in shown)
    alt = "Three held-out pictures with growing noise, each above what the model makes of it"
    caption = (
        f"Above, noise at levels {named}; below, the model's expectation of the clean picture."
    )
    return Item(sheets.picture_html(pictures, len(shown), alt), caption)


def _generated_pictures(subject: Subject, ladder: np.ndarray, rng: torch.Generator) -> Item:
    """Euler's walk down the probability-flow ODE, photographed at ten of its levels; estimates are
    clipped to the range of pictures, as the samplers do."""
    est = subject.estimator
    walk = np.append(np.geomspace(ladder[-1], ladder[0], 40), 0.0)
    stops = set(np.linspace(0, len(walk) - 2, _STOPS).round().astype(int).tolist())
    x = walk[0] * torch.randn(3, *subject.data_x.shape[1:], generator=rng)
    states, expected = [], []
    for i, (sigma, smaller) in enumerate(itertools.pairwise(walk.tolist())):
        clean = _denoise(est.model_, x, sigma).clamp(-1, 1)
        if i in stops:
            states.append(x / (1 + sigma**2) ** 0.5)
            expected.append(clean)
        x = x + (smaller / sigma - 1) * (x - clean)
    both = torch.stack([torch.stack(states, dim=1), torch.stack(expected, dim=1)], dim=1)
    pictures = stretched(subject, est.codec_.decode(both.flatten(0, 2).numpy()))
    alt = "Three pictures as they form while the noise level falls from left to right"
    caption = (
        "Backward, from noise to pictures: above, the state of the walk as the level falls; below, "
        "what the model expects at the end."
    )
    return Item(sheets.picture_html(pictures, len(states), alt), caption)


def _denoised_points(
    model: Denoiser, x: Tensor, ladder: np.ndarray, rng: torch.Generator
) -> list[Item]:
    shown = _between(ladder, 4, 0.05, 1.0)
    noisy = [x + sigma * torch.randn(x.shape, generator=rng) for sigma in shown]
    clean = [_denoise(model, z, sigma) for z, sigma in zip(noisy, shown, strict=True)]
    panels = [(f"noise {s:.2g}", z.numpy()) for s, z in zip(shown, noisy, strict=True)]
    panels += [(f"denoised at {s:.2g}", z.numpy()) for s, z in zip(shown, clean, strict=True)]
    alt = "Held-out rows with growing noise, and the model's expectation of the clean rows"
    return [Item(clouds.scatters(panels, alt), "Above, blurred rows; below, denoised.")]
