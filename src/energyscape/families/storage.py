"""A fitted estimator to and from its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from energyscape.artifact import (
    Artifact,
    ArtifactError,
    read_artifact,
    write_artifact,
    write_bytes,
)
from energyscape.data import Schema, codec_from_state
from energyscape.detectors import EmpiricalDetector, TableRows
from energyscape.families.family import Family

__all__ = [
    "holds_detector",
    "load_detector",
    "load_estimator",
    "save_detector",
    "save_estimator",
    "save_sampling",
]

_SAMPLING = "sampling.json"
_DETECTOR = "anomalydetector"
_Family = TypeVar("_Family", bound=Family)
_Detector = TypeVar("_Detector")


def save_estimator(estimator: Family, path: Path) -> None:
    """Write the artifact; the training curve too where the run has not written it already."""
    arrays, meta = estimator.codec_.state()
    names = getattr(estimator, "feature_names_in_", None)
    config = {
        "family": type(estimator).__name__.lower(),
        "settings": estimator.get_params(),
        "facts": estimator.facts_,
        "codec": meta,
        "data_kind": estimator.data_kind_,
        "input_kind": estimator.input_kind_,
        "frame_kind": estimator.frame_kind_,
        "n_features_in": estimator.n_features_in_,
        "feature_names_in": None if names is None else [str(n) for n in names],
    }
    model = estimator.model_.state_dict()
    if not (path / "metrics.jsonl").exists():
        lines = "".join(json.dumps(entry) + "\n" for entry in estimator.history_)
        path.mkdir(parents=True, exist_ok=True)
        write_bytes(path / "metrics.jsonl", lines.encode())
    write_artifact(path, Artifact(model, arrays, estimator.calibration_, config, estimator.info_))


def save_sampling(estimator: Family, path: str | os.PathLike[str], **about: Any) -> None:
    """Keep what is told of the last samples beside the run that drew them.

    Parameters
    ----------
    estimator : Family
        With an attribute `sampling_`.
    path : path
        The run's folder, whose weights the file names: of others it tells nothing.
    **about
        Plain values to keep with it, such as the seed.

    Raises
    ------
    ArtifactError
        If the folder holds no run, or cannot be written.
    """
    told = {"weights": _weights(Path(path)), **about, **estimator.sampling_}
    content = json.dumps(told, indent=2, allow_nan=False) + "\n"
    write_bytes(Path(path) / _SAMPLING, content.encode())


def _weights(path: Path) -> str:
    """The checksum of the run's weights."""
    try:
        return str(json.loads((path / "manifest.json").read_bytes())["files"]["model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} holds no whole run: fit one there first") from error


def _last_sampling(path: Path, weights: str) -> dict[str, Any] | None:
    """What was told of samples of these weights; None where nothing was, or of others."""
    try:
        told = json.loads((path / _SAMPLING).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or told.pop("weights", None) != weights:
        return None
    return told


def load_estimator(path: str | os.PathLike[str], families: Mapping[str, type[_Family]]) -> _Family:
    """The family that was saved, ready to sample and score.

    Raises
    ------
    ArtifactError
        One line that names what is wrong with the folder.
    """
    artifact = read_artifact(path)
    config = artifact.config
    known = {cls.__name__.lower(): cls for cls in families.values()}
    if "model" in config:
        raise ArtifactError(
            f"{path} holds the weights of {config['model']}, which is no family: build one and call "
            "energyscape.load_weights"
        )
    if config.get("family") == _DETECTOR:
        raise ArtifactError(
            f"{path} holds an anomaly detector, which learned no density: energyscape.load opens it"
        )
    if config.get("family") not in known:
        raise ArtifactError(f"{path} holds a model of an unknown family {config.get('family')!r}")
    try:
        kind = known[config["family"]]
        estimator = kind(**kind._kept_settings(config["settings"]))
        model = estimator._build(config["facts"])
        model.load_state_dict(artifact.model)
        codec = codec_from_state(artifact.codec, config["codec"])
        fitted: dict[str, Any] = {
            "facts_": config["facts"],
            "codec_": codec,
            "schema_": getattr(codec, "schema", None),
            "data_kind_": config["data_kind"],
            "input_kind_": config["input_kind"],
            "frame_kind_": config["frame_kind"],
            "n_features_in_": config["n_features_in"],
        }
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} does not fit this version of energyscape: {first}") from error
    for name, value in fitted.items():
        setattr(estimator, name, value)
    if config["feature_names_in"] is not None:
        estimator.feature_names_in_ = np.asarray(config["feature_names_in"], dtype=object)
    estimator._template = None
    estimator._frozen = None
    estimator._sampling = _last_sampling(
        Path(path), artifact.manifest["files"]["model.safetensors"]
    )
    estimator.model_ = model.eval()
    estimator.calibration_ = artifact.calibration
    estimator.info_ = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format")}
    estimator.history_ = _training_curve(Path(path) / "metrics.jsonl")
    return estimator


def save_detector(detector: Any, path: Path) -> None:
    """Write a fitted detector: its reference rows are its model."""
    names = getattr(detector, "feature_names_in_", None)
    config = {
        "family": _DETECTOR,
        "settings": detector.get_params(),
        "schema": detector.schema_.to_dict(),
        "calibrated_by": detector.calibrated_by_,
        "data_kind": detector.data_kind_,
        "input_kind": detector.input_kind_,
        "frame_kind": detector.frame_kind_,
        "n_features_in": detector.n_features_in_,
        "feature_names_in": None if names is None else [str(n) for n in names],
    }
    reference = {
        "numbers": detector.reference_.numbers,
        "codes": detector.reference_.codes,
        "reach": detector.detector_.reach,
        "own": detector.detector_.own,
    }
    if detector.get_params()["trim"]:
        reference |= {
            "sample_numbers": detector.sample_.numbers,
            "sample_codes": detector.sample_.codes,
        }
    scores = {
        "anomaly_scores": detector.calibration_scores_,
        "training_scores": detector.training_scores_,
    }
    write_artifact(path, Artifact({}, reference, scores, config, detector.info_))


def holds_detector(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an anomaly detector; False for whatever else it is, or is not."""
    try:
        config = json.loads((Path(path) / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # what is wrong is said by whoever reads the folder
    return isinstance(config, dict) and config.get("family") == _DETECTOR


def load_detector(path: str | os.PathLike[str], kind: type[_Detector]) -> _Detector:
    """The detector that was saved; the same scores.

    Raises
    ------
    ArtifactError
        One line that names what is wrong with the folder.
    """
    artifact = read_artifact(path)
    config = artifact.config
    if config.get("family") != _DETECTOR:
        raise ArtifactError(f"{path} holds no anomaly detector: use energyscape.load")
    try:
        detector: Any = kind(**config["settings"])
        rows = TableRows(artifact.codec["numbers"], artifact.codec["codes"])
        detector.reference_ = detector.sample_ = rows
        if "sample_numbers" in artifact.codec:
            sample = artifact.codec["sample_numbers"], artifact.codec["sample_codes"]
            detector.sample_ = TableRows(*sample)
        detector.detector_ = EmpiricalDetector.restore(
            rows, artifact.codec["reach"], artifact.codec["own"]
        )
        detector.schema_ = Schema.from_dict(config["schema"])
        detector.calibrated_by_ = config["calibrated_by"]
        detector.data_kind_ = config["data_kind"]
        detector.input_kind_ = config["input_kind"]
        detector.frame_kind_ = config["frame_kind"]
        detector.n_features_in_ = config["n_features_in"]
        detector.training_scores_ = artifact.calibration["training_scores"]
        detector.calibration_scores_ = artifact.calibration["anomaly_scores"]
    except (KeyError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} does not fit this version of energyscape: {first}") from error
    if config["feature_names_in"] is not None:
        detector.feature_names_in_ = np.asarray(config["feature_names_in"], dtype=object)
    detector._template = detector._reasons = None
    detector.info_ = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format")}
    detector._decide(config["settings"]["false_alarm_rate"])
    return cast(_Detector, detector)


def _training_curve(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); without it the run has a model and no training curve"
        ) from error
