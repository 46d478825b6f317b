"""Diffusion: the discrete chain and its bound, samplers, likelihood, guidance and conditioning."""

from __future__ import annotations

from energyscape.diffusion.chain import Chain, Reverse, TerminalSignalWarning, Variance
from energyscape.diffusion.likelihood import End, LogDensity, Solver, log_density
from energyscape.diffusion.multistep import DPMpp2M, UniPC
from energyscape.diffusion.parametrisation import LearnedRange, MeanPrediction
from energyscape.diffusion.samplers import (
    DDIM,
    Ancestral,
    Clip,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
    SDEHeun,
    clip_denoised,
    initial_noise,
    ladder,
)
from energyscape.diffusion.sampling import SAMPLERS, sample

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "Chain",
    "Clip",
    "DPMpp2M",
    "End",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "LearnedRange",
    "LogDensity",
    "MeanPrediction",
    "PredictorCorrector",
    "Reverse",
    "SDEHeun",
    "Sampler",
    "Solver",
    "TerminalSignalWarning",
    "UniPC",
    "Variance",
    "clip_denoised",
    "initial_noise",
    "ladder",
    "log_density",
    "sample",
]
