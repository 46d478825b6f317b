"""The three faces of a blurred density: energy, score and denoiser.

Only `Energy` and `Denoiser` are modules. Either gives the other two faces, and `.at(sigma)` of
either is a `Target` for Markov chains.
"""

from __future__ import annotations

from energyscape.models.algebra import (
    BoxEnergy,
    ClassEnergy,
    MixtureEnergy,
    NegatedEnergy,
    NormalisedEnergy,
)
from energyscape.models.analytic import (
    DoubleWell,
    ExponentialFamily,
    Funnel,
    MixtureOfGaussians,
    Rings,
)
from energyscape.models.confined import ConfinedEnergy
from energyscape.models.denoiser import (
    Denoiser,
    EnergyDenoiser,
    FunctionDenoiser,
    Labelled,
    PreconditionedDenoiser,
)
from energyscape.models.energy import (
    Energy,
    FunctionEnergy,
    ScaledEnergy,
    SumEnergy,
)
from energyscape.models.field import ScoreField
from energyscape.models.mixed import FewValues, MixedDenoiser
from energyscape.models.network_energy import NetworkEnergy, PreconditionedEnergy
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
from energyscape.models.tilted import TiltedEnergy

__all__ = [
    "BoxEnergy",
    "ClassEnergy",
    "Coefficients",
    "ConfinedEnergy",
    "Denoiser",
    "DoubleWell",
    "EDMPreconditioning",
    "Energy",
    "EnergyDenoiser",
    "EpsPreconditioning",
    "ExponentialFamily",
    "FewValues",
    "FunctionDenoiser",
    "FunctionEnergy",
    "Funnel",
    "Labelled",
    "MixedDenoiser",
    "MixtureEnergy",
    "MixtureOfGaussians",
    "NegatedEnergy",
    "NetworkEnergy",
    "NormalisedEnergy",
    "PreconditionedDenoiser",
    "PreconditionedEnergy",
    "Preconditioning",
    "Rings",
    "ScaledEnergy",
    "ScoreField",
    "ScorePreconditioning",
    "SumEnergy",
    "TiltedEnergy",
    "VPreconditioning",
    "X0Preconditioning",
    "per_row",
]
