"""Energies made of energies: mixtures, boxes, negation, classes, and a learned constant.

    sum          E_1 + E_2                        product of experts        (`SumEnergy`)
    scaling      E / T                            temperature               (`ScaledEnergy`)
    mixture      -log sum_k w_k exp(-E_k)         one expert or another
    restriction  E inside a box, +inf outside     a hard-edged density
    negation     -E, inside a box only            elsewhere exp(+E) has no integral

Results are energies again, so chains, scores and ratios work unchanged. Weights of a mixture multiply
the **unnormalised** densities: component k has probability ``w_k Z_k / sum_j w_j Z_j``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from energyscape.models.energy import Energy, one_per_row
from energyscape.models.preconditioning import per_row

__all__ = ["BoxEnergy", "ClassEnergy", "MixtureEnergy", "NegatedEnergy", "NormalisedEnergy"]


class MixtureEnergy(Energy):
    """``E = -log sum_k w_k exp(-E_k)``: the mixture of the unnormalised densities.

    Parameters
    ----------
    energies : sequence of Energy
    weights : sequence of float, optional
        Positive, equal by default; normalised to sum to one.

    Raises
    ------
    ValueError
        If there is no energy, or the weights do not fit or are not positive.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> left = FunctionEnergy(lambda x: 0.5 * (x + 2).square().sum(1))
    >>> right = FunctionEnergy(lambda x: 0.5 * (x - 2).square().sum(1))
    >>> MixtureEnergy([left, right]).score(torch.zeros(1, 1)).abs()
    tensor([[0.]])
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.energies = nn.ModuleList(energies)
        given = [1.0] * len(energies) if weights is None else list(weights)
        w = torch.tensor(given, dtype=torch.float64)
        if len(energies) == 0 or w.shape != (len(energies),) or not bool((w > 0).all()):
            raise ValueError(
                f"a mixture needs one positive weight per energy: got {len(energies)} energies and "
                f"weights {w.tolist()}"
            )
        self.register_buffer("log_weights", (w / w.sum()).log())

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """The smallest box around all of them, if each has one."""
        boxes = [cast(Energy, e).box for e in self.energies]
        low, high = None, None
        for box in boxes:
            if box is None:
                return None
            low = box[0] if low is None else torch.minimum(low, box[0])
            high = box[1] if high is None else torch.maximum(high, box[1])
        return None if low is None or high is None else (low, high)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The mixture's energy, shape (batch,)."""
        parts = torch.stack([-energy(x, sigma) for energy in self.energies], dim=1)
        return -torch.logsumexp(parts + self.get_buffer("log_weights").to(parts), dim=1)


