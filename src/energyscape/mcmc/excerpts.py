"""Some draws of some chains, kept while a run that stores none goes on.

A run of many chains in many coordinates fills memory with draws that nobody looks at twice. Whether its
chains agree is told by a few of them: an `Excerpt` given to `run_chains` as `watch` keeps every so many
steps some coordinates of some chains, and their energy. It takes no random number, so the run is the
same with it and without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from energyscape.mcmc.compilation import Walked
from energyscape.mcmc.diagnostics import Diagnostics, diagnostics

__all__ = ["Excerpt"]


class Excerpt:
    """What is kept of a run: at most `draws` draws, evenly spread, the last step among them.

    Parameters
    ----------
    num_steps : int
        Of the run, after warm-up.
    draws, coordinates : int
        At most so many are kept, coordinates evenly spread.
    chains : int or Tensor of indices
        Which chains; a number is so many evenly spread ones.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import GaussianMixture
    >>> from energyscape.mcmc import MALA, run_chains
    >>> rng = torch.Generator().manual_seed(0)
    >>> normal = GaussianMixture.isotropic(torch.zeros(1, 3), 1.0)
    >>> x0, kept = torch.randn(500, 3, generator=rng, dtype=torch.float64), Excerpt(1000, chains=8)
    >>> run = run_chains(MALA(0.5), normal.at(0.0), x0, 1000, rng=rng, keep="last", watch=kept)
    >>> kept.draws.shape, bool(kept.diagnostics().rhat < 1.1)  # three coordinates and the energy
    (torch.Size([100, 8, 4]), True)
    """

    def __init__(
        self, num_steps: int, *, draws: int = 100, chains: int | Tensor = 64, coordinates: int = 16
    ) -> None:
        self.num_steps = num_steps
        self.every = -(-num_steps // draws)
        self._chains, self._coordinates = chains, coordinates
        self._seen = 0
        self._parts: list[Tensor] = []
        self._knows_energy = False

    def __call__(self, walked: Walked) -> None:
        """Keep what is wanted of a block of steps."""
        steps = len(walked.x)
        # Counted from the end, so that the last step is kept.
        first = (self.num_steps - self._seen - 1) % self.every
        self._seen += steps
        if first >= steps:
            return
        chains = _spread(self._chains, walked.x.shape[1]).to(walked.x.device)
        kept = walked.x[first :: self.every][:, chains].flatten(2)
        kept = kept[..., _spread(self._coordinates, kept.shape[2]).to(kept.device)]
        self._knows_energy = walked.log_prob is not None
        if walked.log_prob is not None:
            energy = -walked.log_prob[first :: self.every][:, chains, None]
            kept = torch.cat([kept.double(), energy.double()], 2)
        self._parts.append(kept.detach().cpu().double())

    @property
    def draws(self) -> Tensor:
        """Coordinates, and last the energy where the kernel knows it, shape (n, chains, ...)."""
        return torch.cat(self._parts)

    @property
    def energies(self) -> Tensor | None:
        """Energies of the draws, shape (n, chains); None where the kernel knows none."""
        return self.draws[..., -1] if self._knows_energy else None

    def diagnostics(
        self, *, acceptance: Tensor | None = None, divergences: Tensor | None = None
    ) -> Diagnostics:
        """R-hat, effective sample sizes and a verdict, from what was kept."""
        return diagnostics(self.draws, acceptance=acceptance, divergences=divergences)


def _spread(wanted: int | Tensor, size: int) -> Tensor:
    """Indices below `size`: those wanted, or at most so many evenly spread ones."""
    if isinstance(wanted, Tensor):
        return wanted
    return torch.linspace(0, size - 1, min(wanted, size), dtype=torch.float64).round().long()
