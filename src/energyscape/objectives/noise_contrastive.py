"""Noise contrast: learn a density, constant included, by telling data from noise of known density.

With nu noise points per data point, ``G(x) = log p(x) - log p_n(x) - log nu`` is the log-odds of data,
and logistic regression on it (Gutmann and Hyvarinen 2012, eq. 8),

    loss = softplus(-G(x)) + sum over nu noise points of softplus(G(x_n)),

has the true density as minimiser, normalised without an integral: the additive constant of the
energy is learned like any weight (`NormalisedEnergy` gives it one of its own). It is estimated only
where the noise covers the data, so the noise is fitted to them.

*Multi-level ratios* (telescoping, 2006.12204) bridge a wide gap: neighbouring levels of one
noise-conditional energy are told apart, and the topmost from the fitted noise blurred to that level,

    G_k(x) = E(x, sigma_{k+1}) - E(x, sigma_k),     G_K(x) = -E(x, sigma_K) - log p_n(x),

so the differences add up to ``-E(x, sigma_0) = log p_{sigma_0}(x)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.densities import GaussianMixture
from energyscape.models import Energy, TiltedEnergy, per_row
from energyscape.objectives.base import Aux, LossOutput, conditioned, energies_of

__all__ = [
    "NoiseContrastive",
    "NoiseDensity",
    "RatioContrastive",
    "fit_gaussian",
    "fit_gaussian_mixture",
]


class NoiseDensity(Protocol):
    """A normalised density that can be drawn from; rows are flat. `GaussianMixture` is one."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_n in nats of rows of shape (batch, D), shape (batch,)."""
        ...

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """`n` independent draws, shape (n, D)."""
        ...


def fit_gaussian(x: Tensor, *, inflate: float = 1.0) -> GaussianMixture:
    """The Gaussian with the mean of the rows and `inflate` squared times their covariance.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Flattened to rows.
    inflate : float
        Above 1 the noise covers more than the data.

    Raises
    ------
    ValueError
        With fewer than two rows.

    Examples
    --------
    >>> import torch
    >>> fit_gaussian(torch.tensor([[0.0], [2.0]])).mean
    tensor([1.], dtype=torch.float64)
    """
    flat = _rows(x)
    covariance = torch.cov(flat.T, correction=0).reshape(flat.shape[1], -1)
    eye = torch.eye(flat.shape[1], dtype=flat.dtype)
    # A direction without spread would make the density infinite on the data.
    floor = max(1e-6 * float(covariance.diagonal().mean()), 1e-12)
    return GaussianMixture(
        [1.0], flat.mean(0, keepdim=True), (inflate**2 * covariance + floor * eye)[None]
    )


def fit_gaussian_mixture(
    x: Tensor, components: int, rng: torch.Generator, *, steps: int = 50, inflate: float = 1.0
) -> GaussianMixture:
    """A Gaussian mixture fitted by expectation-maximisation.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Flattened to rows.
    components : int
    rng : torch.Generator
        Draws the rows at which components start.
    steps : int
        Of expectation-maximisation; each raises the likelihood.
    inflate : float
        Covariances are multiplied by its square at the end.

    Raises
    ------
    ValueError
        If there are fewer rows than components, or none.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> rng = torch.Generator().manual_seed(0)
    >>> fit_gaussian_mixture(eight_gaussians().sample(200, rng), 8, rng, steps=5)
    GaussianMixture(components=8, dim=2)
    """
    flat = _rows(x)
    n, dim = flat.shape
    if not 1 <= components <= n:
        raise ValueError(f"a mixture of {n} rows may have 1 to {n} components, got {components}")
    whole = fit_gaussian(flat)
    eye = torch.eye(dim, dtype=flat.dtype)
    floor = 1e-3 * whole.covariance.diagonal().mean() * eye
    means = flat[torch.randperm(n, generator=rng)[:components]]
    spread = whole.covariance / components ** (2 / dim) + floor
    mixture = GaussianMixture([1.0] * components, means, spread.expand(components, dim, dim))
    for _ in range(steps):
        r = mixture.responsibilities(flat)
        r = r[:, r.sum(0) > 1e-3]
        mass = r.sum(0)
        means = (r.T @ flat) / mass[:, None]
        second = torch.einsum("nk,ni,nj->kij", r, flat, flat) / mass[:, None, None]
        covariances = second - means[:, :, None] * means[:, None, :] + floor
        mixture = GaussianMixture(mass, means, 0.5 * (covariances + covariances.mT))
    return GaussianMixture(mixture.weights, mixture.means, inflate**2 * mixture.covariances)


def _rows(x: Tensor) -> Tensor:
    flat = x.detach().flatten(1).double().cpu()
    if len(flat) < 2:
        raise ValueError(f"fitting a noise density needs at least 2 rows, got {len(flat)}")
    return flat


def _log_noise(noise: NoiseDensity, x: Tensor) -> Tensor:
    with torch.no_grad():
        return noise.log_prob(x.flatten(1).cpu().double()).to(x)


