"""Random-walk Metropolis, on real numbers and on integers.

With a symmetric proposal the acceptance probability is ``min(1, p(x') / p(x))``, which needs no
gradient and no normalising constant. On R^D the proposal is ``x' = x + s eps``; the best scale falls
as ``D^(-1/2)`` and the best acceptance is 0.234.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.kernel import (
    Box,
    Info,
    State,
    accept,
    check_box,
    check_positive,
    rows,
    start,
    value_at,
)
from energyscape.targets import Target

__all__ = ["IntegerWalk", "RandomWalk", "WalkNoise"]


class WalkNoise(NamedTuple):
    """The move, shape of x, and the exponential of the acceptance test, shape (chains,)."""

    eps: Tensor
    exponential: Tensor


@dataclass(frozen=True, eq=False)
class RandomWalk:
    """Random-walk Metropolis: ``x' = x + step_size eps``.

    Parameters
    ----------
    step_size : float or Tensor
        Standard deviation of a move, in units of x; one number, or one a chain.
    box : (low, high), optional
        Outside it every proposal is rejected.

    Raises
    ------
    ValueError
        For a step size that is not positive.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.mcmc import run_chains
    >>> rng = torch.Generator().manual_seed(0)
    >>> x0 = eight_gaussians().sample(50, rng)
    >>> chains = run_chains(RandomWalk(0.1), eight_gaussians().at(0.0), x0, 20, rng=rng)
    >>> chains.draws.shape
    torch.Size([20, 50, 2])
    """

    target_acceptance: ClassVar[float] = 0.234
    traceable: ClassVar[bool] = True
    step_size: float | Tensor
    box: Box | None = None

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_box(self.box)

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x, with its log-density."""
        return start(self, x, target, need_score=False)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> WalkNoise:
        """Standard normal moves and exponentials of `num_steps` steps."""
        return WalkNoise(
            torch.randn(
                num_steps, *like.shape, generator=rng, dtype=like.dtype, device=like.device
            ),
            draw_exponential(num_steps, like, rng),
        )

    def step(self, state: State, target: Target, noise: WalkNoise) -> tuple[State, Info]:
        """One proposal of every chain and its test."""
        h = self.step_size
        x = state.x + (rows(h, state.x) if isinstance(h, Tensor) else h) * noise.eps
        log_prob = value_at(target, x)
        assert state.log_prob is not None
        return accept(
            state, State(x, log_prob), log_prob - state.log_prob, noise.exponential, self.box
        )


@dataclass(frozen=True, eq=False)
class IntegerWalk:
    """Metropolis on vectors of integers: one coordinate of each chain moves by up to `max_jump`.

    x holds integers in a floating type; the coordinate is drawn uniformly and the jump uniformly from
    ``{-max_jump, ..., -1, 1, ..., max_jump}``, a symmetric proposal. A target gives minus infinity
    where an integer is impossible.

    Examples
    --------
    A Poisson variable is the energy ``log(x!) - x log(rate)`` on 0, 1, 2, ...

    >>> import math, torch
    >>> from energyscape.mcmc import run_chains
    >>> from energyscape.targets import FunctionTarget
    >>> poisson = FunctionTarget(
    ...     lambda x: torch.where(x >= 0, x * math.log(3.0) - torch.lgamma(x.clamp(0) + 1), -math.inf)
    ...     .sum(1)
    ... )
    >>> rng = torch.Generator().manual_seed(0)
    >>> x0 = torch.full((500, 1), 3.0)
    >>> x = run_chains(IntegerWalk(), poisson, x0, 100, rng=rng, keep="last").x
    >>> bool((x.mean() - 3).abs() < 0.3)
    True
    """

    target_acceptance: ClassVar[None] = None
    traceable: ClassVar[bool] = True
    max_jump: int = 1

    def __post_init__(self) -> None:
        if self.max_jump < 1:
            raise ValueError(f"max_jump must be at least 1, got {self.max_jump}")

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x; refuses an x that is not whole."""
        if not bool((x == x.round()).all()):
            raise ValueError("IntegerWalk walks whole numbers: round x before starting")
        return start(self, x, target, need_score=False)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> WalkNoise:
        """Integer moves, zero but for one coordinate a chain, and exponentials."""
        shape = (num_steps, like.shape[0], 1)
        width = like[0].numel()

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, shape, generator=rng, device=like.device)

        jump = integers(1, self.max_jump + 1) * (2 * integers(0, 2) - 1)
        which = integers(0, width)
        move = torch.zeros(*shape[:2], width, dtype=like.dtype, device=like.device)
        move.scatter_(2, which, jump.to(like.dtype))
        return WalkNoise(move.view(num_steps, *like.shape), draw_exponential(num_steps, like, rng))

    def step(self, state: State, target: Target, noise: WalkNoise) -> tuple[State, Info]:
        """One proposal of every chain and its test."""
        x = state.x + noise.eps
        log_prob = value_at(target, x)
        assert state.log_prob is not None
        return accept(state, State(x, log_prob), log_prob - state.log_prob, noise.exponential, None)


def draw_exponential(num_steps: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Unit exponentials, shape (num_steps, chains): minus the logarithm of a uniform number.

    Torch's own exponentials are drawn one at a time, uniform numbers many at once. The uniform number
    is in (0, 1], as that of zero would accept any move.
    """
    shape = (num_steps, like.shape[0])
    uniform = torch.rand(shape, generator=rng, dtype=like.dtype, device=like.device)
    return uniform.neg_().add_(1.0).log_().neg_()
