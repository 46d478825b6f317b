"""The lessons by name. Listing them imports neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyscape.lab.lesson import Lesson

__all__ = ["LESSONS", "lesson_function"]

LESSONS: dict[str, str] = {
    "score-error": "a learned score is wrong where there is no data",
    "tiny-noise": "data on a thin sheet train unstably until a little noise is added",
    "crossing": "Langevin chains do not cross between modes; annealed ones do",
    "noise-level": "too much and too little noise at one level, and the ladder of levels",
    "slicing": "exact score matching costs as the dimension does; sliced does not",
    "collapse": "without negatives an energy falls everywhere: no density is learned",
    "metropolis": "what Metropolis tests and what Langevin steps gain and lose",
    "naive-samples": "samples of one small noise level beside those of a ladder",
    "hard-edges": "data that end at an edge, where integration by parts fails",
    "reverse-kernel": "the reverse kernel turns Gaussian as steps get smaller",
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
    from energyscape.lab import chains, cost, density, edges, negatives, noise, reverse, sheets

    functions: dict[str, Callable[..., Lesson]] = {
        "score-error": density.score_error,
        "tiny-noise": noise.tiny_noise,
        "crossing": chains.crossing,
        "noise-level": noise.noise_level,
        "slicing": cost.slicing,
        "collapse": negatives.collapse,
        "metropolis": chains.metropolis,
        "naive-samples": sheets.naive_samples,
        "hard-edges": edges.hard_edges,
        "reverse-kernel": reverse.reverse_kernel,
    }
    return functions[name]
