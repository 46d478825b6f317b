"""EBM: one energy, and every way of the field to train it.

    model      p = exp(-E)/Z, E a network tilted by a wide Gaussian; with nce in more than 8 columns
               by a mixture fitted to the rows, see `energyscape.families.tilting`
    objective  persistent     mean E(data) - mean E(chains), chains kept from step to step
               cd             the same with chains that start at the data
               short-run      the same with chains that start at a Gaussian
               improved-cd    cd with the gradient through the last step
               nce            data against a fitted mixture, by logistic regression
               ratio          neighbouring noise levels told apart, level by level
               levels         the score of the data blurred at every level of one energy
               denoising      the score of the data blurred at one level
               sliced, exact  the score of the data by parts
               finite-difference  the same from three energies, without a derivative
    sampler    Metropolis chains at temperature 1 from the replay buffer, or from noise brought down
               the levels

Pictures are learned by `levels`, see `energyscape.families.levels`; their samples end with a step
that takes the noise of the lowest level away. The first three follow the gradient of the likelihood
as far as their chains follow the model. Score matching is blind to how probable separate modes are,
and, but for noise that falls from the spread of the data during training, to the room between them.
Sources: Tieleman 2008, Du and Mordatch 1903.08689, Nijkamp et al. 1904.09770, Du et al. 2012.01316,
Gutmann and Hyvarinen 2012, 2006.12204.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape.families import settings as s
from energyscape.families.energies import network_energy
from energyscape.families.family import Composition
from energyscape.families.labels import LABEL_DROPOUT
from energyscape.families.ladder import LadderEnergy, ladder
from energyscape.families.lessons import CHAINS, SCORES, SMALL, Lesson, ratios
from energyscape.families.levelled import LevelledEstimator
from energyscape.families.levels import EnergyDenoising, LevelEnergy
from energyscape.families.networks import (
    PerClass,
    energy_network,
    is_picture,
    level_energy_network,
    ratio_network,
)
from energyscape.families.tilting import empty_reference, fitted_reference
from energyscape.families.typical import ORDINARY, Typical
from energyscape.families.walks import JUMPS
from energyscape.models import Energy, PreconditionedEnergy, TiltedEnergy
from energyscape.nn import spectrally_normalised
from energyscape.objectives import DenoisingLoss, edm_weight

__all__ = ["EBM"]

#: What only chains in training read.
_OF_CHAINS = ("sampler", "chain_steps", "step_size", "restart_fraction", "regulariser")
_WITHOUT_CLASSES = ("improved-cd", "ratio", *SCORES)
#: Level of a picture's density, in units of the data scale.
_BLUR = 0.1


class EBM(LevelledEstimator):
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
        batch_size: Annotated[
            int | None, Field(ge=1, description="rows per step; none: by the objective")
        ] = None,
        learning_rate: Annotated[
            float | None,
            Field(gt=0, le=1, description="peak learning rate of Adam; none: by the objective"),
        ] = None,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        objective: Annotated[
            Literal[
                "auto",
                "persistent",
                "cd",
                "short-run",
                "improved-cd",
                "nce",
                "ratio",
                "levels",
                "denoising",
                "sliced",
                "exact",
                "finite-difference",
            ],
            Field(
                description="what trains the energy; auto: persistent, nce in more than 8 columns, "
                "levels for pictures; the four after it run chains"
            ),
        ] = "auto",
        sampler: Annotated[
            Literal["ula", "mala", "hmc"], Field(description="how chains move in training")
        ] = "mala",
        chain_steps: Annotated[
            int | None,
            Field(
                ge=1, description="gradients per chain and training step; none: by the objective"
            ),
        ] = None,
        step_size: Annotated[
            float | None,
            Field(
                gt=0,
                description="(largest) step in units of the squared data scale, for hmc of the "
                "scale; none: by the sampler",
            ),
        ] = None,
        restart_fraction: Annotated[
            float | None,
            Field(
                ge=0,
                le=1,
                description="share of persistent chains that restart at a Gaussian; none: 0.01, "
                "0.05 for pictures",
            ),
        ] = None,
        noise_level: Annotated[
            float | None,
            Field(
                ge=0,
                description="noise added to rows, in units of the data scale; none: 0.1 for levels, "
                "0.05 for score matching, else 0.02",
            ),
        ] = None,
        first_noise_level: Annotated[
            float | None,
            Field(
                ge=0,
                description="noise that score matching starts with, which falls to noise_level over "
                "most of training, in units of the data scale; none: 1",
            ),
        ] = None,
        regulariser: Annotated[
            float, Field(ge=0, description="weight of mean(E^2), which biases the density")
        ] = 0.0,
        on_divergence: s.OnDivergence = "stop",
        normalise: s.Normalise = True,
        label: s.Label = None,
        network: s.Network = "auto",
        width: s.Width = None,
        blocks: s.Blocks = None,
        spectral: s.Spectral = False,
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

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        settings, name = self.get_params(), self._objective(self.facts_)
        if name not in CHAINS:
            known = {setting.name: setting.default for setting in s.settings_of(EBM)}
            idle = [k for k in _OF_CHAINS if settings[k] != known[k]]
            if idle:
                self._note(
                    f"{', '.join(idle)} had no effect: objective={name} trains without chains"
                )
        first = settings["first_noise_level"]
        if first is not None and name not in SCORES:
            self._note(f"first_noise_level had no effect: it is for {', '.join(SCORES)}")
        elif first and not first > self._noise_level() > 0:
            self._note(
                "first_noise_level had no effect: noise falls from it to a noise_level below it"
            )
        seen = [entry["acceptance"] for entry in self.history_ if "acceptance" in entry][-20:]
        if seen and sum(seen) / len(seen) < 0.01:
            moves = "Langevin moves" if settings["sampler"] == "mala" else "moves"
            self._note(
                f"chains of training accepted {100 * sum(seen) / len(seen):.2g} % of their {moves}, so "
                "the energy saw few draws of its own: give a smaller step_size"
            )
        self.__dict__.pop("_reference", None)
        kept = super()._after_training(x, aux)
        if name == "levels":
            kept |= Typical.fit(self._energies(self.model_, x[:ORDINARY])).arrays()
        return kept

    def _objective(self, facts: Mapping[str, Any]) -> str:
        """The objective's name, chosen by the data where it was left open."""
        if "objective" in facts:
            return str(facts["objective"])
        name, shape = str(self.get_params()["objective"]), facts["event_shape"]
        if name != "auto":
            return name
        if len(shape) == 3:
            return "levels"
        # Runs that kept no name and have many columns but no mixture were trained by chains.
        by_chains = math.prod(shape) <= JUMPS or ("scale" in facts and "components" not in facts)
        return "persistent" if by_chains else "nce"

    def _tilted(self, facts: Mapping[str, Any]) -> bool:
        """Whether the energy tilts a mixture fitted to the rows."""
        many = len(facts["event_shape"]) == 1 and math.prod(facts["event_shape"]) > JUMPS
        return many and self._objective(facts) == "nce"

    def _measure(self, x: Tensor) -> dict[str, Any]:
        facts = super()._measure(x)
        facts["objective"] = self._objective({"event_shape": x.shape[1:]})
        shaped = {"event_shape": list(x.shape[1:]), **facts}
        if self._tilted(shaped):
            self._reference = fitted_reference(x, self._noise(shaped))
            facts["components"] = len(self._reference.weights)
        return facts

    def _confined(self, network: nn.Module, facts: Mapping[str, Any]) -> Energy:
        if "components" not in facts:
            return super()._confined(network, facts)
        found = getattr(self, "_reference", None)
        if found is None:
            found = empty_reference(facts["components"], math.prod(facts["event_shape"]))
        return TiltedEnergy(network_energy(network), found)

    def _noise(self, facts: Mapping[str, Any]) -> float:
        """Standard deviation of the noise on the rows, in data units: as given, or the objective's.

        Score matching learns nothing where there are no rows: more noise leaves less such room. In
        1,000 steps spirals went from 0.66 to 0.20 nats (exact) and from 0.46 to 0.14 (denoising).
        """
        level: float | None = self.get_params()["noise_level"]
        if level is None:
            name = self._objective(facts)
            level = _BLUR if name == "levels" else SMALL if name in SCORES else 0.02
        return float(level * facts["scale"])

    def _noise_level(self) -> float:
        return self._noise(self.facts_) / float(self.facts_["scale"])

    def _build(self, facts: Mapping[str, Any]) -> Energy:
        settings, shape = self.get_params(), facts["event_shape"]
        name, classes = self._objective(facts), len(facts.get("classes", ()))
        if classes and name in _WITHOUT_CLASSES:
            raise ValueError(
                f"objective={name!r} takes no label; with label={settings['label']!r} choose an "
                "objective of persistent, cd, short-run, nce or levels"
            )
        if name == "levels":
            network = self._tamed(level_energy_network(settings, shape, classes))
            level = max(self._noise(facts), 1e-3 * facts["scale"])
            return LevelEnergy(PreconditionedEnergy(network, facts["scale"]), level)
        if classes:
            return self._confined(self._tamed(self._per_class(settings, shape, classes)), facts)
        if name != "ratio":
            return self._confined(self._tamed(energy_network(settings, shape)), facts)
        moments = torch.tensor([facts["mean"], facts["variance"]], dtype=torch.float64)
        levels = self._levels(facts)
        network = self._tamed(ratio_network(settings, shape, len(levels)))
        return LadderEnergy(network, levels, *moments)

    @staticmethod
    def _per_class(settings: Mapping[str, Any], shape: Any, classes: int) -> nn.Module:
        """A number for each class and one for all together."""
        if is_picture(settings, shape):
            raise ValueError(
                "pictures with a label are learned by objective='levels', or as rows of numbers with "
                "network='mlp'"
            )
        return PerClass(ratio_network(settings, shape, classes + 1))

    def _tamed(self, network: nn.Module) -> nn.Module:
        return spectrally_normalised(network) if self.get_params()["spectral"] else network

    def _levels(self, facts: Mapping[str, Any]) -> list[float]:
        low = max(self._noise(facts), 1e-3 * facts["scale"])
        return ladder(low, 4.0 * facts["scale"], math.prod(facts["event_shape"]))

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        name = self._objective(facts)
        if name == "levels":
            hidden = LABEL_DROPOUT if "classes" in facts else 0.0
            loss = DenoisingLoss(self._all_levels(facts), edm_weight(facts["scale"]), hidden)
            return Composition(
                model, EnergyDenoising(replace(loss, stable=True)), EnergyDenoising(loss)
            )
        if name == "ratio":
            return Composition(model, ratios(self._levels(facts), self._rows()))
        return Composition(model, *self._lesson(facts).taught(self._rows))

    def _lesson(self, facts: Mapping[str, Any]) -> Lesson:
        return Lesson(self._objective(facts), self.get_params(), facts, self._noise(facts))

    def _habits(self) -> Mapping[str, Any]:
        settings, name = self.get_params(), self._objective(self.facts_)
        levels = name == "levels"
        habits: dict[str, Any] = {
            "batch_size": settings["batch_size"] or (128 if levels else 256),
            "learning_rate": settings["learning_rate"]
            or (2e-3 if levels else 1e-3 if "components" in self.facts_ else 4e-3),
        }
        if name not in CHAINS:
            return habits
        # Chains lag behind the energy, and momentum makes the two swing around one another: without
        # it, and with a slow start, eight Gaussians after 1,500 steps (one seed) went from a
        # divergence of 0.11 nats to 0.02; the slow start alone, with more restarts, gave 0.06.
        habits |= {"betas": (0.0, 0.99), "warmup": 0.1}
        if len(self.facts_["event_shape"]) == 1 and settings["patience"] is None:
            # Narrow modes make the held-out score loss swing by more than it improves, and it is blind
            # where there are no rows, to which energies fall while chains still lag.
            habits["keep"] = "last"
        return habits

    def _short_run(self) -> int | None:
        lesson = self._lesson(self.facts_)
        return lesson.moves if lesson.name == "short-run" else None
