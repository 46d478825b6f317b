"""Parallel tempering: copies at rising temperatures that exchange their points.

Copy i walks ``p^(b_i)``; neighbours propose to exchange and accept with probability ::

    min(1, exp( (b_i - b_j)(E_i - E_j) )),

even pairs in one step and odd pairs in the next, so that a point travels. Only the copy at b = 1
gives draws. An exchange costs nothing: value and score of p are the same at every temperature.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.adaptation import DualAveraging, pooled_acceptance
from energyscape.mcmc.hmc import HMC
from energyscape.mcmc.kernel import Info, State, check_chains, rows
from energyscape.mcmc.langevin import MALA
from energyscape.mcmc.metropolis import RandomWalk, draw_exponential
from energyscape.mcmc.paths import Tempered
from energyscape.targets import Target

__all__ = ["ParallelTempering", "TemperedState", "TemperingNoise"]


class TemperingNoise(NamedTuple):
    """Noise of the inner kernel for all copies, and an exponential for each possible exchange."""

    inner: Any
    swap: Tensor


class TemperedState(NamedTuple):
    """All copies, the coldest first, as rows of one inner state."""

    inner: State
    chains: int
    parity: int

    @property
    def x(self) -> Tensor:
        """The copies at beta 1, shape (chains, ...)."""
        return self.inner.x[: self.chains]

    @property
    def log_prob(self) -> Tensor:
        """Their log-density, shape (chains,)."""
        assert self.inner.log_prob is not None
        return self.inner.log_prob[: self.chains]


@dataclass(frozen=True, eq=False)
class ParallelTempering:
    """Exchange between copies of each chain at several temperatures.

    Parameters
    ----------
    kernel : RandomWalk, MALA or HMC
        Moves every copy; its step size (a number) is the cold copy's, hotter ones take longer steps.
    betas : tuple of float
        Inverse temperatures, falling from 1.

    Raises
    ------
    ValueError
        For betas that do not fall from 1 to something positive, or an inner kernel that cannot be
        tempered.

    References
    ----------
    Geyer 1991; even and odd exchanges in turn, Okabe et al. 2001.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import GaussianMixture
    >>> from energyscape.mcmc import MALA, run_chains
    >>> p = GaussianMixture.isotropic(torch.tensor([[-5.0], [5.0]]), 1.0)
    >>> rng = torch.Generator().manual_seed(0)
    >>> kernel = ParallelTempering(MALA(0.5), (1.0, 0.4, 0.15, 0.05))
    >>> x = run_chains(kernel, p.at(0.0), torch.full((64, 1), -5.0), 200, rng=rng).x
    >>> bool(0.25 < (x > 0).double().mean() < 0.75)
    True
    """

    kernel: RandomWalk | MALA | HMC
    betas: tuple[float, ...] = (1.0, 0.5, 0.25, 0.1)

    def __post_init__(self) -> None:
        betas = self.betas
        falling = all(a > b for a, b in itertools.pairwise(betas))
        if len(betas) < 2 or betas[0] != 1.0 or not falling or betas[-1] <= 0:
            raise ValueError(f"betas must fall from 1 to a positive number, got {betas}")
        if not isinstance(self.kernel, RandomWalk | MALA | HMC):
            raise ValueError(
                f"parallel tempering moves its copies by RandomWalk, MALA or HMC, not "
                f"{type(self.kernel).__name__}"
            )
        if isinstance(self.kernel, HMC) and self.kernel.trajectory_length is not None:
            raise ValueError("the copies need a fixed num_leapfrog, not a trajectory_length")
        if isinstance(self.kernel.step_size, Tensor):
            raise ValueError("give the inner kernel one step_size, a number")

    def _beta_rows(self, like: Tensor, chains: int) -> Tensor:
        dtype = torch.promote_types(like.dtype, torch.float32)
        betas = torch.tensor(self.betas, dtype=dtype, device=like.device)
        return betas.repeat_interleave(chains)

    def _inner(self, betas: Tensor) -> RandomWalk | MALA | HMC:
        """The inner kernel with one step size a row: squared lengths grow as the temperature."""
        power = 1.0 if isinstance(self.kernel, MALA) else 0.5
        return replace(self.kernel, step_size=self.kernel.step_size * betas**-power)

    def init(self, x: Tensor, target: Target) -> TemperedState:
        """Every copy starts at x."""
        check_chains(x)
        chains = x.shape[0]
        betas = self._beta_rows(x, chains)
        copies = x.repeat(len(self.betas), *(1,) * (x.ndim - 1))
        return TemperedState(self.kernel.init(copies, Tempered(target, betas)), chains, 0)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> TemperingNoise:
        """Noise of all copies; `like` holds the cold ones."""
        copies = like.repeat(len(self.betas), *(1,) * (like.ndim - 1))
        return TemperingNoise(
            self.kernel.draw(num_steps, copies, rng), draw_exponential(num_steps, copies, rng)
        )

    def step(
        self, state: TemperedState, target: Target, noise: TemperingNoise
    ) -> tuple[TemperedState, Info]:
        """One move of every copy, then exchanges between even or odd neighbours."""
        betas = self._beta_rows(state.inner.x, state.chains)
        inner, info = self._inner(betas).step(state.inner, Tempered(target, betas), noise.inner)
        inner = self._swap(inner, betas, state, noise.swap)
        cold = Info(*(None if part is None else part[: state.chains] for part in info))
        return TemperedState(inner, state.chains, 1 - state.parity), cold

    def _swap(
        self, inner: State, betas: Tensor, state: TemperedState, exponential: Tensor
    ) -> State:
        """Exchange neighbours i, i+1 with i of the parity of this step."""
        copies, chains = len(self.betas), state.chains
        partner = torch.arange(copies)
        for i in range(state.parity, copies - 1, 2):
            partner[i], partner[i + 1] = i + 1, i
        own = torch.arange(copies * chains, device=betas.device)
        other = partner.to(betas.device).repeat_interleave(chains) * chains + own % chains
        assert inner.log_prob is not None
        plain = inner.log_prob / betas
        log_ratio = (betas - betas[other]) * (plain[other] - plain)
        # Both rows of a pair read the same exponential, that of the colder one.
        taken = (log_ratio > -exponential[torch.minimum(own, other)]) & (own != other)
        # A copy outside the support (-inf) or in trouble (NaN) is not handed on.
        taken = taken & plain.isfinite() & plain[other].isfinite()
        source = torch.where(taken, other, own)
        scale = torch.where(taken, betas / betas[other], 1.0)
        score = None
        if inner.score is not None:
            score = inner.score[source] * rows(scale, inner.x).to(inner.x.dtype)
        return State(
            inner.x[source], torch.where(taken, betas * plain[other], inner.log_prob), score
        )

    def adapter(self) -> TemperingAdapter:
        """Dual averaging of the cold copies' step size."""
        return TemperingAdapter(self)


