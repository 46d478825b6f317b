"""The lessons by name. Listing them imports neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyscape.lab.lesson import Lesson

__all__ = ["LESSONS", "lesson_function"]

LESSONS: dict[str, str] = {
    "crossing": "Langevin chains do not cross between modes; annealed ones do",
    "slicing": "exact score matching costs as the dimension does; sliced does not",
    "metropolis": "what Metropolis tests and what Langevin steps gain and lose",
    "hard-edges": "data that end at an edge, where integration by parts fails",
}


def lesson_function(name: str) -> Callable[..., Lesson]:
    """The function of a lesson: ``function(data=None, seed=0, **settings) -> Lesson``.

    Raises
    ------
    KeyError
        If there is no lesson of that name.

    Examples
    --------
    >>> lesson_function("crossing").__name__
    'crossing'
    """
    from energyscape.lab import chains, cost, edges

    functions: dict[str, Callable[..., Lesson]] = {
        "crossing": chains.crossing,
        "slicing": cost.slicing,
        "metropolis": chains.metropolis,
        "hard-edges": edges.hard_edges,
    }
    return functions[name]
