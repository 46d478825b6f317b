"""Score matching: an energy whose score matches the data's, without chains and without Z.

    model      p = exp(-E)/Z, E a network tilted by a wide Gaussian; score = -grad E
    objective  E[ ||s||^2 / 2 + v'(grad s) v ]     sliced, variance reduced; v random signs
    sampler    MALA at one level

A little noise is added to the rows: plain score matching fails where the density has a hard edge or
lies on a thin set. Sources: Hyvarinen 2005, Song et al. 1905.07088 eq. 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from energyscape.families import settings as s
from energyscape.families.base import Composition
from energyscape.families.energies import EnergyEstimator
from energyscape.objectives import Perturbed, SlicedScoreMatching

__all__ = ["ScoreModel"]


class ScoreModel(EnergyEstimator):
    """An energy fitted by sliced score matching at one small noise level.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> ScoreModel(max_steps=5, random_state=0).fit(X).sample(3, steps=10).shape
    (3, 2)
    """

    purpose = "an explicit energy by score matching: no chains in training, local detail"

    def __init__(
        self,
        max_steps: s.MaxSteps = 4000,
        batch_size: s.BatchSize = 128,
        learning_rate: s.LearningRate = 1e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        noise_level: Annotated[
            float, Field(ge=0, description="noise added to rows, in units of the data scale")
        ] = 0.1,
        probes: Annotated[int, Field(ge=1, description="random directions per row")] = 1,
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
        sliced = SlicedScoreMatching(probes=settings["probes"])
        return Composition(model, Perturbed(sliced, settings["noise_level"] * facts["scale"]))
