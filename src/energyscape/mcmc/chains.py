"""Running many chains: warm-up, blocks of noise, thinning, and what to say about the result."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.adaptation import adapter_for
from energyscape.mcmc.compilation import Walked, block_runner, split_noise
from energyscape.mcmc.diagnostics import Diagnostics, diagnostics
from energyscape.mcmc.kernel import ChainWarning, Info, Kernel, check_target, score_at
from energyscape.targets import Target

__all__ = ["Chains", "RunInfo", "run_chains"]

BLOCK_STEPS = 80
CLIMB_STEPS = 40  # in a shorter run it is no news that chains have not arrived
BLOCK_NUMBERS = 1 << 22  # noise drawn at once: enough to amortise the call, little enough to store


class RunInfo(NamedTuple):
    """What happened on the way to each kept draw, over the `thin` steps that led to it.

    `acceptance` is the mean acceptance probability, shape (n, chains), or None for a kernel without a
    test; `diverged` is the number of steps that met a non-finite number or a diverging trajectory,
    same shape. With ``keep="last"`` n is 1 and both are over the whole run.
    """

    acceptance: Tensor | None
    diverged: Tensor


@dataclass(frozen=True, eq=False)
class Chains:
    """The result of `run_chains`.

    Attributes
    ----------
    draws : Tensor of shape (n, chains, ...)
        The kept draws; with ``keep="last"`` only the last, n = 1.
    log_prob : Tensor of shape (n, chains), or None
        Unnormalised log-density of the draws, where the kernel knows it.
    info : RunInfo
    kernel : Kernel
        As warm-up left it.
    state : State
        Where the chains stand: `run_chains` may go on from ``state.x``.
    modes : Tensor of shape (K, ...), or None
        Known modes, by which the diagnostics judge.
    climb : float
        Nats that the median chain gained in log-density over the last quarter of the run; NaN where
        the kernel does not know it, or the run is too short to tell.
    stalled : int
        Chains whose mean acceptance in that quarter was below 1 %.
    risen : float
        Nats that the median chain gained over the last three quarters, where it gained as steadily as
        it moved away from the starts, and more than chance gives; 0 elsewhere.
    """

    draws: Tensor
    log_prob: Tensor | None
    info: RunInfo
    kernel: Any
    state: Any
    modes: Tensor | None = None
    climb: float = math.nan
    stalled: int = 0
    risen: float = 0.0

    @property
    def x(self) -> Tensor:
        """The last draw of every chain, shape (chains, ...)."""
        return self.draws[-1]

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """R-hat, effective sample sizes, acceptance, divergences and a verdict in words."""
        return diagnostics(
            self.draws,
            acceptance=None if self.info.acceptance is None else self.info.acceptance.mean(0),
            divergences=self.info.diverged.sum(0),
            modes=self.modes,
        )


class _Tally:
    """Acceptance and divergences, summed over windows of steps."""

    def __init__(self) -> None:
        self.acceptance: list[Tensor] = []
        self.diverged: list[Tensor] = []

    def add(self, info: Info, window: int, like: Tensor) -> None:
        """Reduce one block's info, a row a step, to one row a window."""
        chains = like.shape[0]
        if info.acceptance is not None:
            self.acceptance.append(info.acceptance.view(-1, window, chains).mean(1))
        assert info.diverged is not None
        self.diverged.append(info.diverged.view(-1, window, chains).sum(1))

    def result(self, weights: list[int] | None) -> RunInfo:
        """All windows; with `weights`, one row over all of them."""
        acceptance = torch.cat(self.acceptance) if self.acceptance else None
        diverged = torch.cat(self.diverged)
        if weights is not None:
            diverged = diverged.sum(0, keepdim=True)
            if acceptance is not None:
                w = torch.tensor(weights, dtype=acceptance.dtype, device=acceptance.device)
                acceptance = (w[:, None] * acceptance).sum(0, keepdim=True) / w.sum()
        return RunInfo(acceptance, diverged)


