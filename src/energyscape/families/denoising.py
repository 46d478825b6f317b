"""What the denoiser families share beside their walks: known cells, exact density, errors.

**Known cells.** Twisted sequential Monte Carlo (2306.17775) from five times the data's spread down,
with 32 particles a row and the training rows' covariance; above 128 dimensions one conditioned walk a
row. Started higher, errors of a trained network are multiplied by ``sigma^2``: the distance of drawn to
exact conditionals of a mixture was 0.10 (edm) and 0.23 (ddpm) from 80 times the scale, and 0.07 from 5.
Asked for by name, annealed Langevin dynamics paints around the known cells instead (1907.05600
algorithm 2), with the law of each mode but weights of modes that lag behind what is known: of a true
0.83, 0.70 without the cell, 10 steps a level give 0.66 and 160 give 0.80. Other samplers give way to
the twisted walk.

**Anomaly score.** Noise a row at several levels and measure how badly it is restored,

    s(x) = mean over levels and probes of  || D(x + sigma eps, sigma) - x ||^2 / sigma^2 ,

with the same probes for every row, so that a row's score is a function of the row. Rows of the data
are restored well at levels where the model knows what belongs there; others are pulled away
(2305.18593 compares such scores). It splits over dimensions, which says what drove it. Of pictures,
where plain ones are restored best of all, the errors at all levels are judged together
(`energyscape.families.typical`): AUROC of blurred MNIST digits was 0.09 by the mean, and is 1.00.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from energyscape.diffusion import (
    Conditioned,
    LogDensity,
    log_density,
    sample,
    twisted_sample,
)
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.denoiser_walks import DenoiserWalks
from energyscape.families.evidence import denoising_errors
from energyscape.families.judging import Values
from energyscape.families.networks import PICTURE_NETWORK, is_picture
from energyscape.families.typical import FEW_ORDINARY, Typical
from energyscape.models import Denoiser
from energyscape.nn import PictureNet

__all__ = ["DenoiserEstimator"]

_LEVELS = 6
_PROBES = 4
_EXACT_DIMENSIONS = 32
_HUTCHINSON_PROBES = 8
_PARTICLES = 32
_PARTICLE_DIMENSIONS = 128
_PARTICLE_ROWS = 4096
_CONDITIONAL_STEPS = 48
_WIDEST = 5.0


class DenoiserEstimator(DenoiserWalks):
    """A family whose model is a `Denoiser` at every noise level."""

    def _measure(self, x: Tensor) -> dict[str, Any]:
        """Scale, mean and spread of the encoded rows."""
        clip = self.get_params()["clip"]
        if clip in ("static", "dynamic") and self.data_kind_ != "pictures":
            raise ValueError(f"clip={clip!r} is for pictures; a table takes clip='auto' or 'none'")
        flat = x.flatten(1)
        spread = flat.var(0, unbiased=False)
        pictures = {"picture_network": PICTURE_NETWORK} if x.ndim == 4 else {}
        return pictures | {
            "sigma_data": max(float(spread.mean().sqrt()), 1e-3),
            "mean": flat.mean(0).tolist(),
            "variance": spread.tolist(),
        }

    def _habits(self) -> Mapping[str, Any]:
        settings = self.get_params()
        pictures = is_picture(settings, self.facts_["event_shape"])
        habits = {"batch_size": settings["batch_size"] or (64 if pictures else 128)}
        # Large first steps leave a network of pictures on the plateau of a linear denoiser.
        return habits | ({"warmup": 0.1} if pictures else {})

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        kept: dict[str, np.ndarray] = {}
        if len(self.facts_["event_shape"]) == 3 and len(x) > 1:
            own = next(self.model_.parameters())
            rows = x[:FEW_ORDINARY].to(own.device, self._scoring_dtype())
            ordinary = Typical.fit(
                torch.cat([_logs(self._errors(part)) for part in rows.split(64)])
            )
            kept |= ordinary.arrays()
        flat = x.flatten(1).double()
        if 1 <= flat.shape[1] <= _PARTICLE_DIMENSIONS:
            covariance = torch.cov(flat.T, correction=0).reshape(2 * flat.shape[1:])
            kept["covariance"] = covariance.numpy()
        return kept

    # -- known cells ---------------------------------------------------------------------------

    def _sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        classes: Tensor | None,
        guidance: float | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        own = next(self.model_.parameters())
        values = torch.where(known, values, 0).to(own.dtype)
        if sampler == "langevin":
            denoiser = self._denoiser(classes, guidance)
            return self._langevin(denoiser, len(values), rng, steps, progress, (known, values))
        levels = self._conditional_levels(steps or _CONDITIONAL_STEPS)
        covariance = self.calibration_.get("covariance")
        size = _PARTICLE_ROWS // (1 if covariance is None else _PARTICLES)
        shown = as_steps(progress, "conditional sampling")
        total = -(-len(values) // size)
        parts = []
        for i, rows in enumerate(torch.arange(len(values)).split(size)):
            labels = None if classes is None else classes[rows].to(own.device)
            walk: dict[str, Any] = {"levels": levels, "rng": rng}
            if shown is not None:
                walk["progress"] = lambda done, of, i=i: shown(i * of + done, total * of)
            denoiser = self._denoiser(labels, guidance)
            if covariance is None:
                given = Conditioned(denoiser, known[rows], values[rows])
                start = self._start(len(rows), levels[0], rng)
                walk |= {"sampler": "ancestral", "clip": self._clip(guidance)}
                parts.append(sample(given, start, **walk))
                continue
            parts.append(
                twisted_sample(
                    denoiser,
                    known[rows],
                    values[rows],
                    particles=_PARTICLES,
                    covariance=torch.from_numpy(covariance),
                    start=self._blurred(own.device),
                    label=labels,
                    **walk,
                )
            )
        return torch.where(known, values, torch.cat(parts))

    def _conditional_levels(self, steps: int) -> list[float]:
        """A ladder from some times the spread of the widest coordinate down."""
        facts, schedule = self.facts_, self._schedule(self.facts_)
        widest = max(math.sqrt(max(facts["variance"])), facts["sigma_data"])
        low = max(schedule.sigma_min, 0.01 * facts["sigma_data"])
        high = min(schedule.sigma_max, _WIDEST * widest)
        return cast(list[float], self._ladder(steps, low, high).tolist())

    # -- densities -----------------------------------------------------------------------------

    def _log_density(self, x: Tensor) -> Values:
        facts = self.facts_
        dim = math.prod(facts["event_shape"])
        schedule = self._schedule(facts)
        scale = facts["sigma_data"]
        probes = 0 if dim <= _EXACT_DIMENSIONS else _HUTCHINSON_PROBES

        def density(rows: Tensor, dtype: torch.dtype) -> LogDensity:
            return log_density(
                cast(Denoiser, self._scorer(dtype)),
                rows,
                sigma_min=max(schedule.sigma_min, 0.004 * scale),
                sigma_max=min(schedule.sigma_max, 80 * scale),
                probes=probes,
                end=self._moments(rows.device),
                batch_size=max(1, 200_000 // (dim * (probes or dim))),
                dtype=dtype,
            )

        out = density(x, self._density_dtype())
        value, stderr = out.value, out.stderr
        # Squares of a cell 1e20 deviations out are beyond single precision.
        wild = ~(value.isfinite() & stderr.isfinite())
        if wild.any():
            again = density(x[wild], torch.float64)
            value[wild], stderr[wild] = again.value, again.stderr
        return Values(value.cpu().numpy(), out.kind, stderr.cpu().numpy())

    def _density_dtype(self) -> torch.dtype:
        """float32, unless it was trained in float64: path and sums are float64, and what the network
        rounds moves a row's density by some 1e-6 nats, less than what the solver errs by."""
        return next(iter(self.model_.parameters())).dtype

    def _scoring_dtype(self) -> torch.dtype:
        """float64, but for networks of pictures, which are five times as fast in float32."""
        is_large = any(isinstance(part, PictureNet) for part in self.model_.modules())
        return torch.float32 if is_large else torch.float64

    @torch.no_grad()
    def _errors(self, x: Tensor) -> Tensor:
        """Squared errors of restoring x at each level, shape (L, n, ...)."""
        dtype = self._scoring_dtype()
        denoiser = cast(Denoiser, self._scorer(dtype))
        levels = (self.facts_["sigma_data"] * np.geomspace(0.05, 1.5, _LEVELS)).tolist()
        return denoising_errors(denoiser, x, levels, probes=_PROBES, dtype=dtype)

    def _surprise(self, x: Tensor) -> Tensor:
        errors = self._errors(x)
        mean, ordinary = errors.mean(0), Typical.restore(self.calibration_)
        if ordinary is None:
            return mean
        share = mean.flatten(1) + 1e-300
        share = share / share.sum(1, keepdim=True)
        return share * ordinary.distance(_logs(errors)).to(share.dtype)[:, None]


def _logs(errors: Tensor) -> Tensor:
    """The logarithm of each row's error at each level, shape (n, L)."""
    return errors.flatten(2).double().sum(2).clamp_min(1e-12).log().T
