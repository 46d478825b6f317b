"""The three faces of a blurred density: energy, score and denoiser.

Only `Energy` and `Denoiser` are modules. Either gives the other two faces, and `.at(sigma)` of
either is a `Target` for Markov chains.
"""

from __future__ import annotations

from energyscape.models.denoiser import (
    Denoiser,
    EnergyDenoiser,
    FunctionDenoiser,
    Labelled,
    PreconditionedDenoiser,
)
from energyscape.models.energy import (
    ConfinedEnergy,
    Energy,
    FunctionEnergy,
    NetworkEnergy,
    PreconditionedEnergy,
    ScaledEnergy,
    SumEnergy,
)
from energyscape.models.field import ScoreField
from energyscape.models.preconditioning import (
    Coefficients,
    EDMPreconditioning,
    EpsPreconditioning,
    Preconditioning,
    ScorePreconditioning,
    VPreconditioning,
    X0Preconditioning,
    per_row,
)

__all__ = [
    "Coefficients",
    "ConfinedEnergy",
    "Denoiser",
    "EDMPreconditioning",
    "Energy",
    "EnergyDenoiser",
    "EpsPreconditioning",
    "FunctionDenoiser",
    "FunctionEnergy",
    "Labelled",
    "NetworkEnergy",
    "PreconditionedDenoiser",
    "PreconditionedEnergy",
    "Preconditioning",
    "ScaledEnergy",
    "ScoreField",
    "ScorePreconditioning",
    "SumEnergy",
    "VPreconditioning",
    "X0Preconditioning",
    "per_row",
]
