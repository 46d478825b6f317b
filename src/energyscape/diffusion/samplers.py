"""Drawing samples: ODE and SDE walks down a ladder of levels, on any `Denoiser`.

In the sigma frame every process of the field has the same marginals p_sigma, and the family of
reverse walks that share them is one equation (2206.00364 eq. 6): with ``eps_hat = (x - D)/sigma``,

    probability flow   dx = eps_hat dsigma
    reverse SDE        dx = 2 eps_hat dsigma + sqrt(2 sigma) dW      (sigma runs down)

A step from s to t < s that keeps the exact Gaussian posterior of ``x_t`` given ``x_s`` and
``x_0 = D`` is, for a share eta of its noise,

    x_t = D + sqrt(t^2 - u^2) eps_hat + u z,     u^2 = eta^2 t^2 (s^2 - t^2) / s^2,

which is DDIM in any frame: eta = 0 is Euler's step, eta = 1 DDPM's ancestral step with the
fixed-small variance (2010.02502 eq. 12 and 16). A ladder of n levels ends with a step to 0, which
every sampler takes as ``x_0 = D(x, sigma_n)``.

Levels are float64; the state has the caller's dtype. Clipping acts on D, from which eps_hat is
re-derived, so it is the same rule for all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from energyscape.diffusion.parametrisation import call_in_own_dtype
from energyscape.models import Denoiser
from energyscape.schedules import Schedule

__all__ = [
    "DDIM",
    "Ancestral",
    "Clip",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "SDEHeun",
    "Sampler",
    "clip_denoised",
    "initial_noise",
    "ladder",
]

Denoise = Callable[[Tensor, float], Tensor]
Progress = Callable[[int, int], object]
Clip = float | tuple[float, float] | Literal["dynamic"]


class Sampler(Protocol):
    """A walk down a ladder of levels."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0; `levels` falls strictly and ends with 0."""
        ...

    def evaluations(self, num_levels: int) -> int:
        """Network evaluations on a ladder of `num_levels` positive levels."""
        ...


def _steps(
    levels: Sequence[float], progress: Progress | None
) -> Iterator[tuple[int, float, float]]:
    """(index, level, next level), reporting each finished step."""
    total = len(levels) - 1
    for i, (s, t) in enumerate(itertools.pairwise(levels)):
        yield i, s, t
        if progress is not None:
            progress(i + 1, total)


def _noise(x: Tensor, rng: torch.Generator | None) -> Tensor:
    if rng is None:
        raise ValueError("this sampler draws noise: pass rng, a torch.Generator")
    return torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class Euler:
    """The probability-flow ODE by Euler's method, order 1; the same as DDIM with eta = 0.

    Examples
    --------
    >>> import torch
    >>> x = Euler()(lambda x, sigma: x / (1 + sigma**2), torch.ones(1, 1), [1.0, 0.0])
    >>> x
    tensor([[0.5000]])
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        for _, s, t in _steps(levels, progress):
            x = torch.lerp(denoise(x, s), x, t / s)
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level."""
        return num_levels


