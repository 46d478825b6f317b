"""The N-step chain of DDPM: a float64 table, its Gaussian posteriors and its reverse kernels.

In the variance-preserving frame, with ``abar_i = prod (1 - beta)`` and index i holding step i + 1
(``abar`` before index 0 is 1),

    q(x_i | x_{i-1}) = N( sqrt(1 - beta_i) x_{i-1}, beta_i I )           the root covers 1 - beta only
    q(x_i | x_0)     = N( sqrt(abar_i) x_0, (1 - abar_i) I )
    q(x_{i-1} | x_i, x_0) = N( a_i x_0 + b_i x_i, v_i I ),
        a_i = sqrt(abar_{i-1}) beta_i / (1 - abar_i),
        b_i = sqrt(1 - beta_i) (1 - abar_{i-1}) / (1 - abar_i),
        v_i = beta_i (1 - abar_{i-1}) / (1 - abar_i)                      (2006.11239 eq. 6 and 7)

Everything but this module speaks the sigma frame, ``x_sigma = x_i / sqrt(abar_i)`` with
``sigma_i^2 = (1 - abar_i)/abar_i``; the network always sees that level, so a respaced chain needs no
care. A `Denoiser` gives the reverse mean whatever its network predicts (x_0, eps, v). Predicting the
mean itself, or the variance, takes two neighbouring steps, so these two live here and nowhere else.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from energyscape.diffusion.parametrisation import (
    LearnedRange,
    MeanPrediction,
    call_in_own_dtype,
)
from energyscape.diffusion.samplers import Clip, clip_denoised
from energyscape.models import Denoiser, per_row
from energyscape.schedules import Schedule

__all__ = [
    "Chain",
    "Reverse",
    "TerminalSignalWarning",
    "Variance",
]

Variance = Literal["fixed_small", "fixed_large", "learned_range"]

#: Above this much terminal signal, N(0, I) is visibly the wrong place to start from.
_NEGLIGIBLE_BITS = 1e-3


class TerminalSignalWarning(UserWarning):
    """The chain's last state still carries signal, so N(0, I) is the wrong start."""


class Reverse(NamedTuple):
    """A reverse kernel ``N(mean, exp(log_var))``; `log_var` broadcasts against `mean`."""

    mean: Tensor
    log_var: Tensor


