"""One self-contained page about a fitted model, and the plots it is made of.

Names are imported on first use: `picture_grid` needs no torch, `build` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energyscape.report.page import build
    from energyscape.report.sheets import picture_grid, save_picture_grid

_HOME = {"build": "page", "picture_grid": "sheets", "save_picture_grid": "sheets"}

__all__ = ["build", "picture_grid", "save_picture_grid"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
