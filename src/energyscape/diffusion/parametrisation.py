"""What only a discrete chain can use: a predicted mean, and a learned variance.

The mean of ``x_{i-1}`` and the range of its variance refer to two neighbouring steps, so neither is a
denoiser's business. `energyscape.diffusion.chain` turns both into reverse kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from energyscape.models import Denoiser, per_row

__all__ = ["LearnedRange", "MeanPrediction", "call_in_own_dtype"]


class MeanPrediction(nn.Module):
    """A network that predicts the mean of ``x_{i-1}`` given ``x_i`` (2006.11239 section 3.2).

    It belongs to the chain it was trained on. Recovering x_0 from it multiplies errors by
    ``1/a_i``, which is 327 and 7,791 at indices 500 and 999 of the linear chain.

    Parameters
    ----------
    network : Module
        Called as ``network(x_i, log sigma_i, label)``, with x_i in the variance-preserving frame.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """The mean of x_{i-1}, shape of x_t."""
        level = per_row(sigma, x_t).flatten()
        mean: Tensor = self.network(x_t, level.log(), label)
        return mean


class LearnedRange(Denoiser):
    """A denoiser with a learned reverse variance between the two fixed ones (2102.09672 eq. 15).

    ``log_var = f log beta_i + (1 - f) log v_i`` with ``f = (1 + r)/2`` and r the range network's
    output, elementwise. As a `Denoiser` it is the wrapped one, so every sampler takes it.

    Parameters
    ----------
    denoiser : Denoiser
    range_network : Module
        Called as ``range_network(x / sqrt(1 + sigma^2), log sigma, label)``; shape of x.
    """

    def __init__(self, denoiser: Denoiser, range_network: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.range_network = range_network

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x], shape of x."""
        x0_hat: Tensor = self.denoiser(x, sigma, label)
        return x0_hat

    def fraction(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """The share f of log beta in the log-variance, shape of x; x in the sigma frame."""
        level = per_row(sigma, x)
        inner = x * torch.rsqrt(1 + level.square())
        r: Tensor = self.range_network(inner, level.flatten().log(), label)
        return 0.5 * (1 + r)


def call_in_own_dtype(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma: float | Tensor,
    label: Tensor | None,
    *,
    owner: nn.Module | None = None,
) -> Tensor:
    """The model's output in the dtype of `x`, computed in the dtype of its own parameters."""
    module = owner if owner is not None else model
    parameters = module.parameters() if isinstance(module, nn.Module) else iter(())
    own = next((p.dtype for p in parameters if p.is_floating_point()), x.dtype)
    if own == x.dtype:
        return model(x, sigma, label)
    level = sigma.to(own) if isinstance(sigma, Tensor) else sigma
    return model(x.to(own), level, label).to(x.dtype)
