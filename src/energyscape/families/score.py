"""Score matching: the data's score, without chains and without Z.

    model      an energy, score = -grad E; or a free field, which is a score and nothing else
    objective  sliced             E[ ||s||^2 / 2 + v'(grad s) v ]         v random signs
               sliced-plain       E[ (v's)^2 / 2 + v'(grad s) v ]
               exact              E[ ||s||^2 / 2 + tr(grad s) ]
               finite-difference  sliced, by differences along v
               denoising          E|| s(x + sigma eps) + eps/sigma ||^2 / 2
    sampler    MALA for an energy; for a field Langevin with falling steps

A little noise is added to the rows: plain score matching fails where the density has a hard edge or
lies on a thin set. An energy fitted so knows the shape of each mode, and little of how probable
separate modes are: where there are no rows between them nothing ties their levels together. Sources:
Hyvarinen 2005, Vincent 2011, Song et al. 1905.07088 eq. 7 and 8, Pang et al. 2007.03317.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape.families import settings as s
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.energies import EnergyEstimator
from energyscape.families.family import Composition
from energyscape.families.judging import NoLogDensityError, Values
from energyscape.families.networks import energy_network, score_network
from energyscape.mcmc import ULA, Kernel, Pinned, anneal
from energyscape.models import ScoreField
from energyscape.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    FiniteDifferenceScoreMatching,
    Objective,
    Perturbed,
    SlicedScoreMatching,
)

__all__ = ["ScoreModel"]


class ScoreModel(EnergyEstimator):
    """An energy, or a free score field, fitted by score matching at one small noise level.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> ScoreModel(max_steps=5, random_state=0).fit(X).sample(3, steps=10).shape
    (3, 2)
    >>> ScoreModel(network="field", max_steps=5, random_state=0).fit(X).score_samples(X)
    Traceback (most recent call last):
        ...
    energyscape.families.judging.NoLogDensityError: a score field has no log-density: ...
    """

    purpose = "a score at one level, by score matching: no chains in training, local detail"

    def __init__(
        self,
        max_steps: s.MaxSteps = 3000,
        batch_size: s.BatchSize = 256,
        learning_rate: s.LearningRate = 1e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        objective: Annotated[
            Literal["sliced", "sliced-plain", "exact", "denoising", "finite-difference"],
            Field(description="which form of score matching"),
        ] = "sliced",
        network: Annotated[
            Literal["energy", "field"],
            Field(description="what the network gives: an energy, or a score without one"),
        ] = "energy",
        architecture: s.Network = "auto",
        noise_level: Annotated[
            float, Field(ge=0, description="noise added to rows, in units of the data scale")
        ] = 0.05,
        probes: Annotated[int, Field(ge=1, description="random directions per row")] = 1,
        on_divergence: s.OnDivergence = "stop",
        normalise: s.Normalise = True,
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

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        settings, shape = self.get_params(), facts["event_shape"]
        face, settings["network"] = settings["network"], settings["architecture"]
        if face == "field":
            return ScoreField(score_network(settings, shape))
        return self._confined(energy_network(settings, shape), facts)

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        settings = self.get_params()
        name, probes, scale = settings["objective"], settings["probes"], facts["scale"]
        noise = settings["noise_level"] * scale
        if name == "denoising":
            if noise == 0:
                raise ValueError(
                    "objective='denoising' needs noise_level > 0: it is what is undone"
                )
            return Composition(model, DenoisingScoreMatching(noise, antithetic=True))
        objective: Objective
        if name == "exact":
            objective = ExactScoreMatching()
        elif name == "finite-difference":
            # Well inside the noise, so that its bias is below that of the noise itself.
            step = max(0.5 * noise, 0.01 * scale)
            objective = FiniteDifferenceScoreMatching(step, probes=probes)
        else:
            objective = SlicedScoreMatching(probes=probes, variance_reduced=name == "sliced")
        return Composition(model, Perturbed(objective, noise))

    @property
    def _is_field(self) -> bool:
        return isinstance(self.model_, ScoreField)

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        return {} if self._is_field else super()._after_training(x, aux)

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
        classes: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        if not self._is_field:
            return super()._sample_encoded(n, rng, steps=steps, sampler=sampler, progress=progress)
        if sampler not in (None, "ula"):
            raise ValueError(
                f"sampler {sampler!r} tests its moves by an energy, and a score field has none: "
                "sample it by ula, or fit network='energy'"
            )
        x0 = self._base(next(self.model_.parameters()).device).sample(n, rng)
        return self._fall(x0, rng, steps, as_steps(progress, "sampling"))

    def _fall(
        self,
        x0: Tensor,
        rng: torch.Generator,
        steps: int | None,
        shown: Any,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Langevin dynamics on the field in falling steps, the known coordinates held."""
        count = steps or self.default_steps
        field, scale = cast(ScoreField, self.model_), self.facts_["scale"]
        # The last steps are small beside the noise that the field was trained at.
        smallest = 0.1 * max(self.get_params()["noise_level"], 0.01) ** 2
        sizes = np.geomspace(0.05, min(smallest, 0.05), min(count, 20)) * scale**2
        each = np.diff(np.linspace(0, count, len(sizes) + 1).round().astype(int)).tolist()
        kernels: list[Kernel] = [ULA(float(h)) for h in sizes]
        if known is not None:
            kernels = [Pinned(kernel, *known) for kernel in kernels]
        return anneal(
            x0,
            [field.at()] * len(sizes),
            kernels,
            each,
            rng=rng,
            on_level=None if shown is None else lambda i, x: shown(i + 1, len(sizes)),
        ).x

    def _sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        rng: torch.Generator,
        *,
        progress: ProgressCallback | None,
        steps: int | None,
        **options: Any,
    ) -> Tensor:
        if not self._is_field:
            options |= {"steps": steps, "progress": progress}
            return super()._sample_conditional(values, known, rng, **options)
        own = next(self.model_.parameters())
        values = torch.where(known, values, 0).to(own.dtype)
        x0 = self._base(own.device).sample(len(values), rng)
        shown = as_steps(progress, "conditional sampling")
        return self._fall(x0, rng, steps, shown, (known, values))

    def _log_density(self, x: Tensor) -> Values:
        if self._is_field:
            raise NoLogDensityError(
                "a score field has no log-density: fit network='energy' for one, or the family ebm or "
                "edm"
            )
        return super()._log_density(x)

    def _surprise(self, x: Tensor) -> Tensor:
        if not self._is_field:
            return super()._surprise(x)
        with torch.no_grad():
            score = cast(ScoreField, self._double()).score(x)
        # How strongly each coordinate is pulled elsewhere, in units of the data's scale.
        return (self.facts_["scale"] * score).square() / math.prod(self.facts_["event_shape"])
