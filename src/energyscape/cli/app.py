"""The application: its verbs and the options that stand before them."""

from __future__ import annotations

from typing import Annotated

import typer

import energyscape.cli.compare as compare
import energyscape.cli.evaluate as evaluate
import energyscape.cli.fit as fit
import energyscape.cli.impute as impute
import energyscape.cli.inspect as inspect
import energyscape.cli.lab as lab
import energyscape.cli.models as models
import energyscape.cli.report as report
import energyscape.cli.sample as sample
import energyscape.cli.score as score
from energyscape import __version__
from energyscape.cli.failures import State

__all__ = ["app"]

app = typer.Typer(
    name="energyscape",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: energyscape inspect DATA, then energyscape fit DATA --out RUN",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"energyscape {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Learn the energy landscape of your data: sample, score, find what does not belong."""
    ctx.ensure_object(State).debug = debug


for _verb in (inspect, fit, sample, score, impute, evaluate, compare, report, lab, models):
    _name = _verb.__name__.rpartition(".")[2]
    app.command(_name, epilog=_verb.EXAMPLE, no_args_is_help=False)(_verb.run)
