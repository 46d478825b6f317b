"""Score matching whose noise falls during training, from the spread of the data to the level asked for.

At one small level score matching learns nothing where there are no rows, and an energy may be as low
there as among them. Noise as wide as the data fills that room first; the walls learned then stay up
while the noise falls, for nothing pulls them down. What the last steps minimise is the same as without.

It is no cure for how probable separate modes are: once the noise no longer bridges them, their weights
drift. Of two modes 0.75 : 0.25 and ten blurred deviations apart the rarer was all but lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from energyscape.objectives.base import Aux, LossOutput, Objective

__all__ = ["FallingNoise"]


@dataclass(frozen=True)
class FallingNoise:
    """An objective at a noise level that falls geometrically over the first part of a run.

        sigma(t) = first (last/first)^min(t/share, 1),    t in [0, 1] the share of training done.

    Called as it is, in validation say, it is the objective at the last level; the training loop asks
    for that of a moment by `during`. The continuation is that of NCSN's levels (1907.05600) in time
    instead of on a conditional network.

    Parameters
    ----------
    make : callable
        The objective at a level in data units, without state: ``DenoisingScoreMatching``, say.
    first, last : float
        Levels in data units, ``first >= last > 0``.
    share : float
        Part of the run, in (0, 1], over which the level falls.

    Examples
    --------
    >>> from energyscape.objectives import DenoisingScoreMatching
    >>> falling = FallingNoise(DenoisingScoreMatching, first=1.0, last=0.01, share=0.5)
    >>> [falling.during(t).sigma for t in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.1, 0.01, 0.01]
    """

    make: Callable[[float], Objective]
    first: float
    last: float
    share: float = 0.7

    def __post_init__(self) -> None:
        if not math.inf > self.first >= self.last > 0:
            raise ValueError(
                "noise falls from a finite first to last > 0, got "
                f"first={self.first} and last={self.last}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    @property
    def needs_double_backward(self) -> bool:
        """That of the objective within."""
        return self.make(self.last).needs_double_backward

    @property
    def validates_without_graph(self) -> bool:
        """Whether the objective within does."""
        return getattr(self.make(self.last), "validates_without_graph", False)

    def during(self, done: float) -> Objective:
        """The objective when this share of training, in [0, 1], is done."""
        fallen = min(done / self.share, 1.0)
        if fallen == 1:
            return self.make(self.last)
        return self.make(self.first * (self.last / self.first) ** fallen)

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The state of the objective at the last level: none."""
        return self.make(self.last).init(model, x, rng)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row at the last level, shape (batch,)."""
        return self.make(self.last)(model, x, aux, rng, label=label)
