"""Noise schedules: how the level ``sigma`` runs with time.

Time ``t`` runs from 0 (almost clean) to 1 (almost noise). The one coordinate is ``sigma``, in data
units: ``x_sigma = x_0 + sigma eps``. A variance-preserving process is the same family rescaled,

    x_t = alpha_t x_sigma,     alpha_t = 1 / sqrt(1 + sigma_t^2),     abar_t = alpha_t^2,

so with ``B(s) = integral of beta`` up to s, ``abar = exp(-B)`` and ``sigma^2 = exp(B) - 1``. Every
schedule is strictly increasing with a finite ``log sigma`` at both ends, and computes in float64.

Sources: linear beta 2006.11239 section 4, its continuous limit 2011.13456 eq. 32; cosine 2102.09672
eq. 17; scaled-linear 2112.10752; geometric 1907.05600 section 4; EDM 2206.00364 eq. 5 and table 1.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "EDM",
    "Cosine",
    "Geometric",
    "Ladder",
    "LinearBeta",
    "ScaledLinear",
    "Schedule",
    "Tabulated",
]


class Schedule(abc.ABC):
    """A strictly increasing map from time in [0, 1] to the noise level.

    `variance_preserving` says in which frame the process was published: `alpha(t)` is
    ``1/sqrt(1 + sigma^2)`` there and 1 elsewhere. Networks and samplers only see ``sigma``.
    """

    variance_preserving: bool = False

    @abc.abstractmethod
    def _sigma(self, t: Tensor) -> Tensor:
        """The level at float64 times in [0, 1]."""

    @abc.abstractmethod
    def _time(self, sigma: Tensor) -> Tensor:
        """The inverse of `_sigma`."""

    def sigma(self, t: float | Tensor) -> Tensor:
        """The noise level at time `t`, float64, shape of t; outside [0, 1] is an error."""
        time = torch.as_tensor(t, dtype=torch.float64)
        if bool((time < 0).any() or (time > 1).any() or time.isnan().any()):
            raise ValueError(f"time must lie in [0, 1], got {time.min():g} to {time.max():g}")
        return self._sigma(time)

    def time(self, sigma: float | Tensor) -> Tensor:
        """The time at which the level is `sigma`: the inverse of `sigma(t)`, float64.

        Levels beyond the ends give times outside [0, 1].
        """
        level = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool(((level > 0) & level.isfinite()).all()):
            raise ValueError(
                f"sigma must be positive and finite, got {level.min():g} to {level.max():g}"
            )
        return self._time(level)

    def alpha(self, t: float | Tensor) -> Tensor:
        """The factor on the data at time `t`: ``1/sqrt(1+sigma^2)``, or 1 in the sigma frame."""
        level = self.sigma(t)
        if self.variance_preserving:
            return torch.rsqrt(1 + level.square())
        return torch.ones_like(level)

    @property
    def sigma_min(self) -> float:
        """The smallest level, at time 0."""
        return float(self.sigma(0.0))

    @property
    def sigma_max(self) -> float:
        """The largest level, at time 1."""
        return float(self.sigma(1.0))

    def levels(self, n: int) -> Tensor:
        """`n` strictly decreasing levels from the largest to the smallest, float64, shape (n,)."""
        if n < 1:
            raise ValueError(f"a ladder needs at least 1 level, got {n}")
        if n == 1:
            return self.sigma(torch.ones(1))
        return self.sigma(torch.linspace(1, 0, n, dtype=torch.float64))

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """`n` training levels, float64, shape (n,).

        Times are uniform, one in each of n equal cells (2107.00630, appendix I.1), which has the
        same mean of any loss over levels as independent draws, with less variance.
        """
        return self.sigma(_stratified(n, rng, device)).to(device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sigma {self.sigma_min:.4g} to {self.sigma_max:.4g})"


def _stratified(n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
    """One uniform time in each of n equal cells, in random order."""
    u = torch.rand(n, generator=rng, dtype=torch.float64, device=device)
    order = torch.randperm(n, generator=rng, device=device)
    return ((order + u) / n).clamp(0.0, 1.0)


def _check_range(name: str, low: float, high: float) -> None:
    if not (0 < low < high < math.inf):
        raise ValueError(f"{name} needs 0 < smallest < largest, finite; got {low} and {high}")


_LARGEST_INTEGRAL = 700.0  # exp of it is finite in float64


def _check_integral(name: str, integral: float) -> None:
    """The integral of beta over the process: its exponential must be a number."""
    if integral > _LARGEST_INTEGRAL:
        raise ValueError(
            f"{name}'s betas integrate to {integral:.4g} and its largest level is infinite; give the "
            "rates of the continuous process, N times the betas of an N-step chain once"
        )


class LinearBeta(Schedule):
    """Beta grows linearly, the continuous limit of DDPM's chain (2011.13456 eq. 32).

    Parameters
    ----------
    beta_min, beta_max : float
        Rates of the continuous process: N times the betas of an N-step chain, 0.1 and 20 by default
        (1e-4 to 0.02 over 1,000 steps).
    start : float
        Process time of the smallest level; 1/N is the first step of an N-step chain.

    Examples
    --------
    >>> LinearBeta()
    LinearBeta(sigma 0.01049 to 152.2)
    """

    variance_preserving = True

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, *, start: float = 1e-3
    ) -> None:
        _check_range("LinearBeta", beta_min, beta_max)
        _check_range("LinearBeta's time", start, 1.0)
        _check_integral("LinearBeta", 0.5 * (beta_min + beta_max))
        self.beta_min, self.beta_max, self.start = beta_min, beta_max, start

    def _sigma(self, t: Tensor) -> Tensor:
        s = self.start + (1 - self.start) * t
        integral = self.beta_min * s + 0.5 * (self.beta_max - self.beta_min) * s.square()
        return torch.expm1(integral).sqrt()

    def _time(self, sigma: Tensor) -> Tensor:
        integral = torch.log1p(sigma.square())
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2 * slope * integral).sqrt()
        s = 2 * integral / (self.beta_min + root)
        return (s - self.start) / (1 - self.start)


class ScaledLinear(Schedule):
    """The root of beta grows linearly, as in latent diffusion (2112.10752).

    Parameters
    ----------
    beta_min, beta_max : float
        Rates of the continuous process: N times the betas, 0.85 and 12 by default (8.5e-4 to 0.012
        over 1,000 steps).
    start : float
        Process time of the smallest level.

    Examples
    --------
    >>> ScaledLinear()
    ScaledLinear(sigma 0.0292 to 14.46)
    """

    variance_preserving = True

    def __init__(
        self, beta_min: float = 0.85, beta_max: float = 12.0, *, start: float = 1e-3
    ) -> None:
        _check_range("ScaledLinear", beta_min, beta_max)
        _check_range("ScaledLinear's time", start, 1.0)
        self.start = start
        self._low = math.sqrt(beta_min)
        self._slope = math.sqrt(beta_max) - self._low
        whole = (math.sqrt(beta_max) ** 3 - self._low**3) / (3 * self._slope)
        _check_integral("ScaledLinear", whole)

    def _sigma(self, t: Tensor) -> Tensor:
        s = self.start + (1 - self.start) * t
        integral = ((self._low + self._slope * s).pow(3) - self._low**3) / (3 * self._slope)
        return torch.expm1(integral).sqrt()

    def _time(self, sigma: Tensor) -> Tensor:
        cube = 3 * self._slope * torch.log1p(sigma.square()) + self._low**3
        s = (cube.pow(1 / 3) - self._low) / self._slope
        return (s - self.start) / (1 - self.start)


class Cosine(Schedule):
    """``abar(s) = cos^2(theta(s)) / cos^2(theta(0))`` (2102.09672 eq. 17).

    Process time stops at `end` < 1, where abar would be 0 and sigma infinite; the published clip
    ``beta <= 0.999`` belongs to the discrete chain.

    Parameters
    ----------
    offset : float
        The small s of the paper.
    start, end : float
        Process times of the smallest and the largest level.

    Examples
    --------
    >>> Cosine()
    Cosine(sigma 0.006425 to 641.7)
    """

    variance_preserving = True

    def __init__(self, offset: float = 0.008, *, start: float = 1e-3, end: float = 0.999) -> None:
        _check_range("Cosine's time", start, end)
        if not (offset > 0 and end < 1):
            raise ValueError(f"Cosine needs offset > 0 and end < 1, got {offset} and {end}")
        self.offset, self.start, self.end = offset, start, end
        self._cos0 = math.cos(offset / (1 + offset) * math.pi / 2)

    def _sigma(self, t: Tensor) -> Tensor:
        # cos0^2/cos^2(theta) - 1 = sin(theta - theta0) sin(theta + theta0) / cos^2(theta),
        # which does not cancel where the noise is small.
        s = self.start + (self.end - self.start) * t
        scale = math.pi / 2 / (1 + self.offset)
        theta, theta0 = (s + self.offset) * scale, self.offset * scale
        return (torch.sin(s * scale) * torch.sin(theta + theta0)).sqrt() / torch.cos(theta)

    def _time(self, sigma: Tensor) -> Tensor:
        # From tan^2(theta) = tan^2(theta0) + sigma^2 / cos^2(theta0).
        tan0 = math.tan(math.acos(self._cos0))
        theta = torch.atan((tan0**2 + (sigma / self._cos0).square()).sqrt())
        s = theta * (1 + self.offset) * 2 / math.pi - self.offset
        return (s - self.start) / (self.end - self.start)


class Geometric(Schedule):
    """Levels in geometric progression, NCSN's choice (1907.05600 section 4).

    Parameters
    ----------
    sigma_min, sigma_max : float
        In data units.

    Examples
    --------
    >>> Geometric(0.01, 1.0).levels(3).tolist()
    [1.0, 0.1, 0.01]
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        _check_range("Geometric", sigma_min, sigma_max)
        self._low, self._high = sigma_min, sigma_max

    def _sigma(self, t: Tensor) -> Tensor:
        return self._low ** (1 - t) * self._high**t

    def _time(self, sigma: Tensor) -> Tensor:
        return (sigma / self._low).log() / math.log(self._high / self._low)


