"""A progress bar for `verbose=True`: steps, loss, speed and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from energyscape.training import Progress

__all__ = ["progress_bar"]


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