@dataclass(frozen=True)
class Heun:
    """The probability-flow ODE by Heun's method, order 2 (2206.00364 algorithm 1).

    The last step, to 0, is Euler's.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        for _, s, t in _steps(levels, progress):
            x = _heun_step(denoise, x, s, t)
        return x

    def evaluations(self, num_levels: int) -> int:
        """Two a level, one at the last."""
        return 2 * num_levels - 1


def _heun_step(denoise: Denoise, x: Tensor, s: float, t: float) -> Tensor:
    if t == 0:
        return denoise(x, s)
    slope = (x - denoise(x, s)) / s
    ahead = x + (t - s) * slope
    slope_ahead = (ahead - denoise(ahead, t)) / t
    return x + (0.5 * (t - s)) * (slope + slope_ahead)


@dataclass(frozen=True)
class DDIM:
    """Non-Markovian steps with a share `eta` of the posterior's noise (2010.02502 eq. 12).

    Parameters
    ----------
    eta : float
        From 0, the ODE by Euler's method, to 1, the ancestral step.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is the share of the posterior's noise, 0 to 1; got {self.eta}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        for _, s, t in _steps(levels, progress):
            x0_hat = denoise(x, s)
            up2 = self.eta**2 * t**2 * (s - t) * (s + t) / s**2
            x = torch.lerp(x0_hat, x, math.sqrt(max(t**2 - up2, 0.0)) / s)
            if up2 > 0:
                x = x + math.sqrt(up2) * _noise(x, rng)
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level."""
        return num_levels


@dataclass(frozen=True)
class Ancestral(DDIM):
    """DDPM's sampler with the fixed-small variance, in the sigma frame (2006.11239 algorithm 2).

    Each step draws from the exact posterior of ``x_t`` given ``x_s`` and ``x_0 = D(x_s, s)``.
    """

    eta: float = 1.0


@dataclass(frozen=True)
class EulerMaruyama:
    """The reverse SDE by Euler and Maruyama in sigma^2 (2011.13456 eq. 47).

    ``x_t = x_s + (s^2 - t^2) score(x_s) + sqrt(s^2 - t^2) z``; the last step is noise-free.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        for _, s, t in _steps(levels, progress):
            drop = (s - t) * (s + t)
            x = torch.lerp(x, denoise(x, s), drop / s**2)
            if t > 0:
                x = x + math.sqrt(drop) * _noise(x, rng)
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level."""
        return num_levels


@dataclass(frozen=True)
class SDEHeun:
    """Heun's steps with fresh noise before each (2206.00364 algorithm 2).

    Parameters
    ----------
    churn : float
        Noise added over the whole walk, S_churn; 0 is `Heun`.
    low, high : float
        Noise is added between these levels, S_tmin and S_tmax.
    inflation : float
        S_noise, the standard deviation of the fresh noise.
    """

    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.003

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and self.inflation > 0):
            raise ValueError(
                f"churn must not be negative and inflation positive; got {self.churn} and "
                f"{self.inflation}"
            )
        if not self.low <= self.high:
            raise ValueError(f"noise is added from low to high; got {self.low} and {self.high}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        gamma = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        for _, s, t in _steps(levels, progress):
            raised = s
            if gamma > 0 and self.low <= s <= self.high:
                raised = s * (1 + gamma)
                added = math.sqrt(raised**2 - s**2) * self.inflation
                x = x + added * _noise(x, rng)
            x = _heun_step(denoise, x, raised, t)
        return x

    def evaluations(self, num_levels: int) -> int:
        """Two a level, one at the last."""
        return 2 * num_levels - 1


@dataclass(frozen=True)
class PredictorCorrector:
    """Ancestral steps, each followed by Langevin steps at the new level (2011.13456 algorithm 4).

    The corrector is ``x += a score + sqrt(2 a) z`` with ``a = 2 (snr sigma)^2``. The paper divides
    norms measured over the batch, which couples its rows; ``E||score||^2 = D/sigma^2`` at high
    levels makes this step its expectation, and rows stay independent.

    Parameters
    ----------
    snr : float
    corrector_steps : int
        Langevin steps after each predictor step.
    """

    snr: float = 0.16
    corrector_steps: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.snr < 1 or self.corrector_steps < 1:
            raise ValueError(
                "predictor-corrector needs 0 < snr < 1 and at least 1 corrector step; got "
                f"{self.snr} and {self.corrector_steps}"
            )

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        predictor = Ancestral()
        share = 2 * self.snr**2
        for _, s, t in _steps(levels, progress):
            x = predictor(denoise, x, [s, t], rng)
            for _ in range(self.corrector_steps if t > 0 else 0):
                x = torch.lerp(x, denoise(x, t), share)
                x = x + math.sqrt(2 * share) * t * _noise(x, rng)
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level and `corrector_steps` more below the first."""
        return num_levels + (num_levels - 1) * self.corrector_steps


