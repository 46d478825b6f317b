"""Lessons of the field, reproduced on built-in data or on one's own, a page each.

Names are imported on first use: `LESSONS` needs no torch, `build` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energyscape.lab.catalogue import LESSONS, lesson_function
    from energyscape.lab.lesson import Lesson
    from energyscape.lab.page import build

_HOME = {
    "LESSONS": "catalogue",
    "Lesson": "lesson",
    "build": "page",
    "lesson_function": "catalogue",
}

__all__ = ["LESSONS", "Lesson", "build", "lesson_function"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