class EDM(Schedule):
    """Levels even in ``sigma^(1/rho)``, trained at log-normal levels (2206.00364 eq. 5, table 1).

    Parameters
    ----------
    sigma_min, sigma_max : float
        In data units; 0.002 and 80 for pictures on [-1, 1].
    rho : float
    log_mean, log_std : float
        Training draws ``log sigma ~ N(log_mean, log_std^2)``, cut at the two ends. The published
        -1.2 is for data of standard deviation 0.5: use `for_data`.

    Examples
    --------
    >>> EDM()
    EDM(sigma 0.002 to 80)
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        *,
        log_mean: float = -1.2,
        log_std: float = 1.2,
    ) -> None:
        _check_range("EDM", sigma_min, sigma_max)
        if not (rho > 0 and log_std > 0):
            raise ValueError(f"EDM needs rho > 0 and log_std > 0, got {rho} and {log_std}")
        low, high = ((math.log(s) - log_mean) / log_std for s in (sigma_min, sigma_max))
        if high < -6 or low > 6:
            raise ValueError(
                f"EDM trains at log sigma ~ N({log_mean:g}, {log_std:g}^2), which lies more than 6 "
                f"standard deviations outside sigma {sigma_min:g} to {sigma_max:g}"
            )
        self.rho, self.log_mean, self.log_std = rho, log_mean, log_std
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        # Once: a training step asks for levels, and these take as long as drawing them.
        self._range = self.sigma_min, self.sigma_max
        ends = torch.tensor(self._range, dtype=torch.float64).log()
        self._shares = torch.special.ndtr((ends - log_mean) / log_std).tolist()

    @classmethod
    def for_data(
        cls,
        sigma_data: float,
        *,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        log_mean: float = -1.2,
        log_std: float = 1.2,
    ) -> EDM:
        """The published settings, which hold for a data scale of 0.5, moved to `sigma_data`.

        `sigma_min`, `sigma_max` and `log_mean` are given as for that scale.
        """
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}")
        scale = sigma_data / 0.5
        return cls(
            sigma_min * scale,
            sigma_max * scale,
            rho,
            log_mean=log_mean + math.log(scale),
            log_std=log_std,
        )

    def _sigma(self, t: Tensor) -> Tensor:
        return (self._low + t * (self._high - self._low)).pow(self.rho)

    def _time(self, sigma: Tensor) -> Tensor:
        return (sigma.pow(1 / self.rho) - self._low) / (self._high - self._low)

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """`n` log-normal training levels within the two ends, float64, shape (n,).

        Drawn by inverting the distribution function, cut to the ends, at stratified times.
        """
        low, high = self._shares
        u = low + (high - low) * _stratified(n, rng, device)
        log_sigma = self.log_mean + self.log_std * torch.special.ndtri(u)
        return log_sigma.exp().clamp(*self._range)


class Tabulated(Schedule):
    """A user's own levels, interpolated linearly in ``log sigma``.

    Parameters
    ----------
    levels : sequence of float
        At least two, positive, strictly monotone in either direction.
    variance_preserving : bool
        The frame the levels come from; see `Schedule`.

    Raises
    ------
    ValueError
        If the levels are not positive, finite and strictly monotone.

    Examples
    --------
    >>> [round(s, 6) for s in Tabulated([1.0, 0.1, 0.01]).levels(3).tolist()]
    [1.0, 0.1, 0.01]
    """

    def __init__(
        self, levels: Sequence[float] | Tensor, *, variance_preserving: bool = False
    ) -> None:
        table = torch.as_tensor(levels, dtype=torch.float64).flatten()
        if len(table) > 1 and table[0] > table[-1]:
            table = table.flip(0)
        if len(table) < 2 or not bool(
            table.isfinite().all() and (table > 0).all() and (table.diff() > 0).all()
        ):
            raise ValueError(
                "a tabulated schedule needs at least two levels, positive, finite and strictly "
                f"monotone; got {[round(v, 6) for v in table.tolist()[:6]]}"
            )
        self.variance_preserving = variance_preserving
        self._log_table = table.log()

    @classmethod
    def from_function(cls, sigma: Callable[[Tensor], Tensor], *, points: int = 1001) -> Tabulated:
        """A schedule from a user's function of time in [0, 1], tabulated at `points` times."""
        return cls(sigma(torch.linspace(0, 1, points, dtype=torch.float64)))

    def _sigma(self, t: Tensor) -> Tensor:
        position = t * (len(self._log_table) - 1)
        left = position.floor().long().clamp(max=len(self._log_table) - 2)
        fraction = position - left
        table = self._log_table.to(t.device)
        return torch.lerp(table[left], table[left + 1], fraction).exp()

    def _time(self, sigma: Tensor) -> Tensor:
        level = sigma.log()
        last = len(self._log_table) - 2
        table = self._log_table.to(level.device)
        left = (torch.searchsorted(table, level, right=True) - 1).clamp(0, last)
        low, high = table[left], table[left + 1]
        return (left + (level - low) / (high - low)) / (len(self._log_table) - 1)


class Ladder(Tabulated):
    """A finite set of levels, of which training draws each equally often (NCSN, DDPM).

    Parameters
    ----------
    levels, variance_preserving
        As in `Tabulated`.

    Examples
    --------
    >>> import torch
    >>> drawn = Ladder([1.0, 0.5, 0.25]).sample(6, torch.Generator().manual_seed(0))
    >>> sorted(drawn.tolist())
    [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    """

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """`n` of the levels, float64, shape (n,), each as often as any other up to two."""
        table = self._log_table.exp().to(device)
        index = (_stratified(n, rng, device) * len(table)).long().clamp(max=len(table) - 1)
        return table[index]
