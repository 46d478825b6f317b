"""``energyscape lab``: the lessons of the field, run on one's own data or on built-in ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from energyscape.cli.console import note, table, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import (
    Channels,
    Device,
    Drop,
    Overwrite,
    Quiet,
    Seed,
    Size,
    Types,
    nearest,
    refuse_existing,
    to_pairs,
    to_size,
)

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape lab crossing; energyscape lab naive-samples digits --out page.html"


def run(
    lesson: Annotated[
        str | None,
        typer.Argument(metavar="[LESSON]", help="Which one; all are listed without it."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="As for `fit` [default: what suits the lesson]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="HTML", help="The page to write [default: lab-LESSON.html]."
        ),
    ] = None,
    overwrite: Overwrite = False,
    types: Types = None,
    drop: Drop = None,
    size: Size = None,
    channels: Channels = None,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Reproduce a lesson of the field on one page of pictures.

    Networks are small, on the CPU, and a lesson takes under two minutes: --device changes nothing
    here. Every number is of this run, and the page says whether the lesson shows on these data.
    """
    from energyscape.lab import LESSONS, build

    if lesson is None:
        listed = sorted(LESSONS.items())
        table(
            "Lessons: energyscape lab LESSON [DATA]",
            ("lesson", "what it shows"),
            listed,
            quiet=quiet,
        )
        return
    if lesson not in LESSONS:
        raise BadInput(f"there is no lesson {lesson!r}; {nearest(lesson, LESSONS)}")
    page = Path(f"lab-{lesson}.html") if out is None else out
    refuse_existing(page, overwrite=overwrite)
    dataset = None
    if data is not None:
        from energyscape.data import load

        kinds = to_pairs(types, "--types", "COL=TYPE")
        dataset = load(data, types=kinds, drop=drop, size=to_size(size), channels=channels)
    elif types or drop or size or channels:
        raise BadInput("--types, --drop, --size and --channels are about DATA, and none was given")
    note(f"running the lesson {lesson}; it takes up to two minutes", quiet=quiet)
    page, made = build(lesson, dataset, page, seed=0 if seed is None else seed)
    tell(f"{made.title}: {made.finding}", quiet=quiet)
    if not made.holds:
        note("the lesson does not show on these data", quiet=quiet)
    tell(f"wrote {page}; open it in a browser", quiet=quiet)
