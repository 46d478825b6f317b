"""Some coordinates known: the same kernels on the slice of the density that goes through them.

With the known coordinates of every chain put in place, the noise and the score set to 0 there, a
proposal never leaves the slice, and its two proposal densities differ in the free coordinates alone:
the acceptance test of a kernel that leaves p unchanged leaves ``p(free | known)`` unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from energyscape.mcmc.kernel import Info, Kernel
from energyscape.targets import Target

__all__ = ["Pinned"]


@dataclass(frozen=True, eq=False)
class Pinned:
    """A kernel whose known coordinates stand still.

    Parameters
    ----------
    kernel : Kernel
        One that moves by noise `eps` of the shape of x, with a score or without: ULA, MALA, HMC, a
        random walk.
    mask : bool Tensor, shape of one x or of all chains
        True where the value is known.
    values : Tensor, shape of mask or of all chains
        What is known; entries outside the mask are ignored.

    Raises
    ------
    ValueError
        At `draw`, for a kernel with another kind of noise.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.mcmc import MALA, run_chains
    >>> rng, mask = torch.Generator().manual_seed(0), torch.tensor([True, False])
    >>> kernel = Pinned(MALA(0.01), mask, torch.tensor([2.0, 0.0]))
    >>> run_chains(kernel, eight_gaussians().at(0.0), torch.zeros(4, 2), 50, rng=rng).x[..., 0].unique()
    tensor([2.])
    """

    kernel: Kernel
    mask: Tensor
    values: Tensor

    @property
    def target_acceptance(self) -> float | None:
        """That of the kernel within; its step size is not adapted."""
        return None

    def init(self, x: Tensor, target: Target) -> Any:
        """The state at x with the known coordinates in place."""
        values = self.values.to(x)
        return self.kernel.init(
            torch.where(self.mask.to(x.device), values, x), _Slice(target, self.mask)
        )

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> Any:
        """The kernel's noise, none of it in known coordinates."""
        noise = self.kernel.draw(num_steps, like, rng)
        eps = getattr(noise, "eps", None)
        if eps is None or eps.shape[1:] != like.shape:
            raise ValueError(
                f"{type(self.kernel).__name__} moves by no noise of the shape of x, so it cannot hold "
                "coordinates: take ULA, MALA, HMC or RandomWalk"
            )
        return noise._replace(eps=eps.masked_fill(self.mask.to(eps.device), 0.0))

    def step(self, state: Any, target: Target, noise: Any) -> tuple[Any, Info]:
        """One step of the kernel in the free coordinates."""
        return self.kernel.step(state, _Slice(target, self.mask), noise)


@dataclass(frozen=True, eq=False)
class _Slice:
    """A target whose score is 0 in known coordinates: its restriction, up to a constant a chain."""

    target: Target
    mask: Tensor

    def value(self, x: Tensor) -> Tensor | None:
        return self.target.value(x)

    def value_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        value, score = self.target.value_and_score(x)
        return value, score.masked_fill(self.mask.to(score.device), 0.0)
