"""What a verb raises on bad input, and what it may know of the command it runs in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["BadInput", "State"]


class BadInput(ValueError):
    """Arguments that do not fit together or that point at the wrong thing."""


@dataclass
class State:
    """What a verb may need to know of the command it runs in.

    Parameters
    ----------
    args : the words after ``energyscape``, for messages that repeat the command.
    debug : whether tracebacks are shown.
    go_on : the command that continues what Ctrl-C stopped, when there is one.
    """

    args: list[str] = field(default_factory=list)
    debug: bool = False
    go_on: str = ""

    def command(self, *, add: Sequence[str] = (), leave_out: Sequence[str] = ()) -> str:
        """The command as typed, with words added (once) and left out, quoted for a shell.

        >>> State(["fit", "my data.csv", "--overwrite"]).command(
        ...     add=["--resume"], leave_out=["--overwrite"])
        "energyscape fit 'my data.csv' --resume"
        """
        words = [word for word in self.args if word not in leave_out]
        words += [word for word in add if word not in words]
        return shlex.join(["energyscape", *words])
