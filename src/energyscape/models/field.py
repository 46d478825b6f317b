"""A free vector field taken for a score: no energy behind it, so no log-density at one level.

A field need not be a gradient; its curl measures how far it is from being one. It is cheaper than an
energy by one backward pass, and can be sampled from, but ratios of densities cannot be read off it.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from energyscape.models.preconditioning import per_row
from energyscape.targets import ScoreTarget

__all__ = ["ScoreField"]


class ScoreField(nn.Module):
    """``score(x) = F(x)``, or at a level ``score(x, sigma) = F(x, log sigma)/sigma``.

    The division by sigma gives the network a target of unit scale at every level (2006.09011,
    technique 3).

    Parameters
    ----------
    network : Module
        Called as ``network(x)`` or ``network(x, c_noise)`` with ``c_noise = log sigma`` of shape
        (batch,); its output has the shape of x.

    Raises
    ------
    ValueError
        When the network's output has another shape.

    Examples
    --------
    >>> import torch
    >>> from energyscape.nn import MLP
    >>> ScoreField(MLP((2,), width=8))(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The score, shape of x."""
        if sigma is None:
            out = self.network(x)
        else:
            level = per_row(sigma, x)
            out = self.network(x, level.flatten().log()) / level
        if out.shape != x.shape:
            raise ValueError(
                f"a score has the shape of x, {tuple(x.shape)}; this network gave "
                f"{tuple(out.shape)}"
            )
        return cast(Tensor, out)

    def score(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The score, shape of x."""
        return cast(Tensor, self(x, sigma))

    def at(self, sigma: float | None = None) -> ScoreTarget:
        """The score at one level as a target for Markov chains; it has no log-density."""
        return ScoreTarget(lambda x: self.score(x, sigma))
