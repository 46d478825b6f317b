"""Maximum likelihood by contrast: lower the energy of data, raise that of the model's own draws.

    grad_theta E_data[log p] = -E_data[grad_theta E(x+)] + E_p[grad_theta E(x-)]

so the loss ``mean E(x+) - mean E(x-)`` with **detached** negatives has the likelihood's gradient when
the negatives follow the model; without the second term energies collapse. Negatives come from Markov
chains, which reach this room as a callable, started

    "data"         at the batch: CD-k (Hinton 2002), biased by the shortness of the chain
    "noise"        at the base distribution: short-run (1904.09770)
    "persistent"   where chains of earlier steps ended: PCD (Tieleman 2008), replay (1903.08689)

Chains run on the frozen network in eval mode. A chain drawn from slot j of the buffer is written back
to slot j, with its label; a stated share of the slots drawn restarts from the base.

CD-k leaves out how the chain's law depends on theta. *Improved CD* (2012.01316 eq. 5) adds it for the
last Langevin step, ``E_sg(x_K(theta)) - H``, with the entropy H from nearest neighbours,
``H = D mean log ||x_i - x_nn(i)|| + const`` (Kozachenko and Leonenko 1987).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from energyscape.models import Energy
from energyscape.objectives.base import (
    Aux,
    LossOutput,
    conditioned,
    energies_of,
    require_smooth_energy,
)
from energyscape.targets import Target

__all__ = ["Base", "ChainsDiverged", "Contrastive", "ImprovedStep", "Sampler", "Start", "frozen"]

Sampler = Callable[
    [Target, Tensor, torch.Generator], Tensor | tuple[Tensor, Mapping[str, Tensor | float]]
]
Base = Callable[[Tensor, torch.Generator], Tensor]
Start = Literal["data", "noise", "persistent"]


class ChainsDiverged(ValueError):
    """Negative chains left the finite numbers."""


@contextmanager
def frozen(model: nn.Module, *, evaluating: bool = True) -> Iterator[None]:
    """The model with parameters that need no gradient, in eval mode; put back as it was after."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training] if evaluating else []
    for p in parameters:
        p.requires_grad_(False)
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
        for m in training:
            m.training = True


