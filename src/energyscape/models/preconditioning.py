"""How a network's output becomes a denoiser: ``D = c_skip x + c_out F(c_in x, c_noise)``.

All in the sigma frame, ``x = x_0 + sigma eps``. With a perfect network each choice recovers x_0:

==========  =====================  =========================  =====================
name        F predicts             c_skip                     c_out
==========  =====================  =========================  =====================
eps         eps                    1                          -sigma
x0          x_0                    0                          1
v           alpha eps - s x_0      1 / (1 + sigma^2)          -sigma / sqrt(1 + sigma^2)
score       sigma * score          1                          sigma
EDM         unit-variance target   sd^2 / (sigma^2 + sd^2)    sigma sd / sqrt(sigma^2 + sd^2)
==========  =====================  =========================  =====================

``c_in = 1/sqrt(1 + sigma^2)`` keeps the input of a variance-preserving network at unit scale (for
data of unit scale); EDM measures the data scale sd and uses ``1/sqrt(sigma^2 + sd^2)``. The natural
weight of the denoising loss ``||D - x_0||^2`` is ``1/c_out^2``, which makes it ``||F - target||^2``:
for eps that is DDPM's simple loss, for score NCSN's ``lambda = sigma^2``.

Sources: 2006.11239 eq. 12 and 14 (eps), 2202.00512 appendix D (v), 1907.05600 section 4.2 (score),
2206.00364 table 1 (EDM).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    "Coefficients",
    "EDMPreconditioning",
    "EpsPreconditioning",
    "Preconditioning",
    "ScorePreconditioning",
    "VPreconditioning",
    "X0Preconditioning",
    "per_row",
]


class Coefficients(NamedTuple):
    """The four coefficients at given levels, each of the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioning(Protocol):
    """`coefficients(sigma)` for levels of any shape, in the dtype of sigma."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four coefficients at these levels."""
        ...


def per_row(value: float | Tensor, x: Tensor) -> Tensor:
    """`value`, a number or one per row, shaped to broadcast against `x`.

    >>> import torch
    >>> per_row(torch.ones(3), torch.zeros(3, 2, 2)).shape
    torch.Size([3, 1, 1])
    """
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if value.ndim == 0:
        value = value.expand(x.shape[0])
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"expected a number or one per row ({x.shape[0]}), got shape {tuple(value.shape)}"
        )
    return value.reshape(-1, *[1] * (x.ndim - 1))


class EpsPreconditioning:
    """The network predicts the noise eps (2006.11239 eq. 12)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """``(1, -sigma, 1/sqrt(1+sigma^2), log sigma)``."""
        c_in = torch.rsqrt(1 + sigma.square())
        return Coefficients(torch.ones_like(sigma), -sigma, c_in, sigma.log())


class X0Preconditioning:
    """The network predicts the clean point."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """``(0, 1, 1/sqrt(1+sigma^2), log sigma)``."""
        c_in = torch.rsqrt(1 + sigma.square())
        return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), c_in, sigma.log())


class VPreconditioning:
    """The network predicts the velocity ``alpha_t eps - sqrt(1 - alpha_t^2) x_0`` (2202.00512)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """``(1/(1+sigma^2), -sigma/sqrt(1+sigma^2), 1/sqrt(1+sigma^2), log sigma)``."""
        c_in = torch.rsqrt(1 + sigma.square())
        return Coefficients(c_in.square(), -sigma * c_in, c_in, sigma.log())


class ScorePreconditioning:
    """The network, divided by sigma, predicts the score (1907.05600; 2006.11239's rescaling).

    ``D = x + sigma^2 score`` with ``score = F/sigma``, so ``c_out = sigma``. The input is left in
    data units, as published, unless `sigma_data` is given, which scales it to unit variance.
    """

    def __init__(self, sigma_data: float | None = None) -> None:
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """``(1, sigma, 1 or 1/sqrt(sigma^2 + sigma_data^2), log sigma)``."""
        ones = torch.ones_like(sigma)
        if self.sigma_data is None:
            return Coefficients(ones, sigma, ones, sigma.log())
        c_in = torch.rsqrt(sigma.square() + self.sigma_data**2)
        return Coefficients(ones, sigma, c_in, sigma.log())


class EDMPreconditioning:
    """Unit-variance inputs and targets at every level (2206.00364 table 1).

    Parameters
    ----------
    sigma_data : float
        The standard deviation of the data, measured, not assumed.
    """

    def __init__(self, sigma_data: float) -> None:
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """``c_noise`` is ``log(sigma)/4``, as published."""
        total = sigma.square() + self.sigma_data**2
        root = torch.rsqrt(total)
        c_skip = self.sigma_data**2 / total
        return Coefficients(c_skip, sigma * self.sigma_data * root, root, sigma.log() / 4)
