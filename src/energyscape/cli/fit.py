"""``energyscape fit``: learn the density of data and leave a run."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.console import Bar, note, notes, tell
from energyscape.cli.failures import BadInput, State
from energyscape.cli.options import (
    Channels,
    Data,
    Device,
    Drop,
    Overwrite,
    Quiet,
    Seed,
    Size,
    Types,
    nearest,
    to_pairs,
    to_seconds,
    to_size,
)
from energyscape.cli.runs import check_device

if TYPE_CHECKING:
    from energyscape.data import Dataset
    from energyscape.families import AnomalyDetector, DensityEstimator

__all__ = ["EXAMPLE", "run"]

DETECTOR = "anomaly"
EXAMPLE = "Example: energyscape fit penguins.csv --out runs/penguins --set max_steps=2000 --seed 1"


def run(
    ctx: typer.Context,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="RUN", help="Folder to write.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="FAMILY",
            help="ebm, score, ncsn, ddpm, edm; or anomaly: finds rows that do not belong.",
        ),
    ] = "edm",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="TOML", help="Settings, one a line.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", metavar="TOML", help="Column types, by `inspect`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting; see `models`. Repeatable."),
    ] = None,
    types: Types = None,
    drop: Drop = None,
    size: Size = None,
    channels: Channels = None,
    duration: Annotated[
        str | None, typer.Option("--time", metavar="5m", help="Train for so long: 30s, 5m, 1h.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Learn the density of DATA, or which rows are ordinary.

    A run is a folder: model, codec, calibration, settings, training curve, checkpoints.
    Ctrl-C stops after a checkpoint; the same command with --resume goes on to the same result.
    With --model anomaly no network is trained: it takes seconds, and there is nothing to resume.
    """
    first = _is_first_process()
    quiet = quiet or not first
    if first:
        _check_folder(out, resume=resume, overwrite=overwrite)
    time_limit = to_seconds(duration)
    if model == DETECTOR:
        _refuse_for_detector(device, {"--resume": resume, "--time": duration})
        if _in_several_processes():
            raise BadInput(f"--model {DETECTOR} trains no network: fit it in one process")
        device = None
    from energyscape.data import load
    from energyscape.families import prepare

    check_device(device or "auto")
    estimator = _estimator(model, config, settings, seed=seed, device=device)
    kinds, dropped = _types(schema, types, drop)
    dataset = load(data, types=kinds, drop=dropped, size=to_size(size), channels=channels)
    notes(_remarks(dataset), quiet=quiet)
    if resume and not out.exists():
        note(f"{out} does not exist yet: the run starts from the beginning", quiet=quiet)
    stood = out.exists()
    if first:
        prepare(out, resume=resume, overwrite=overwrite)
    state: State = ctx.ensure_object(State)
    tell(f"fitting {model} to {len(dataset)} {_rows(dataset.kind)} of {dataset.name}", quiet=quiet)
    how: dict[str, Any] = {"resume": resume, "time_limit": time_limit} if model != DETECTOR else {}
    try:
        with Bar(quiet=quiet) as bar:
            source: dict[str, Any] = {"source": _absolute(data), "types": kinds, "drop": dropped}
            source |= {"size": to_size(size), "channels": channels}
            estimator.fit_run(dataset, out, progress=bar, source=source, **how)
    except KeyboardInterrupt:
        state.go_on = state.command(add=["--resume"], leave_out=["--overwrite"])
        raise
    except ValueError:
        # nothing half-written when settings or data make the run impossible; checkpoints are kept
        if first and not stood and not any(out.glob("train/step-*")):
            shutil.rmtree(out, ignore_errors=True)
        raise
    if model == DETECTOR:
        _say_what_was_learned(estimator, out, quiet)
    else:
        about_data = set(dataset.notes)
        learned = [line for line in estimator.info_["notes"] if line not in about_data]
        notes(dict.fromkeys(learned), quiet=quiet)
        _say_what_next(estimator, out, data, quiet)


def _in_several_processes() -> bool:
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def _is_first_process() -> bool:
    """Of many processes (torchrun) the first one speaks, and makes the folder."""
    return not _in_several_processes() or os.environ.get("RANK", "0") == "0"


def _refuse_for_detector(device: str | None, given: dict[str, Any]) -> None:
    """Options that mean nothing to a detector, refused rather than ignored."""
    for name, value in given.items():
        if value:
            raise BadInput(f"--model {DETECTOR} trains no network: leave out {name}")
    if device not in (None, "auto", "cpu"):
        raise BadInput(
            f"--model {DETECTOR} trains no network and runs on the processor, not {device}"
        )


