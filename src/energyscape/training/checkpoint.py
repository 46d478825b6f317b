"""Checkpoints: everything a run needs to go on to the same bits.

One folder a checkpoint, ``train/step-00001200/``, one safetensors file a process in it, with the
plain values as JSON in its metadata, and its checksum beside it. The folder is written under another
name, brought to the disk, and renamed when all processes have written theirs; then older ones are
removed: whenever the run is killed, one whole checkpoint is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["CheckpointError", "latest", "read", "remove_older", "write"]

_PREFIX, _OLD = "step-", ".old"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or belongs to another run."""


def _folder(train_dir: Path, step: int) -> Path:
    return train_dir / f"{_PREFIX}{step:08d}"


def latest(train_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    if not train_dir.is_dir():
        return None
    found = list(train_dir.glob(f"{_PREFIX}*"))
    whole = [p for p in found if p.name[len(_PREFIX) :].isdigit()]
    # A step written a second time was set aside for a moment, and the run killed in it.
    whole = whole or [p for p in found if p.name[len(_PREFIX) :].removesuffix(_OLD).isdigit()]
    return max(whole, key=lambda p: p.name, default=None)


def write(
    train_dir: Path,
    step: int,
    tensors: dict[str, Tensor],
    record: dict[str, Any],
    *,
    rank: int = 0,
    barrier: Any = None,
) -> Path:
    """Write this process's part of a checkpoint and, on the first process, put it in place."""
    folder = _folder(train_dir, step)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    path = partial / f"rank{rank}.safetensors"
    try:
        save_file(contiguous, path, {"record": json.dumps(record)})
        path.with_suffix(".sha256").write_text(_digest(path))
        # A rename may reach the disk before the bytes do, which a power cut would show.
        for written in (path, path.with_suffix(".sha256")):
            with written.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {folder}: {error}; make room and go on with --resume"
        ) from error
    if barrier is not None:
        barrier()
    if rank == 0:
        old = folder.with_name(folder.name + _OLD)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        remove_older(train_dir, folder)
    if barrier is not None:
        barrier()
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_older(train_dir: Path, newest: Path | None) -> None:
    """Remove every other checkpoint, half-written ones too; all of them if `newest` is None."""
    for path in train_dir.glob(f"{_PREFIX}*"):
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


def read(folder: Path, *, rank: int, world_size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """This process's tensors and record.

    Raises
    ------
    CheckpointError
        If the file is damaged, or was written by another number of processes.
    """
    parts = len(list(folder.glob("rank*.safetensors")))
    path = folder / f"rank{rank}.safetensors"
    for part in (path, path.with_suffix(".sha256")):
        if not part.is_file() and parts <= world_size:
            raise CheckpointError(f"{part} is missing; delete {folder} to start over")
    if parts != world_size:
        raise CheckpointError(
            f"{folder} was written by {parts} processes and cannot be continued by {world_size}"
        )
    try:
        if _digest(path) != path.with_suffix(".sha256").read_text():
            raise ValueError("its checksum differs")
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            record = json.loads(file.metadata()["record"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise CheckpointError(
            f"{path} is damaged ({reason}); delete {folder} to start over"
        ) from error
    return tensors, record


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