@dataclass(frozen=True)
class ImprovedStep:
    """The part of improved CD that flows through one last Langevin step (2012.01316 eq. 5).

    Parameters
    ----------
    step_size : float
        ``h`` in ``x - h grad E + sqrt(2h) eps``.
    weight : float
        Of the term against the contrastive loss.
    entropy : float
        Factor on the entropy; 1 as derived, 0 to leave it out.
    """

    step_size: float
    weight: float = 1.0
    entropy: float = 1.0

    def __post_init__(self) -> None:
        if not (self.step_size > 0 and self.weight >= 0 and self.entropy >= 0):
            raise ValueError(
                "ImprovedStep needs step_size > 0, weight >= 0 and entropy >= 0; got "
                f"{self.step_size}, {self.weight} and {self.entropy}"
            )

    def loss(self, energy: Energy, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The term of each row, shape (batch,), and the points after the step, detached."""
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        score = energy.score(x, create_graph=torch.is_grad_enabled())
        moved = x + self.step_size * score + (2 * self.step_size) ** 0.5 * eps
        with frozen(energy, evaluating=False):
            term = energies_of(energy, moved)
        if self.entropy > 0 and len(x) > 1:
            flat = moved.flatten(1)
            distance = torch.cdist(flat.detach(), flat.detach())
            nearest = distance.fill_diagonal_(torch.inf).argmin(1)
            gap = (flat - flat.detach()[nearest]).square().sum(1)
            tiny = torch.finfo(gap.dtype).tiny
            term = term - self.entropy * 0.5 * flat.shape[1] * (gap + tiny).log()
        return self.weight * term, moved.detach()


def _class_weights(label: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Weights under which rows and negatives of each class have the same total, shape (batch,) each.

    A slot keeps its class, so the classes of the slots drawn are not quite those of the rows; left so,
    the energy of a class that the data show more often than the chains would fall without end. Rows of
    a class that no chain has are left out of the step.
    """
    top = int(torch.maximum(label.max(), negative.max())) + 2
    rows, chains = (torch.bincount(part + 1, minlength=top) for part in (label, negative))
    ratio = rows / chains.clamp(min=1)
    return (chains > 0).to(torch.float32)[label + 1], ratio.to(torch.float32)[negative + 1]


@dataclass(frozen=True)
class Contrastive:
    """``E(x+) - E(stopgrad x-)`` with negatives from chains on the model.

    Parameters
    ----------
    sampler : callable
        ``sampler(target, start, rng) -> negatives``, shape of `start`, or the negatives with a
        mapping of numbers to watch, such as their acceptance; a Markov chain that leaves the target
        invariant, at temperature 1 if likelihoods are to be read from the energy.
    start : {"data", "noise", "persistent"}
    buffer_size : int
        Slots of persistent chains, at least the batch size.
    restart_fraction : float
        Share of the slots drawn that restart from the base at each step.
    base : callable, optional
        ``base(like, rng)`` draws starting points of the shape of `like`. By default the Gaussian
        with the mean and the standard deviations of the rows seen at `init`.
    regulariser : float
        ``lambda (E+^2 + E-^2)``, which pins the energy's free constant and biases the density.
    improved : ImprovedStep, optional
        One more Langevin step through which the chain's gradient flows.

    Notes
    -----
    The state holds ``buffer`` (slots, ...), ``labels`` (slots,), -1 where unset, ``visits`` (slots,)
    and ``restarts``; it is updated in place. With gradients off (validation) it is read only.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import NetworkEnergy
    >>> from energyscape.nn import MLP
    >>> def langevin(target, x, rng):
    ...     for _ in range(5):
    ...         noise = torch.randn(x.shape, generator=rng)
    ...         x = x + 0.01 * target.value_and_score(x)[1] + 0.02 ** 0.5 * noise
    ...     return x
    >>> energy, rng = NetworkEnergy(MLP((2,), width=8, scalar=True)), torch.Generator()
    >>> objective, x = Contrastive(langevin, buffer_size=64), torch.zeros(16, 2)
    >>> aux = objective.init(energy, x, rng)
    >>> objective(energy, x, aux, rng).loss.shape
    torch.Size([16])
    """

    sampler: Sampler
    start: Start = "persistent"
    buffer_size: int = 4096
    restart_fraction: float = 0.05
    base: Base | None = None
    regulariser: float = 0.0
    improved: ImprovedStep | None = None

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise ValueError(
                f"chains start from one of {', '.join(get_args(Start))}, not {self.start!r}"
            )
        if self.buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1, got {self.buffer_size}")
        if not 0 <= self.restart_fraction <= 1:
            raise ValueError(f"restart_fraction must lie in [0, 1], got {self.restart_fraction}")
        if not self.regulariser >= 0:
            raise ValueError(f"the regulariser must be 0 or more, got {self.regulariser}")

    @property
    def needs_double_backward(self) -> bool:
        """Only the improved step holds a gradient of the energy."""
        return self.improved is not None

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The base's moments, and for persistent chains a buffer drawn from it.

        Raises
        ------
        ValueError
            For a model that is no energy, or with an improved step for an energy that is not smooth.
        """
        if not isinstance(model, Energy):
            raise ValueError(
                f"contrastive learning trains an Energy, got {type(model).__name__}: wrap a scalar "
                "network in NetworkEnergy"
            )
        if self.improved is not None:
            require_smooth_energy(model, x, needed_by="the improved step")
        if self.start == "data":
            return None
        x = x.detach()
        std = x.std(0, correction=0)
        floor = 0.01 * std.square().mean().sqrt()
        aux = {"base_mean": x.mean(0), "base_std": torch.maximum(std, floor)}
        if self.start == "noise":
            return aux
        shape, device = (self.buffer_size,), x.device
        aux["buffer"] = self._draw_base(x.new_empty(*shape, *x.shape[1:]), aux, rng)
        aux["labels"] = torch.full(shape, -1, dtype=torch.int64, device=device)
        aux["visits"] = torch.zeros(shape, dtype=torch.int64, device=device)
        aux["restarts"] = torch.zeros((), dtype=torch.int64, device=device)
        return aux

    def _draw_base(self, like: Tensor, aux: Aux, rng: torch.Generator) -> Tensor:
        if self.base is not None:
            return self.base(like, rng)
        assert aux is not None
        eps = torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)
        return aux["base_mean"] + aux["base_std"] * eps

    def _draw_slots(
        self, x: Tensor, aux: dict[str, Tensor], rng: torch.Generator, label: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Slots, their states and labels, and which of them restarted."""
        if len(x) > len(aux["buffer"]):
            raise ValueError(
                f"a batch of {len(x)} rows needs a buffer at least as large, got buffer_size="
                f"{len(aux['buffer'])}"
            )
        slots = torch.randperm(len(aux["buffer"]), generator=rng, device=x.device)[: len(x)]
        restarted = torch.rand(len(x), generator=rng, device=x.device) < self.restart_fraction
        kept = None
        if label is not None:
            kept = aux["labels"][slots]
            # A slot that never had a label takes the row's, which keeps the classes in proportion.
            restarted = restarted | (kept < 0)
            kept = torch.where(restarted, label, kept)
        fresh = self._draw_base(x, aux, rng)
        mask = restarted.reshape(-1, *[1] * (x.ndim - 1))
        return slots, torch.where(mask, fresh, aux["buffer"][slots].to(x.dtype)), kept, restarted

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The contrast of each row with one negative, shape (batch,)."""
        x = x.detach()
        negative_label = label
        slots = restarted = None
        if self.start == "data":
            begin = x
        elif aux is None:
            raise ValueError("this objective has state: pass what init() returned as aux")
        elif self.start == "noise":
            begin = self._draw_base(x, aux, rng)
        else:
            slots, begin, negative_label, restarted = self._draw_slots(x, aux, rng, label)
        conditional = cast(Energy, conditioned(model, negative_label))
        with frozen(conditional):
            drawn = self.sampler(conditional.at(None), begin, rng)
        negative, watched = drawn if isinstance(drawn, tuple) else (drawn, {})
        negative = negative.detach()
        self._check(negative, x)
        extra: Tensor | None = None
        if self.improved is not None:
            extra, negative = self.improved.loss(conditional, negative, rng)
            self._check(negative, x)
        if aux is not None and slots is not None and torch.is_grad_enabled():
            aux["buffer"][slots] = negative.to(aux["buffer"].dtype)
            aux["visits"][slots] += 1
            if restarted is not None:
                aux["restarts"] += restarted.sum()
            if negative_label is not None:
                aux["labels"][slots] = negative_label
        loss, metrics = self._contrast(model, x, negative, label, negative_label, extra)
        return LossOutput(loss, aux, {**metrics, **watched})

    def _contrast(
        self,
        model: nn.Module,
        x: Tensor,
        negative: Tensor,
        label: Tensor | None,
        negative_label: Tensor | None,
        extra: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        labels = None
        if label is not None and negative_label is not None:
            labels = torch.cat([label, negative_label])
        both = cast(Energy, conditioned(model, labels))
        high, low = energies_of(both, torch.cat([x, negative])).chunk(2)
        loss = high - low
        if label is not None and negative_label is not None:
            up, down = _class_weights(label, negative_label)
            loss = up * high - down * low
        if self.regulariser > 0:
            loss = loss + self.regulariser * (high.square() + low.square())
        if extra is not None:
            loss = loss + extra
        data, chains = high.detach(), low.detach()
        return loss, {
            "energy_data": data.mean(),
            "energy_chains": chains.mean(),
            "energy_gap": (data - chains).mean(),
        }

    @staticmethod
    def _check(negative: Tensor, x: Tensor) -> None:
        if negative.shape != x.shape:
            raise ValueError(
                f"the sampler must return negatives of the shape of its start, {tuple(x.shape)}, "
                f"got {tuple(negative.shape)}"
            )
        finite = negative.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise ChainsDiverged(
                f"{int((~finite).sum())} of {len(x)} negative chains are not finite: lower the "
                "sampler's step size, or the learning rate, or confine the energy"
            )