def _remarks(dataset: Dataset) -> list[str]:
    """The notes of reading, with the columns that are left out first and called so."""
    left = {} if dataset.schema is None else dict(dataset.schema.left_out)
    first = [f"column {name!r} is left out ({reason})" for name, reason in left.items()]
    about = {f"column {name!r}" for name in left}
    return first + [line for line in dataset.notes if line.partition(":")[0] not in about]


def _check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse before any data is read; the run's folder is made once the data has been."""
    if resume and overwrite:
        raise BadInput("--resume goes on with a run and --overwrite replaces it; give one of them")
    if out.is_file():
        raise BadInput(f"{out} is a file; give the name of a folder for the run")
    if out.is_dir() and any(out.iterdir()) and not (resume or overwrite):
        raise BadInput(f"{out} exists; give --overwrite to replace it, --resume to go on with it")


def _estimator(
    model: str,
    config: Path | None,
    words: list[str] | None,
    *,
    seed: int | None,
    device: str | None,
) -> Any:
    """The estimator with all settings checked: defaults < --config < --set < --seed, --device."""
    from energyscape.families import MODELS, validate_settings

    if model not in MODELS:
        raise BadInput(f"there is no family {model!r}; {nearest(model, MODELS)}")
    given: dict[str, Any] = _read_toml(config) if config is not None else {}
    given |= to_pairs(words, "--set", "KEY=VALUE")
    given |= {} if seed is None else {"random_state": seed}
    given |= {} if device is None else {"device": device}
    return MODELS[model](**validate_settings(MODELS[model], given))


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(f"there is no file {path}; check the name")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error


def _types(
    schema: Path | None, types: list[str] | None, drop: list[str] | None
) -> tuple[dict[str, str], list[str]]:
    """Kinds by column and columns to drop: those of a schema.toml, then those of the command."""
    kinds: dict[str, str] = {}
    if schema is not None:
        from energyscape.data import Schema

        if not schema.is_file():
            raise BadInput(f"there is no file {schema}; `energyscape inspect --out` writes one")
        kinds = {
            column.name: f"datetime:{column.format}"
            if column.kind == "datetime" and column.format
            else column.kind
            for column in Schema.from_toml(schema.read_text(encoding="utf-8"))
        }
    return kinds | to_pairs(types, "--types", "COL=TYPE"), list(drop or [])


def _absolute(data: str) -> str:
    """Where the data is, so that `evaluate` and `report` find it again from any folder."""
    file, colons, key = data.partition("::")
    path = Path(file)
    return f"{path.resolve()}{colons}{key}" if path.exists() else data


def _rows(kind: str) -> str:
    return "rows" if kind == "table" else "pictures"


def _say_what_next(estimator: DensityEstimator, out: Path, data: str, quiet: bool) -> None:
    info = estimator.info_
    tell(
        f"wrote {out}: {info['steps']} steps in {info['seconds']:.1f} s ({info['stop_reason']}), "
        f"{info['parameters']} parameters, seed {info['seed']}",
        quiet=quiet,
    )
    target = "samples.csv" if estimator.data_kind_ == "table" else "samples.png"
    tell("try next:", quiet=quiet)
    tell(f"  energyscape sample {out} --n 100 --out {target}", quiet=quiet)
    tell(f"  energyscape score {out} {data} --out scores.csv", quiet=quiet)
    tell(f"  energyscape report {out}", quiet=quiet)


def _say_what_was_learned(detector: AnomalyDetector, out: Path, quiet: bool) -> None:
    notes(detector.notes_, quiet=quiet)
    info = detector.info_
    rows = info["rows"]
    how = (
        "each by a detector that did not know it"
        if detector.calibrated_by_ == "cross"
        else "set aside"
    )
    tell(
        f"wrote {out}: {rows['reference']} rows to compare with, {rows['calibration']} calibrate "
        f"({how}), p-values from {detector.smallest_p_value:.2g} up, in {info['seconds']:.1f} s, "
        f"seed {info['seed']}",
        quiet=quiet,
    )
    tell("try next:", quiet=quiet)
    tell(f"  energyscape score {out} NEW-ROWS --out scores.csv", quiet=quiet)
    tell(f"  energyscape report {out}", quiet=quiet)
