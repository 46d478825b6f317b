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
from energyscape.models.layered import energy_and_score_by_layers
from energyscape.models.preconditioning import EDMPreconditioning, per_row
from energyscape.models.slices import score_and_slices_by_layers
from energyscape.targets import Target

__all__ = [
    "ConfinedEnergy",
    "Energy",
    "FunctionEnergy",
    "NetworkEnergy",
    "PreconditionedEnergy",
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


class NetworkEnergy(Energy):
    """An energy from a network whose output is one number a row, (batch,) or (batch, 1).

    Parameters
    ----------
    network : Module
        Called as ``network(x)``, or ``network(x, c_noise)`` with ``c_noise = log sigma`` when a level
        is given. Its activations should be smooth (SiLU, softplus, ELU): the score of a ReLU energy
        is piecewise constant.

    Raises
    ------
    ValueError
        When the network's output has another shape.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x) or E(x, sigma), shape (batch,)."""
        if sigma is None:
            return one_per_row(self.network(x), x)
        return one_per_row(self.network(x, per_row(sigma, x).flatten().log()), x)

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E and the score; those of a plain perceptron without autograd, the numbers being the same."""
        if sigma is None and not create_graph and type(self) is NetworkEnergy:
            found = energy_and_score_by_layers(self.network, x)
            if found is not None:
                return found
        return super().energy_and_score(x, sigma, create_graph=create_graph)

    def score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        """The score; a plain perceptron's by hand where a loss asks for no gradient of the rows."""
        if create_graph and not x.requires_grad and sigma is None and type(self) is NetworkEnergy:
            found = score_and_slices_by_layers(self.network, x)
            if found is not None:
                return found[0]
        return super().score(x, sigma, create_graph=create_graph)

    def score_and_slices(
        self,
        x: Tensor,
        v: Tensor,
        sigma: float | Tensor | None = None,
        *,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Those of a plain perceptron, and their gradient, by hand; see `energyscape.models.slices`."""
        if sigma is None and type(self) is NetworkEnergy:
            found = score_and_slices_by_layers(self.network, x, v)
            if found is not None:
                return found
        return super().score_and_slices(x, v, sigma, create_graph=create_graph)


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
        return ConfinedEnergy(_given(self.energy, label), self.scale, self.get_buffer("centre"))

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
        offset = (x - self.get_buffer("centre").to(x.dtype)) / self.scale**2
        return self.energy.score(x, sigma, create_graph=True) - offset

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


def _given(energy: Energy, label: int | Tensor) -> Energy:
    given = getattr(energy, "given", None)
    if given is None:
        raise ValueError(
            f"labels were given, but {type(energy).__name__} takes none: train without them, or use "
            "an energy with given(label), such as ClassEnergy"
        )
    return cast(Energy, given(label))


class _LabelledNetwork(nn.Module):
    """A network of (x, c_noise, label) at a label."""

    def __init__(self, network: nn.Module, label: int | Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("label", torch.as_tensor(label), persistent=False)

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        label = self.get_buffer("label").to(x.device).expand(x.shape[0])
        return cast(Tensor, self.network(x, c_noise, label))


class PreconditionedEnergy(Energy):
    """A noise-conditional energy well scaled at every level.

    The Gaussian energy of blurred data of scale sd, plus a network f that sees unit-scale inputs::

        z = x / sqrt(sigma^2 + sd^2),    E(x, sigma) = ||z||^2 / 2 - (sd / sigma) f(z, c_noise)

    Its denoiser ``x - sigma^2 grad E = c_skip x + c_out grad f`` is EDM's (2206.00364 table 1) with
    ``grad f`` in the place of the network's output.

    Parameters
    ----------
    network : Module
        Called as ``network(x, c_noise)``; one number a row.
    sigma_data : float
        The standard deviation of the data.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = EDMPreconditioning(sigma_data)

    def given(self, label: int | Tensor) -> Energy:
        """The energy given one class, or one class a row, where the network takes labels."""
        network = _LabelledNetwork(self.network, label)
        return PreconditionedEnergy(network, self.preconditioning.sigma_data)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x, sigma), shape (batch,)."""
        if sigma is None:
            raise ValueError("a noise-conditional energy needs its level: energy(x, sigma)")
        level = per_row(sigma, x)
        c = self.preconditioning.coefficients(level)
        z = c.c_in * x
        f = one_per_row(self.network(z, c.c_noise.flatten()), x)
        gain = self.preconditioning.sigma_data / level.flatten()
        return 0.5 * z.square().flatten(1).sum(1) - gain * f


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
