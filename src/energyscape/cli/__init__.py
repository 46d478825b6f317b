"""The command line: one file per verb, exit code 0 done, 1 the run failed, 2 bad input.

Starting must be quick: this package imports typer alone; torch, polars, scikit-learn and rich are
imported by the verbs that need them, when they run.
"""

from __future__ import annotations

from energyscape.cli.ending import main

__all__ = ["main"]
