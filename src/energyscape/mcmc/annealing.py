"""One walk down a ladder of targets: annealed Langevin, importance weights and tempering.

At each rung the chains take some steps of that rung's kernel. That is all annealed Langevin does: the
rungs are ``p_sigma`` from the largest sigma to the smallest, with the step ::

    h_i = eps sigma_i^2 / sigma_L^2,      x <- x + h_i score(x, sigma_i) + sqrt(2 h_i) z,

so that h_i / sigma_i^2 is the same everywhere (1907.05600 algorithm 1; that paper writes h/2 and
sqrt(h), so its eps is twice this one). A last step without noise, ``x + sigma_L^2 score``, is the
posterior mean and takes the noise of the last level away. Where the start is a draw from a density
f_0, the same walk carries importance weights, added to *before* each rung's moves::

    log w = sum_k [ log f_k(x_{k-1}) - log f_{k-1}(x_{k-1}) ].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.chains import block_steps
from energyscape.mcmc.compilation import plain_block, split_noise
from energyscape.mcmc.kernel import Info, Kernel, check_chains, check_target, score_at, value_at
from energyscape.mcmc.ladders import ncsnv2_step_size
from energyscape.mcmc.langevin import MALA, ULA
from energyscape.mcmc.pinned import Pinned
from energyscape.targets import Target

__all__ = ["Annealed", "LevelInfo", "anneal", "annealed_langevin"]


class LevelInfo(NamedTuple):
    """One rung: mean acceptance of each chain (None without a test), diverging steps, weights' ESS."""

    acceptance: Tensor | None
    diverged: Tensor | None
    ess: float | None


class Annealed(NamedTuple):
    """Where the walk ended, shape (chains, ...), its log-weights, and what happened on each rung.

    The mean of ``exp(log_weights)`` estimates Z_K / Z_0 without bias, resampled or not.
    """

    x: Tensor
    log_weights: Tensor | None
    levels: list[LevelInfo]


def anneal(
    x0: Tensor,
    targets: Sequence[Target],
    kernels: Kernel | Sequence[Kernel],
    steps_per_level: int | Sequence[int],
    *,
    rng: torch.Generator,
    base: Target | None = None,
    resample_below: float = 0.0,
    on_level: Callable[[int, Tensor], None] | None = None,
) -> Annealed:
    """Walk chains down a ladder of targets.

    Parameters
    ----------
    x0 : Tensor of shape (chains, ...)
    targets : sequence of Target
        In the order they are visited.
    kernels : Kernel or sequence of Kernel
        One for all rungs, or one each.
    steps_per_level : int or sequence of int
        0 moves nothing at that rung.
    rng : torch.Generator
    base : Target, optional
        The density x0 was drawn from. With it the walk carries importance weights, for which every
        kernel must leave its rung unchanged (MALA or HMC, not ULA).
    resample_below : float
        Chains are resampled by their weights when the weights' ESS falls below this fraction of the
        chains (sequential Monte Carlo); 0 never.
    on_level : callable, optional
        Called as ``on_level(i, x)`` after each rung.

    Returns
    -------
    Annealed

    Raises
    ------
    ValueError
        For ladders whose parts differ in length, or a start outside the base.

    References
    ----------
    Neal, Annealed importance sampling, 1998; Song and Ermon, 1907.05600 algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import GaussianMixture
    >>> from energyscape.mcmc import MALA
    >>> rng = torch.Generator().manual_seed(0)
    >>> p = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    >>> rungs = [p.at(s) for s in (1.5, 1.0, 0.5, 0.0)]
    >>> walk = anneal(p.sample(500, rng, sigma=2.0), rungs, MALA(0.5), 5, rng=rng, base=p.at(2.0))
    >>> log_z = walk.log_weights.logsumexp(0) - torch.tensor(500.0).log()
    >>> bool(log_z.abs() < 0.1)  # both ends are normalised
    True
    """
    check_chains(x0)
    for target in targets:
        check_target(target)
    count = len(targets)
    if count == 0:
        raise ValueError("a ladder needs at least one target")
    kernels = list(kernels) if isinstance(kernels, Sequence) else [kernels] * count
    steps = [steps_per_level] * count if isinstance(steps_per_level, int) else list(steps_per_level)
    if len(kernels) != count or len(steps) != count or min(steps) < 0:
        raise ValueError(
            f"{count} targets need one kernel and one number of steps (0 or more) each, got "
            f"{len(kernels)} kernels and steps {steps}"
        )
    if not 0 <= resample_below <= 1:
        raise ValueError(f"resample_below is a fraction of the chains, got {resample_below}")
    x, levels = x0.detach(), []
    weights = None if base is None else _Weights(x, base, resample_below)
    for i, (target, kernel) in enumerate(zip(targets, kernels, strict=True)):
        ess = None
        if weights is not None:
            ess = weights.advance(x, target)
            x = weights.resample(x, rng)
        state, info = walk(kernel.init(x, target), target, kernel, steps[i], rng)
        x = state.x
        levels.append(LevelInfo(info.acceptance, info.diverged, ess))
        if weights is not None:
            weights.moved(state, target)
        if on_level is not None:
            on_level(i, x)
    return Annealed(x, None if weights is None else weights.log_weights, levels)


