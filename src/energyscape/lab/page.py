"""A lesson run and set in one HTML file with everything inside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jinja2
import torch

import energyscape
from energyscape.data import Dataset
from energyscape.lab.catalogue import LESSONS, lesson_function
from energyscape.lab.lesson import Lesson
from energyscape.report import page as report_page
from energyscape.report.sections import number

__all__ = ["build", "render"]


def build(
    name: str,
    data: Dataset | None = None,
    out: Path | None = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> tuple[Path, Lesson]:
    """Run a lesson and write its page.

    Parameters
    ----------
    name : str
        A key of `LESSONS`.
    data : Dataset, optional
        By default what the lesson itself thinks best.
    out : Path, optional
        The file to write, ``lab-NAME.html`` here when not given; replaced if it is there.
    seed : int
    settings
        Of the lesson's function.

    Returns
    -------
    (Path, Lesson)
        The file written, and what is on it.

    Raises
    ------
    ValueError
        If there is no such lesson, the data do not suit it, or the folder of `out` does not exist.
    """
    if name not in LESSONS:
        raise ValueError(f"there is no lesson {name!r}; there are {', '.join(LESSONS)}")
    out = Path(f"lab-{name}.html") if out is None else Path(out)
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: there is no folder {out.parent}; create it first")
    began = time.perf_counter()
    lesson = lesson_function(name)(data, seed, **settings)
    text = render(lesson, name, seed=seed, seconds=time.perf_counter() - began)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(out)
    return out, lesson


def render(lesson: Lesson, name: str, *, seed: int, seconds: float) -> str:
    """The page of a lesson as one string of HTML."""
    folders = [Path(__file__).parent, Path(report_page.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("lesson.html").render(
        lesson=lesson,
        name=name,
        numbers=[(key, number(value)) for key, value in lesson.numbers.items()],
        seed=seed,
        seconds=f"{seconds:.1f}",
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        version=energyscape.__version__,
    )