class TemperingAdapter:
    """Tunes the inner step size by the acceptance of the cold copies; the others follow it."""

    def __init__(self, kernel: ParallelTempering) -> None:
        self.kernel = kernel
        inner = kernel.kernel
        self._averaging = DualAveraging(float(inner.step_size), inner.target_acceptance)

    def _with(self, step_size: float) -> ParallelTempering:
        return replace(self.kernel, kernel=replace(self.kernel.kernel, step_size=step_size))

    def step(self, state: Any, target: Target, noise: Any) -> tuple[Any, Info]:
        """One step; the step size follows the acceptance."""
        state, info = self.kernel.step(state, target, noise)
        self._averaging.update(pooled_acceptance(info))
        self.kernel = self._with(self._averaging.step_size)
        return state, info

    def finish(self) -> ParallelTempering:
        """The kernel with the averaged step size."""
        return self._with(self._averaging.averaged)


def geometric_betas(coldest_to_hottest: float, copies: int) -> tuple[float, ...]:
    """`copies` inverse temperatures from 1 down to 1/`coldest_to_hottest`, evenly spaced in log."""
    if copies < 2 or not coldest_to_hottest > 1:
        raise ValueError("a ladder of temperatures needs 2 copies or more and a ratio above 1")
    return tuple(math.exp(-math.log(coldest_to_hottest) * i / (copies - 1)) for i in range(copies))
