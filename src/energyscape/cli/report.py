"""``energyscape report``: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from energyscape.cli.console import tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import Device, Overwrite, Quiet, Run, Seed, refuse_existing

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape report runs/penguins --out penguins.html"


def run(
    folder: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="HTML", help="The page to write [default: RUN/report.html]."
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page about a run.

    Training curves, samples beside data, calibration, most and least probable rows.

    The page is drawn from the run's own seed, on the CPU, so that it is the same every time:
    --seed and --device change nothing here. RUN/report.html is replaced without asking.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"{out}: a report is one page of HTML; give a name that ends in .html")
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: give the folder of a fitted model")
    from energyscape.report import build

    page = build(folder, out if out is not None else folder / "report.html")
    tell(f"wrote {page}; open it in a browser", quiet=quiet)
