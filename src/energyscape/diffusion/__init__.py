"""Diffusion: the discrete chain and its bound, samplers, likelihood, guidance and conditioning."""

from __future__ import annotations

from energyscape.diffusion.bound import (
    Bound,
    BoundByStep,
    Decoder,
    bound_by_step,
    cell_log_prob,
    path_log_ratio,
    variational_bound,
)
from energyscape.diffusion.chain import Chain, Reverse, TerminalSignalWarning, Variance
from energyscape.diffusion.conditioning import Conditioned, blurred_start, twisted_sample
from energyscape.diffusion.guidance import Guided
from energyscape.diffusion.likelihood import End, LogDensity, Solver, log_density
from energyscape.diffusion.losses import BoundLoss, ChainLossOutput, HybridLoss, SimpleLoss
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
from energyscape.diffusion.sampling import SAMPLERS, named_sampler, sample

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "Bound",
    "BoundByStep",
    "BoundLoss",
    "Chain",
    "ChainLossOutput",
    "Clip",
    "Conditioned",
    "DPMpp2M",
    "Decoder",
    "End",
    "Euler",
    "EulerMaruyama",
    "Guided",
    "Heun",
    "HybridLoss",
    "LearnedRange",
    "LogDensity",
    "MeanPrediction",
    "PredictorCorrector",
    "Reverse",
    "SDEHeun",
    "Sampler",
    "SimpleLoss",
    "Solver",
    "TerminalSignalWarning",
    "UniPC",
    "Variance",
    "blurred_start",
    "bound_by_step",
    "cell_log_prob",
    "clip_denoised",
    "initial_noise",
    "ladder",
    "log_density",
    "named_sampler",
    "path_log_ratio",
    "sample",
    "twisted_sample",
    "variational_bound",
]
