"""How a command ends: exit code 0, 1 or 2, and one line that says why.

An error that energyscape raises by name is a sentence for the user: a ``ValueError`` (bad input)
ends with 2, a ``RuntimeError`` (the run failed) with 1. The same classes raised from inside another
library mean something nobody foresaw: the traceback is written to a file that the line names.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from energyscape.cli.app import app
from energyscape.cli.console import note
from energyscape.cli.failures import State

__all__ = ["main"]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

# typer carries its own copy of click from 0.20 on; the class is reached without naming either
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Parameters
    ----------
    args : words after the program's name; those of the process when None.
    """
    state = State(list(sys.argv[1:] if args is None else args))
    command = typer.main.get_command(app)
    try:
        with _warnings_as_notes(quiet=bool({"--quiet", "-q"} & set(state.args))):
            result = command.main(
                list(state.args), prog_name="energyscape", standalone_mode=False, obj=state
            )
    except _UsageError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        # `energyscape ... | head`: the reader is gone, so is the reason to go on; python would
        # otherwise complain once more when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if state.debug:
            traceback.print_exc()
        return _failure(error, debug=state.debug)
    if result == INTERRUPTED:
        go_on = f"; go on with: {state.go_on}" if state.go_on else ""
        typer.echo(f"energyscape: stopped{go_on}", err=True)
    return result if isinstance(result, int) else 0


@contextmanager
def _warnings_as_notes(*, quiet: bool) -> Iterator[None]:
    """What the library warns of, in the words it chose and without a line of its source."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            note(str(message), quiet=quiet)
        else:
            before(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _say(message: str, code: int) -> int:
    typer.echo("energyscape: " + " ".join(str(message).split()), err=True)
    return code


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context is not None else str(error), err=True)
        return BAD_INPUT
    path = context.command_path if context is not None else "energyscape"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return _say(f"{message.rstrip('.')} (see `{path} --help`)", BAD_INPUT)


def _failure(error: Exception, *, debug: bool) -> int:
    ours = _raised_here(error)
    if isinstance(error, ValueError) and ours:
        return _say(str(error), BAD_INPUT)
    if isinstance(error, RuntimeError) and ours:
        return _say(f"the run failed: {error}", FAILED)
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: " if error.filename else ""
        return _say(f"{what}{error.strerror}", BAD_INPUT)
    if isinstance(error, MemoryError):
        return _say("not enough memory; give fewer rows or a smaller batch_size", FAILED)
    name, message = type(error).__name__, str(error).strip()
    shown = f"unexpected {name}: {message[:300]}" if message else f"unexpected {name}"
    if debug:
        return _say(shown, FAILED)
    return _say(f"{shown} (traceback in {_write_traceback(error)})", FAILED)


def _raised_here(error: BaseException) -> bool:
    """Whether the line that raised is one of energyscape's own."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return name.partition(".")[0] == "energyscape"


def _write_traceback(error: BaseException) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="energyscape-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return Path(name)
