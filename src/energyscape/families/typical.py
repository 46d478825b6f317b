"""How far a row's energies at several noise levels are from those of ordinary rows.

One energy alone cannot tell a strange row from a plain one: a picture with less ink is likelier than
the data, and a digit on its side is made of the same strokes. What gives them away is how the energy
changes with the level. With ``e(x) = (E(x, sigma_1), ..., E(x, sigma_K))``, its mean m and covariance C
over training rows, the score is the squared Mahalanobis distance

    d^2(x) = (e(x) - m)' C^-1 (e(x) - m),

which is large on both sides of what is typical (typicality: 1906.02994; score norms at several levels:
2010.13132). Energies of neighbouring levels are nearly one line, so that small departures from it weigh
much; the covariance is shrunk as Ledoit and Wolf (2004) do where rows are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyscape.models import Energy

__all__ = ["LEVELS", "Typical", "energies_at"]

#: In units of the data scale: from detail to what is left of the whole.
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def energies_at(energy: Energy, x: Tensor, levels: Sequence[float], *, chunk: int = 512) -> Tensor:
    """E(x, sigma) of each row at each level.

    Parameters
    ----------
    energy : Energy
        Conditional on the level.
    x : Tensor of shape (n, ...)
    levels : sequence of K floats
        In data units.

    Returns
    -------
    Tensor of shape (n, K), float64
    """
    with torch.no_grad():
        parts = [
            torch.stack([energy(part, level).double() for level in levels], dim=1)
            for part in x.split(chunk)
        ]
    return torch.cat(parts)


class Typical(NamedTuple):
    """What energies of ordinary rows are: their mean, and the inverse of their covariance."""

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, energies: Tensor) -> Typical:
        """From energies of shape (n, K), two rows or more.

        Examples
        --------
        >>> import torch
        >>> e = torch.randn(5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> found = Typical.fit(e * torch.tensor([1.0, 10.0]))
        >>> bool((found.distance(torch.tensor([[3.0, 40.0]])) - 25).abs() < 2)
        True
        """
        from sklearn.covariance import LedoitWolf

        rows = energies.cpu().numpy()
        mean, spread = rows.mean(0), np.maximum(rows.std(0), 1e-12)
        shrunk = LedoitWolf(assume_centered=True).fit((rows - mean) / spread)
        return cls(mean, shrunk.precision_ / np.outer(spread, spread))

    def distance(self, energies: Tensor) -> Tensor:
        """The squared distance of each row, shape (n,)."""
        mean, precision = (torch.from_numpy(part).to(energies.device) for part in self)
        away = energies.double() - mean
        return torch.einsum("ni,ij,nj->n", away, precision, away)
