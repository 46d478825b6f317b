"""What an objective is: one loss a row, and whatever state must live on beside the weights.

    objective(model, x, aux, rng, label=None) -> (loss[batch], aux, metrics)

The training loop averages the losses of the global batch. State such as a replay buffer is the
explicit `aux`, a dictionary of tensors that is checkpointed with the weights; stateless objectives
have ``aux = None``. Randomness comes from `rng`, on the device of `x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from energyscape.models import Denoiser, Energy, EnergyDenoiser, Labelled
from energyscape.models.energy import one_per_row

__all__ = [
    "Aux",
    "LossOutput",
    "Objective",
    "Perturbed",
    "conditioned",
    "energies_of",
    "model_score",
    "needs_double_backward",
    "require_smooth_energy",
]

Aux = dict[str, Tensor] | None

_KINKED = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.Threshold,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
)
# Smooth but where the largest of a window changes: there the derivative jumps.
_POOLS = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
# The same as functions, by the names of their derivatives.
_KINKED_OPERATIONS = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "prelu",
    "RreluWithNoise": "rrelu",
    "Threshold": "threshold",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardshrink": "hardshrink",
    "Softshrink": "softshrink",
}
_POOL_OPERATIONS = {
    f"{kind}MaxPool{dim}D{more}": f"{name}max_pool"
    for kind, name in (("", ""), ("Adaptive", "adaptive_"), ("Fractional", "fractional_"))
    for dim in (2, 3)
    for more in ("", "WithIndices")
}


class LossOutput(NamedTuple):
    """One loss a row, the state to carry on with, and numbers to watch.

    `loss` has shape (batch,) and carries the graph; `metrics` are detached scalars.
    """

    loss: Tensor
    aux: Aux
    metrics: dict[str, Tensor | float]


@runtime_checkable
class Objective(Protocol):
    """What trains a model. Objectives are frozen dataclasses of settings and callables.

    `needs_double_backward` says that the loss contains a derivative of the network and is
    differentiated again: such a loss is never compiled, and is not left to data-parallel hooks.
    Validation calls others without gradients, and of these those that say so by an attribute
    ``validates_without_graph = True``: they turn gradients on where they differentiate the network, and
    keep the graph only where they were on.
    """

    @property
    def needs_double_backward(self) -> bool:
        """Whether the loss contains a derivative of the network."""
        ...

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The state to begin with, None for most; refuses a model that cannot be trained so."""
        ...

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row of x, shape (batch,), with the next state and metrics."""
        ...


def needs_double_backward(objective: Objective, model: nn.Module) -> bool:
    """Whether this objective differentiates this model twice.

    The objective's own word, or that of a denoiser made from an energy, which holds a gradient.
    """
    return objective.needs_double_backward or any(
        isinstance(module, EnergyDenoiser) for module in model.modules()
    )


@dataclass(frozen=True)
class Perturbed:
    """Any objective on rows with Gaussian noise added: what is learned is ``p * N(0, sigma^2 I)``.

    Plain score matching and contrastive learning fail on data that lie on a thin set or end at a
    hard edge; a little noise gives the data a smooth density everywhere (1907.05600 section 3).

    Parameters
    ----------
    objective : Objective
    sigma : float
        Standard deviation of the noise, in data units; 0 leaves the rows as they are.

    Examples
    --------
    >>> from energyscape.objectives import SlicedScoreMatching
    >>> Perturbed(SlicedScoreMatching(), 0.1).needs_double_backward
    True
    """

    objective: Objective
    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise ValueError(f"the noise added to rows must be 0 or more, got {self.sigma}")

    @property
    def needs_double_backward(self) -> bool:
        """That of the objective within."""
        return self.objective.needs_double_backward

    @property
    def validates_without_graph(self) -> bool:
        """Whether the objective within does."""
        return getattr(self.objective, "validates_without_graph", False)

    def _noisy(self, x: Tensor, rng: torch.Generator) -> Tensor:
        if self.sigma == 0:
            return x
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        return torch.add(x, eps, alpha=self.sigma)

    def during(self, done: float) -> Perturbed:
        """The same with the objective within as it is when this share of training is done."""
        within = getattr(self.objective, "during", None)
        return self if within is None else replace(self, objective=within(done))

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The state of the objective within."""
        return self.objective.init(model, self._noisy(x, rng), rng)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of the noisy rows, shape (batch,)."""
        return self.objective(model, self._noisy(x, rng), aux, rng, label=label)


def conditioned(model: nn.Module, label: Tensor | None) -> nn.Module:
    """The model given one class a row, or the model itself without labels.

    Raises
    ------
    ValueError
        If labels are given to a model that knows none.
    """
    if label is None:
        return model
    given = getattr(model, "given", None)
    if given is not None:
        conditional: nn.Module = given(label)
        return conditional
    if isinstance(model, Denoiser):
        return Labelled(model, label)
    raise ValueError(
        f"labels were given, but {type(model).__name__} takes none: train without them, or use a "
        "model with given(label), such as ClassEnergy"
    )


def model_score(
    model: nn.Module,
    x: Tensor,
    sigma: float | Tensor | None = None,
    *,
    create_graph: bool = False,
) -> Tensor:
    """The score of any model, shape of x.

    Parameters
    ----------
    model : Module
        An `Energy` (its score is differentiated), anything with ``score(x, sigma)`` such as a
        `Denoiser` or a `ScoreField`, or a plain network of x whose output is the score.
    x : Tensor of shape (batch, ...)
    sigma : float or Tensor of shape (batch,), optional
    create_graph : bool
        Keep the graph of an energy's score.

    Raises
    ------
    ValueError
        If a denoiser is asked without a level, a plain network with one, or the score has another
        shape than x.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> model_score(energy, torch.ones(1, 2))
    tensor([[-1., -1.]])
    """
    score: Tensor
    if isinstance(model, Energy):
        return model.score(x, sigma, create_graph=create_graph)
    if isinstance(model, Denoiser):
        if sigma is None:
            raise ValueError("a denoiser has a score at a noise level only: give levels or sigma")
        return model.score(x, sigma)
    own = getattr(model, "score", None)
    if own is not None:
        score = own(x) if sigma is None else own(x, sigma)
    elif sigma is None:
        score = model(x)
    else:
        raise ValueError(
            f"{type(model).__name__} is a network of x alone; for a score at noise levels wrap a "
            "network of (x, c_noise) in ScoreField"
        )
    if score.shape != x.shape:
        raise ValueError(
            f"a score has the shape of x, {tuple(x.shape)}, got {tuple(score.shape)}; a scalar "
            "network is an energy: wrap it in NetworkEnergy"
        )
    return score


def energies_of(model: Energy, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
    """E of each row, shape (batch,); an energy of another shape, a sum say, is refused.

    Raises
    ------
    ValueError
        If the energy gives anything but one value a row.
    """
    return one_per_row(model(x, sigma) if sigma is not None else model(x), x)


def require_smooth_energy(
    model: nn.Module,
    x: Tensor | None = None,
    sigma: float | None = None,
    *,
    needed_by: str = "score matching",
) -> None:
    """Refuse an energy with kinks: activations of straight pieces, and maxima over windows.

    Its second derivative is zero almost everywhere, or lacks what the score jumps by at the kinks.

    Parameters
    ----------
    model : Module
    x : Tensor of shape (batch, ...), optional
        Rows on which an energy is tried: activations called as functions are found too.
    sigma : float, optional
        A level, for a noise-conditional energy.
    needed_by : str
        What differentiates the energy twice, for the message.

    Raises
    ------
    ValueError
        Naming the activation. A field of x may have it: only its first derivative is used.
    """
    found = kink(model, x, sigma)
    if found:
        raise ValueError(
            f"{needed_by} needs a smooth energy, but {found}, whose second derivative is zero "
            "almost everywhere: use SiLU, Softplus or ELU"
        )
    found = kink(model, x, sigma, _POOLS, _POOL_OPERATIONS)
    if found:
        raise ValueError(
            f"{needed_by} needs a smooth energy, but {found}, at whose kinks the second derivative is "
            "missing: use a mean over windows (AvgPool) or strided convolutions"
        )


def kink(
    model: nn.Module,
    x: Tensor | None,
    sigma: float | None,
    modules: tuple[type[nn.Module], ...] = _KINKED,
    operations: Mapping[str, str] = MappingProxyType(_KINKED_OPERATIONS),
) -> str:
    """Where an energy has a kinked activation, in words; empty where it has none."""
    if not any(isinstance(module, Energy) for module in model.modules()):
        return ""
    for name, module in model.named_modules():
        if isinstance(module, modules):
            return f"{name!r} is a {type(module).__name__}"
    if x is None or not isinstance(model, Energy):
        return ""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        out = energies_of(model, x[:2].detach().requires_grad_(), sigma)
    left, seen = [out.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        operation = node.name().rstrip("0123456789").removesuffix("Backward")
        if operation in operations:
            return f"it calls {operations[operation]}"
        left += [before for before, _ in node.next_functions]
    return ""
