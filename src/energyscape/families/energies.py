"""What the energy families share: chains for samples, a normalised density where it can be trusted.

The model is one energy at one small noise level, ``p = exp(-E)/Z``. Ratios need no Z. Its log-density
is normalised by annealed importance sampling from a Gaussian fitted to the data; when the bounds from
both sides disagree it stays unnormalised, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from energyscape.families.base import DensityEstimator, ProgressCallback, Values
from energyscape.families.denoising import as_steps
from energyscape.families.networks import energy_network
from energyscape.mcmc import MALA, run_chains
from energyscape.models import ConfinedEnergy, Energy, NetworkEnergy

__all__ = ["EnergyEstimator"]

_CONFINEMENT = 3.0
_CHAINS = 2000


class EnergyEstimator(DensityEstimator):
    """A family whose model is an `Energy` of the encoded rows."""

    default_steps = 500

    def _measure(self, x: Tensor) -> dict[str, Any]:
        flat = x.flatten(1)
        spread = flat.var(0, unbiased=False)
        return {
            "scale": max(float(spread.mean().sqrt()), 1e-3),
            "mean": flat.mean(0).tolist(),
        }

    def _build(self, facts: Mapping[str, Any]) -> Energy:
        shape = facts["event_shape"]
        network = energy_network(self.get_params(), shape)
        centre = torch.tensor(facts["mean"], dtype=torch.float32).reshape(shape)
        return ConfinedEnergy(NetworkEnergy(network), _CONFINEMENT * facts["scale"], centre)

    def _starts(self, n: int, rng: torch.Generator) -> Tensor:
        """Starts of sampling chains: states kept from training, or the confining Gaussian."""
        kept = self.calibration_.get("chains")
        if kept is not None and len(kept):
            pool = torch.from_numpy(np.ascontiguousarray(kept))
            return pool[torch.randint(len(pool), (n,), generator=rng)]
        shape = self.facts_["event_shape"]
        mean = torch.tensor(self.facts_["mean"]).reshape(shape)
        scale = _CONFINEMENT * self.facts_["scale"]
        return mean + scale * torch.randn((n, *shape), generator=rng)

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        if sampler not in (None, "mala"):
            raise ValueError(f"unknown sampler {sampler!r}; an energy is sampled by mala")
        count = steps or self.default_steps
        device = next(self.model_.parameters()).device
        energy = cast(Energy, self.model_)
        cpu = torch.Generator().manual_seed(
            int(torch.randint(2**31, (1,), generator=rng, device=device))
        )
        chains = run_chains(
            MALA(0.01 * self.facts_["scale"] ** 2),
            energy.at(None),
            self._starts(n, cpu).to(device),
            max(count // 2, 1),
            warmup=count - count // 2,
            rng=rng,
            keep="last",
            progress=as_steps(progress, "sampling"),
        )
        return chains.x

    def _log_density(self, x: Tensor) -> Values:
        energy = cast(Energy, self._double())
        with torch.no_grad():
            value = -torch.cat([energy(part) for part in x.split(8192)]).cpu().numpy()
        log_z = self.facts_.get("log_z")
        if log_z is None:
            return Values(value, "unnormalised", np.full(len(value), math.nan))
        stderr = np.full(len(value), self.facts_["log_z_stderr"])
        return Values(value - log_z, "ais", stderr)

    def _surprise(self, x: Tensor) -> Tensor:
        """The energy, shared out over dimensions by squared score."""
        energy, score = cast(Energy, self._double()).energy_and_score(x)
        share = score.square().flatten(1) + 1e-300
        share = share / share.sum(1, keepdim=True)
        return share * energy.detach()[:, None]
