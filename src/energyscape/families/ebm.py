"""EBM: maximum likelihood with negatives from persistent Langevin chains.

    model      p = exp(-E)/Z, E a network tilted by a wide Gaussian
    objective  mean E(data) - mean E(chains)                     the contrastive gradient
    sampler    Langevin at temperature 1 from a replay buffer; MALA for samples

Sources: Tieleman 2008 (persistent chains), Du and Mordatch 1903.08689 (replay buffer with restarts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape.families import settings as s
from energyscape.families.base import Composition
from energyscape.families.energies import EnergyEstimator
from energyscape.mcmc import ULA, run_chains
from energyscape.objectives import Contrastive, DenoisingScoreMatching, Perturbed
from energyscape.targets import Target

__all__ = ["EBM"]

_BUFFER = 4096


class EBM(EnergyEstimator):
    """An energy fitted by maximum likelihood with persistent contrastive divergence.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> EBM(max_steps=5, random_state=0).fit(X).sample(3, steps=10).shape
    (3, 2)
    """

    purpose = "an explicit energy by maximum likelihood: ratios, modes, anomaly scores in one pass"

    def __init__(
        self,
        max_steps: s.MaxSteps = 3000,
        batch_size: s.BatchSize = 128,
        learning_rate: s.LearningRate = 5e-4,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.995,
        chain_steps: Annotated[
            int, Field(ge=1, description="Langevin steps of the chains per training step")
        ] = 20,
        step_size: Annotated[
            float, Field(gt=0, description="Langevin step in units of the squared data scale")
        ] = 0.01,
        noise_level: Annotated[
            float, Field(ge=0, description="noise added to rows, in units of the data scale")
        ] = 0.1,
        regulariser: Annotated[
            float, Field(ge=0, description="weight of mean(E^2), which biases the density")
        ] = 0.0,
        network: s.Network = "auto",
        width: s.Width = None,
        blocks: s.Blocks = None,
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

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        settings = self.get_params()
        scale = facts["scale"]
        kernel = ULA(settings["step_size"] * scale**2)

        def chains(target: Target, start: Tensor, rng: torch.Generator) -> Tensor:
            steps = settings["chain_steps"]
            return run_chains(kernel, target, start, steps, rng=rng, keep="last").x

        sigma = max(settings["noise_level"] * scale, 1e-3 * scale)
        contrastive = Contrastive(
            chains, start="persistent", buffer_size=_BUFFER, regulariser=settings["regulariser"]
        )
        return Composition(
            model,
            Perturbed(contrastive, settings["noise_level"] * scale),
            DenoisingScoreMatching(sigma),
        )

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        if aux is None or "buffer" not in aux:
            return {}
        return {"chains": aux["buffer"].detach().float().cpu().numpy()[:_BUFFER]}
