"""Progress: a bar for `verbose=True`, and steps of a walk as what a bar shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from energyscape.training import Progress

__all__ = ["ProgressCallback", "as_steps", "progress_bar"]

#: What is told of progress, and to whom.
ProgressCallback = Callable[[Progress], None]


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A callback for training and sampling that draws one bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(p: Progress) -> None:
            if p.phase not in tasks:
                tasks[p.phase] = bar.add_task(p.phase, total=p.total, note="")
            loss = "" if p.loss is None else f"loss {p.loss:.4g}, "
            note = f"{loss}{p.speed:.0f}/s"
            bar.update(tasks[p.phase], completed=p.step, total=p.total, note=note)

        yield show


def as_steps(
    progress: Callable[[Progress], None] | None, phase: str
) -> Callable[[int, int], None] | None:
    """A ``(done, total)`` callback from one that takes a `Progress`."""
    if progress is None:
        return None
    began = time.monotonic()

    def show(done: int, total: int) -> None:
        speed = done / max(time.monotonic() - began, 1e-9)
        progress(Progress(phase, done, total, None, speed, (total - done) / max(speed, 1e-9)))

    return show
