"""An energy that may stand at every noise level: where its chains start, how they step, what is shown.

With ``objective="levels"`` the density is the lowest level's and those above it lead there from noise
(`energyscape.families.levels`); with any other the energy has one level, and all of this is that of
`EnergyEstimator`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from energyscape import schedules
from energyscape.families.energies import EnergyEstimator
from energyscape.families.evidence import energies
from energyscape.families.levels import LevelEnergy, down_to, level_walker
from energyscape.families.typical import LEVELS, Typical
from energyscape.mcmc import Kernel, run_chains
from energyscape.models import Energy, EnergyDenoiser

__all__ = ["LevelledEstimator"]

#: The widest level, in units of the data scale: where chains from noise begin.
_WIDEST = 8.0


class LevelledEstimator(EnergyEstimator):
    """A family whose energy is learned at one level, or at all of them."""

    @abc.abstractmethod
    def _objective(self, facts: Mapping[str, Any]) -> str:
        """The objective's name, chosen by the data where it was left open."""

    @abc.abstractmethod
    def _noise(self, facts: Mapping[str, Any]) -> float:
        """Standard deviation of the noise on the rows, in data units."""

    def _all_levels(self, facts: Mapping[str, Any]) -> schedules.EDM:
        """The law of levels that one energy is trained at, from below its own to noise alone."""
        scale = facts["scale"]
        low = min(0.02, 0.5 * max(self._noise(facts) / scale, 1e-3))
        return schedules.EDM.for_data(scale, sigma_min=0.5 * low, sigma_max=0.5 * _WIDEST)

    def _kernel(self, name: str) -> Kernel:
        if self._objective(self.facts_) != "levels":
            return super()._kernel(name)
        dim = math.prod(self.facts_["event_shape"])
        return level_walker(name, cast(LevelEnergy, self.model_).sigma, dim)

    def _settle(
        self,
        kernel: Kernel,
        rows: Tensor,
        aux: dict[str, Tensor] | None,
        count: int,
        moves: int,
        rng: torch.Generator,
    ) -> Tensor:
        if self._objective(self.facts_) != "levels":
            return super()._settle(kernel, rows, aux, count, moves, rng)
        target = cast(LevelEnergy, self.model_).at(None)
        start = self.from_noise(count, rng)
        return run_chains(kernel, target, start, moves, rng=rng, keep="last").x

    def _class_starts(self, classes: Tensor, kernel: Kernel, rng: torch.Generator) -> Tensor:
        if self._objective(self.facts_) != "levels":
            return super()._class_starts(classes, kernel, rng)
        return self.from_noise(len(classes), rng, classes)

    def _origin(self, classes: Tensor | None) -> tuple[str, str]:
        if self._objective(self.facts_) != "levels":
            return super()._origin(classes)
        return "noise brought down the levels", (
            "each chain comes from noise of its own and stays near where the levels led it: draws are "
            "as varied as the starts, and R-hat is not asked"
        )

    def from_noise(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Tensor:
        """Encoded starts of chains: a wide Gaussian brought down the levels of the energy.

        Parameters
        ----------
        n : int
        rng : torch.Generator
        classes : Tensor of shape (n,), optional
            The class of each.

        Returns
        -------
        Tensor of shape (n, ...)

        Raises
        ------
        ValueError
            If the objective was another than "levels".
        """
        facts, model = self.facts_, self.model_
        if self._objective(facts) != "levels":
            raise ValueError("only objective='levels' learns the levels that lead down from noise")
        law, one = self._all_levels(facts), next(model.parameters())
        mean, variance = (
            torch.tensor(facts[k], dtype=one.dtype, device=one.device) for k in ("mean", "variance")
        )
        eps = torch.randn((n, len(mean)), generator=rng, dtype=one.dtype, device=one.device)
        start = (mean + (variance + law.sigma_max**2).sqrt() * eps).reshape(
            n, *facts["event_shape"]
        )
        energy = cast(LevelEnergy, self._given(classes))
        return down_to(energy.sigma, energy, start, law, rng)

    def _finish(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Pictures without the noise of the level they were drawn at."""
        pictures = len(self.facts_["event_shape"]) == 3
        if not pictures or self._objective(self.facts_) != "levels":
            return x
        model = cast(LevelEnergy, self._given(classes))
        with torch.no_grad():
            return cast(Tensor, EnergyDenoiser(model)(x, model.sigma))

    def _energies(self, model: nn.Module, x: Tensor) -> Tensor:
        own, levels = next(model.parameters()), [self.facts_["scale"] * level for level in LEVELS]
        parts = x.to(own.device, own.dtype).split(512)
        return torch.cat([energies(cast(Energy, model), part, levels).double() for part in parts])

    def _strangeness(self, x: Tensor, energy: Tensor) -> Tensor:
        """The energy; where there is one at every level, how untypical all of them together are."""
        ordinary = Typical.restore(self.calibration_)
        if ordinary is None:
            return energy
        return ordinary.distance(self._energies(self._double(), x))