class BoxEnergy(Energy):
    """An energy restricted to a box: +inf outside, so the density ends at its walls.

    Kernels with an acceptance test reject a proposal outside; unadjusted Langevin reads the walls off
    the target and reflects at them. The score knows nothing of a wall: score matching fails at hard
    edges.

    Parameters
    ----------
    energy : Energy
    lower, upper : float or Tensor
        Broadcast against one row; either may be infinite.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> flat = BoxEnergy(FunctionEnergy(lambda x: 0 * x.sum(1)), 0.0, 1.0)
    >>> flat(torch.tensor([[0.5], [2.0]]))
    tensor([0., inf])
    """

    def __init__(self, energy: Energy, lower: float | Tensor, upper: float | Tensor) -> None:
        super().__init__()
        low, high = torch.as_tensor(lower).double(), torch.as_tensor(upper).double()
        if not bool((low < high).all()):
            raise ValueError(f"a box needs lower < upper everywhere, got {lower} and {upper}")
        self.energy = energy
        self.register_buffer("lower", low)
        self.register_buffer("upper", high)

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """The walls, within those of the energy."""
        low, high = self.get_buffer("lower"), self.get_buffer("upper")
        own = self.energy.box
        return (
            (low, high)
            if own is None
            else (torch.maximum(low, own[0]), torch.minimum(high, own[1]))
        )

    def inside(self, x: Tensor) -> Tensor:
        """Which rows lie in the box, walls included; shape (batch,)."""
        low, high = self.get_buffer("lower").to(x), self.get_buffer("upper").to(x)
        return ((x >= low) & (x <= high)).flatten(1).all(1)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The energy inside, +inf outside, shape (batch,)."""
        low, high = self.get_buffer("lower").to(x), self.get_buffer("upper").to(x)
        # Evaluated at the nearest point of the box: an energy may be NaN outside its domain.
        # (A clamp, unlike minimum and maximum, passes the whole gradient on at the wall itself.)
        energy = self.energy(x.clamp(low, high), sigma)
        return torch.where(self.inside(x), energy, math.inf)


class NegatedEnergy(BoxEnergy):
    """``-E`` inside a box: the density that likes what E dislikes.

    The box is the guard: ``exp(+E)`` of an energy that grows at infinity has no integral over all of
    space.

    Parameters
    ----------
    energy : Energy
    lower, upper : float or Tensor
        Finite.

    Raises
    ------
    ValueError
        If the box is not finite.
    """

    def __init__(self, energy: Energy, lower: float | Tensor, upper: float | Tensor) -> None:
        bounds = torch.stack([torch.as_tensor(b).double().abs().max() for b in (lower, upper)])
        if not bool(bounds.isfinite().all()):
            raise ValueError(
                "a negated energy needs a finite box: exp(+E) cannot be normalised over all of "
                f"space; got {lower} to {upper}"
            )
        super().__init__(energy, lower, upper)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Minus the energy inside, +inf outside, shape (batch,)."""
        value = super().forward(x, sigma)
        return torch.where(self.inside(x), -value, math.inf)


class NormalisedEnergy(Energy):
    """``E + log_z`` with a learned ``log_z``: after noise-contrastive estimation, ``-log p``.

    Parameters
    ----------
    energy : Energy
    log_z : float
        The value to begin with.

    Examples
    --------
    >>> import math, torch
    >>> from energyscape.models import FunctionEnergy
    >>> normal = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> NormalisedEnergy(normal, 0.5 * math.log(2 * math.pi)).log_prob(torch.zeros(1, 1)).item()
    -0.918938...
    """

    def __init__(self, energy: Energy, log_z: float = 0.0) -> None:
        super().__init__()
        self.energy = energy
        self.log_z = nn.Parameter(torch.tensor(float(log_z)))

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """That of the energy within."""
        return self.energy.box

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """``E + log_z``, shape (batch,)."""
        return cast(Tensor, self.energy(x, sigma) + self.log_z)

    def log_prob(self, x: Tensor) -> Tensor:
        """``-E - log_z`` in nats, as good as the estimate of log_z; shape (batch,)."""
        return cast(Tensor, -self(x))


class ClassEnergy(Energy):
    """An energy per class, ``E(x, label)``, from one network.

    Parameters
    ----------
    network : Module
        Called as ``network(x, c_noise, label)`` with c_noise None without a level; one number a row.
        Label -1 stands for no label, the density of all classes together.

    Examples
    --------
    >>> import torch
    >>> from energyscape.nn import ResidualMLP
    >>> net = ResidualMLP((2,), width=8, blocks=1, scalar=True, noise=False, num_labels=3)
    >>> ClassEnergy(net).given(torch.tensor([0, 2]))(torch.zeros(2, 2)).shape
    torch.Size([2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, sigma: float | Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """E(x), E(x, label), at a level where one is given; shape (batch,)."""
        c_noise = None if sigma is None else per_row(sigma, x).flatten().log()
        return one_per_row(self.network(x, c_noise, label), x)

    def given(self, label: int | Tensor) -> Energy:
        """The energy given one class, or one class a row."""
        return _GivenEnergy(self, label)


class _GivenEnergy(Energy):
    def __init__(self, energy: ClassEnergy, label: int | Tensor) -> None:
        super().__init__()
        self.energy = energy
        self.training = energy.training
        self.register_buffer("label", torch.as_tensor(label), persistent=False)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        label = self.get_buffer("label").to(x.device).expand(x.shape[0])
        return cast(Tensor, self.energy(x, sigma, label))
