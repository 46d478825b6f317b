"""``energyscape models``: the families, and every setting with its default."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from energyscape.cli.console import table
from energyscape.cli.failures import BadInput
from energyscape.cli.options import Device, Quiet, Seed, nearest

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape models edm"


def run(
    family: Annotated[
        str | None, typer.Argument(metavar="[FAMILY]", help="Show the settings of one family.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """List the families and their settings.

    What each family is for, and every setting with its type, default and bounds.

    Nothing is drawn and nothing computed, so --seed and --device change nothing here.
    """
    from energyscape.families import MODELS, settings_of

    if family is not None and family not in MODELS:
        raise BadInput(f"there is no family {family!r}; {nearest(family, MODELS)}")
    chosen = {k: v for k, v in MODELS.items() if family in (None, k)}
    if as_json:
        described = {
            name: {"about": _about(cls), "settings": [s._asdict() for s in settings_of(cls)]}
            for name, cls in chosen.items()
        }
        typer.echo(json.dumps(described, indent=2, default=str))
        return
    about = [(name, cls.__name__, _about(cls)) for name, cls in chosen.items()]
    table("Families", ("--model", "in Python", "what it is for"), about, quiet=quiet)
    title = "Settings (fit --set NAME=VALUE, or a line NAME = VALUE in --config F.toml)"
    header = ("setting", "type", "default", "bounds", "meaning")
    table(title, header, _settings(chosen, settings_of), quiet=quiet)


def _about(cls: type) -> str:
    """What the family is for, as its class says."""
    return str(getattr(cls, "purpose", "")) or " ".join(
        (cls.__doc__ or "").split("\n\n")[0].split()
    )


def _settings(chosen: dict[str, Any], settings_of: Any) -> list[tuple[str, ...]]:
    """One row per setting; where families differ in the default, each is named."""
    found: dict[str, dict[str, Any]] = {}
    for name, cls in chosen.items():
        for setting in settings_of(cls):
            found.setdefault(setting.name, {})[name] = setting
    rows: list[tuple[str, ...]] = []
    for setting, owners in found.items():
        defaults: dict[str, list[str]] = {}
        for owner, one in owners.items():
            defaults.setdefault(_value(one.default), []).append(owner)
        everywhere = len(owners) == len(chosen) and len(defaults) == 1
        shown = [v if everywhere else f"{v} ({', '.join(who)})" for v, who in defaults.items()]
        first = next(iter(owners.values()))
        rows.append((setting, first.type, ", ".join(shown), first.bounds, first.description))
    return rows


def _value(value: Any) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
