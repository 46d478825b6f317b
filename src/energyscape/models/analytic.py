"""Energies in closed form: what samplers and objectives are tried on.

Gaussian mixtures (exact at every noise level), a double well, Neal's funnel, rings, and exponential
families, whose energies are linear in their statistics,

    E(x) = -theta . T(x) - log h(x),        p(x) = h(x) exp(theta . T(x) - A(theta)),

so that maximum likelihood, noise contrast and score matching are convex in theta: good oracles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture
from energyscape.models.energy import Energy

__all__ = ["DoubleWell", "ExponentialFamily", "Funnel", "MixtureOfGaussians", "Rings"]


def _no_level(sigma: float | Tensor | None) -> None:
    if sigma is not None:
        raise ValueError("this energy is known in closed form at sigma = 0 only")


class MixtureOfGaussians(Energy):
    """``-log p_sigma`` of a `GaussianMixture`: normalised at every level, log Z = 0.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> MixtureOfGaussians(eight_gaussians())(torch.zeros(3, 2), 1.0).shape
    torch.Size([3])
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The energy, in the dtype of x, shape (batch,)."""
        return self.mixture.energy(x, 0.0 if sigma is None else sigma).to(x.dtype)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energy and score in closed form, one pass."""
        with torch.set_grad_enabled(create_graph):
            log_prob, score = self.mixture.value_and_score(x, 0.0 if sigma is None else sigma)
        return -log_prob.to(x.dtype), score.to(x.dtype)


class DoubleWell(Energy):
    """``height (x_1^2 - 1)^2 + tilt x_1 + (x_2^2 + ...)/2``: two modes and a barrier of `height`.

    Examples
    --------
    >>> import torch
    >>> DoubleWell(height=4.0)(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([4., 0.])
    """

    def __init__(self, height: float = 4.0, tilt: float = 0.0) -> None:
        super().__init__()
        if not height > 0:
            raise ValueError(f"the barrier must be positive, got {height}")
        self.height, self.tilt = height, tilt

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The energy, shape (batch,)."""
        _no_level(sigma)
        first, rest = x[:, 0], x[:, 1:]
        well = self.height * (first.square() - 1).square() + self.tilt * first
        return well + 0.5 * rest.square().sum(1)


class Funnel(Energy):
    """Neal's funnel: ``x_1 ~ N(0, scale^2)``, the others ``N(0, exp(x_1))``; log Z = 0.

    Its scale changes by orders of magnitude from mouth to neck (Neal 2003, section 8).

    Examples
    --------
    >>> import torch
    >>> Funnel()(torch.zeros(1, 3)).shape
    torch.Size([1])
    """

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        self.scale = scale

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The normalised energy, shape (batch,)."""
        _no_level(sigma)
        v, rest = x[:, 0], x[:, 1:]
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi) + math.log(self.scale)
        neck = 0.5 * rest.shape[1] * v + 0.5 * torch.exp(-v) * rest.square().sum(1)
        return 0.5 * (v / self.scale).square() + neck + constant

    def sample(self, n: int, dim: int, rng: torch.Generator) -> Tensor:
        """Exact draws, float64, shape (n, dim)."""
        z = torch.randn(n, dim, generator=rng, dtype=torch.float64)
        v = self.scale * z[:, :1]
        return torch.cat([v, (0.5 * v).exp() * z[:, 1:]], dim=1)


class Rings(Energy):
    """Concentric shells: ``-log sum_k exp(-(||x|| - r_k)^2/(2 width^2))``.

    Examples
    --------
    >>> import torch
    >>> Rings([1.0, 4.0], 0.1)(torch.tensor([[1.0, 0.0]])).abs() < 1e-6
    tensor([True])
    """

    def __init__(self, radii: Sequence[float] = (1.0, 2.0), width: float = 0.1) -> None:
        super().__init__()
        if not (len(radii) > 0 and min(radii) > 0 and width > 0):
            raise ValueError(f"rings need positive radii and width, got {list(radii)} and {width}")
        self.register_buffer("radii", torch.tensor(list(radii), dtype=torch.float64))
        self.width = width

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The energy, shape (batch,)."""
        _no_level(sigma)
        # The norm has no derivative at the origin: the floor gives it the derivative 0 there.
        radius = x.flatten(1).square().sum(1).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        offset = (radius[:, None] - self.get_buffer("radii").to(x)) / self.width
        return -torch.logsumexp(-0.5 * offset.square(), dim=1)


class ExponentialFamily(Energy):
    """``E(x) = -theta . T(x) - log h(x)``, with theta a parameter.

    Parameters
    ----------
    statistics : callable
        Maps x to T(x) of shape (batch, K).
    theta : sequence of float
        The K natural parameters.
    log_base : callable, optional
        ``log h`` of shape (batch,); -inf outside the support. Zero by default.

    Examples
    --------
    >>> import torch
    >>> ExponentialFamily.poisson(3.0)(torch.tensor([[0.0], [1.0], [-1.0]])).detach()
    tensor([ 0.0000, -1.0986,     inf])
    """

    def __init__(
        self,
        statistics: Callable[[Tensor], Tensor],
        theta: Sequence[float],
        log_base: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.theta = nn.Parameter(torch.tensor(list(theta)))
        self.log_base = log_base

    @classmethod
    def normal(cls, mean: float = 0.0, std: float = 1.0) -> ExponentialFamily:
        """Independent normal coordinates: ``T = (sum x, sum x^2)``; log Z = A(theta)."""
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        return cls(_first_two_moments, [mean / std**2, -0.5 / std**2])

    @classmethod
    def poisson(cls, rate: float) -> ExponentialFamily:
        """Independent counts: ``T = sum x``, ``h = 1/x!`` on the integers >= 0; log Z = D rate."""
        if not rate > 0:
            raise ValueError(f"the rate must be positive, got {rate}")
        return cls(_total, [math.log(rate)], _log_inverse_factorial)

    @classmethod
    def gamma(cls, shape: float, rate: float) -> ExponentialFamily:
        """Independent positive coordinates: ``T = (sum log x, sum x)``."""
        if not (shape > 0 and rate > 0):
            raise ValueError(f"shape and rate must be positive, got {shape} and {rate}")
        return cls(_log_and_sum, [shape - 1, -rate], _positive)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The energy, +inf outside the support, shape (batch,)."""
        _no_level(sigma)
        energy = -(self.statistics(x) @ self.theta.to(x.dtype))
        return energy if self.log_base is None else energy - self.log_base(x)


def _total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1, keepdim=True)


def _first_two_moments(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return torch.stack([flat.sum(1), flat.square().sum(1)], dim=1)


def _log_and_sum(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    positive = flat.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.stack([positive.log().sum(1), flat.sum(1)], dim=1)


def _positive(x: Tensor) -> Tensor:
    inside = (x > 0).flatten(1).all(1)
    return torch.where(inside, 0.0, -math.inf).to(x.dtype)


def _log_inverse_factorial(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    inside = ((flat >= 0) & (flat == flat.round())).all(1)
    value = -torch.lgamma(flat.clamp(min=0.0) + 1).sum(1)
    return torch.where(inside, value, -math.inf)
