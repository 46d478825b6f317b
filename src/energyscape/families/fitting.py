"""What `fit` does, once for all families: split, encode, train, calibrate."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from energyscape.artifact import fingerprint, write_bytes
from energyscape.data import Dataset, PictureCodec, Split, fit_codec, split_rows
from energyscape.families.family import Composition, Family
from energyscape.families.labels import class_labels
from energyscape.models import Denoiser
from energyscape.training import (
    CheckpointError,
    EncodedRows,
    PictureRows,
    Processes,
    Progress,
    Rows,
    TensorRows,
    TrainConfig,
    fastest_precision,
    train,
)

__all__ = ["RunRecord", "fit_estimator"]

_KEPT_ROWS = 1000
_MEASURED_NUMBERS = 1_000_000  # of the training rows that scales and spreads are measured on
_CALIBRATION_ROWS = 20_000
_LEAST_CALIBRATION = 100
_CALIBRATION_PICTURES = 1000  # each costs two dozen evaluations of a large network
_VALIDATION_ROWS, _VALIDATION_PICTURES = 2048, 512
_SMALL_PICTURE = 100
_LONG_STEPS, _LONG_SECONDS = 300, 20


@dataclass(frozen=True)
class RunRecord:
    """Where a run keeps its files, if anywhere, and where its data came from."""

    out: Path | None = None
    resume: bool = False
    source: dict[str, Any] = field(default_factory=dict)


def fit_estimator(
    estimator: Family,
    dataset: Dataset,
    record: RunRecord,
    *,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Fit in place: sets every attribute that ends in an underscore."""
    processes = Processes.discover()  # waits for all of them
    settings = estimator.get_params()
    identity = {
        "family": type(estimator).__name__.lower(),
        "settings": {k: v for k, v in settings.items() if k not in _FREE},
        "data": data_fingerprint(dataset),
    }
    classes = class_labels(settings.get("label"), dataset)
    if classes is not None:  # they may come beside the data: folders, y
        names = np.asarray(classes.names, dtype=object)
        identity["labels"] = fingerprint(names, classes.codes)
    seed = _seed(settings["random_state"], record, identity, processes)
    rng = np.random.default_rng(seed)
    split = split_rows(
        len(dataset), settings["validation_fraction"], settings["calibration_fraction"], rng
    )
    codec = fit_codec(dataset, split.train)
    estimator._frozen = estimator._sampling = None
    estimator.codec_ = codec
    estimator.schema_ = dataset.schema
    estimator.data_kind_ = dataset.kind
    estimator.frame_kind_ = _frame_kind(estimator._template)
    most = 1 + _MEASURED_NUMBERS // max(int(np.prod(codec.event_shape)), 1)
    x = torch.from_numpy(codec.encode(_take(dataset, _some(split.train, most, seed)), rng).x)
    cell = codec.cell if isinstance(codec, PictureCodec) else None
    facts = {"event_shape": list(codec.event_shape), "cell": cell, **estimator._measure(x)}
    facts |= {} if classes is None else classes.facts(split.train)
    codes = None if classes is None else torch.from_numpy(classes.codes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = estimator._build(facts)
    estimator.facts_ = facts
    composition = estimator._compose(model, facts)
    config, chosen = _with_precision(
        train_config(settings, seed, estimator._habits()),
        settings,
        codec,
        composition,
        x,
        record,
        processes,
    )
    run = train(
        composition.model,
        composition.objective,
        _rows(dataset, split.train, codec, config, seed, codes),
        validation=_held_out(dataset, split, codec, config, seed, codes),
        validation_objective=composition.validation_objective,
        config=config,
        out=record.out,
        resume=record.resume,
        progress=progress,
    )
    estimator.model_ = run.model
    estimator.history_ = run.history
    estimator.info_ = {
        "seed": seed,
        "steps": run.step,
        "seconds": run.seconds,
        "stop_reason": run.stop_reason,
        "precision": config.precision,
        "device": str(next(run.model.parameters()).device),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "rows": {name: len(part) for name, part in split._asdict().items()},
        "notes": [*dataset.notes, *chosen, *_rolled_back(run.history)],
        "data": {"name": dataset.name, "kind": dataset.kind, **record.source},
        "fingerprint": identity["data"],
        "versions": versions(),
    }
    estimator.calibration_ = estimator._after_training(x.float(), run.aux)
    estimator._adjust(progress)
    _calibrate(estimator, dataset, split, progress)


def _with_precision(
    config: TrainConfig,
    settings: Mapping[str, Any],
    codec: Any,
    composition: Composition,
    x: Tensor,
    record: RunRecord,
    processes: Processes,
) -> tuple[TrainConfig, list[str]]:
    """The precision left open is float32; large networks of pictures that fields come from, in runs
    that are long enough to earn it back, take what is fastest here. A resumed run keeps what it had."""
    path = None if record.out is None else record.out / "train" / "run.json"
    known = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    if settings["precision"] != "auto" or not _may_round(config, codec, composition.model):
        return config, []
    trained = path is not None and record.resume and any(path.parent.glob("step-*"))
    if "precision" not in known and not trained:
        tried = x[: min(config.batch_size, 32)]
        name, gain = fastest_precision(
            composition.model, composition.objective, tried, config.device
        )
        known |= {"precision": name, "gain": round(gain, 2)}
        if path is not None and processes.rank == 0:
            write_bytes(path, json.dumps(known, indent=2).encode())
    name = known.get("precision", "float32")
    if name == "float32":
        return config, []
    told = f"trained in {name}, {known['gain']:.1f} times as fast here as float32"
    return replace(config, precision=name), [told]


def _may_round(config: TrainConfig, codec: Any, model: nn.Module) -> bool:
    steps, seconds = config.max_steps, config.time_limit
    long = steps >= _LONG_STEPS if seconds is None else seconds >= _LONG_SECONDS
    return long and _is_large(codec) and isinstance(model, Denoiser)


def _rolled_back(history: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of a run that diverged and went on."""
    found = [entry for entry in history if "diverged_at" in entry]
    if not found:
        return []
    steps = ", ".join(f"{entry['diverged_at']:,} (back to {entry['step']:,})" for entry in found)
    return [
        f"training diverged at step {steps} and went on at half the learning rate each time; last "
        f"reason: {found[-1]['reason']}"
    ]


#: Settings that do not change what is learned.
_FREE = ("device", "verbose", "random_state", "false_alarm_rate")


def train_config(
    settings: Mapping[str, Any], seed: int, habits: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The training part of a family's settings; habits go before them."""
    precision = settings["precision"]
    values = {
        "max_steps": settings["max_steps"],
        "batch_size": settings["batch_size"],
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"],
        "ema_decay": settings["ema_decay"],
        "seed": seed,
        "device": settings["device"],
        "precision": "float32" if precision == "auto" else precision,
        "time_limit": settings["time_limit"],
        "patience": settings["patience"],
        "on_divergence": settings.get("on_divergence", "stop"),
    }
    return TrainConfig(**(values | dict(habits or {})))


def data_fingerprint(dataset: Dataset) -> str:
    """A checksum of the values, by which a resumed run knows its data again."""
    if dataset.kind == "pictures" or dataset.array is not None:
        return fingerprint(np.asarray(dataset.data))
    hashes = dataset.data.hash_rows(seed=0).to_numpy()
    return fingerprint(hashes, np.asarray(dataset.data.columns, dtype=object))


def versions() -> dict[str, str]:
    """Versions of what a run's bits depend on."""
    names = ("energyscape", "torch", "numpy", "polars", "scikit-learn")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def _record(path: Path) -> dict[str, Any]:
    """What a run was started with; CheckpointError when the file is not whole."""
    damaged = CheckpointError(f"{path} is damaged; start over with --overwrite")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged from error
    whole = isinstance(known, dict) and {"data", "settings", "family", "seed"} <= set(known)
    if not whole or not isinstance(known["settings"], dict):
        raise damaged
    return known


def _seed(
    random_state: int | None, record: RunRecord, identity: dict[str, Any], processes: Processes
) -> int:
    """The run's seed; a resumed run reads it, and what it was started with, from its record."""
    drawn = int(np.random.SeedSequence().generate_state(1)[0])
    seed = int(processes.of_first(drawn)) if random_state is None else random_state
    if record.out is None:
        return int(seed)
    path = record.out / "train" / "run.json"
    stands = path.is_file()
    processes.barrier()  # all have looked before one writes
    if record.resume and not stands and any(path.parent.glob("step-*")):
        raise CheckpointError(
            f"{path} is missing, so nothing tells what was trained; start over with --overwrite"
        )
    if record.resume and stands:
        known = _record(path)
        if known["data"] != identity["data"]:
            raise CheckpointError(f"{record.out} was trained on other data; give a new folder")
        now = json.loads(json.dumps(identity["settings"]))
        changed = [k for k, v in now.items() if known["settings"].get(k) != v]
        if known["family"] != identity["family"] or changed:
            what = ", ".join(f"{k}={known['settings'].get(k)} (now {now[k]})" for k in changed)
            if known["family"] != identity["family"]:
                what = f"family {known['family']} (now {identity['family']})"
            raise CheckpointError(f"{record.out} was started with other settings: {what}")
        if known.get("labels", identity.get("labels")) != identity.get("labels"):
            raise CheckpointError(f"{record.out} was trained on other labels; give a new folder")
        if random_state not in (None, known["seed"]):
            raise CheckpointError(
                f"{record.out} was started with seed {known['seed']} (now {random_state})"
            )
        return int(known["seed"])
    if processes.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(identity | {"seed": int(seed)}, indent=2).encode())
    processes.barrier()
    return int(seed)


def _frame_kind(template: Any) -> str:
    return "" if template is None else type(template).__module__.split(".")[0]


def _take(dataset: Dataset, rows: np.ndarray) -> Any:
    return dataset.data[rows]


def _rows(
    dataset: Dataset,
    rows: np.ndarray,
    codec: Any,
    config: TrainConfig,
    seed: int,
    codes: Tensor | None,
) -> Rows:
    """Rows for the loop, on the training device, with noise drawn afresh where the codec draws any."""
    from energyscape.training.run import choose_device

    device = choose_device(config.device)
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    data = _take(dataset, rows)
    label = None if codes is None else codes[torch.from_numpy(rows)].to(device)
    if isinstance(codec, PictureCodec):
        pictures = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, 3, 1))).to(device)
        edges = torch.from_numpy(codec.edges)
        return PictureRows(pictures, edges, label, dtype=dtype, spread=codec.spread)
    prepared = codec.prepare(data)
    some = codec.prepare(data[:64])
    twice = [codec.encode(some, np.random.default_rng([seed, i])).x for i in (0, 1)]
    if np.array_equal(*twice):
        x = codec.encode(prepared, None).x
        return TensorRows(torch.as_tensor(x, dtype=dtype, device=device), label)
    refresh = max(-(-len(rows) // config.batch_size), 200)
    return EncodedRows(
        lambda r: codec.encode(prepared, r).x,
        len(rows),
        seed=seed,
        refresh=refresh,
        label=label,
        dtype=dtype,
        device=device,
    )


def _held_out(
    dataset: Dataset,
    split: Split,
    codec: Any,
    config: TrainConfig,
    seed: int,
    codes: Tensor | None,
) -> Rows | None:
    if len(split.validation) == 0:
        return None
    most = _VALIDATION_PICTURES if _is_large(codec) else _VALIDATION_ROWS
    rows = np.sort(_some(split.validation, most, seed))
    return _rows(dataset, rows, codec, config, seed + 1, codes)


def _some(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of these rows, at random: a file in order of classes or dates begins with one."""
    return np.random.default_rng([seed, most]).permutation(rows)[:most]


def _is_large(codec: Any) -> bool:
    """Whether rows are pictures that cost a large network milliseconds each."""
    shape = codec.event_shape
    return len(shape) == 3 and math.prod(shape[1:]) >= _SMALL_PICTURE


def _calibrate(
    estimator: Family,
    dataset: Dataset,
    split: Split,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Anomaly scores of rows that trained nothing, and some of those rows, encoded.

    With a time limit, of as many as half of it allows, though not of fewer than 100.
    """
    most = _CALIBRATION_PICTURES if _is_large(estimator.codec_) else _CALIBRATION_ROWS
    rows = _some(split.calibration, most, estimator.info_["seed"])
    limit = estimator.get_params()["time_limit"]
    seconds = math.inf if limit is None else limit / 2
    scores = inner = np.empty(0)
    kept: Tensor = torch.empty(0, *estimator.codec_.event_shape)
    if len(rows):
        encoded = estimator.codec_.encode(_take(dataset, rows), None)
        x = torch.from_numpy(encoded.x)
        parts = estimator._surprise_rows(
            x, progress, "calibrating", seconds=seconds, least=_LEAST_CALIBRATION
        )
        scores = np.sort(parts.sum(1))
        kept, inner = x[:_KEPT_ROWS], encoded.log_abs_det[:_KEPT_ROWS]
    if len(scores) < len(rows):
        estimator.info_["notes"].append(
            f"calibrated on {len(scores)} of {len(rows)} rows, in half of the time limit; "
            f"no p-value is below {1 / (len(scores) + 1):.2g}"
        )
    estimator.info_["rows"]["calibration"] = len(scores)
    estimator.calibration_ |= {
        "anomaly_scores": scores,
        # Of tables to the last bit: the same row later must have the same score.
        "rows": (kept.float() if kept.ndim > 2 else kept.double()).numpy(),
        "log_abs_det": inner,
    }
