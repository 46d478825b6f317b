"""Diffusion: the discrete chain and its bound, samplers, likelihood, guidance and conditioning."""

from __future__ import annotations

from energyscape.diffusion.multistep import DPMpp2M, UniPC
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
    "Clip",
    "DPMpp2M",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "SDEHeun",
    "Sampler",
    "UniPC",
    "clip_denoised",
    "initial_noise",
    "ladder",
    "sample",
]
