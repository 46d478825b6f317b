"""Learn the energy landscape of your data: sample from it, score with it, find what does not belong.

Names are imported when first used, so that the command line starts without loading torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from energyscape.memory import keep_freed_memory

__version__ = "0.1.0"

_HOME = {
    name: f"energyscape.{room}"
    for room, names in {
        "artifact": ("load_weights", "save_model"),
        "densities": ("GaussianMixture",),
        "families": (
            "AnomalyDetector",
            "DDPM",
            "EBM",
            "EDM",
            "ModelDetector",
            "NCSN",
            "ScoreModel",
            "load",
        ),
        "models": ("Denoiser", "Energy"),
        "training": ("TrainConfig", "train"),
    }.items()
    for name in names
}

__all__ = sorted(["__version__", *_HOME])

keep_freed_memory()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'energyscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
