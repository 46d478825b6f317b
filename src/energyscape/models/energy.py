"""The energy face: ``p = exp(-E)/Z``, lower energy = more probable.

Ratios need no Z: ``log p(a) - log p(b) = E(b) - E(a)``. Sums of energies are products of densities,
a scaled energy is the density at another temperature; results are energies again. An energy maps a
batch to one number a row, never a sum over rows.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from energyscape.autodiff import slices, value_and_grad
from energyscape.targets import Target

__all__ = [
    "Energy",
    "FunctionEnergy",
    "ScaledEnergy",
    "SumEnergy",
]


def one_per_row(out: Tensor, x: Tensor) -> Tensor:
    """An energy's raw output, (batch,) or (batch, 1), as shape (batch,); others are refused."""
    if out.shape == (x.shape[0], 1):
        return out.squeeze(1)
    if out.shape != x.shape[:1]:
        raise ValueError(
            f"an energy gives one value a row, shape ({x.shape[0]},) or ({x.shape[0]}, 1); "
            f"got {tuple(out.shape)}"
        )
    return out


class Energy(nn.Module, abc.ABC):
    """A scalar function of a point, and of a noise level where it is noise-conditional."""

    @abc.abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x), or E(x, sigma), shape (batch,) for x of shape (batch, ...)."""

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E of shape (batch,) and the score ``-grad E``, shape of x.

        `create_graph` keeps the graph for losses that differentiate the score; samplers leave it off.
        """
        return value_and_grad(lambda z: self(z, sigma), x, create_graph=create_graph, factor=-1.0)

    def score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        """The score ``-grad_x E``, shape of x."""
        return self.energy_and_score(x, sigma, create_graph=create_graph)[1]

    def score_and_slices(
        self,
        x: Tensor,
        v: Tensor,
        sigma: float | Tensor | None = None,
        *,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The score, shape of x, and ``v' (ds/dx) v`` of probes (P, batch, ...), shape (P, batch).

        `create_graph` keeps what a training loss needs: both can then be differentiated once with
        respect to the parameters.
        """
        x = x.detach().requires_grad_()
        score = self.score(x, sigma, create_graph=True)
        return score, slices(score, x, v, create_graph=create_graph)

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """Bounds outside which E is +inf, where unadjusted kernels reflect; None without."""
        return None

    def rows_at_once(self, x: Tensor) -> int | None:
        """How many rows like those of x are evaluated within the caches, each by itself.

        None where that is not known: of a function, say, that holds something for each row.
        """
        return None

    def at(self, sigma: float | None = None) -> Target:
        """The unnormalised log-density ``-E`` at one level as a target for Markov chains."""
        return _EnergyTarget(self, sigma)

    def log_ratio(self, a: Tensor, b: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """``log p(a) - log p(b)`` of each pair of rows, which needs no Z; shape (batch,)."""
        return cast(Tensor, self(b, sigma) - self(a, sigma))

    def __add__(self, other: Energy) -> SumEnergy:
        """The product of the two densities, renormalised (a product of experts)."""
        return SumEnergy(self, other)

    def __radd__(self, other: int) -> Energy:
        """Lets ``sum(energies)`` begin at 0."""
        return self if other == 0 else NotImplemented

    def __mul__(self, factor: float) -> ScaledEnergy:
        """The density at temperature 1/factor."""
        return ScaledEnergy(self, factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, temperature: float) -> ScaledEnergy:
        """The density at this temperature."""
        return self * (1 / temperature) if temperature else self * math.inf

    def __neg__(self) -> Energy:
        """Refused: minus an energy is one inside a finite box only (`NegatedEnergy`)."""
        raise ValueError(
            "minus an energy has no density over all of space, since exp(+E) grows where E does: "
            "use NegatedEnergy(energy, lower, upper), which confines it to a box"
        )


class _EnergyTarget:
    """``-E`` at a level: value without a gradient's cost, or both in one pass."""

    def __init__(self, energy: Energy, sigma: float | None) -> None:
        self.energy = energy
        self.sigma = sigma
        self.box = energy.box

    def _checked(self, energy: Tensor, x: Tensor) -> Tensor:
        if energy.shape != x.shape[:1]:
            raise ValueError(
                f"an energy gives one value a row, shape ({len(x)},), got {tuple(energy.shape)}"
            )
        return energy

    def rows_at_once(self, x: Tensor) -> int | None:
        return self.energy.rows_at_once(x)

    def value(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return -self._checked(self.energy(x, self.sigma), x)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy, score = self.energy.energy_and_score(x, self.sigma)
        return -self._checked(energy, x), score


class FunctionEnergy(Energy):
    """An energy from any function of x that gives one value a row, (batch,) or (batch, 1).

    Raises
    ------
    ValueError
        When the function's output has another shape, or a level is given.

    Examples
    --------
    >>> import torch
    >>> normal = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> (normal + normal).score(torch.tensor([[1.0, -2.0]]))
    tensor([[-2.,  4.]])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """`function(x)`; a level is refused."""
        if sigma is not None:
            raise ValueError("this energy was built from a function of x alone: it takes no sigma")
        return one_per_row(self.function(x), x)


class SumEnergy(Energy):
    """The sum of energies: the renormalised product of their densities."""

    def __init__(self, *energies: Energy) -> None:
        super().__init__()
        if not energies:
            raise ValueError("a sum of energies needs at least one")
        self.energies = nn.ModuleList(energies)

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """Where all of them are finite."""
        boxes = [b for b in (cast(Energy, e).box for e in self.energies) if b is not None]
        if not boxes:
            return None
        low, high = boxes[0]
        for lower, upper in boxes[1:]:
            low, high = torch.maximum(low, lower), torch.minimum(high, upper)
        return low, high

    def rows_at_once(self, x: Tensor) -> int | None:
        """As many as each of the parts takes; None where one does not know."""
        if type(self) is not SumEnergy:
            return None
        each = (cast(Energy, e).rows_at_once(x) for e in self.energies)
        known = [rows for rows in each if rows is not None]
        return min(known) if len(known) == len(self.energies) else None

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The sum, shape (batch,)."""
        total = self.energies[0](x, sigma)
        for energy in self.energies[1:]:
            total = total + energy(x, sigma)
        return cast(Tensor, total)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E and the score: the sums of those of the parts."""
        if create_graph or type(self) is not SumEnergy:
            return super().energy_and_score(x, sigma, create_graph=create_graph)
        total, score = cast(Energy, self.energies[0]).energy_and_score(x, sigma)
        for part in self.energies[1:]:
            energy, its_score = cast(Energy, part).energy_and_score(x, sigma)
            total, score = total + energy, score + its_score
        return total, score


class ScaledEnergy(Energy):
    """``factor * E``: the density at temperature ``1/factor``.

    Raises
    ------
    ValueError
        If the factor is not positive and finite: minus an energy that grows at infinity has no density.
    """

    def __init__(self, energy: Energy, factor: float) -> None:
        super().__init__()
        if not 0 < factor < math.inf:
            raise ValueError(
                f"an energy may be scaled by a positive factor only, got {factor}: exp(+E) of an "
                "energy that grows at infinity cannot be normalised"
            )
        self.energy = energy
        self.factor = factor

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """That of the energy within."""
        return self.energy.box

    def rows_at_once(self, x: Tensor) -> int | None:
        """As many as the energy within takes."""
        return self.energy.rows_at_once(x) if type(self) is ScaledEnergy else None

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The scaled energy, shape (batch,)."""
        return cast(Tensor, self.factor * self.energy(x, sigma))

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E and the score: the factor times those of the energy within."""
        if create_graph or type(self) is not ScaledEnergy:
            return super().energy_and_score(x, sigma, create_graph=create_graph)
        energy, score = self.energy.energy_and_score(x, sigma)
        return self.factor * energy, self.factor * score
