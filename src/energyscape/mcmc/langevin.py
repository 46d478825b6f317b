"""Langevin kernels: a step along the score plus noise, unadjusted or with a Metropolis test.

Discretising ``dx = score dt + sqrt(2) dW`` with step h gives the proposal

    x' = x + h score(x) + sqrt(2 h) eps.

Taken as it is (ULA) it has a bias of order h: on N(0, 1) the stationary variance is
``1 / (1 - h/2)``. Tested (MALA) it has none. With ``g = score(x) + score(x')`` the log ratio of
the two proposal densities simplifies, and

    log a = log p(x') - log p(x) - sqrt(h/2) eps . g - (h/4) ||g||^2,

one new gradient a step, since value and score of the current point are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.kernel import (
    Box,
    Info,
    State,
    accept,
    both_at,
    check_box,
    check_chains,
    check_positive,
    reflect,
    rows,
    score_at,
    start,
    sum_rows,
    walls,
)
from energyscape.mcmc.metropolis import WalkNoise, draw_exponential
from energyscape.targets import Target

__all__ = ["MALA", "ULA", "LangevinNoise"]


class LangevinNoise(NamedTuple):
    """Standard normal noise, shape of x."""

    eps: Tensor


@dataclass(frozen=True, eq=False)
class ULA:
    """Unadjusted Langevin: ``x' = x - h grad E(x) + sqrt(2 h temperature) eps``.

    Needs only a score. There is no acceptance test, hence a bias of order h, and nothing stops a
    step that is too large: a chain whose next point would not be finite stays where it is and is
    reported as diverged.

    Parameters
    ----------
    step_size : float or Tensor
        h, in squared units of x; one number, or one a chain.
    box : (low, high), optional
        A point that leaves it is reflected at the wall. A target with a `box` of its own (that of a
        `BoxEnergy`) is walked within it.
    temperature : float
        1 samples the target; below 1 the kernel drifts towards an optimiser and its draws no longer
        follow the target.

    Raises
    ------
    ValueError
        For a step size that is not positive or a negative temperature.

    Examples
    --------
    >>> import torch
    >>> from energyscape.mcmc import run_chains
    >>> from energyscape.targets import ScoreTarget
    >>> rng = torch.Generator().manual_seed(0)
    >>> x0 = torch.randn(20_000, 1, generator=rng)
    >>> x = run_chains(ULA(0.5), ScoreTarget(lambda x: -x), x0, 20, rng=rng, keep="last").x
    >>> bool((x.var() - 1 / (1 - 0.5 / 2)).abs() < 0.05)
    True
    """

    target_acceptance: ClassVar[None] = None
    traceable: ClassVar[bool] = True
    step_size: float | Tensor
    box: Box | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_box(self.box)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x; nothing is evaluated."""
        check_chains(x)
        return State(x.detach())

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> LangevinNoise:
        """Standard normal noise of `num_steps` steps."""
        shape = (num_steps, *like.shape)
        return LangevinNoise(
            torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device)
        )

    def step(self, state: State, target: Target, noise: LangevinNoise) -> tuple[State, Info]:
        """One step of every chain: one gradient."""
        x, moved = state.x, self.unchecked_step(state, target, noise)[0].x
        # A row's sum is finite only if all of it is: one reduction finds what must not be taken.
        fine = sum_rows(moved).isfinite()
        moved = torch.where(fine.view(-1, *(1,) * (x.ndim - 1)), moved, x)
        return State(moved), Info(None, None, ~fine)

    def unchecked_step(
        self, state: State, target: Target, noise: LangevinNoise
    ) -> tuple[State, Info]:
        """`step` where every number is finite; whoever takes it looks afterwards and may go back."""
        x, h = state.x, self.step_size
        score = score_at(target, x)
        if isinstance(h, Tensor):
            wide = rows(h.to(x.dtype), x)
            scales = (2.0 * self.temperature * wide).sqrt()
            moved = torch.addcmul(torch.addcmul(x, score, wide), noise.eps, scales)
        else:
            scale = math.sqrt(2.0 * self.temperature * h)
            moved = torch.add(torch.add(x, score, alpha=h), noise.eps, alpha=scale)
        box = walls(self.box, target)
        if box is not None:
            moved = reflect(moved, box)
        return State(moved), Info()


@dataclass(frozen=True, eq=False)
class MALA:
    """Metropolis-adjusted Langevin: ULA's proposal with an acceptance test, one gradient a step.

    Parameters
    ----------
    step_size : float or Tensor
        h, in squared units of x; one number, or one a chain. The best acceptance is 0.574.
    box : (low, high), optional
        Outside it every proposal is rejected.

    Raises
    ------
    ValueError
        For a step size that is not positive; at `init` for a target without a log-density.

    References
    ----------
    Roberts and Tweedie 1996; Roberts and Rosenthal 1998 for the acceptance of 0.574.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.mcmc import run_chains
    >>> rng = torch.Generator().manual_seed(0)
    >>> x0 = eight_gaussians().sample(100, rng)
    >>> chains = run_chains(MALA(0.01), eight_gaussians().at(0.0), x0, 50, warmup=100, rng=rng)
    >>> bool(0.4 < chains.info.acceptance.mean() < 0.75)
    True
    """

    target_acceptance: ClassVar[float] = 0.574
    traceable: ClassVar[bool] = True
    step_size: float | Tensor
    box: Box | None = None

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_box(self.box)

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x, with its log-density and score."""
        return start(self, x, target, need_score=True)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> WalkNoise:
        """Standard normal noise and exponentials of `num_steps` steps."""
        shape = (num_steps, *like.shape)
        return WalkNoise(
            torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device),
            draw_exponential(num_steps, like, rng),
        )

    def step(self, state: State, target: Target, noise: WalkNoise) -> tuple[State, Info]:
        """One proposal of every chain and its test: one gradient."""
        assert state.log_prob is not None
        assert state.score is not None
        x, eps, h = state.x, noise.eps, self.step_size
        if isinstance(h, Tensor):
            wide = rows(h.to(x.dtype), x)
            move = torch.addcmul((2.0 * wide).sqrt() * eps, state.score, wide)
            back = (0.5 * wide).sqrt() * eps
            quarter: Tensor | float = 0.25 * wide
        else:
            move = torch.add(math.sqrt(2.0 * h) * eps, state.score, alpha=h)
            back = math.sqrt(0.5 * h) * eps
            quarter = 0.25 * h
        proposal = x + move
        log_prob, score = both_at(target, proposal)
        g = state.score + score
        log_ratio = log_prob - state.log_prob - sum_rows(g * (back + quarter * g))
        return accept(
            state, State(proposal, log_prob, score), log_ratio, noise.exponential, self.box
        )
