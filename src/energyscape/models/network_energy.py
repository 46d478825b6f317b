"""Energies that a network gives: as it stands, or well scaled at every noise level.

A plain perceptron's energy, score and slices are computed by hand where no graph is needed, the numbers
being the same (`energyscape.models.layered`, `energyscape.models.slices`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from energyscape.models.energy import Energy, one_per_row
from energyscape.models.layered import energy_and_score_by_layers, rows_at_once
from energyscape.models.preconditioning import EDMPreconditioning, per_row
from energyscape.models.slices import score_and_slices_by_layers

__all__ = ["NetworkEnergy", "PreconditionedEnergy"]


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

    def rows_at_once(self, x: Tensor) -> int | None:
        """How many rows like those of x a plain perceptron takes within the caches; None for others."""
        # Other kinds of it may hold something for each row.
        return rows_at_once(self.network, x) if type(self) is NetworkEnergy else None

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
