"""Markov chains: kernels, runs with diagnostics, annealing, modes and the normalising constant."""

from __future__ import annotations

from energyscape.mcmc.adaptation import DualAveraging
from energyscape.mcmc.annealing import Annealed, LevelInfo, anneal, annealed_langevin
from energyscape.mcmc.chains import Chains, RunInfo, run_chains
from energyscape.mcmc.diagnostics import Diagnostics, diagnostics
from energyscape.mcmc.excerpts import Excerpt
from energyscape.mcmc.hmc import HMC
from energyscape.mcmc.kernel import Box, ChainWarning, Info, Kernel, State
from energyscape.mcmc.ladders import largest_pairwise_distance, ncsnv2_ratio, ncsnv2_step_size
from energyscape.mcmc.langevin import MALA, ULA
from energyscape.mcmc.metropolis import IntegerWalk, RandomWalk
from energyscape.mcmc.modes import Modes, find_modes, simulated_annealing
from energyscape.mcmc.normalising import LogZ, ais
from energyscape.mcmc.paths import Base, GaussianBase, GeometricPath, MixtureBase, Tempered
from energyscape.mcmc.pinned import Pinned
from energyscape.mcmc.quadrature import Integral, quadrature
from energyscape.mcmc.tempering import ParallelTempering

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Annealed",
    "Base",
    "Box",
    "ChainWarning",
    "Chains",
    "Diagnostics",
    "DualAveraging",
    "Excerpt",
    "GaussianBase",
    "GeometricPath",
    "Info",
    "IntegerWalk",
    "Integral",
    "Kernel",
    "LevelInfo",
    "LogZ",
    "MixtureBase",
    "Modes",
    "ParallelTempering",
    "Pinned",
    "RandomWalk",
    "RunInfo",
    "State",
    "Tempered",
    "ais",
    "anneal",
    "annealed_langevin",
    "diagnostics",
    "find_modes",
    "largest_pairwise_distance",
    "ncsnv2_ratio",
    "ncsnv2_step_size",
    "quadrature",
    "run_chains",
    "simulated_annealing",
]