def _check_steps(num_steps: int, *, line: bool = False) -> None:
    if num_steps < 1:
        raise ValueError(f"a chain has at least one step, got {num_steps}")
    if line and num_steps == 1:
        raise ValueError("betas on a line from one end to the other need 2 steps, got 1")


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """An N-step variance-preserving chain.

    Parameters
    ----------
    betas : Tensor of shape (N,)
        The variances of the forward steps, each in (0, 1); kept in float64.

    Raises
    ------
    ValueError
        If the betas are not a row of numbers in (0, 1).

    Examples
    --------
    >>> Chain.linear()
    Chain(1000 steps, sigma 0.01 to 157.4, terminal signal 2.9e-05 bits/dim)
    """

    betas: Tensor

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must be a row of at least one, got {tuple(betas.shape)}")
        bad = ~((betas > 0) & (betas < 1))
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise ValueError(
                f"each beta must lie in (0, 1); betas[{i}] is {float(betas[i]):.6g}: use more "
                "steps, a smaller beta_end, or build the chain from levels"
            )
        object.__setattr__(self, "betas", betas)

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> Chain:
        """A chain of a user's own betas."""
        return cls(torch.as_tensor(betas, dtype=torch.float64))

    @classmethod
    def from_levels(cls, sigmas: Tensor | Sequence[float]) -> Chain:
        """The chain through strictly monotone levels, in either direction."""
        table = torch.as_tensor(sigmas, dtype=torch.float64).flatten()
        if len(table) > 1 and table[0] > table[-1]:
            table = table.flip(0)
        monotone = bool((table.diff() > 0).all()) and bool(table.isfinite().all())
        if len(table) == 0 or not monotone or not table[0] > 0:
            raise ValueError(
                "a chain's levels must be positive, finite and strictly monotone; got "
                f"{[round(v, 6) for v in table.tolist()[:6]]}"
            )
        before = torch.cat([torch.zeros(1, dtype=torch.float64), table[:-1]])
        return cls((table - before) * (table + before) / (1 + table.square()))

    @classmethod
    def from_schedule(cls, schedule: Schedule, num_steps: int) -> Chain:
        """The chain through ``schedule.levels(num_steps)``."""
        return cls.from_levels(schedule.levels(num_steps))

    @classmethod
    def linear(
        cls,
        num_steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        *,
        rescale: bool = True,
    ) -> Chain:
        """Linear betas (2006.11239 section 4), given for 1,000 steps and scaled by 1000/N.

        The scaling keeps the terminal level; it holds down to about 25 steps. Without it
        (``rescale=False``) a short chain does not end in noise.
        """
        _check_steps(num_steps, line=True)
        scale = 1000 / num_steps if rescale else 1.0
        return cls(
            torch.linspace(scale * beta_start, scale * beta_end, num_steps, dtype=torch.float64)
        )

    @classmethod
    def scaled_linear(
        cls, num_steps: int = 1000, beta_start: float = 8.5e-4, beta_end: float = 0.012
    ) -> Chain:
        """Betas whose root is linear (2112.10752), scaled by 1000/N."""
        _check_steps(num_steps, line=True)
        ends = [math.sqrt(1000 / num_steps * b) for b in (beta_start, beta_end)]
        return cls(torch.linspace(ends[0], ends[1], num_steps, dtype=torch.float64).square())

    @classmethod
    def cosine(cls, num_steps: int = 1000, *, offset: float = 0.008, clip: float = 0.999) -> Chain:
        """The cosine abar with betas clipped at `clip` (2102.09672 eq. 17)."""
        _check_steps(num_steps)
        t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
        log_abar = 2 * torch.cos((t + offset) / (1 + offset) * math.pi / 2).abs().log()
        return cls((-torch.expm1(log_abar.diff())).clamp(max=clip))

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.betas)

    @cached_property
    def _log_alphas_bar(self) -> Tensor:
        return torch.log1p(-self.betas).cumsum(0)

    @cached_property
    def alphas_bar(self) -> Tensor:
        """The share of the signal's variance left after each step, shape (N,)."""
        return self._log_alphas_bar.exp()

    @cached_property
    def sigmas(self) -> Tensor:
        """The levels in the sigma frame, increasing, shape (N,)."""
        return torch.expm1(-self._log_alphas_bar).sqrt()

    @cached_property
    def _previous(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self._log_alphas_bar[:-1]])

    @cached_property
    def posterior_x0(self) -> Tensor:
        """The factor a_i of x_0 in the posterior mean, shape (N,)."""
        return (0.5 * self._previous).exp() * self.betas / -torch.expm1(self._log_alphas_bar)

    @cached_property
    def posterior_xt(self) -> Tensor:
        """The factor b_i of x_i in the posterior mean, shape (N,); 0 at index 0."""
        ratio = torch.expm1(self._previous) / torch.expm1(self._log_alphas_bar)
        return (1 - self.betas).sqrt() * ratio

    @cached_property
    def posterior_variances(self) -> Tensor:
        """The posterior variances v_i, shape (N,); 0 at index 0."""
        return self.betas * torch.expm1(self._previous) / torch.expm1(self._log_alphas_bar)

    @cached_property
    def _log_small(self) -> Tensor:
        # v_0 = 0 has no logarithm: index 0 takes v_1, as published, or its beta in a 1-step chain.
        v = self.posterior_variances.clone()
        v[0] = v[1] if len(v) > 1 else self.betas[0]
        return v.log()

    def noise(self, x0: Tensor, i: int | Tensor, eps: Tensor) -> Tensor:
        """``x_i = sqrt(abar_i) x_0 + sqrt(1 - abar_i) eps`` in one jump, shape of x0."""
        log_abar = self._log_alphas_bar
        root = (0.5 * log_abar).exp()
        return _at(root, i, x0) * x0 + _at((-torch.expm1(log_abar)).sqrt(), i, x0) * eps

    def forward_step(self, x_previous: Tensor, i: int | Tensor, eps: Tensor) -> Tensor:
        """``x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) eps``, one step of the chain."""
        kept = _at((1 - self.betas).sqrt(), i, x_previous)
        return kept * x_previous + _at(self.betas.sqrt(), i, x_previous) * eps

    def posterior(self, x0: Tensor, x_t: Tensor, i: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``q(x_{i-1} | x_i, x_0)``; the variance broadcasts to the mean."""
        mean = _at(self.posterior_x0, i, x_t) * x0 + _at(self.posterior_xt, i, x_t) * x_t
        return mean, _at(self.posterior_variances, i, x_t)

    def x0_from_mean(self, mean: Tensor, x_t: Tensor, i: int | Tensor) -> Tensor:
        """The x_0 whose posterior mean is `mean`; errors grow by ``1/a_i``."""
        rest = mean - _at(self.posterior_xt, i, x_t) * x_t
        return rest / _at(self.posterior_x0, i, x_t)

    def log_variance(self, variance: Variance, i: int | Tensor, like: Tensor) -> Tensor:
        """The fixed log-variance of a reverse step: v_i (small) or beta_i (large)."""
        if variance not in get_args(Variance) or variance == "learned_range":
            raise ValueError(f"variance is fixed_small or fixed_large here, not {variance!r}")
        table = self._log_small if variance == "fixed_small" else self.betas.log()
        return _at(table, i, like)

    def reverse(
        self,
        model: nn.Module,
        x_t: Tensor,
        i: int | Tensor,
        *,
        label: Tensor | None = None,
        variance: Variance | None = None,
        clip: Clip | None = None,
    ) -> Reverse:
        """The reverse kernel ``p(x_{i-1} | x_i)`` of a model.

        Parameters
        ----------
        model : Denoiser or MeanPrediction
            Run in the dtype of its own parameters.
        x_t : Tensor of shape (batch, ...)
            In the variance-preserving frame.
        i : int or integer Tensor of shape (batch,)
            Index of the step, 0 to N - 1.
        variance : {"fixed_small", "fixed_large", "learned_range"}, optional
            ``v_i``, ``beta_i`` or between them; by default learned for a `LearnedRange`, else small.
        clip : optional
            Clips the estimate of x_0: in sampling and in the bound of what is sampled, not in training.
        """
        sigma = float(self.sigmas[i]) if isinstance(i, int) else self.sigmas.to(x_t.device)[i]
        if isinstance(model, MeanPrediction):
            mean = call_in_own_dtype(model, x_t, sigma, label)
            if clip is not None:
                x0_hat = clip_denoised(self.x0_from_mean(mean, x_t, i), clip)
                mean = self.posterior(x0_hat, x_t, i)[0]
        elif isinstance(model, Denoiser):
            x = self.to_sigma_frame(x_t, i)
            x0_hat = call_in_own_dtype(model, x, sigma, label)
            if clip is not None:
                x0_hat = clip_denoised(x0_hat, clip)
            mean = self.posterior(x0_hat, x_t, i)[0]
        else:
            raise ValueError(
                "a chain runs a Denoiser or a MeanPrediction; got a "
                f"{type(model).__name__}: wrap the network in one of them"
            )
        if variance is None:
            variance = "learned_range" if isinstance(model, LearnedRange) else "fixed_small"
        if variance == "learned_range":
            return Reverse(mean, self.learned_log_variance(model, x_t, i, label=label))
        return Reverse(mean, self.log_variance(variance, i, x_t))

    def learned_log_variance(
        self, model: nn.Module, x_t: Tensor, i: int | Tensor, *, label: Tensor | None = None
    ) -> Tensor:
        """The log-variance of a reverse step that a `LearnedRange` has learned, shape of x_t."""
        if not isinstance(model, LearnedRange):
            raise ValueError("a learned range needs a LearnedRange model")
        sigma = float(self.sigmas[i]) if isinstance(i, int) else self.sigmas.to(x_t.device)[i]
        x = self.to_sigma_frame(x_t, i)
        fraction = call_in_own_dtype(model.fraction, x, sigma, label, owner=model)
        large = self.log_variance("fixed_large", i, x_t)
        small = self.log_variance("fixed_small", i, x_t)
        return fraction * large + (1 - fraction) * small

    def to_sigma_frame(self, x_t: Tensor, i: int | Tensor) -> Tensor:
        """``x_t / sqrt(abar_i)``, the state as a denoiser sees it."""
        return x_t * _at((-0.5 * self._log_alphas_bar).exp(), i, x_t)

    @torch.no_grad()
    def ancestral(
        self,
        model: nn.Module,
        x_or_shape: Tensor | Sequence[int],
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
        variance: Variance | None = None,
        clip: Clip | None = None,
        progress: Callable[[int, int], object] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Samples by the reverse chain (2006.11239 algorithm 2); the last step takes the mean.

        Parameters
        ----------
        model : Denoiser or MeanPrediction
        x_or_shape : Tensor or sequence of int
            The state x_T, variance-preserving, or the shape of the samples, from N(0, I).
        rng : torch.Generator
        label, variance, clip
            As in `reverse`.
        progress : callable, optional
            Called as ``progress(done, total)``.
        dtype : torch.dtype, optional
            Of the state when a shape is given; by default that of the model's parameters.

        Warns
        -----
        TerminalSignalWarning
            When starting from N(0, I) although the chain does not end there.

        Examples
        --------
        >>> import torch
        >>> from energyscape.models import FunctionDenoiser
        >>> normal = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))
        >>> rng = torch.Generator().manual_seed(0)
        >>> x = Chain.linear(100).ancestral(normal, (2000, 1), rng)
        >>> bool((x.var() - 1).abs() < 0.1)
        True
        """
        if isinstance(x_or_shape, Tensor):
            x = x_or_shape
        else:
            self._warn_of_signal(stacklevel=4)  # beyond torch's frame of no_grad
            own = next((p for p in model.parameters() if p.is_floating_point()), None)
            kind = dtype or (torch.get_default_dtype() if own is None else own.dtype)
            device = "cpu" if own is None else own.device
            x = torch.randn(tuple(x_or_shape), generator=rng, dtype=kind, device=device)
        for i in reversed(range(self.num_steps)):
            mean, log_var = self.reverse(model, x, i, label=label, variance=variance, clip=clip)
            x = mean
            if i > 0:
                z = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
                x = mean + (0.5 * log_var).exp() * z
            if progress is not None:
                progress(self.num_steps - i, self.num_steps)
        return x

    def respaced(self, steps: int | Sequence[int]) -> Chain:
        """The chain that visits only some steps: ``beta' = 1 - abar_j / abar_i`` (2102.09672).

        Parameters
        ----------
        steps : int or sequence of int
            A number of steps, spread evenly with the first and the last kept, or their indices.

        Examples
        --------
        >>> Chain.linear().respaced(50)
        Chain(50 steps, sigma 0.01 to 157.4, terminal signal 2.9e-05 bits/dim)
        """
        n = self.num_steps
        if isinstance(steps, (int, Integral)):
            steps = int(steps)
            if not 1 <= steps <= n:
                raise ValueError(f"a chain of {n} steps can be respaced to 1 to {n}, not {steps}")
            even = torch.linspace(0, n - 1, steps, dtype=torch.float64)
            indices = even.round().long() if steps > 1 else torch.tensor([n - 1])
        else:
            indices = torch.as_tensor(list(steps), dtype=torch.long)
            rising = len(indices) > 0 and bool((indices.diff() > 0).all())
            if not rising or int(indices[0]) < 0 or int(indices[-1]) >= n:
                raise ValueError(f"indices must rise strictly within 0 to {n - 1}")
        return Chain.from_levels(self.sigmas[indices])

    def terminal_bits(self, x: Tensor) -> float:
        """The signal left at the end, ``KL(q(x_T | x_0) || N(0, I))`` in bits/dim, mean over `x`."""
        signal, log_rest = self._terminal()
        x = x.to(torch.float64)
        return float(0.5 * (signal * x.square().mean() - signal - log_rest)) / math.log(2)

    def _terminal(self) -> tuple[float, float]:
        """abar_T and log(1 - abar_T)."""
        log_abar = float(self._log_alphas_bar[-1])
        return math.exp(log_abar), math.log(-math.expm1(log_abar))

    @property
    def _unit_terminal_bits(self) -> float:
        return -0.5 * self._terminal()[1] / math.log(2)

    def check_terminal(self) -> None:
        """Warn when data of unit variance leave more than 0.001 bits/dim in the last state."""
        self._warn_of_signal(stacklevel=3)

    @property
    def ends_in_noise(self) -> bool:
        """Whether data of unit variance leave at most 0.001 bits/dim in the last state."""
        return self._unit_terminal_bits <= _NEGLIGIBLE_BITS

    def _warn_of_signal(self, stacklevel: int) -> None:
        bits = self._unit_terminal_bits
        if not self.ends_in_noise:
            warnings.warn(
                f"the chain ends with {bits:.2g} bits/dim of signal (abar_T = "
                f"{self._terminal()[0]:.3g}), so samples from N(0, I) start in the wrong place: "
                "use more noise, or start from a state that carries the signal",
                TerminalSignalWarning,
                stacklevel=stacklevel,
            )

    def __repr__(self) -> str:
        low, high = self.sigmas[0], self.sigmas[-1]
        return (
            f"Chain({self.num_steps} steps, sigma {low:.4g} to {high:.4g}, "
            f"terminal signal {self._unit_terminal_bits:.2g} bits/dim)"
        )


def _at(table: Tensor, i: int | Tensor, like: Tensor) -> Tensor:
    """Entry i of a float64 table, or one a row, shaped to broadcast against `like`."""
    if isinstance(i, int):
        return table[i].to(dtype=like.dtype, device=like.device)
    return per_row(table.to(like.device)[i], like)
