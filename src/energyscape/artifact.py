"""What a fitted model is on disk: a folder of safetensors and JSON, checksummed, no pickle.

====================  ============================================================================
file                  content
====================  ============================================================================
model.safetensors     the averaged weights
codec.safetensors     scales and tables of the codec
calibration           anomaly scores and encoded rows of the calibration part (.safetensors)
config.json           family, settings, facts measured on the data, the codec's plain values
manifest.json         format, versions, seed, data, and the sha256 of each other file
metrics.jsonl         the training curve; ``train/`` holds checkpoints
sampling.json         what is told of the chains of the last samples, and of which weights
====================  ============================================================================

Every file is written under another name and renamed; the manifest comes last, so a folder with a
manifest is whole. Whatever is damaged, missing or foreign is refused by name.

A module of one's own has weights and no codec: `save_model` and `load_weights` keep it in the same
folder with the same checks, and the code of its class stays where it was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

__all__ = [
    "FORMAT",
    "Artifact",
    "ArtifactError",
    "fingerprint",
    "is_run",
    "load_weights",
    "prepare",
    "read_artifact",
    "save_model",
    "write_artifact",
]

FORMAT = 1
_CURVE = "metrics.jsonl"
_OF_A_RUN = ("run.json", "step-")  # what lies in train/
_FILES = ("model.safetensors", "codec.safetensors", "calibration.safetensors", "config.json")


class ArtifactError(ValueError):
    """A folder is not a fitted model, or not a whole one."""


class Artifact(NamedTuple):
    """The content of a fitted model's folder."""

    model: dict[str, Tensor]
    codec: dict[str, np.ndarray]
    calibration: dict[str, np.ndarray]
    config: dict[str, Any]
    manifest: dict[str, Any]


def fingerprint(*arrays: np.ndarray) -> str:
    """A sha256 of values, shapes and types: two data sets with the same one are the same."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        if array.dtype == object:
            digest.update("\x1f".join(map(str, array.ravel())).encode())
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def is_run(path: Path) -> bool:
    """Whether `path` is a fitted model, or a run that has not finished.

    Pictures often lie in folders called train, and other programs write a manifest.json: what counts
    is what these hold.
    """
    if _unfinished(path) or all((path / name).is_file() for name in _FILES):
        return True
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and _is_manifest(manifest)


def _unfinished(path: Path) -> bool:
    """Whether `path` has a folder of checkpoints: nothing else is in it, or it alone is there."""
    train = path / "train"
    if not train.is_dir():
        return False
    names = [p.name for p in train.iterdir() if not p.name.startswith(".")]
    beside = [p.name for p in path.iterdir() if not p.name.startswith(".")]
    return all(n.startswith(_OF_A_RUN) for n in names) and (
        bool(names) or {"train", _CURVE}.issuperset(beside)
    )


def _is_manifest(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("format"), int) and isinstance(found.get("files"), dict)


def prepare(path: str | os.PathLike[str], *, resume: bool = False, overwrite: bool = False) -> None:
    """Make the folder of a new run, or check that an old one may be used.

    Raises
    ------
    ArtifactError
        If the folder holds something and neither `resume` nor `overwrite` allows it, or it is not
        one of ours, or holds a finished model without the checkpoint to go on from.
    """
    path = Path(path)
    if path.is_file():
        raise ArtifactError(f"{path} is a file; give a folder for the run")
    if path.is_dir() and any(path.iterdir()):
        if not is_run(path):
            raise ArtifactError(
                f"{path} holds other files and no energyscape run; give a new folder"
            )
        finished, train = (path / "manifest.json").is_file(), path / "train"
        if overwrite and not resume:
            checkpoints = _unfinished(path)
            for name in (*_FILES, "manifest.json", "metrics.jsonl", "sampling.json"):
                (path / name).unlink(missing_ok=True)
            if checkpoints:
                shutil.rmtree(train, ignore_errors=True)
        elif resume and finished and not any(train.glob("step-*")):
            raise ArtifactError(
                f"{path} holds a finished model and no checkpoint to go on from; use --overwrite to "
                "replace it"
            )
        elif not resume:
            raise ArtifactError(
                f"{path} already holds a run; use --overwrite to replace it or --resume to go on"
            )
    path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it."""
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a file system that cannot be written to says so again
            aside.unlink()
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from error


