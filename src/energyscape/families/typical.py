"""How far a row's numbers at several noise levels are from those of ordinary rows.

One energy alone cannot tell a strange row from a plain one: a picture with less ink is likelier than
the data, and a digit on its side is made of the same strokes. What gives them away is how the energy
changes with the level. With ``e(x) = (E(x, sigma_1), ..., E(x, sigma_K))``, its mean m and covariance C
over training rows, the score is the squared Mahalanobis distance

    d^2(x) = (e(x) - m)' C^-1 (e(x) - m),

A denoiser's errors at each level take the energies' place where there is no energy. The distance is
large on both sides of what is typical (typicality: 1906.02994; score norms at several levels:
2010.13132). Energies of neighbouring levels are nearly one line, so that small departures from it weigh
much; the covariance is shrunk as Ledoit and Wolf (2004) do where rows are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FEW_ORDINARY", "LEVELS", "ORDINARY", "Typical"]

#: In units of the data scale: from detail to what is left of the whole.
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: Training rows that tell what is ordinary; so few where a row costs dozens of evaluations.
ORDINARY = 2000
FEW_ORDINARY = 500


class Typical(NamedTuple):
    """What numbers ordinary rows have: their mean, and the inverse of their covariance."""

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, energies: Tensor) -> Typical:
        """From energies (or what stands for them) of shape (n, K), two rows or more.

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

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What `restore` reads, to be kept beside calibration scores."""
        return {f"typical_{name}": array for name, array in self._asdict().items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> Typical | None:
        """From what `arrays` gave; None where there is nothing."""
        if "typical_mean" not in arrays:
            return None
        return cls(*(arrays[f"typical_{name}"] for name in cls._fields))
