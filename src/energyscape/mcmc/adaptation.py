"""Tuning a kernel while it warms up: the step size, and the trajectory of HMC.

Dual averaging (Nesterov; Hoffman and Gelman 1111.4246 eq. 6) moves ``log h`` until the mean acceptance
is the wanted one; the averaged iterate is what the run then keeps::

    H_t         = (1 - 1/(t + t0)) H_{t-1} + (target - acceptance) / (t + t0)
    log h_t     = mu - sqrt(t)/gamma H_t
    log hbar_t  = t^-kappa log h_t + (1 - t^-kappa) log hbar_{t-1}

ChEES (Hoffman, Radul and Sountsov 2021) lengthens HMC's trajectory along the gradient of the expected
change of the squared distance to the centre, estimated across the chains of one step. Acceptance is
pooled over the chains, those that diverged left out. Nothing adapts after warm-up: a kernel that
watches its own history leaves no density unchanged.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from energyscape.mcmc.hmc import HMC, Trajectory
from energyscape.mcmc.kernel import Info, Kernel, State
from energyscape.targets import Target

__all__ = ["Adapter", "ChEESAdapter", "DualAveraging", "StepSizeAdapter", "adapter_for"]


class DualAveraging:
    """The step size, in float64 on the host, as the warm-up moves it.

    Parameters
    ----------
    step_size : float
        Where to start; the first guesses go towards ten times that.
    target : float
        The acceptance wanted.

    Examples
    --------
    >>> averaging = DualAveraging(1.0, target=0.5)
    >>> for _ in range(500):
    ...     averaging.update(min(1.0, 0.1 / averaging.step_size))
    >>> round(averaging.averaged, 1)
    0.2
    """

    def __init__(
        self,
        step_size: float,
        target: float,
        *,
        gamma: float = 0.05,
        t0: float = 10.0,
        kappa: float = 0.75,
    ) -> None:
        self.target, self.gamma, self.t0, self.kappa = target, gamma, t0, kappa
        self._mu = math.log(10 * step_size)
        self._log_step = math.log(step_size)
        self._log_average = 0.0
        self._gap = 0.0
        self._count = 0

    def update(self, acceptance: float) -> None:
        """Take in the mean acceptance of one step."""
        self._count += 1
        t = self._count
        weight = 1.0 / (t + self.t0)
        self._gap = (1 - weight) * self._gap + weight * (self.target - acceptance)
        log_step = self._mu - math.sqrt(t) / self.gamma * self._gap
        self._log_step = min(max(log_step, -46.0), 46.0)
        share = t**-self.kappa
        self._log_average = share * self._log_step + (1 - share) * self._log_average

    @property
    def step_size(self) -> float:
        """The step size to try next."""
        return math.exp(self._log_step)

    @property
    def averaged(self) -> float:
        """The step size to keep."""
        return math.exp(self._log_average) if self._count else self.step_size


class Adapter(Protocol):
    """Steps chains with a kernel that it changes as it goes."""

    def step(self, state: Any, target: Target, noise: Any) -> tuple[Any, Info]:
        """One step with the kernel as it stands, and what is learned from it."""
        ...

    def finish(self) -> Kernel:
        """The kernel to keep, frozen."""
        ...


def pooled_acceptance(info: Info) -> float:
    """Mean acceptance over the chains that did not diverge; 0 if all did."""
    assert info.acceptance is not None
    if info.diverged is None:
        return float(info.acceptance.mean())
    fine = ~info.diverged
    # Counting a diverged chain as a rejection would let one bad chain set everyone's step.
    total = float(torch.where(fine, info.acceptance, 0.0).sum())
    return total / max(int(fine.sum()), 1)


class StepSizeAdapter:
    """Dual averaging of one step size shared by all chains.

    A kernel that comes with several step sizes keeps their ratios.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._shape = kernel.step_size
        first = kernel.step_size
        self._first = float(first.log().mean().exp()) if isinstance(first, Tensor) else first
        self._averaging = DualAveraging(self._first, kernel.target_acceptance)

    def _with(self, step_size: float) -> Any:
        if isinstance(self._shape, Tensor) and self._shape.numel() > 1:
            return replace(self.kernel, step_size=self._shape * (step_size / self._first))
        return replace(self.kernel, step_size=step_size)

    def step(self, state: Any, target: Target, noise: Any) -> tuple[Any, Info]:
        """One step; the step size follows the acceptance."""
        state, info = self.kernel.step(state, target, noise)
        self._averaging.update(pooled_acceptance(info))
        self.kernel = self._with(self._averaging.step_size)
        return state, info

    def finish(self) -> Kernel:
        """The kernel with the averaged step size."""
        kernel: Kernel = self._with(self._averaging.averaged)
        return kernel