def write_artifact(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write every file, then the manifest with their checksums."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in artifact.model.items()}
    contents = {
        "model.safetensors": save_tensors(weights),
        "codec.safetensors": save_arrays(_contiguous(artifact.codec)),
        "calibration.safetensors": save_arrays(_contiguous(artifact.calibration)),
        "config.json": _json(artifact.config),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if (folder / _CURVE).is_file():
        sums[_CURVE] = hashlib.sha256((folder / _CURVE).read_bytes()).hexdigest()
    manifest = artifact.manifest | {"format": FORMAT, "files": sums}
    write_bytes(folder / "manifest.json", _json(manifest))


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read and check a fitted model.

    Raises
    ------
    ArtifactError
        One line that names what is wrong: no folder, not a run, unfinished, a newer format, a missing
        or damaged file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder: give the folder of a fitted model")
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        if _unfinished(folder):
            raise ArtifactError(f"{folder} holds an unfinished run: go on with `fit ... --resume`")
        raise ArtifactError(f"{folder} is not an energyscape run: it has no manifest.json")
    manifest = _read_json(manifest_path)
    if not _is_manifest(manifest):
        raise ArtifactError(f"{manifest_path} is not an energyscape manifest")
    version = int(manifest["format"])
    if version > FORMAT:
        raise ArtifactError(
            f"{folder} was written in format {version} by energyscape "
            f"{manifest.get('versions', {}).get('energyscape', '?')}; this version reads up to "
            f"{FORMAT}: upgrade energyscape"
        )
    contents = {}
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: the run is not whole")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["files"].get(name):
            raise ArtifactError(f"{file} is damaged: its checksum differs from the manifest's")
        contents[name] = content
    # A run without its curve is a model still; one with another curve would tell a wrong story.
    curve, known = folder / _CURVE, manifest["files"].get(_CURVE)
    if known and curve.is_file() and hashlib.sha256(curve.read_bytes()).hexdigest() != known:
        raise ArtifactError(
            f"{curve} is damaged: its checksum differs from the manifest's; without it the run has "
            "a model and no training curve"
        )
    try:
        return Artifact(
            load_tensors(contents["model.safetensors"]),
            load_arrays(contents["codec.safetensors"]),
            load_arrays(contents["calibration.safetensors"]),
            json.loads(contents["config.json"]),
            manifest,
        )
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}") from error


def save_model(
    path: str | os.PathLike[str], model: nn.Module, info: dict[str, Any] | None = None
) -> None:
    """Write the weights of any module: checksummed, whole or not at all, and without pickle.

    Given the `out` of `energyscape.training.train`, it completes that folder.

    Parameters
    ----------
    path : path
        A folder, made if need be.
    model : Module
        Its `state_dict`, parameters and buffers, is written.
    info : dict, optional
        Plain values to keep in the manifest, such as the seed.

    Raises
    ------
    ArtifactError
        If `info` is not plain JSON, the state is not made of tensors, or the folder cannot be
        written.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 1)
    >>> save_model(folder, model, {"seed": 7})
    >>> again = torch.nn.Linear(2, 1)
    >>> load_weights(folder, again)["seed"], bool((again.weight == model.weight).all())
    (7, True)
    """
    state = model.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ArtifactError(f"the state of a model must be tensors; {odd[0]} is something else")
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {name: metadata.version(name) for name in ("energyscape", "torch")},
    } | (info or {})
    try:
        _json(about)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"info must be finite numbers, text, lists and dicts: {error}"
        ) from error
    config = {"model": type(model).__qualname__}
    write_artifact(path, Artifact(state, {}, {}, config, about))


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Put the weights that `save_model` wrote into a module of the same make.

    Parameters
    ----------
    path : path
    model : Module
        Built as the saved one was; its own type and device are kept.

    Returns
    -------
    info : dict
        What the manifest says of the run.

    Raises
    ------
    ArtifactError
        If the folder is damaged or no artifact, or the weights are those of another model; the model
        is then as it was.
    """
    artifact = read_artifact(path)
    own = model.state_dict()
    strange = sorted(set(own) ^ set(artifact.model))
    if strange:
        side = "the model has no" if strange[0] in artifact.model else "the folder has no"
        raise ArtifactError(f"{path} holds the weights of another model: {side} {strange[0]}")
    for name, value in own.items():
        found = artifact.model[name]
        if found.shape != value.shape:
            raise ArtifactError(
                f"{path} holds the weights of another model: {name} has shape "
                f"{tuple(found.shape)} there and {tuple(value.shape)} here"
            )
    model.load_state_dict(artifact.model)
    return {k: v for k, v in artifact.manifest.items() if k not in ("files", "format")}


def _contiguous(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.ascontiguousarray(v) for k, v in arrays.items()}


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not an energyscape manifest")
    return value
