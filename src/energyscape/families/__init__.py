"""The five families, each an estimator and its composition in one file.

======  ==============  =========================================  ==============================
name    model           objective                                  sampler
======  ==============  =========================================  ==============================
ebm     energy          contrastive; of pictures, all levels       MALA from settled chains
score   energy          sliced score matching at one level         MALA
ncsn    score net       denoising over a ladder of levels          annealed Langevin
ddpm    eps net         simple loss on a 1,000-step chain          ancestral
edm     EDM denoiser    denoising over all levels                  Heun on the ODE
======  ==============  =========================================  ==============================

`AnomalyDetector` stands beside them: it learns no density, and finds rows that do not belong.
`ModelDetector` finds them by what a fitted family says of rows.
"""

from __future__ import annotations

import os

from energyscape.artifact import ArtifactError, prepare
from energyscape.families.anomaly import AnomalyDetector
from energyscape.families.base import DensityEstimator
from energyscape.families.ddpm import DDPM
from energyscape.families.detecting import Evidence, ModelDetector
from energyscape.families.drifting import DriftFound, Moved
from energyscape.families.ebm import EBM
from energyscape.families.edm import EDM
from energyscape.families.explaining import Blame, Explanation
from energyscape.families.judging import NoLogDensityError, Values
from energyscape.families.ncsn import NCSN
from energyscape.families.score import ScoreModel
from energyscape.families.settings import Setting, SettingError, settings_of, validate_settings
from energyscape.families.storage import holds_detector, load_detector, load_estimator
from energyscape.training import CheckpointError, Progress, TrainingDiverged

__all__ = [
    "DDPM",
    "EBM",
    "EDM",
    "FAMILIES",
    "MODELS",
    "NCSN",
    "AnomalyDetector",
    "ArtifactError",
    "Blame",
    "CheckpointError",
    "DensityEstimator",
    "DriftFound",
    "Evidence",
    "Explanation",
    "ModelDetector",
    "Moved",
    "NoLogDensityError",
    "Progress",
    "ScoreModel",
    "Setting",
    "SettingError",
    "TrainingDiverged",
    "Values",
    "load",
    "prepare",
    "settings_of",
    "validate_settings",
]

FAMILIES: dict[str, type[DensityEstimator]] = {
    "ebm": EBM,
    "score": ScoreModel,
    "ncsn": NCSN,
    "ddpm": DDPM,
    "edm": EDM,
}


#: All that `fit --model` knows: the families, and the detector that learns no density.
MODELS: dict[str, type[DensityEstimator] | type[AnomalyDetector]] = {
    **FAMILIES,
    "anomaly": AnomalyDetector,
}


def load(path: str | os.PathLike[str]) -> DensityEstimator | AnomalyDetector:
    """The fitted estimator, or anomaly detector, that was saved in a folder.

    Raises
    ------
    ArtifactError
        One line that names what is wrong with the folder.
    """
    return (
        load_detector(path, AnomalyDetector)
        if holds_detector(path)
        else load_estimator(path, FAMILIES)
    )