class ChEESAdapter:
    """Step size by dual averaging and trajectory length by ChEES, across the chains of HMC.

    With x' the proposals, v' their velocities, a the acceptance and t the time integrated, the
    gradient of the criterion in log T is ::

        t sum_m a_m (||x'_m - mean x'||^2 - ||x_m - mean x||^2) (x'_m - mean x') . v'_m / sum_m a_m

    followed by Adam on log T. Needs several chains; with fewer than 2 that did not diverge a step
    teaches nothing about T.

    References
    ----------
    Hoffman, Radul and Sountsov, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
    Monte Carlo, AISTATS 2021, eq. 5 and algorithm 1.
    """

    def __init__(self, kernel: HMC, *, learning_rate: float = 0.05) -> None:
        if kernel.trajectory_length is None:
            raise ValueError("ChEES tunes a trajectory_length: give HMC one to start from")
        self.kernel = kernel
        self._averaging = DualAveraging(float(kernel.step_size), kernel.target_acceptance)
        self._log_length = math.log(kernel.trajectory_length)
        self._log_average = self._log_length
        self._rate = learning_rate
        self._first, self._second, self._count = 0.0, 0.0, 0

    def step(self, state: State, target: Target, noise: Any) -> tuple[State, Info]:
        """One trajectory; step size and length follow what all chains saw."""
        kernel = self.kernel
        trajectory = kernel.propose(state, target, noise)
        new, info = kernel.test(state, trajectory, noise.exponential)
        self._averaging.update(pooled_acceptance(info))
        self._climb(state.x, trajectory, info)
        step_size = self._averaging.step_size
        longest = step_size * kernel.max_leapfrog
        self._log_length = min(max(self._log_length, math.log(step_size)), math.log(longest))
        self.kernel = replace(
            kernel, step_size=step_size, trajectory_length=math.exp(self._log_length)
        )
        return new, info

    def _climb(self, x: Tensor, trajectory: Trajectory, info: Info) -> None:
        """Adam on log T along the gradient of the criterion."""
        assert info.acceptance is not None
        assert info.diverged is not None
        fine = ~info.diverged & (info.acceptance > 1e-6)
        if int(fine.sum()) < 2:
            return
        weight = info.acceptance[fine].double()
        end, velocity = trajectory.end.x[fine].double(), trajectory.velocity[fine].double()
        begin = x[fine].double()
        end = (end - (end.transpose(0, -1) @ weight / weight.sum()).transpose(0, -1)).flatten(1)
        begin = (begin - begin.mean(0)).flatten(1)
        change = end.square().sum(1) - begin.square().sum(1)
        along = (end * velocity.flatten(1)).sum(1)
        gradient = trajectory.time * float((weight * change * along).sum() / weight.sum())
        if not math.isfinite(gradient):
            return
        self._count += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.95 * self._second + 0.05 * gradient**2
        first = self._first / (1 - 0.9**self._count)
        second = self._second / (1 - 0.95**self._count)
        self._log_length += self._rate * first / (math.sqrt(second) + 1e-12)
        share = self._count**-0.5
        self._log_average = share * self._log_length + (1 - share) * self._log_average

    def finish(self) -> HMC:
        """The kernel with the averaged step size and trajectory length."""
        step_size = self._averaging.averaged
        length = max(math.exp(self._log_average), step_size)
        return replace(self.kernel, step_size=step_size, trajectory_length=length)


def adapter_for(kernel: Any) -> Adapter | None:
    """What tunes this kernel in warm-up, or None where nothing is to be tuned."""
    own = getattr(kernel, "adapter", None)
    if own is not None:
        adapter: Adapter = own()
        return adapter
    if isinstance(kernel, HMC) and kernel.trajectory_length is not None:
        return ChEESAdapter(kernel)
    if getattr(kernel, "target_acceptance", None) is not None:
        return StepSizeAdapter(kernel)
    return None
