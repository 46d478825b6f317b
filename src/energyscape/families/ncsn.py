"""NCSN: a ladder of noise levels, annealed Langevin dynamics.

    model      score(x, sigma) = (D(x, sigma) - x) / sigma^2      D by EDM's preconditioning
    objective  sum_i sigma_i^2 DSM(sigma_i)                       levels drawn evenly, targets the
               mean of the rows of the batch that a noisy row may come from (2302.00670)
    sampler    Langevin at each level, largest first, then one noise-free step

As published the network gives ``sigma score`` itself, ``score = F/sigma``. At levels far above the
data's scale the score is nearly ``-x/sigma^2``, and F has to copy its input with a small error at each
of them. With a skip that vanishes there, ``c_skip = sd^2/(sigma^2 + sd^2)``, the untrained network
answers the score of a Gaussian of the data's scale instead, and F learns what is left (2206.00364
table 1). The loss, the levels and the chains are the same; ``parametrisation="score"`` is the published
face.

Levels are geometric. In the improved set-up the largest is the largest distance in the data, the ratio
follows from the dimension, the step size from the published rule, weights are averaged, and a step
without noise ends the walk. The classic one takes ten levels over two decades below the range of the
data's coordinates (1 to 0.01 for pictures on [0, 1]), 100 steps of a tenth of the smallest level
squared at each, weights that are not averaged, and no last step. A list of levels stands for itself.
Sources: Song and Ermon 1907.05600 algorithm 1 and section 5 (its eps is twice this step), 2006.09011
techniques 1 to 5.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from energyscape import schedules
from energyscape.families import settings as s
from energyscape.families.denoising import DenoiserEstimator
from energyscape.families.family import Composition
from energyscape.families.labels import LABEL_DROPOUT
from energyscape.families.networks import field_network
from energyscape.mcmc import largest_pairwise_distance, ncsnv2_ratio
from energyscape.models import EDMPreconditioning, PreconditionedDenoiser, ScorePreconditioning
from energyscape.objectives import DenoisingLoss, simple_weight

__all__ = ["NCSN"]

#: Ten levels over two decades, as first published; below 24 dimensions the rule asks for less.
_CLASSIC_RATIO = 100 ** (1 / 9)


#: Of the classic set-up: step size in units of the smallest level squared, steps a level.
_CLASSIC_STEP, _CLASSIC_STEPS = 0.1, 100


def _read_levels(value: Any) -> Any:
    """A number of levels, or the levels themselves: a list, or numbers with commas between them."""
    if isinstance(value, str) and "," in value:
        value = [word for word in value.strip("[]() ").split(",") if word.strip()]
    if isinstance(value, list | tuple):
        try:
            ladder = [float(v) for v in value]
        except (TypeError, ValueError):
            raise ValueError("levels are numbers, or how many of them there are") from None
        falls = len(ladder) > 1 and all(a > b for a, b in pairwise(ladder))
        if not falls or not 0 < ladder[-1] <= ladder[0] < math.inf:
            raise ValueError(
                "levels must fall from the largest sigma to the smallest, two or more, all positive "
                "and finite"
            )
        return ladder
    if value is None:
        return None
    try:
        count = int(value)
    except (OverflowError, TypeError, ValueError):
        count = 0
    if isinstance(value, bool) or count < 2 or (not isinstance(value, str) and count != value):
        raise ValueError("give how many levels, 2 or more, or the levels themselves: 4,1,0.25")
    return count


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
        batch_size: s.RowsAStep = None,
        learning_rate: s.LearningRate = 3e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        setup: Annotated[
            Literal["improved", "classic"],
            Field(
                description="how levels, steps and weights are chosen where nothing else is said"
            ),
        ] = "improved",
        levels: Annotated[
            Annotated[int, Field(ge=2)] | list[float] | None,
            BeforeValidator(_read_levels),
            Field(
                description="how many noise levels, or the levels themselves (largest first, encoded "
                "units: 4,1,0.25); none: by the dimension"
            ),
        ] = None,
        sigma_min: Annotated[
            float | None,
            Field(gt=0, description="smallest level, encoded units; none: 0.02 of the spread"),
        ] = None,
        sigma_max: Annotated[
            float | None,
            Field(gt=0, description="largest level; none: the largest distance in the data"),
        ] = None,
        parametrisation: Annotated[
            Literal["edm", "score"],
            Field(
                description="what the network predicts: EDM's target of unit variance, or sigma times "
                "the score as published, slow to learn at high levels"
            ),
        ] = "edm",
        label: s.Label = None,
        clip: s.Clip = "auto",
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
        widest = float(largest_pairwise_distance(x))
        count, classic = _read_levels(settings["levels"]), settings["setup"] == "classic"
        flat = x.flatten(1)
        spread = float((flat.amax(0) - flat.amin(0)).max()) if classic else widest
        largest = settings["sigma_max"] or spread
        smallest = settings["sigma_min"] or (0.01 * largest if classic else 0.02 * scale)
        ladder = None
        if isinstance(count, list):
            if settings["sigma_min"] is not None or settings["sigma_max"] is not None:
                raise ValueError("levels are given one by one: leave sigma_min and sigma_max out")
            ladder = count
            largest, smallest, count = ladder[0], ladder[-1], len(ladder)
        if not smallest < largest:
            raise ValueError(
                f"the largest level ({largest:g}) must exceed the smallest ({smallest:g})"
            )
        if smallest > 0.75 * scale:
            warnings.warn(
                f"the smallest level ({smallest:g}) is beside the spread of the data ({scale:.3g} a "
                "dimension): what is drawn will be blurred; 0.02 of the spread is the default",
                stacklevel=2,
            )
        if largest < widest / 4:
            warnings.warn(
                f"the largest level ({largest:g}) is far below the spread of the data: chains will "
                f"not cross between modes; {widest:.3g}, the largest distance, is what it takes",
                stacklevel=2,
            )
        if count is None and classic:
            count = 10
        if count is None:
            dim = x[0].numel()
            ratio = min(_CLASSIC_RATIO, ncsnv2_ratio(dim)) if dim >= 24 else _CLASSIC_RATIO
            count = max(10, math.ceil(math.log(largest / smallest) / math.log(ratio)) + 1)
        facts |= {"sigma_min": smallest, "sigma_max": largest, "levels": count}
        return facts if ladder is None else facts | {"ladder": ladder}

    def _schedule(self, facts: Mapping[str, Any]) -> schedules.Schedule:
        if "ladder" in facts:
            return schedules.Tabulated(facts["ladder"])
        return schedules.Geometric(facts["sigma_min"], facts["sigma_max"])

    @classmethod
    def _kept_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Runs from before there was a choice predict the score."""
        return {"parametrisation": "score"} | dict(settings)

    def _habits(self) -> Mapping[str, Any]:
        classic = self.get_params()["setup"] == "classic"
        return dict(super()._habits()) | ({"ema_decay": 0.0} if classic else {})

    @property
    def levels_(self) -> list[float]:
        """The ladder, largest level first."""
        count = self.facts_["levels"]
        return cast(list[float], self._schedule(self.facts_).levels(count).tolist())

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        network = field_network(self.get_params(), facts)
        published = self.get_params()["parametrisation"] == "score"
        kind = ScorePreconditioning if published else EDMPreconditioning
        return PreconditionedDenoiser(network, kind(facts["sigma_data"]))

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        ladder = self._schedule(facts).levels(facts["levels"])
        hidden = LABEL_DROPOUT if "classes" in facts else 0.0
        loss = DenoisingLoss(schedules.Ladder(ladder), simple_weight, hidden)
        return Composition(model, replace(loss, stable=True), loss)

    def _langevin_levels(self) -> list[float]:
        return self.levels_

    def _langevin_habits(self) -> dict[str, Any]:
        if self.get_params()["setup"] != "classic":
            return {}
        step = _CLASSIC_STEP * self.facts_["sigma_min"] ** 2
        return {"steps_per_level": _CLASSIC_STEPS, "step_size": step, "denoise": False}

    def _walk_steps(self) -> int:
        """At least as many levels as were trained."""
        return max(32, int(self.facts_["levels"]))
