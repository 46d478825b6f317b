"""One energy at every noise level: what trains it, where its chains start, and how far they step.

The density blurred at any level, ``p_sigma = exp(-E(., sigma))/Z``, is learned from the denoising
error of ``D = x - sigma^2 grad E``. That needs no chains, hence cannot diverge with them (1910.07762,
with the preconditioning and the law of levels of 2206.00364). The family's density is the one at the
lowest level, sigma_0. The levels above it bring noise to it: stochastic Heun steps of D down to 0, and
noise of scale sigma_0 on what they end at. From there chains walk on ``p_sigma_0`` at temperature 1.

A density blurred at sigma is nowhere more curved than ``1/sigma^2``, so Langevin steps need no tuning:
``h = 1.4 sigma^2 D^(-1/3)`` is accepted about six times in ten where the noise fills D dimensions
(Roberts and Rosenthal 1998). ``D(x, sigma_0)`` takes the noise of the level away again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from energyscape.diffusion import sample
from energyscape.families.walks import ScatteredMALA, walker
from energyscape.mcmc import HMC, ULA, Kernel
from energyscape.models import Energy, EnergyDenoiser, PreconditionedEnergy
from energyscape.objectives import Aux, DenoisingLoss, LossOutput
from energyscape.schedules import Schedule

__all__ = ["EnergyDenoising", "LevelEnergy", "down_to", "level_walker"]

_STEPS = 32


class LevelEnergy(Energy):
    """A noise-conditional energy that stands at one level unless told another."""

    def __init__(self, energy: Energy, sigma: float) -> None:
        super().__init__()
        self.energy = energy
        self.sigma = sigma

    def given(self, label: int | Tensor) -> Energy:
        """The energy given one class, or one class a row."""
        return LevelEnergy(cast(PreconditionedEnergy, self.energy).given(label), self.sigma)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x, sigma), shape (batch,)."""
        return cast(Tensor, self.energy(x, self.sigma if sigma is None else sigma))


@dataclass(frozen=True)
class EnergyDenoising:
    """A denoising loss of the denoiser that an energy implies; the energy is what is trained."""

    loss: DenoisingLoss
    needs_double_backward = True
    validates_without_graph = True

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
        """The weighted error of each row, shape (batch,)."""
        return self.loss(EnergyDenoiser(cast(Energy, model)), x, aux, rng, label=label)


def down_to(
    sigma: float, energy: Energy, start: Tensor, schedule: Schedule, rng: torch.Generator
) -> Tensor:
    """Noise brought down the levels of an energy, and blurred again at `sigma`.

    Parameters
    ----------
    sigma : float
        In data units.
    energy : Energy
        Conditional on the level.
    start : Tensor of shape (n, ...)
        Draws of about the data blurred at the schedule's largest level.
    schedule : Schedule
        Its levels lead down.
    rng : torch.Generator

    Returns
    -------
    Tensor, shape of `start`
        About draws of the density blurred at `sigma`: where chains on it may start.
    """
    x = sample(
        EnergyDenoiser(energy),
        start,
        sampler="sde_heun",
        levels=schedule.levels(_STEPS).tolist(),
        rng=rng,
    )
    eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    return x + sigma * eps


def level_walker(name: str, sigma: float, dim: int) -> Kernel:
    """The kernel called `name` with a step that fits a density blurred at `sigma`.

    Raises
    ------
    ValueError
        For a name that is not "ula", "mala" or "hmc".
    """
    if name == "ula":
        return ULA(0.1 * sigma**2)
    if name == "mala":
        # A third as far to twice as far as is best for pure noise: a network's energy is rougher.
        return ScatteredMALA(2 * 1.4 * sigma**2 * dim ** (-1 / 3), decades=0.8)
    if name == "hmc":
        return HMC(sigma * dim ** (-1 / 4), num_leapfrog=5)
    return walker(name, sigma, dim)
