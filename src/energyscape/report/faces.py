"""The sections that look inside a model: its levels of noise, its energies.

A denoiser is judged at every level by its error against two answers that need no model: the noisy
point itself, with mean squared error sigma^2 per coordinate, and the mean of the data, with the
data's variance. The posterior mean is below both.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from energyscape.models import Denoiser, Energy
from energyscape.report import plots
from energyscape.report.sections import Item, Section, Table, number, stretched
from energyscape.report.subject import Subject

__all__ = ["energies", "levels"]


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
        errors.append(float((_denoise(model, noisy, sigma) - x).square().mean()) / variance)
    trivial = [min(s**2, variance) / variance for s in shown]
    lines = {"model": (shown, errors), "without a model": (shown, trivial)}
    alt = "Error of the denoiser at each noise level, beside the better of two trivial answers"
    title = "Mean squared error / variance of the data"
    markup = plots.curves([(title, lines)], "noise level", alt, log_x=True, log_y=(True,))
    return Item(
        markup,
        "How well noise is taken away from held-out rows. Without a model one would answer the "
        "noisy row itself, or the mean.",
    )


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
    return Item(plots.picture_html(pictures, len(shown), alt), caption)


def _generated_pictures(subject: Subject, ladder: np.ndarray, rng: torch.Generator) -> Item:
    """Euler's walk down the probability-flow ODE, photographed at ten of its levels."""
    est = subject.estimator
    walk = np.append(np.geomspace(ladder[-1], ladder[0], 40), 0.0)
    stops = set(np.linspace(0, len(walk) - 2, 10).round().astype(int).tolist())
    x = walk[0] * torch.randn(5, *subject.data_x.shape[1:], generator=rng)
    seen = []
    for i, (sigma, smaller) in enumerate(itertools.pairwise(walk.tolist())):
        clean = _denoise(est.model_, x, sigma)
        if i in stops:
            seen.append(clean)
        x = x + (smaller / sigma - 1) * (x - clean)
    order = torch.stack(seen, dim=1).flatten(0, 1)
    pictures = stretched(subject, est.codec_.decode(order.numpy()))
    alt = "Five pictures as they form while the noise level falls from left to right"
    caption = "From noise to pictures: what the model expects at the end, as the level falls."
    return Item(plots.picture_html(pictures, len(seen), alt), caption)


def _denoised_points(
    model: Denoiser, x: Tensor, ladder: np.ndarray, rng: torch.Generator
) -> list[Item]:
    shown = _between(ladder, 4, 0.05, 1.0)
    noisy = [x + sigma * torch.randn(x.shape, generator=rng) for sigma in shown]
    clean = [_denoise(model, z, sigma) for z, sigma in zip(noisy, shown, strict=True)]
    panels = [(f"noise {s:.2g}", z.numpy()) for s, z in zip(shown, noisy, strict=True)]
    panels += [(f"denoised at {s:.2g}", z.numpy()) for s, z in zip(shown, clean, strict=True)]
    alt = "Held-out rows with growing noise, and the model's expectation of the clean rows"
    return [Item(plots.scatters(panels, alt), "Above, blurred rows; below, denoised.")]


def energies(subject: Subject) -> Section | None:
    """Energies of data and samples, and what is known of the chains; None for denoisers."""
    est = subject.estimator
    chains = est.info_.get("chains")
    items, tables = [], []
    if isinstance(est.model_, Energy):
        # Chains follow the density that was learned, which is that of slightly noisy data; samples of
        # pictures are shown without that noise, so chains are taken as they ended.
        eps = np.random.default_rng(0).normal(size=subject.data_x.shape)
        chain_ends = est.calibration_.get("chains", subject.samples_x)[: len(subject.data_x)]
        both = {
            "Data": _energy(est.model_, subject.data_x + est.blur_ * eps),
            "Samples": _energy(est.model_, chain_ends),
        }
        gap = float(both["Samples"].mean() - both["Data"].mean())
        alt = "Energies of held-out rows and of samples"
        caption = (
            "Chains that have settled have the energies of data at the model's noise level; here "
            f"the means differ by {gap:+.2f} nats (samples minus data)."
        )
        items.append(Item(plots.histograms(both, "energy, nats", alt), caption))
    if isinstance(chains, dict):
        body = [[str(key).replace("_", " "), number(value)] for key, value in chains.items()]
        tables.append(Table(["chains", ""], body))
    log_z = est.info_.get("log_z")
    if isinstance(log_z, dict):
        # The bounds differ in decimals that four significant digits would hide.
        body = [
            [
                str(key).replace("_", " "),
                f"{value:,.3f}"
                if key in ("estimate", "lower", "upper") and value
                else number(value),
            ]
            for key, value in log_z.items()
        ]
        caption = "Bounds by annealed importance sampling from below and above, nats."
        tables.append(Table(["log Z", ""], body, caption))
    if not items and not tables:
        return None
    return Section("Energies and chains", "", items, tables)


def _energy(model: Energy, x: np.ndarray) -> np.ndarray:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        value = model(torch.as_tensor(x, dtype=torch.float32, device=device))
    return np.asarray(value.cpu(), dtype=np.float64)