class _Weights:
    """Importance weights of a walk; log-densities already known are not computed again."""

    def __init__(self, x: Tensor, base: Target, resample_below: float) -> None:
        value = base.value(x)
        if value is None:
            raise ValueError("importance weights need a base with a log-density, not a score alone")
        if not bool(value.isfinite().all()):
            raise ValueError("x0 must be a draw from the base: its log-density there is not finite")
        self._last = value
        self._below = resample_below
        self.log_weights = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)

    def advance(self, x: Tensor, target: Target) -> float:
        """Add the rung's increment; the ESS as a fraction of the chains."""
        value = target.value(x)
        if value is None:
            raise ValueError("importance weights need targets with a log-density at every rung")
        increment = (value - self._last).double()
        self.log_weights = self.log_weights + torch.where(increment.isnan(), -math.inf, increment)
        share = self.log_weights.softmax(0)
        return float(1.0 / share.square().sum() / len(share))

    def resample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Systematic resampling if the ESS asks for it; the mean weight is kept."""
        share = self.log_weights.softmax(0)
        if not float(1.0 / share.square().sum()) < self._below * len(share):
            return x
        n = len(share)
        offset = torch.rand(1, generator=rng, dtype=torch.float64, device=x.device)
        ticks = (torch.arange(n, dtype=torch.float64, device=x.device) + offset) / n
        chosen = torch.searchsorted(share.cumsum(0), ticks).clamp(max=n - 1)
        mean = torch.logsumexp(self.log_weights, 0) - math.log(n)
        self.log_weights = mean.expand(n).clone()
        return x[chosen]

    def moved(self, state: Any, target: Target) -> None:
        """Remember the log-density under the rung just left."""
        self._last = value_at(target, state.x) if state.log_prob is None else state.log_prob


def walk(
    state: Any, target: Target, kernel: Kernel, num_steps: int, rng: torch.Generator
) -> tuple[Any, Info]:
    """Steps of one kernel on one target; mean acceptance and the number of diverging steps."""
    acceptance: Tensor | None = None
    diverged: Tensor | None = None
    left = num_steps
    while left:
        size = min(block_steps(state.x), left)
        states, infos = plain_block(
            kernel, target, state, split_noise(kernel.draw(size, state.x, rng))
        )
        state = states[-1]
        for info in infos:
            if info.acceptance is not None:
                acceptance = info.acceptance if acceptance is None else acceptance + info.acceptance
            if info.diverged is not None:
                bad = info.diverged.to(torch.int32)
                diverged = bad if diverged is None else diverged + bad
        left -= size
    return state, Info(None if acceptance is None else acceptance / num_steps, None, diverged)


def annealed_langevin(
    at: Callable[[float], Target],
    levels: Sequence[float] | Tensor,
    x0: Tensor,
    *,
    rng: torch.Generator,
    steps_per_level: int = 100,
    step_size: float | None = None,
    temperature: float = 1.0,
    adjusted: bool | None = None,
    denoise: bool = True,
    known: tuple[Tensor, Tensor] | None = None,
    box: tuple[float | Tensor, float | Tensor] | None = None,
    on_level: Callable[[int, Tensor], None] | None = None,
) -> Annealed:
    """Langevin dynamics from the largest noise level to the smallest.

    Parameters
    ----------
    at : callable
        ``at(sigma)`` is the target at one level; a score is enough. The method `at` of any denoiser,
        noise-conditional energy or score field.
    levels : sequence of float
        sigma_1 > ... > sigma_L > 0, in data units.
    x0 : Tensor of shape (chains, ...)
        Starts, as broad as the first level.
    rng : torch.Generator
    steps_per_level : int
    step_size : float, optional
        eps of ``h_i = eps sigma_i^2 / sigma_L^2``, in squared data units; by default the rule of
        `ncsnv2_step_size`.
    temperature : float
    adjusted : bool, optional
        Test each step (MALA), which leaves every level without bias; by default where the target has
        a log-density, as an energy does, and the temperature is 1.
    denoise : bool
        End with ``x + sigma_L^2 score(x, sigma_L)``.
    known : (mask, values), optional
        In-painting: where the boolean mask (broadcast over chains) is true, x is `values`, noised to
        each level, and exact at the end. The conditional law is met as the steps per level grow; with
        few, the last levels are too short-sighted to mend what the first ones left.
    box : (low, high), optional
        Reflect at its walls; tested steps are rejected there.
    on_level : callable, optional
        Called as ``on_level(i, x)`` after each level.

    Returns
    -------
    Annealed

    Raises
    ------
    ValueError
        For levels that do not fall, settings out of range, or a test asked for without a log-density.

    References
    ----------
    Song and Ermon, 1907.05600 algorithm 1 (its eps is twice this one) and algorithm 2 for in-painting;
    2006.09011 algorithm 1 for the last denoising step.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> rng = torch.Generator().manual_seed(0)
    >>> p, levels = eight_gaussians(), torch.logspace(1, -2, 12).tolist()
    >>> x0 = 10 * torch.randn(64, 2, generator=rng)
    >>> x = annealed_langevin(p.at, levels, x0, rng=rng, steps_per_level=10).x
    >>> bool(((x.norm(dim=1) - 2).abs() < 1.0).all())
    True
    """
    sigmas = [float(s) for s in levels]
    falling = all(a > b for a, b in pairwise(sigmas))
    if not sigmas or not falling or not 0 < sigmas[-1] <= sigmas[0] < math.inf:
        raise ValueError(
            "levels must fall from the largest sigma to the smallest, all positive and finite, got "
            f"{sigmas[:4]}{'...' if len(sigmas) > 4 else ''}"
        )
    if steps_per_level < 1:
        raise ValueError(f"steps_per_level must be at least 1, got {steps_per_level}")
    if step_size is None:
        step_size = ncsnv2_step_size(sigmas, steps_per_level)
    if adjusted is None:
        adjusted = temperature == 1 and at(sigmas[0]).value(x0[:1]) is not None
    if adjusted and temperature != 1:
        raise ValueError(
            f"tested steps sample at temperature 1, got {temperature}: divide the energy by it instead"
        )
    kernels: list[Kernel] = []
    for sigma in sigmas:
        h = step_size * (sigma / sigmas[-1]) ** 2
        kernel: Kernel = MALA(h, box) if adjusted else ULA(h, box, temperature)
        if known is not None:
            mask, values = (part.to(x0.device) for part in known)
            z = torch.randn(x0.shape, generator=rng, dtype=x0.dtype, device=x0.device)
            kernel = Pinned(kernel, mask, values.to(x0.dtype) + sigma * z)
        kernels.append(kernel)
    result = anneal(
        x0, [at(s) for s in sigmas], kernels, steps_per_level, rng=rng, on_level=on_level
    )
    x = result.x
    if denoise:
        x = x + sigmas[-1] ** 2 * score_at(at(sigmas[-1]), x)
    if known is not None:
        x = torch.where(known[0].to(x.device), known[1].to(x.device, x.dtype), x)
    return Annealed(x, None, result.levels)
