"""What trains an energy, by name: the objective, and what its validation measures.

    persistent, cd, short-run, improved-cd     chains on the model against the rows
    nce                                        rows against a mixture, by logistic regression
    ratio                                      neighbouring noise levels told apart
    denoising, sliced, exact,
    finite-difference                          the score of the rows, at noise that falls

`energyscape.families.ebm` chooses the name, the noise and the energy; levels of pictures are trained by
`energyscape.families.levels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from energyscape.families.labels import HiddenLabels
from energyscape.families.tilting import covering_mixture
from energyscape.families.walks import ScatteredMALA, gradients_per_move, walker
from energyscape.families.watching import Watched, by_parts
from energyscape.mcmc import anneal
from energyscape.objectives import (
    Contrastive,
    DenoisingScoreMatching,
    ExactScoreMatching,
    FallingNoise,
    FiniteDifferenceScoreMatching,
    ImprovedStep,
    NoiseContrastive,
    Objective,
    Perturbed,
    RatioContrastive,
    SlicedScoreMatching,
    fit_gaussian,
)
from energyscape.targets import Target

__all__ = ["CHAINS", "SCORES", "SMALL", "Lesson", "Taught", "ratios"]

CHAINS = ("persistent", "cd", "short-run", "improved-cd")
SCORES = ("denoising", "sliced", "exact", "finite-difference")
#: Slots of persistent chains, and the share of them that restarts at every step, of tables. A slot is
#: moved once in (slots / batch) steps and lags behind the energy in between, and a chain just restarted
#: is no draw of the model: 25 Gaussians after 1,000 steps, batches of 256, went from 0.112 nats (4,096
#: and 0.05) to 0.068 (1,024), 0.049 (256) and 0.028 (256 and 0.01).
_FEW_CHAINS, _SELDOM = 256, 0.01
_MANY_CHAINS, _OFTEN = 4096, 0.05  # of pictures
#: Share of the rows that are told without their class: scores and log Z are of all classes together.
_HIDDEN = 0.5
#: Noise that score matching starts with, in units of the data scale. In 400 steps, KL with constant
#: noise and with falling: 25 Gaussians 3.5 and 0.6, pinwheel 0.43 and 0.16, two moons 0.40 and 0.07.
_WIDE = 1.0
#: Noise that it ends with.
SMALL = 0.05


class Taught(NamedTuple):
    """An objective, and the one that validates where it is another."""

    objective: Objective
    validation: Objective | None = None


@dataclass(frozen=True)
class Lesson:
    """What an energy learns by.

    Parameters
    ----------
    name : str
        Of the objective.
    settings : mapping
        The family's.
    facts : mapping
        What was measured of the rows.
    noise : float
        Standard deviation of the noise on the rows, in their units.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    noise: float

    def taught(self, rows: Callable[[], Tensor]) -> Taught:
        """The objective and its validation; `rows` gives training rows to those that need some."""
        dim = math.prod(self.facts["event_shape"])
        if self.name in CHAINS:
            watched = self._hiding(Watched(self._contrastive(dim), dim))
            return Taught(Perturbed(watched, self.noise), by_parts(dim, self.noise))
        if self.name == "nce":
            fitted = "components" in self.facts
            density = None if fitted else covering_mixture(rows(), self.noise)
            return Taught(Perturbed(self._hiding(NoiseContrastive(density, nu=2)), self.noise))
        if self.name == "denoising":
            return self._denoising()
        if self.name == "finite-difference":
            return Taught(self._falling(self._differences))
        by = ExactScoreMatching() if self.name == "exact" else SlicedScoreMatching()
        return Taught(self._falling(partial(Perturbed, by)))

    @property
    def moves(self) -> int:
        """Moves of a chain at each step of training."""
        usual = 50 if self.name == "short-run" else 10
        gradients = int(self.settings["chain_steps"] or usual)
        return max(1, gradients // gradients_per_move(self.settings["sampler"]))

    def _denoising(self) -> Taught:
        if self.noise == 0:
            raise ValueError("objective='denoising' needs noise_level > 0: it is what is undone")

        def at(sigma: float) -> Objective:
            # Where 1/sigma is large two opposite noises are worth what they cost.
            pairs = sigma < SMALL * self.facts["scale"]
            return DenoisingScoreMatching(sigma, antithetic=pairs, stable=not pairs)

        return Taught(self._falling(at), DenoisingScoreMatching(self.noise))

    def _differences(self, sigma: float) -> Objective:
        """Differences along a step well inside the noise, whose bias is then below the noise's own."""
        step = max(0.5 * sigma, 0.01 * self.facts["scale"])
        return Perturbed(FiniteDifferenceScoreMatching(step), sigma)

    def _falling(self, make: Callable[[float], Objective]) -> Objective:
        """Score matching at a noise that falls to this level."""
        first = self.settings["first_noise_level"]
        wide = float((_WIDE if first is None else first) * self.facts["scale"])
        if self.noise == 0 or wide <= self.noise:
            return make(self.noise)
        return FallingNoise(make, wide, self.noise)

    def _hiding(self, objective: Objective) -> Objective:
        """The objective on rows some of whose classes are hidden, as a class of their own."""
        if "classes" not in self.facts:
            return objective
        return HiddenLabels(objective, _HIDDEN, len(self.facts["classes"]))

    def _contrastive(self, dim: int) -> Contrastive:
        """Chains on the model as negatives."""
        settings, scale = self.settings, self.facts["scale"]
        kernel = walker(settings["sampler"], scale, dim, settings["step_size"])
        if isinstance(kernel, ScatteredMALA):
            # The step size is of Langevin moves: random walks are accepted whatever it is.
            kernel = replace(kernel, tells_jumps=False)

        def chains(
            target: Target, start: Tensor, rng: torch.Generator
        ) -> tuple[Tensor, dict[str, Tensor | float]]:
            # The weights stand still meanwhile: normalised once, not at every step.
            with parametrize.cached():
                walked = anneal(start, [target], kernel, self.moves, rng=rng)
            acceptance = walked.levels[0].acceptance
            if acceptance is None:
                return walked.x, {}
            return walked.x, {"acceptance": acceptance.mean().clamp(max=1.0)}

        pictures = len(self.facts["event_shape"]) == 3
        slots, restart = (_MANY_CHAINS, _OFTEN) if pictures else (_FEW_CHAINS, _SELDOM)
        if settings["restart_fraction"] is not None:
            restart = settings["restart_fraction"]
        improved = ImprovedStep(1e-3 * scale**2) if self.name == "improved-cd" else None
        start: Any = {"persistent": "persistent", "short-run": "noise"}.get(self.name, "data")
        return Contrastive(
            chains,
            start=start,
            buffer_size=max(slots, settings["batch_size"] or 0),
            restart_fraction=restart,
            regulariser=settings["regulariser"],
            improved=improved,
        )


def ratios(levels: Sequence[float], x: Tensor) -> RatioContrastive:
    """Neighbouring levels told apart, the last one by a Gaussian fitted to the rows blurred to it."""
    rng = torch.Generator().manual_seed(0)
    x = x + levels[-1] * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    return RatioContrastive(levels, fit_gaussian(x))
