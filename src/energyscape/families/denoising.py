"""What the denoiser families share: sampling by any sampler, exact density, denoising error.

**Anomaly score.** Noise a row at several levels and measure how badly it is restored,

    s(x) = mean over levels and probes of  || D(x + sigma eps, sigma) - x ||^2 / sigma^2 ,

with the same probes for every row, so that a row's score is a function of the row. Rows of the data
are restored well at levels where the model knows what belongs there; others are pulled away
(2305.18593 compares such scores). It splits over dimensions, which says what drove it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from energyscape.diffusion import SAMPLERS, log_density, sample
from energyscape.families.base import DensityEstimator, ProgressCallback, Values
from energyscape.models import Denoiser
from energyscape.schedules import Schedule
from energyscape.training import Progress

__all__ = ["DenoiserEstimator"]

_LEVELS = 6
_PROBES = 4
_EXACT_DIMENSIONS = 32
_HUTCHINSON_PROBES = 8


class DenoiserEstimator(DensityEstimator):
    """A family whose model is a `Denoiser` at every noise level."""

    default_sampler = "heun"
    default_steps = 32

    def _schedule(self, facts: Mapping[str, Any]) -> Schedule:
        """The levels the model was trained on."""
        raise TypeError(f"{type(self).__name__} must say which levels it was trained on")

    def _measure(self, x: Tensor) -> dict[str, Any]:
        """Scale, mean and spread of the encoded rows."""
        flat = x.flatten(1)
        spread = flat.var(0, unbiased=False)
        return {
            "sigma_data": max(float(spread.mean().sqrt()), 1e-3),
            "mean": flat.mean(0).tolist(),
            "variance": spread.tolist(),
        }

    @property
    def levels_(self) -> list[float]:
        """A decreasing ladder of levels for pictures and reports."""
        return cast(list[float], self._schedule(self.facts_).levels(10).tolist())

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        name = sampler or self.default_sampler
        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
        shape = (n, *self.facts_["event_shape"])
        count = steps or self.default_steps
        return sample(
            cast(Denoiser, self.model_),
            shape,
            sampler=name,
            schedule=self._schedule(self.facts_),
            steps=count,
            rng=rng,
            progress=as_steps(progress, "sampling"),
        )

    def _log_density(self, x: Tensor) -> Values:
        facts = self.facts_
        dim = math.prod(facts["event_shape"])
        schedule = self._schedule(facts)
        scale = facts["sigma_data"]
        probes = 0 if dim <= _EXACT_DIMENSIONS else _HUTCHINSON_PROBES
        out = log_density(
            cast(Denoiser, self._double()),
            x,
            sigma_min=max(schedule.sigma_min, 0.004 * scale),
            sigma_max=min(schedule.sigma_max, 80 * scale),
            probes=probes,
            end=self._end(x.device),
            batch_size=max(1, 200_000 // (dim * (probes or dim))),
        )
        return Values(out.value.cpu().numpy(), out.kind, out.stderr.cpu().numpy())

    def _end(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = self.facts_["event_shape"]
        mean = torch.tensor(self.facts_["mean"], dtype=torch.float64, device=device).reshape(shape)
        variance = torch.tensor(
            self.facts_["variance"], dtype=torch.float64, device=device
        ).reshape(shape)
        return mean, variance

    @torch.no_grad()
    def _surprise(self, x: Tensor) -> Tensor:
        denoiser = self._double()
        scale = self.facts_["sigma_data"]
        levels = np.geomspace(0.05 * scale, 1.5 * scale, _LEVELS)
        rng = torch.Generator().manual_seed(0)
        half = torch.randn(
            (_LEVELS, _PROBES // 2, *x.shape[1:]), generator=rng, dtype=torch.float64
        )
        total = torch.zeros_like(x)
        for sigma, noise in zip(levels, torch.cat([half, -half], dim=1).to(x.device), strict=True):
            for eps in noise:
                error = denoiser(x + sigma * eps, float(sigma)) - x
                total += error.square() / (sigma**2 * _LEVELS * _PROBES)
        return total


def as_steps(progress: ProgressCallback | None, phase: str) -> Any:
    """A ``(done, total)`` callback from one that takes a `Progress`."""
    if progress is None:
        return None
    import time

    began = time.monotonic()

    def show(done: int, total: int) -> None:
        speed = done / max(time.monotonic() - began, 1e-9)
        progress(Progress(phase, done, total, None, speed, (total - done) / max(speed, 1e-9)))

    return show
