"""An energy kept from falling outwards, so that ``exp(-E)`` has an integral."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from energyscape.models.energy import Energy

__all__ = ["ConfinedEnergy", "given"]


class ConfinedEnergy(Energy):
    """An energy tilted by a wide Gaussian, ``E(x) + ||x - centre||^2 / (2 scale^2)``.

    A network's energy may stay flat far from the data, where ``exp(-E)`` could then not be
    integrated. The Gaussian is part of the model (and of every density reported), which is proper as
    long as the network falls more slowly than the parabola rises.
    """

    def __init__(self, energy: Energy, scale: float, centre: Tensor | float = 0.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the confining scale must be positive, got {scale}")
        self.energy = energy
        self.scale = scale
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float64))

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """That of the energy within."""
        return self.energy.box

    def given(self, label: int | Tensor) -> Energy:
        """The tilted energy given one class, or one class a row, where the energy within has them."""
        return ConfinedEnergy(given(self.energy, label), self.scale, self.get_buffer("centre"))

    def rows_at_once(self, x: Tensor) -> int | None:
        """As many as the energy within takes."""
        return self.energy.rows_at_once(x) if type(self) is ConfinedEnergy else None

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The tilted energy, shape (batch,)."""
        offset = (x - self.get_buffer("centre").to(x.dtype)) / self.scale
        return cast(Tensor, self.energy(x, sigma) + 0.5 * offset.square().flatten(1).sum(1))

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E and the score: those of the energy within, and the parabola's."""
        if create_graph or type(self) is not ConfinedEnergy:
            return super().energy_and_score(x, sigma, create_graph=create_graph)
        x = x.detach()
        energy, score = self.energy.energy_and_score(x, sigma)
        offset = (x - self.get_buffer("centre").to(x.dtype)) / self.scale
        tilted = energy + 0.5 * offset.square().flatten(1).sum(1)
        return tilted, torch.sub(score, offset, alpha=1.0 / self.scale)

    def score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        """The score: the two parts' sum."""
        if not create_graph or x.requires_grad or type(self) is not ConfinedEnergy:
            return super().score(x, sigma, create_graph=create_graph)
        offset = x - self.get_buffer("centre").to(x.dtype)
        score = self.energy.score(x, sigma, create_graph=True)
        return torch.sub(score, offset, alpha=1 / self.scale**2)

    def score_and_slices(
        self,
        x: Tensor,
        v: Tensor,
        sigma: float | Tensor | None = None,
        *,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Those of the energy within, and the parabola's."""
        if type(self) is not ConfinedEnergy:
            return super().score_and_slices(x, v, sigma, create_graph=create_graph)
        score, along = self.energy.score_and_slices(x, v, sigma, create_graph=create_graph)
        curvature = 1.0 / self.scale**2
        centre = self.get_buffer("centre").to(x.dtype)
        squares = v.square().flatten(2).sum(2)
        return score - curvature * (x - centre), along - curvature * squares


def given(energy: Energy, label: int | Tensor) -> Energy:
    """The energy given one class, or one class a row; ValueError if it has none."""
    conditional = getattr(energy, "given", None)
    if conditional is None:
        raise ValueError(
            f"labels were given, but {type(energy).__name__} takes none: train without them, or use "
            "an energy with given(label), such as ClassEnergy"
        )
    return cast(Energy, conditional(label))
