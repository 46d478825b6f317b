"""What a verb prints: results on stdout, notes and progress on stderr, nothing with ``--quiet``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import typer

__all__ = ["Bar", "note", "notes", "table", "tell"]

_LINE_EVERY = 10.0
_WIDTH_OF_FILES = 140


def tell(message: str, *, quiet: bool = False) -> None:
    """A line of the result, on stdout."""
    if not quiet:
        typer.echo(message)


def note(message: str, *, quiet: bool = False) -> None:
    """A line the user should know of, on stderr."""
    if not quiet:
        typer.echo(f"note: {' '.join(message.split())}", err=True)


def notes(messages: Iterable[str], *, quiet: bool = False, most: int = 12) -> None:
    """Several notes, of which no more than ``most`` are printed."""
    lines = list(messages)
    for line in lines[:most]:
        note(line, quiet=quiet)
    if len(lines) > most:
        note(f"and {len(lines) - most} more", quiet=quiet)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, quiet: bool = False
) -> None:
    """A table on stdout, as wide as the terminal, or wide enough for a file."""
    if quiet:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_plain(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False).print(made)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


class Bar:
    """A progress bar with speed and time left; lines in a log where there is no terminal.

    It is what an estimator calls with its progress, and :meth:`over` wraps a loop of ours.
    Nothing is shown in the first half second, so that quick work leaves no trace.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.began = self.printed = time.monotonic()
        self.live: Any = None
        self.task: Any = None
        self.phase = self.outer = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, progress: Any) -> None:
        """Show a step; ``progress`` has phase, step, total, loss, speed, eta and detail."""
        if self.quiet:
            return
        facts = [] if progress.loss is None else [f"loss {progress.loss:.4g}"]
        facts += [progress.detail] if progress.detail else []
        facts += [f"{progress.speed:.3g}/s", f"{_clock(progress.eta)} left"]
        self._show(progress.phase, int(progress.step), int(progress.total), ", ".join(facts))

    def over(
        self, phase: str, items: Sequence[Any], size: Callable[[Any], int] = len
    ) -> Iterator[Any]:
        """Go through ``items``, counting ``size(item)`` for each as done."""
        total, done, began = sum(size(item) for item in items), 0, time.monotonic()
        for item in items:
            yield item
            done += size(item)
            speed = done / max(time.monotonic() - began, 1e-9)
            if not self.quiet:
                facts = f"{speed:.3g}/s, {_clock((total - done) / max(speed, 1e-9))} left"
                self._show(self.outer + phase, done, total, facts)

    def through(self, phase: str, pieces: Iterable[Any]) -> Iterator[Any]:
        """Go through pieces of a file that say where they start and stop, and the file's size.

        What is shown within a piece says beside it how far the file is.
        """
        began, first = time.monotonic(), None
        for piece in pieces:
            first = piece.start if first is None else first
            self.outer = self.outer or f"{phase} {100 * piece.start / piece.size:.0f} %: "
            yield piece
            done = piece.stop - first
            speed = done / max(time.monotonic() - began, 1e-9)
            if not self.quiet:
                facts = f"{100 * piece.stop / piece.size:.0f} %, "
                facts += f"{_clock((piece.size - piece.stop) / max(speed, 1e-9))} left"
                self._show(phase, piece.stop, piece.size, facts)
                self.outer = f"{phase} {facts}: "
        self.outer = ""

    def _show(self, phase: str, step: int, total: int, facts: str) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty():
            if now - self.printed >= _LINE_EVERY:
                self.printed = now
                typer.echo(f"{phase} {step}/{total}, {facts}", err=True)
            return
        if now - self.began < 0.5:
            return
        if self.live is None:
            self.live = _live()
            self.live.start()
        if phase != self.phase:
            if self.task is not None:
                self.live.remove_task(self.task)
            self.phase, self.task = phase, self.live.add_task(phase, total=total, facts="")
        self.live.update(self.task, completed=step, total=total, facts=facts)


def _live() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
        transient=True,
    )


def _clock(seconds: float) -> str:
    """Time left, rounded up to what a person reads at a glance.

    >>> _clock(4.2), _clock(75.0), _clock(7300.0)
    ('5 s', '1:15', '2:01:40')
    """
    if not 0 <= seconds < 1e7:
        return "?"
    whole = int(-(-seconds // 1))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
    return f"{hours}:{clock}" if hours else clock