def block_steps(x: Tensor, multiple: int = 1) -> int:
    """How many steps' noise to draw at once: it depends on shapes alone, so runs repeat."""
    steps = max(1, min(BLOCK_STEPS, BLOCK_NUMBERS // max(x.numel(), 1)))
    return max(multiple, steps // multiple * multiple)


def warm_up(
    kernel: Any,
    state: Any,
    target: Target,
    num_steps: int,
    *,
    adapt: bool,
    rng: torch.Generator,
    tick: Callable[[int], None],
) -> tuple[Any, Any]:
    """Steps that are thrown away; returns the frozen kernel and where the chains then are."""
    adapter = adapter_for(kernel) if adapt else None
    step = kernel.step if adapter is None else adapter.step
    left = num_steps
    while left:
        size = min(block_steps(state.x), left)
        for noise in split_noise(kernel.draw(size, state.x, rng)):
            state, _ = step(state, target, noise)
        left -= size
        tick(size)
    return (kernel if adapter is None else adapter.finish()), state


def run_chains(
    kernel: Kernel,
    target: Target,
    x0: Tensor,
    num_steps: int,
    *,
    warmup: int = 0,
    thin: int = 1,
    adapt: bool = True,
    rng: torch.Generator,
    keep: Literal["all", "last"] = "all",
    modes: Tensor | None = None,
    compile: bool | Literal["auto"] = "auto",
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Walked], None] | None = None,
) -> Chains:
    """Walk many chains, keep what is asked, and say how it went.

    Parameters
    ----------
    kernel : Kernel
    target : Target
    x0 : Tensor of shape (chains, ...)
        Starts, overdispersed if R-hat is to mean anything. Its type is the type of the run.
    num_steps : int
        Steps after warm-up, a multiple of `thin`.
    warmup : int
        Steps thrown away first; the step size (and HMC's trajectory) adapts in them alone.
    thin : int
        Keep every `thin`-th step.
    adapt : bool
        False leaves the kernel as it is in warm-up too.
    rng : torch.Generator
        On the device of x0.
    keep : {"all", "last"}
        "last" stores no draws but the last, for samplers and training.
    modes : Tensor of shape (K, ...), optional
        Known modes (those of `find_modes`): the verdict then counts the ones no chain left and the
        ones no chain saw.
    compile : bool or "auto"
        Compile blocks of steps (needs a C++ compiler on the CPU): True always; "auto" only where a
        compiler is found and the run is long enough to earn the compilation back: 250,000 steps of
        few chains, 33,000 of 10,000.
    progress : callable, optional
        Called as ``progress(steps_done, steps_in_all)`` after each block.
    watch : callable, optional
        Called with each block of steps after warm-up, such as an `Excerpt`; with ``keep="last"``
        nothing else sees them.

    Returns
    -------
    Chains

    Raises
    ------
    ValueError
        For settings out of range, or a target the kernel cannot walk on.
    TypeError
        For an energy or a network in the place of a target.

    Warns
    -----
    ChainWarning
        When nothing was accepted, when chains met numbers that are not finite, when they ran away,
        kept climbing or kept rising, as they do on an energy that is unbounded below, or when a long
        run could not be compiled.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import GaussianMixture
    >>> from energyscape.mcmc import MALA
    >>> rng = torch.Generator().manual_seed(0)
    >>> normal = GaussianMixture.isotropic(torch.zeros(1, 3), 1.0)
    >>> x0 = 2 * torch.randn(8, 3, generator=rng, dtype=torch.float64)
    >>> chains = run_chains(MALA(0.5), normal.at(0.0), x0, 400, warmup=200, rng=rng)
    >>> chains.draws.shape, bool(chains.diagnostics.rhat < 1.02)
    (torch.Size([400, 8, 3]), True)
    """
    check_target(target)
    if num_steps < 1 or warmup < 0 or thin < 1 or num_steps % thin:
        raise ValueError(
            "num_steps must be a positive multiple of thin and warmup 0 or more, got "
            f"num_steps={num_steps}, thin={thin}, warmup={warmup}"
        )
    if keep not in ("all", "last"):
        raise ValueError(f"keep is 'all' or 'last', got {keep!r}")
    done = 0

    def tick(steps: int) -> None:
        nonlocal done
        done += steps
        if progress is not None:
            progress(done, warmup + num_steps)

    state = kernel.init(x0, target)
    frozen, state = warm_up(kernel, state, target, warmup, adapt=adapt, rng=rng, tick=tick)
    chains = _run(frozen, target, state, num_steps, thin, rng, keep, compile, tick, x0, watch)
    _warn(chains, x0, num_steps)
    return replace(chains, modes=modes)


def _run(
    kernel: Any,
    target: Target,
    state: Any,
    num_steps: int,
    thin: int,
    rng: torch.Generator,
    keep: str,
    compile: bool | Literal["auto"],
    tick: Callable[[int], None],
    x0: Tensor,
    watch: Callable[[Walked], None] | None,
) -> Chains:
    """The part of a run that counts."""
    x = state.x
    store = keep == "all"
    draws = x.new_empty((num_steps // thin, *x.shape)) if store else None
    log_probs: list[Tensor] = []
    tally, sizes = _Tally(), []
    block = block_steps(x, thin if store else 1)
    run_block = block_runner(kernel, target, num_steps, len(x), compile)
    left, at = num_steps, 0
    hopes = torch.zeros(len(x), device=x.device)
    passed: list[tuple[Tensor, Tensor | None]] = []
    # The last of them is a quarter before the end.
    marks = [k * (num_steps // 4) for k in (3, 2, 1)] if num_steps >= CLIMB_STEPS else []
    while left:
        size = min(block, left)
        walked = run_block(state, kernel.draw(size, x, rng))
        state, late_from = walked.state, max(left - num_steps // 4, 0)
        for row in (left - mark - 1 for mark in marks if left - size <= mark < left):
            known = None if walked.log_prob is None else walked.log_prob[row].clone()
            passed.append((walked.x[row].clone(), known))
        if walked.info.acceptance is not None and late_from < size:
            hopes = hopes + walked.info.acceptance[late_from:].sum(0)
        tally.add(walked.info, thin if store else size, x)
        sizes.append(size)
        if watch is not None:
            watch(walked)
        if draws is not None:
            kept = walked.x[thin - 1 :: thin]
            draws[at : at + len(kept)] = kept
            if walked.log_prob is not None:
                log_probs.append(walked.log_prob[thin - 1 :: thin].clone())  # not the whole block's
            at += len(kept)
        left -= size
        tick(size)
    if draws is None:
        draws = state.x[None]
        log_prob = None if state.log_prob is None else state.log_prob[None]
    else:
        log_prob = torch.cat(log_probs) if log_probs else None
    climb, stalled, risen = math.nan, 0, 0.0
    if passed:
        passed.append((state.x, state.log_prob))
        risen = _risen(target, x0, passed)
        if (late := passed[-2][1]) is not None:
            climb = float((state.log_prob - late).nanmedian())
            stalled = int((hopes < 0.01 * (num_steps // 4)).sum())
    told = tally.result(None if store else sizes)
    return Chains(draws, log_prob, told, kernel, state, climb=climb, stalled=stalled, risen=risen)


def _risen(target: Target, x0: Tensor, passed: list[tuple[Tensor, Tensor | None]]) -> float:
    """Nats gained by the median chain over the last three quarters, or 0 where it was no steady rise.

    On a linear energy drift and gain are the same in every quarter and no quarter takes chains back;
    chains that settle slow down, and stay within reach of where they settle.
    """
    centre = x0.mean(0)

    def away(x: Tensor) -> Tensor:
        return (x - centre).flatten(1).norm(dim=1)

    reach = [float(away(x).nanmedian()) for x, _ in passed]
    rising = all(a < b for a, b in itertools.pairwise(reach))
    if not rising or not reach[-1] > 3.0 * float(away(x0).nan_to_num(0.0).max()):
        return 0.0
    gains = [float(g.nanmedian()) for g in _gains(target, passed)]
    # Settled chains of D coordinates wander by about sqrt(D) nats, the median of many by less.
    chance = (3.0 + 1.5 * x0[0].numel() ** 0.5) * max(1 / 3, len(x0) ** -0.5)
    return sum(gains) if min(gains) > chance and gains[-1] > 0.5 * gains[0] else 0.0


def _gains(target: Target, passed: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """The log-density that each chain gained from one point passed to the next, shape (chains,) each.

    A score alone is integrated along the way by the trapezoidal rule.
    """
    values = [target.value(x) if known is None else known for x, known in passed]
    if values[0] is not None:
        return [b - a for a, b in itertools.pairwise(values)]  # type: ignore[operator]
    ahead = [(x, score_at(target, x)) for x, _ in passed]
    return [
        0.5 * ((y - x) * (t + s)).flatten(1).sum(1) for (x, s), (y, t) in itertools.pairwise(ahead)
    ]


def _warn(chains: Chains, x0: Tensor, num_steps: int) -> None:
    """Say by name what a reader of the draws must know."""
    name, info = type(chains.kernel).__name__, chains.info
    count = x0.shape[0]
    stuck = int((info.diverged.sum(0) > num_steps // 2).sum())
    start = float(x0.abs().nan_to_num(0.0, 0.0, 0.0).max())
    reach = float(chains.x.abs().nan_to_num(0.0).max())
    message = None
    if info.acceptance is None and stuck:
        message = (
            f"{name} diverged in {stuck} of {count} chains (numbers that are not finite; they stopped "
            "where they were): give a smaller step, or check that the energy grows at infinity"
        )
    elif info.acceptance is not None and not bool((info.acceptance > 1e-8).any()):
        size = getattr(chains.kernel, "step_size", None)
        told = f" with step_size {size:.3g}" if isinstance(size, float) else ""
        message = (
            f"{name} accepted nothing in {num_steps} steps of {count} chains{told}: the draws are the "
            "starting points; give a smaller step or a warm-up that finds one"
        )
    elif reach > 1e6 * (1.0 + start) and info.acceptance is None:
        size = getattr(chains.kernel, "step_size", None)
        told = f"step of {size:.3g}" if isinstance(size, float) else "step"
        message = (
            f"{name} ran off to |x| = {reach:.1e}: either its {told} is too large for the energy, "
            "which it then overshoots ever farther, or the energy is unbounded below and exp(-E) has "
            "no integral; take a smaller step, and if that does not help confine the energy"
        )
    elif reach > 1e6 * (1.0 + start):
        message = (
            f"{name} ran off to |x| = {reach:.1e}: the energy seems unbounded below, so that exp(-E) "
            "has no integral; confine it, or take a smaller step"
        )
    # Settled chains of D coordinates wander by about sqrt(D) nats, the median of many by less.
    elif chains.climb > 20 + 5 * x0[0].numel() ** 0.5:
        message = (
            f"{name} still climbs: the median chain gained {chains.climb:.0f} nats of log-density in "
            "the last quarter of the run; the chains have not arrived yet (warm up longer), or the "
            "energy is unbounded below and exp(-E) has no integral"
        )
    elif chains.risen > 0:
        message = (
            f"{name} has kept rising over the whole run: the median chain gained {chains.risen:.0f} "
            "nats of log-density in its last three quarters, hardly slowing down, and moved away from "
            "its start all the while; either the energy is unbounded below and exp(-E) has no integral "
            "(confine it), or the chains are far from settled (warm up longer)"
        )
    elif 2 * chains.stalled > count:
        message = (
            f"{name} accepted less than 1 % in the last quarter of the run in {chains.stalled} of "
            f"{count} chains: the step is too large where they are, as it becomes on an energy that is "
            "unbounded below; give a smaller step or a warm-up, or confine the energy"
        )
    if message is not None:
        warnings.warn(message, ChainWarning, stacklevel=3)