def _draw(noise: NoiseDensity, n: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Noise of the shape of n rows; the density lives on the CPU, so its generator does too."""
    if rng.device.type != "cpu":
        seed = torch.randint(2**62, (1,), generator=rng, device=rng.device)
        rng = torch.Generator().manual_seed(int(seed))
    return noise.sample(n, rng).to(like).reshape(n, *like.shape[1:])


@dataclass(frozen=True)
class NoiseContrastive:
    """Noise-contrastive estimation (Gutmann and Hyvarinen 2012, eq. 8).

    Parameters
    ----------
    noise : NoiseDensity, optional
        Normalised, and wherever the data are; `fit_gaussian` or `fit_gaussian_mixture` of them. None:
        the reference q of a `TiltedEnergy`, of which ``G = -f - log nu`` sees the tilt alone.
    nu : int
        Noise points per data point: more lowers the variance towards that of maximum likelihood.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import NetworkEnergy, NormalisedEnergy
    >>> from energyscape.nn import MLP
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.randn(32, 2, generator=rng)
    >>> energy = NormalisedEnergy(NetworkEnergy(MLP((2,), width=8, scalar=True)))
    >>> NoiseContrastive(fit_gaussian(x), nu=2)(energy, x, None, rng).loss.shape
    torch.Size([32])
    """

    noise: NoiseDensity | None
    nu: int = 1
    needs_double_backward = False

    def __post_init__(self) -> None:
        if self.nu < 1:
            raise ValueError(f"nu must be at least 1 noise point per row, got {self.nu}")

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses a model that is no energy."""
        energy = _energy(model)
        if self.noise is None and not isinstance(energy, TiltedEnergy):
            raise ValueError(
                f"{type(model).__name__} has no reference to be told from: give a noise density, or "
                "train a TiltedEnergy"
            )
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
        """The loss of each row with its nu noise points, shape (batch,)."""
        x = x.detach()
        labels = None if label is None else label.repeat(self.nu + 1)
        energy = _energy(conditioned(model, labels))
        if self.noise is None:
            tilted = cast(TiltedEnergy, energy)
            points = torch.cat([x, tilted.sample_reference(self.nu * len(x), x, rng)])
            log_odds = -tilted.tilt(points)
        else:
            points = torch.cat([x, _draw(self.noise, self.nu * len(x), x, rng)])
            log_odds = -energies_of(energy, points) - _log_noise(self.noise, points)
        log_odds = log_odds - math.log(self.nu)
        real, fake = log_odds[: len(x)], log_odds[len(x) :].reshape(self.nu, len(x))
        loss = F.softplus(-real) + F.softplus(fake).sum(0)
        right = 0.5 * ((real > 0).to(x.dtype).mean() + (fake < 0).to(x.dtype).mean())
        return LossOutput(loss, aux, {"accuracy": right.detach()})


@dataclass(frozen=True)
class RatioContrastive:
    """Multi-level density ratios of one noise-conditional energy (2006.12204 eq. 4 and 5).

    Each row is asked one question: between two neighbouring levels, or, at the top, between the data
    blurred to the largest level and the noise. Questions are drawn evenly, and the loss is the sum
    over them in expectation.

    Parameters
    ----------
    levels : sequence of float
        Increasing; the density learned is the one at the first.
    noise : NoiseDensity
        Fitted to the data blurred to the last level.

    Raises
    ------
    ValueError
        If the levels do not increase or are negative.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import PreconditionedEnergy
    >>> from energyscape.nn import MLP
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.randn(32, 2, generator=rng)
    >>> top = fit_gaussian(x + 4.0 * torch.randn(32, 2, generator=rng))
    >>> energy = PreconditionedEnergy(MLP((2,), width=8, scalar=True, noise=True), 1.0)
    >>> RatioContrastive([0.25, 1.0, 4.0], top)(energy, x, None, rng).loss.shape
    torch.Size([32])
    """

    levels: Sequence[float]
    noise: NoiseDensity
    needs_double_backward = False

    def __post_init__(self) -> None:
        levels = list(self.levels)
        if not levels or levels[0] <= 0 or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"ratio levels must be positive and increase, got {levels}")

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses a model that is no energy."""
        _energy(model)
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
        """The loss of each row at its question, shape (batch,)."""
        x = x.detach()
        n, count = len(x), len(self.levels)
        ladder = torch.tensor([*self.levels, self.levels[-1]], dtype=x.dtype, device=x.device)
        k = torch.randint(count, (n,), generator=rng, device=x.device)
        low, high = ladder[k], ladder[k + 1]
        top = (k == count - 1).reshape(-1, *[1] * (x.ndim - 1))
        eps = torch.randn((2, *x.shape), generator=rng, dtype=x.dtype, device=x.device)
        near = x + per_row(low, x) * eps[0]
        # The other side is another row, blurred more, or at the top a draw of the noise.
        other = x[torch.randperm(n, generator=rng, device=x.device)] if label is None else x
        far = other + per_row(high, x) * eps[1]
        far = torch.where(top, _draw(self.noise, n, x, rng), far)
        points = torch.cat([near, far])
        labels = None if label is None else label.repeat(2)
        energy = _energy(conditioned(model, labels))
        below, above = (energies_of(energy, points, side.repeat(2)) for side in (low, high))
        beyond = torch.where(top.flatten().repeat(2), -_log_noise(self.noise, points), above)
        log_odds = beyond - below
        loss = count * (F.softplus(-log_odds[:n]) + F.softplus(log_odds[n:]))
        return LossOutput(loss, aux, {})


def _energy(model: nn.Module) -> Energy:
    if not isinstance(model, Energy):
        raise ValueError(
            f"noise contrast trains an Energy, got {type(model).__name__}: wrap a scalar network "
            "in NetworkEnergy, and in NormalisedEnergy to read off its constant"
        )
    return model
