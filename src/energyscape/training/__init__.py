"""The one training loop: any model, any objective, any rows, one device or many processes."""

from __future__ import annotations

from energyscape.training.checkpoint import CheckpointError
from energyscape.training.loop import Progress, Trained, train
from energyscape.training.plan import TrainConfig
from energyscape.training.precision import fastest_precision
from energyscape.training.processes import Processes
from energyscape.training.rows import EncodedRows, PictureRows, Rows, TensorRows
from energyscape.training.run import TrainingDiverged

__all__ = [
    "CheckpointError",
    "EncodedRows",
    "PictureRows",
    "Processes",
    "Progress",
    "Rows",
    "TensorRows",
    "TrainConfig",
    "Trained",
    "TrainingDiverged",
    "fastest_precision",
    "train",
]
