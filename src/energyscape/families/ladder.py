"""A ladder of densities: one energy at every level of noise, as a sum of ratios from the top down.

With levels ``s_1 < ... < s_K``, ``g_k`` the energy of the Gaussian that has the moments of the data
blurred to ``s_k``, and one network with K outputs r,

    E(x, s_k) = g_k(x) - sum over j >= k of r_j(x),

neighbouring levels differ by ``g_{k+1} - g_k + r_k``: each question of `RatioContrastive` has an output
of its own, of order 1, and the errors of one rung are not multiplied on another (the shared trunk and
separate heads of 2006.12204 section 3.2). All are normalised where the ratios are learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from energyscape.models import Energy

__all__ = ["LadderEnergy", "ladder"]

_FEWEST, _MOST = 8, 32


def ladder(low: float, high: float, dim: int) -> list[float]:
    """Geometric levels from `low` to `high`, enough of them that neighbours overlap.

    A Gaussian in D dimensions and the same one wider by a factor f are told apart with a
    discriminability of ``sqrt(2 D) log f`` standard deviations, which is held to 2, with between 8
    and 32 levels.

    >>> len(ladder(0.02, 4.0, 2)), len(ladder(0.02, 4.0, 64))
    (8, 31)
    """
    span = math.log(high / low)
    count = math.ceil(span * math.sqrt(2 * dim) / 2) + 1
    count = min(max(count, _FEWEST), _MOST)
    return [low * math.exp(span * k / (count - 1)) for k in range(count)]


class LadderEnergy(Energy):
    """``E(x, s_k) = g_k(x) - sum over j >= k of r_j(x)``; without a level, that of the first.

    Parameters
    ----------
    network : Module
        From rows (batch, ...) to one number for each level, (batch, levels).
    levels : sequence of float
        Increasing, in data units. Another level is taken for the nearest of them.
    mean, variance : Tensor of shape (D,)
        Of the coordinates of the data.

    Examples
    --------
    >>> import torch
    >>> energy = LadderEnergy(torch.nn.Linear(2, 3), [0.1, 1.0, 10.0], torch.zeros(2), torch.ones(2))
    >>> energy(torch.zeros(4, 2)).shape, energy(torch.zeros(4, 2), 1.0).shape
    (torch.Size([4]), torch.Size([4]))
    """

    def __init__(
        self, network: nn.Module, levels: Sequence[float], mean: Tensor, variance: Tensor
    ) -> None:
        super().__init__()
        self.network = network
        self.levels = list(levels)
        self.register_buffer("mean", mean.double())
        self.register_buffer("variance", variance.double())

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x, sigma), shape (batch,)."""
        ratios = self.network(x).flip(1).cumsum(1).flip(1)
        levels = torch.tensor(self.levels, dtype=x.dtype, device=x.device)
        level = torch.as_tensor(
            self.levels[0] if sigma is None else sigma, dtype=x.dtype, device=x.device
        ).flatten()
        which = (level[:, None].log() - levels.log()).abs().argmin(1)
        blurred = self.get_buffer("variance").to(x.dtype) + levels[:, None].square()
        offset = x.flatten(1) - self.get_buffer("mean").to(x.dtype)
        log_scale = 0.5 * (2 * math.pi * blurred).log().sum(1)
        gaussian = 0.5 * (offset.square() / blurred[which]).sum(1) + log_scale[which]
        return gaussian - ratios.gather(1, which.expand(len(x))[:, None]).squeeze(1)
