"""DDPM: the faithful discrete chain.

    model      D = x - sigma F(x / sqrt(1 + sigma^2), log sigma)    F predicts eps
    objective  E_i E || eps - F ||^2                                the simple loss
    sampler    ancestral: x_{i-1} ~ N(mu(x_i), beta_i), all steps

Source: Ho et al. 2006.11239, algorithms 1 and 2; respaced chains 2102.09672.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape import schedules
from energyscape.diffusion import Chain
from energyscape.families import settings as s
from energyscape.families.base import Composition, ProgressCallback
from energyscape.families.denoising import DenoiserEstimator, as_steps
from energyscape.families.networks import field_network
from energyscape.models import Denoiser, EpsPreconditioning, PreconditionedDenoiser
from energyscape.objectives import DenoisingLoss, simple_weight

__all__ = ["DDPM"]


class DDPM(DenoiserEstimator):
    """A denoising diffusion chain of 1,000 steps, trained by the simple loss on eps.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> DDPM(max_steps=5, random_state=0).fit(X).sample(3, steps=10).shape
    (3, 2)
    """

    purpose = "the classic 1,000-step chain: a variational bound, and slow but sturdy samples"
    default_sampler = "ancestral"

    def __init__(
        self,
        max_steps: s.MaxSteps = 4000,
        batch_size: s.BatchSize = 128,
        learning_rate: s.LearningRate = 1e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        schedule: Annotated[
            Literal["linear", "scaled-linear", "cosine"], Field(description="how beta grows")
        ] = "linear",
        num_steps: Annotated[int, Field(ge=25, description="steps of the chain")] = 1000,
        variance: Annotated[
            Literal["fixed_small", "fixed_large"], Field(description="of the reverse steps")
        ] = "fixed_small",
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

    @property
    def chain_(self) -> Chain:
        """The chain's table."""
        return self._chain()

    def _chain(self) -> Chain:
        settings = self.get_params()
        steps = settings["num_steps"]
        if settings["schedule"] == "linear":
            return Chain.linear(steps)
        if settings["schedule"] == "scaled-linear":
            return Chain.scaled_linear(steps)
        return Chain.cosine(steps)

    def _schedule(self, facts: Mapping[str, Any]) -> schedules.Tabulated:
        return schedules.Tabulated(self._chain().sigmas, variance_preserving=True)

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        network = field_network(self.get_params(), facts["event_shape"])
        return PreconditionedDenoiser(network, EpsPreconditioning())

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        return Composition(
            model, DenoisingLoss(schedules.Ladder(self._chain().sigmas), simple_weight)
        )

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        if sampler not in (None, "ancestral"):
            count = steps or 32
            return super()._sample_encoded(n, rng, steps=count, sampler=sampler, progress=progress)
        chain = self._chain()
        if steps is not None:
            if steps > chain.num_steps:
                raise ValueError(f"the chain has {chain.num_steps} steps, {steps} were asked for")
            chain = chain.respaced(steps)
        return chain.ancestral(
            cast(Denoiser, self.model_),
            (n, *self.facts_["event_shape"]),
            rng,
            variance=self.get_params()["variance"],
            progress=as_steps(progress, "sampling"),
        )
