"""``energyscape inspect``: what would be read, before anything is trained."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energyscape.cli.console import notes, table, tell
from energyscape.cli.failures import BadInput
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
    refuse_existing,
    to_pairs,
    to_size,
)

if TYPE_CHECKING:
    from energyscape.data import Dataset

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape inspect penguins.csv --types year=category --out schema.toml"

_FATE = {
    "numeric": "modelled",
    "integer": "modelled, whole numbers come back",
    "boolean": "modelled",
    "category": "modelled",
    "datetime": "modelled, comes back in its format",
    "constant": "not modelled, reproduced in samples",
    "identifier": "left out",
    "text": "left out",
}


def run(
    data: Data,
    types: Types = None,
    drop: Drop = None,
    size: Size = None,
    channels: Channels = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write a schema.toml to edit (tables only)."
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Show what would be read, and what is left out and why.

    Columns, types, ranges, blanks; of pictures their sizes, grey levels and labels.

    Nothing is drawn and nothing computed, so --seed and --device change nothing here.
    """
    from energyscape.data import load

    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    kinds = to_pairs(types, "--types", "COL=TYPE")
    dataset = load(data, types=kinds, drop=drop, size=to_size(size), channels=channels)
    if dataset.pictures is not None:
        if out is not None:
            raise BadInput(f"{data} holds pictures, which have no columns to write to {out}")
        _pictures(dataset, quiet)
    else:
        _table(dataset, quiet)
    if out is not None and dataset.schema is not None:
        _write(dataset.schema.to_toml(), out)
        tell(f"wrote {out}; edit it and pass it on with `fit --schema {out}`", quiet=quiet)


def _write(text: str, out: Path) -> None:
    """Aside and renamed, so that a full disk leaves nothing half-written."""
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, out)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _table(dataset: Dataset, quiet: bool) -> None:
    schema = dataset.schema
    assert schema is not None
    rows = [(c.name, c.kind, c.describe(), _FATE[c.kind]) for c in schema]
    title = f"{dataset.name}: {len(dataset)} rows, {len(schema)} column{'s' * (len(schema) > 1)}"
    table(title, ("column", "type", "what is in it", "what happens"), rows, quiet=quiet)
    about = {f"column {c.name!r}" for c in schema}
    notes((n for n in dataset.notes if n.partition(":")[0] not in about), quiet=quiet)
    if dataset.labels is not None:
        tell(_classes(dataset), quiet=quiet)
    left, modelled = len(schema.left_out), len(schema.modelled)
    said = f"{modelled} column{'s' * (modelled != 1)} would be modelled"
    tell(said + (f", {left} left out" if left else ""), quiet=quiet)


_CHANNELS = {1: " (grey)", 3: " (colour)", 4: " (colour and opacity)"}


def _pictures(dataset: Dataset, quiet: bool) -> None:
    from energyscape.data import detect_levels

    assert dataset.pictures is not None
    count, height, width, channels = dataset.pictures.shape
    rows = [
        ("pictures", str(count)),
        ("height x width", f"{height} x {width}"),
        (
            "channels",
            str(channels) + _CHANNELS.get(channels, ""),
        ),
        ("values", f"{dataset.pictures.min()} to {dataset.pictures.max()}"),
        ("grey levels", str(detect_levels(dataset.pictures))),
        ("dimensions", str(height * width * channels)),
    ]
    table(dataset.name, ("what", "found"), rows, quiet=quiet)
    notes(dataset.notes, quiet=quiet)
    if dataset.labels is not None:
        tell(_classes(dataset), quiet=quiet)


def _classes(dataset: Dataset) -> str:
    assert dataset.labels is not None
    counts = Counter(str(label) for label in dataset.labels.tolist())
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())[:10])
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    return f"labels, not modelled: {len(counts)} classes: {shown}{more}"