def ladder(
    levels: Tensor | Sequence[float] | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
) -> list[float]:
    """The checked ladder of a walk: strictly decreasing levels and a final 0.

    Parameters
    ----------
    levels : sequence of float, optional
        Positive and strictly decreasing; a final 0 may be given and is added otherwise.
    schedule, steps : Schedule and int, optional
        ``schedule.levels(steps)`` instead.

    Raises
    ------
    ValueError
        If neither or both are given, or levels are not positive, finite and strictly decreasing.

    Examples
    --------
    >>> ladder([2.0, 1.0])
    [2.0, 1.0, 0.0]
    """
    if levels is None:
        if schedule is None or steps is None:
            raise ValueError("give either levels, or a schedule and the number of steps")
        levels = schedule.levels(steps)
    elif schedule is not None or steps is not None:
        raise ValueError("give either levels, or a schedule and the number of steps, not both")
    table = torch.as_tensor(levels, dtype=torch.float64).tolist()
    if isinstance(table, float) or not table:
        raise ValueError("levels must be a sequence of at least one positive level")
    if table[-1] == 0:
        table.pop()
    falling = all(a > b for a, b in itertools.pairwise(table))
    if not table or not falling or not all(0 < v < math.inf for v in table):
        shown = ", ".join(f"{v:.4g}" for v in table[:6])
        raise ValueError(
            f"levels must be positive, finite and strictly decreasing; got {shown or 'none'}"
        )
    return [*table, 0.0]


def initial_noise(
    shape: Sequence[int],
    sigma: float,
    rng: torch.Generator | None,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """``sigma N(0, I)`` of the given shape: the law a walk starts from (data mean 0)."""
    if rng is None:
        raise ValueError("a start from noise needs rng, a torch.Generator")
    return sigma * torch.randn(tuple(shape), generator=rng, dtype=dtype, device=device)


def clip_denoised(x0_hat: Tensor, clip: Clip) -> Tensor:
    """Clip an estimate of x_0; in sampling only, never in a training loss.

    Parameters
    ----------
    x0_hat : Tensor of shape (batch, ...)
    clip : float, pair of floats or "dynamic"
        A bound on the magnitude; the two ends of a range; or dynamic thresholding (2205.11487
        section 2.3): each row is clipped to its 99.5th percentile s of magnitudes and divided by
        s where s > 1, which keeps data on [-1, 1] from saturating under strong guidance.

    Examples
    --------
    >>> import torch
    >>> clip_denoised(torch.tensor([[-3.0, 0.5]]), 1.0)
    tensor([[-1.0000,  0.5000]])
    """
    if clip == "dynamic" and len(x0_hat) == 0:
        return x0_hat
    if clip == "dynamic":
        s = torch.quantile(x0_hat.flatten(1).abs(), 0.995, dim=1).clamp(min=1.0)
        s = s.reshape(-1, *[1] * (x0_hat.ndim - 1))
        return torch.minimum(torch.maximum(x0_hat, -s), s) / s
    if isinstance(clip, str):
        raise ValueError(f"clip is a number, a pair (low, high) or 'dynamic', not {clip!r}")
    low, high = (-clip, clip) if isinstance(clip, (int, float)) else clip
    if not low < high:
        raise ValueError(f"clip needs low < high, got {low} and {high}")
    return x0_hat.clamp(low, high)


def denoise_function(denoiser: Denoiser, label: Tensor | None, clip: Clip | None) -> Denoise:
    """The denoiser with its label and clipping fixed, run in its own dtype, in that of the state."""
    if clip is None:
        return lambda x, sigma: call_in_own_dtype(denoiser, x, sigma, label).to(x.dtype)
    rule = clip
    return lambda x, sigma: clip_denoised(
        call_in_own_dtype(denoiser, x, sigma, label).to(x.dtype), rule
    )
