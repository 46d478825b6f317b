"""What trains a model: one loss a row, each with the data's density as its known minimiser.

Contrastive and noise-contrastive learning for energies; exact, sliced, finite-difference and
denoising score matching for energies, fields and denoisers.
"""

from __future__ import annotations

from energyscape.objectives.base import (
    Aux,
    LossOutput,
    Objective,
    Perturbed,
    conditioned,
    energies_of,
    model_score,
    needs_double_backward,
    require_smooth_energy,
)
from energyscape.objectives.contrastive import (
    Base,
    ChainsDiverged,
    Contrastive,
    ImprovedStep,
    Sampler,
    Start,
    frozen,
)
from energyscape.objectives.denoising import (
    DenoisingLoss,
    DenoisingScoreMatching,
    LevelLaw,
    Weight,
    WithLowLevels,
    edm_weight,
    level_losses,
    min_snr_weight,
    natural_weight,
    simple_weight,
    unit_weight,
)
from energyscape.objectives.falling import FallingNoise
from energyscape.objectives.noise_contrastive import (
    NoiseContrastive,
    NoiseDensity,
    RatioContrastive,
    fit_gaussian,
    fit_gaussian_mixture,
)
from energyscape.objectives.score_matching import (
    ExactScoreMatching,
    FiniteDifferenceScoreMatching,
    SlicedScoreMatching,
)

__all__ = [
    "Aux",
    "Base",
    "ChainsDiverged",
    "Contrastive",
    "DenoisingLoss",
    "DenoisingScoreMatching",
    "ExactScoreMatching",
    "FallingNoise",
    "FiniteDifferenceScoreMatching",
    "ImprovedStep",
    "LevelLaw",
    "LossOutput",
    "NoiseContrastive",
    "NoiseDensity",
    "Objective",
    "Perturbed",
    "RatioContrastive",
    "Sampler",
    "SlicedScoreMatching",
    "Start",
    "Weight",
    "WithLowLevels",
    "conditioned",
    "edm_weight",
    "energies_of",
    "fit_gaussian",
    "fit_gaussian_mixture",
    "frozen",
    "level_losses",
    "min_snr_weight",
    "model_score",
    "natural_weight",
    "needs_double_backward",
    "require_smooth_energy",
    "simple_weight",
    "unit_weight",
]
