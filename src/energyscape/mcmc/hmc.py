"""Hamiltonian Monte Carlo with a leapfrog integrator and a diagonal mass.

A momentum ``p ~ N(0, M)`` is drawn, ``H(x, p) = E(x) + p' M^-1 p / 2`` is integrated for L steps of
size h, and the end point is accepted with probability ``min(1, exp(H_start - H_end))``. With the
gradient of the current point kept, L steps cost L gradients. Where a trajectory length T is given
instead of L, each step integrates for a time uniform on (0, T) shared by all chains, which removes
periodicities and lets T be tuned across chains (Hoffman, Radul and Sountsov 2021, ChEES).
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
    check_positive,
    rows,
    start,
    sum_rows,
)
from energyscape.mcmc.metropolis import draw_exponential
from energyscape.targets import Target

__all__ = ["HMC", "HMCNoise", "Trajectory"]

DIVERGENCE = 1000.0  # nats of energy error past which a trajectory counts as diverged


class HMCNoise(NamedTuple):
    """Standard normal noise, shape of x; an exponential a chain; one uniform number a step."""

    eps: Tensor
    exponential: Tensor
    uniform: Tensor


class Trajectory(NamedTuple):
    """The end of a trajectory: its state, velocity, log acceptance ratio and duration."""

    end: State
    velocity: Tensor
    log_ratio: Tensor
    time: float


@dataclass(frozen=True, eq=False)
class HMC:
    """Hamiltonian Monte Carlo; give the number of leapfrog steps or the trajectory's length.

    Parameters
    ----------
    step_size : float or Tensor
        h, in units of x over square root of mass; one number, or one a chain.
    num_leapfrog : int
        Leapfrog steps of each iteration, where no `trajectory_length` is given.
    trajectory_length : float, optional
        T: each iteration integrates for ``u T`` with u uniform, in ``ceil(u T / h)`` steps. Warm-up
        tunes it across chains. Needs one step size for all chains.
    inverse_mass : Tensor, optional
        Diagonal of M^-1, shaped like one chain's x (roughly the variances of the target); one by
        default.
    box : (low, high), optional
        A trajectory that ends outside is rejected.
    max_leapfrog : int
        Upper limit of steps where `trajectory_length` is given.

    Raises
    ------
    ValueError
        For settings that are not positive; at `init` for a target without a log-density.

    References
    ----------
    Neal, 1206.1901 section 2; for the jittered trajectory Hoffman, Radul and Sountsov, AISTATS 2021.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.mcmc import run_chains
    >>> rng = torch.Generator().manual_seed(0)
    >>> x0 = eight_gaussians().sample(100, rng)
    >>> chains = run_chains(HMC(0.1, 5), eight_gaussians().at(0.0), x0, 20, rng=rng)
    >>> bool(chains.info.acceptance.mean() > 0.9)
    True
    """

    target_acceptance: ClassVar[float] = 0.7
    step_size: float | Tensor
    num_leapfrog: int = 10
    trajectory_length: float | None = None
    inverse_mass: Tensor | None = None
    box: Box | None = None
    max_leapfrog: int = 256

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_box(self.box)
        if self.num_leapfrog < 1:
            raise ValueError(f"num_leapfrog must be at least 1, got {self.num_leapfrog}")
        if self.inverse_mass is not None:
            check_positive("inverse_mass", self.inverse_mass)
        if self.trajectory_length is not None:
            check_positive("trajectory_length", self.trajectory_length)
            if isinstance(self.step_size, Tensor) and self.step_size.numel() != 1:
                raise ValueError(
                    "a trajectory_length shared by the chains needs one step_size, got "
                    f"{self.step_size.numel()}: give num_leapfrog instead"
                )

    @property
    def traceable(self) -> bool:
        """Whether steps compile: not where each reads how many leapfrog steps it takes."""
        return self.trajectory_length is None

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x, with its log-density and score."""
        return start(self, x, target, need_score=True)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> HMCNoise:
        """Noise of `num_steps` iterations."""
        shape = (num_steps, *like.shape)
        return HMCNoise(
            torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device),
            draw_exponential(num_steps, like, rng),
            torch.rand(num_steps, generator=rng, dtype=torch.float64, device=like.device),
        )

    def steps_of(self, uniform: Tensor) -> int:
        """The number of leapfrog steps an iteration takes."""
        if self.trajectory_length is None:
            return self.num_leapfrog
        steps = math.ceil(float(uniform) * self.trajectory_length / float(self.step_size))
        return min(max(steps, 1), self.max_leapfrog)

    def propose(self, state: State, target: Target, noise: HMCNoise) -> Trajectory:
        """Integrate every chain along its trajectory, without the test."""
        assert state.log_prob is not None
        assert state.score is not None
        h = self.step_size
        step: float | Tensor = rows(h.to(state.x.dtype), state.x) if isinstance(h, Tensor) else h
        inverse = 1.0 if self.inverse_mass is None else self.inverse_mass.to(state.x.dtype)
        momentum = noise.eps if self.inverse_mass is None else noise.eps / inverse**0.5
        kinetic = 0.5 * sum_rows(momentum.square() * inverse)
        num_steps = self.steps_of(noise.uniform)
        drift = step * inverse
        x, score, log_prob = state.x, state.score, state.log_prob
        momentum = momentum + 0.5 * step * score
        for i in range(num_steps):
            x = x + drift * momentum
            log_prob, score = both_at(target, x)
            momentum = momentum + (step if i < num_steps - 1 else 0.5 * step) * score
        velocity = momentum * inverse
        log_ratio = log_prob - state.log_prob + kinetic - 0.5 * sum_rows(momentum * velocity)
        time = num_steps * (float(h) if not isinstance(h, Tensor) or h.numel() == 1 else 1.0)
        return Trajectory(State(x, log_prob, score), velocity, log_ratio, time)

    def test(self, state: State, trajectory: Trajectory, exponential: Tensor) -> tuple[State, Info]:
        """Accept or reject the end of each chain's trajectory."""
        log_ratio = trajectory.log_ratio
        state, info = accept(state, trajectory.end, log_ratio, exponential, self.box)
        assert info.diverged is not None
        diverged = info.diverged | (log_ratio < -DIVERGENCE)
        return state, Info(info.acceptance, info.accepted, diverged)

    def step(self, state: State, target: Target, noise: HMCNoise) -> tuple[State, Info]:
        """One trajectory of every chain and its test."""
        return self.test(state, self.propose(state, target, noise), noise.exponential)
