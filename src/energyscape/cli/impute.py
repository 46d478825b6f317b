"""``energyscape impute``: blank cells filled in by draws given the rest of their row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from energyscape.cli.console import Bar, notes, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import Data, Device, Overwrite, Quiet, Run, Seed, refuse_existing
from energyscape.cli.runs import open_run, read_for

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape impute runs/penguins gaps.csv --out filled.csv --draws 5"


def run(
    folder: Run,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Table to write.", show_default=False),
    ],
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws",
            min=1,
            metavar="M",
            help="Completed copies, stacked under a column `draw` [default: 1].",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="LEVEL",
            help="One row a row, with intervals of this level beside what was filled in.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of the sampler.")
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Fill the blanks of a table in.

    Each blank is one draw from the model given the rest of its row: with --draws 20 the spread of
    a cell over the draws says how sure that is. With --interval 0.9 every row is written once, with
    the middle draw of each blank and, beside it, where nine in ten draws lie (COL low, COL high) or
    the share of draws that agree (COL share), from 39 draws unless --draws says more. Cells that
    were not blank are as they were, and so are columns that the run left out. Without --seed one is
    drawn and printed.
    """
    refuse_existing(out, overwrite=overwrite)
    from energyscape.data import draws_for, to_polars, with_intervals, write_table
    from energyscape.data.tables import TABLE_SUFFIXES

    number = draws or 1 if interval is None else draws_for(interval, draws)
    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise BadInput(
            f"{out}: impute fills in tables, which are written as {', '.join(TABLE_SUFFIXES)}"
        )
    estimator = open_run(folder, device)
    if estimator.data_kind_ != "table":
        raise BadInput("impute fills blank cells of tables, but this run was fitted on pictures")
    reading = read_for(estimator, data)
    notes(reading.notes, quiet=quiet)
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
    with Bar(quiet=quiet) as bar:
        filled: Any = estimator.impute(
            reading.dataset, number, random_state=seed, steps=steps, progress=bar
        )
    copies = [_frame(part, reading.dataset) for part in (filled if number > 1 else [filled])]
    gaps = _frame(reading.dataset.data, reading.dataset)
    before = _blanks(gaps, estimator)
    if interval is not None:
        copies = [with_intervals(to_polars(gaps), [to_polars(c) for c in copies], interval)]
    elif number > 1:
        import polars as pl

        numbered = [
            part.insert_column(
                0, pl.repeat(i, part.height, dtype=pl.Int64, eager=True).alias("draw")
            )
            for i, part in enumerate(copies, start=1)
        ]
        copies = [pl.concat(numbered)]
    write_table(to_polars(copies[0]), out)
    made = "" if number == 1 else f", {number} draws of each"
    tell(f"filled {before} blanks{made}; wrote {out} (seed {seed})", quiet=quiet)


def _frame(table: Any, dataset: Any) -> Any:
    """A polars frame, also of an array, under the columns' names."""
    import numpy as np
    import polars as pl

    if not isinstance(table, np.ndarray):
        return table
    return pl.DataFrame({name: table[:, j] for j, name in enumerate(dataset.schema.names)})


def _blanks(frame: Any, estimator: Any) -> int:
    """Blank cells of the columns that are filled in."""
    columns = [frame[column.name] for column in estimator.schema_.modelled]
    return sum(
        int(c.fill_nan(None).null_count() if c.dtype.is_float() else c.null_count())
        for c in columns
    )
