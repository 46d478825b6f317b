"""NCSN: a ladder of noise levels, annealed Langevin dynamics.

    model      score(x, sigma) = F(x, log sigma) / sigma            score preconditioning
    objective  sum_i sigma_i^2 DSM(sigma_i)                         levels drawn evenly
    sampler    Langevin at each level, largest first, then one noise-free step

Levels are geometric: the largest is the largest distance in the data, the ratio follows from the
dimension, the step size from the published rule. Sources: Song and Ermon 1907.05600 algorithm 1,
2006.09011 techniques 1 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape import schedules
from energyscape.diffusion import SAMPLERS
from energyscape.families import settings as s
from energyscape.families.base import Composition, ProgressCallback
from energyscape.families.denoising import DenoiserEstimator, as_steps
from energyscape.families.networks import field_network
from energyscape.mcmc import annealed_langevin, largest_pairwise_distance, ncsnv2_ratio
from energyscape.models import Denoiser, PreconditionedDenoiser, ScorePreconditioning
from energyscape.objectives import DenoisingLoss, simple_weight

__all__ = ["NCSN"]

#: Ten levels over two decades, as first published; below 24 dimensions the rule asks for less.
_CLASSIC_RATIO = 100 ** (1 / 9)


class NCSN(DenoiserEstimator):
    """A score model over a ladder of noise levels, sampled by annealed Langevin dynamics.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> NCSN(max_steps=5, random_state=0).fit(X).sample(3, steps=1).shape
    (3, 2)
    """

    purpose = (
        "score matching over a ladder of noise levels; Langevin chains that cross between modes"
    )
    default_sampler = "langevin"
    default_steps = 10

    def __init__(
        self,
        max_steps: s.MaxSteps = 4000,
        batch_size: s.BatchSize = 128,
        learning_rate: s.LearningRate = 1e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        levels: Annotated[
            int | None, Field(ge=2, description="number of noise levels; none: by the dimension")
        ] = None,
        sigma_min: Annotated[
            float | None,
            Field(gt=0, description="smallest level, encoded units; none: 0.02 of the spread"),
        ] = None,
        sigma_max: Annotated[
            float | None,
            Field(gt=0, description="largest level; none: the largest distance in the data"),
        ] = None,
        network: s.Network = "auto",
        width: s.Width = None,
        blocks: s.Blocks = None,
        dropout: s.Dropout = 0.0,
        validation_fraction: s.ValidationFraction = 0.1,
        calibration_fraction: s.CalibrationFraction = 0.1,
        patience: s.Patience = None,
        false_alarm_rate: s.FalseAlarmRate = 0.05,
        time_limit: s.TimeLimit = None,
        random_state: s.RandomState = None,
        device: s.Device = "auto",
        precision: s.Precision = "auto",
        verbose: s.Verbose = False,
    ) -> None:
        s.keep(self, locals())

    def _measure(self, x: Tensor) -> dict[str, Any]:
        facts = super()._measure(x)
        settings = self.get_params()
        scale = facts["sigma_data"]
        largest = settings["sigma_max"] or float(largest_pairwise_distance(x))
        smallest = settings["sigma_min"] or 0.02 * scale
        if not smallest < largest:
            raise ValueError(
                f"the largest level ({largest:g}) must exceed the smallest ({smallest:g})"
            )
        count = settings["levels"]
        if count is None:
            dim = x[0].numel()
            ratio = min(_CLASSIC_RATIO, ncsnv2_ratio(dim)) if dim >= 24 else _CLASSIC_RATIO
            count = max(10, math.ceil(math.log(largest / smallest) / math.log(ratio)) + 1)
        return facts | {"sigma_min": smallest, "sigma_max": largest, "levels": count}

    def _schedule(self, facts: Mapping[str, Any]) -> schedules.Geometric:
        return schedules.Geometric(facts["sigma_min"], facts["sigma_max"])

    @property
    def levels_(self) -> list[float]:
        """The ladder, largest level first."""
        count = self.facts_["levels"]
        return cast(list[float], self._schedule(self.facts_).levels(count).tolist())

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        network = field_network(self.get_params(), facts["event_shape"])
        return PreconditionedDenoiser(network, ScorePreconditioning(facts["sigma_data"]))

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        ladder = self._schedule(facts).levels(facts["levels"])
        return Composition(model, DenoisingLoss(schedules.Ladder(ladder), simple_weight))

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        if sampler not in (None, "langevin"):
            if sampler not in SAMPLERS:
                names = ", ".join(["langevin", *SAMPLERS])
                raise ValueError(f"unknown sampler {sampler!r}; choose one of {names}")
            count = steps or 32
            return super()._sample_encoded(n, rng, steps=count, sampler=sampler, progress=progress)
        denoiser = cast(Denoiser, self.model_)
        levels = self.levels_
        shown = as_steps(progress, "sampling")
        device = next(self.model_.parameters()).device
        shape = (n, *self.facts_["event_shape"])
        mean = torch.tensor(self.facts_["mean"], device=device).reshape(shape[1:])
        x0 = mean + levels[0] * torch.randn(shape, generator=rng, device=device)
        walk = annealed_langevin(
            denoiser.at,
            levels,
            x0,
            rng=rng,
            steps_per_level=steps or self.default_steps,
            on_level=None if shown is None else lambda i, x: shown(i + 1, len(levels)),
        )
        return walk.x
