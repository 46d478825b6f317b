"""Markov chains: kernels, runs with diagnostics, annealing, modes and the normalising constant."""

from __future__ import annotations

from energyscape.mcmc.annealing import (
    Annealed,
    LevelInfo,
    anneal,
    annealed_langevin,
    largest_pairwise_distance,
    ncsnv2_ratio,
    ncsnv2_step_size,
)
from energyscape.mcmc.chains import Chains, RunInfo, run_chains
from energyscape.mcmc.diagnostics import Diagnostics, diagnostics
from energyscape.mcmc.hmc import HMC
from energyscape.mcmc.kernel import Box, ChainWarning, Info, Kernel, State
from energyscape.mcmc.langevin import MALA, ULA
from energyscape.mcmc.metropolis import IntegerWalk, RandomWalk

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Annealed",
    "Box",
    "ChainWarning",
    "Chains",
    "Diagnostics",
    "Info",
    "IntegerWalk",
    "Kernel",
    "LevelInfo",
    "RandomWalk",
    "RunInfo",
    "State",
    "anneal",
    "annealed_langevin",
    "diagnostics",
    "largest_pairwise_distance",
    "ncsnv2_ratio",
    "ncsnv2_step_size",
    "run_chains",
]
