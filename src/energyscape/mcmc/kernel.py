"""What a Markov kernel is: pure steps over many chains at once, with the noise handed in.

A kernel leaves ``p(x) = exp(-E(x)) / Z`` unchanged (exactly, for those with an acceptance test).
Its three methods are pure, so blocks of steps can be compiled and replayed::

    state       = kernel.init(x, target)               caches what the next step needs
    noise       = kernel.draw(num_steps, x, rng)       the randomness of a block of steps
    state, info = kernel.step(state, target, noise_i)  one step of every chain

Everything is per chain (the first dimension) and nothing is summed over it. A proposal whose
log-density is NaN or infinite is a rejection of that chain, and a rejection repeats the old state.
A box is part of the density: kernels with an acceptance test reject outside it, unadjusted Langevin
reflects.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from energyscape.targets import Target

__all__ = ["Box", "ChainWarning", "Info", "Kernel", "State"]

Box = tuple[float | Tensor, float | Tensor]
"""Lower and upper bounds, numbers or tensors that broadcast with one chain's x."""


class ChainWarning(UserWarning):
    """Chains ran to their end but should not be trusted as they are."""


class State(NamedTuple):
    """Where the chains are, and what is known there.

    `x` has shape (chains, ...), `log_prob` (chains,) or is None, `score` the shape of x or is None;
    a kernel caches only what its next step needs.
    """

    x: Tensor
    log_prob: Tensor | None = None
    score: Tensor | None = None


class Info(NamedTuple):
    """What happened in a step, per chain, each of shape (chains,).

    `acceptance` is the probability of acceptance (None where nothing is ever tested), `accepted`
    whether the chain moved, `diverged` whether it met a number that is not finite or an energy error
    over 1,000 nats. None stands for "is not tested" or, of `diverged`, for "none did".
    """

    acceptance: Tensor | None = None
    accepted: Tensor | None = None
    diverged: Tensor | None = None


@runtime_checkable
class Kernel(Protocol):
    """A Markov kernel: a frozen dataclass with its settings, and three pure methods."""

    def init(self, x: Tensor, target: Target) -> Any:
        """The state at x, shape (chains, ...); refuses a target it cannot walk on."""
        ...

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> Any:
        """The noise of `num_steps` steps: a NamedTuple of tensors with that leading dimension."""
        ...

    def step(self, state: Any, target: Target, noise: Any) -> tuple[Any, Info]:
        """One step of every chain with the noise of one step."""
        ...


def check_positive(name: str, value: float | Tensor) -> None:
    """Refuse a setting that is not a positive finite number (or tensor of them)."""
    if isinstance(value, Tensor):
        good = bool(((value > 0) & (value < math.inf)).all())
    else:
        good = 0.0 < value < math.inf
    if not good:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_box(box: Box | None) -> None:
    """Refuse a box whose bounds are in the wrong order."""
    if box is None:
        return
    low, high = (torch.as_tensor(b) for b in box)
    if not bool((low < high).all()):
        raise ValueError(f"a box needs low < high in every coordinate, got ({box[0]}, {box[1]})")


def check_target(target: object) -> None:
    """Refuse what is no target but a model or a function of one.

    Raises
    ------
    TypeError
        Saying what would be one.
    """
    if hasattr(target, "value") or hasattr(target, "value_and_score"):
        return
    name = type(target).__name__
    if hasattr(target, "at"):
        remedy = "give what its at() returns, as energy.at() or model.at(sigma) at a noise level"
    else:
        remedy = (
            "wrap a network in NetworkEnergy and give .at() of that, a function that gives the "
            "log-density of each row in FunctionTarget, one that gives the score in ScoreTarget"
        )
    raise TypeError(
        f"chains walk on a target (value, value_and_score), and {name} is none: {remedy}"
    )


def check_chains(x: Tensor) -> None:
    """Refuse an x that is not a batch of chains."""
    if x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(
            f"chains need x of shape (chains, ...), at least one chain, got {tuple(x.shape)}; "
            "one chain of D numbers is x[None]"
        )


@overload
def rows(value: Tensor, x: Tensor) -> Tensor: ...
@overload
def rows(value: float, x: Tensor) -> float: ...
def rows(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number as it is; one number a chain shaped to multiply x."""
    if isinstance(value, Tensor) and value.ndim == 1:
        return value.view(-1, *(1,) * (x.ndim - 1))
    return value


def sum_rows(x: Tensor) -> Tensor:
    """The sum over all but the first dimension, shape (chains,)."""
    return x.sum(1) if x.ndim == 2 else x.flatten(1).sum(1)


def inside(x: Tensor, box: Box) -> Tensor:
    """Whether each chain lies in the box, shape (chains,)."""
    return ((x >= box[0]) & (x <= box[1])).flatten(1).all(1)


def reflect(x: Tensor, box: Box) -> Tensor:
    """x folded back into the box at its walls, as often as it takes; a wall may be at infinity."""
    low, high = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in box)
    width = high - low
    folded = high - (torch.remainder(x - low, 2 * width) - width).abs()
    below, above = low + (x - low).abs(), high - (high - x).abs()
    one_wall = torch.where(low.isfinite(), below, torch.where(high.isfinite(), above, x))
    return torch.where(width.isfinite(), folded, one_wall)


def walls(own: Box | None, target: Target) -> Box | None:
    """The kernel's box within the target's, where it has one."""
    other: Box | None = getattr(target, "box", None)
    if own is None or other is None:
        return other if own is None else own
    low, high = (torch.as_tensor(b) for b in other)
    return torch.maximum(low, torch.as_tensor(own[0]).to(low)), torch.minimum(
        high, torch.as_tensor(own[1]).to(high)
    )


def score_at(target: Target, x: Tensor) -> Tensor:
    """The score in the type of x."""
    return target.value_and_score(x)[1].to(x.dtype)


def both_at(target: Target, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density and score of a target known to have both, the score in the type of x."""
    value, score = target.value_and_score(x)
    assert value is not None
    return value, score.to(x.dtype)


def value_at(target: Target, x: Tensor) -> Tensor:
    """The log-density of a target known to have one."""
    value = target.value(x)
    assert value is not None
    return value


def start(kernel: Kernel, x: Tensor, target: Target, *, need_score: bool) -> State:
    """The first state of a kernel with an acceptance test.

    Raises
    ------
    ValueError
        If the target has no log-density, gives another shape than one value a chain, or no chain
        starts where the log-density is finite.
    """
    check_chains(x)
    x = x.detach()
    name = type(kernel).__name__
    if need_score:
        value, score = target.value_and_score(x)
        score = score.to(x.dtype)
    else:
        value, score = target.value(x), None
    if value is None:
        raise ValueError(
            f"{name} tests each proposal by its log-density, and this target knows only its score: "
            "walk it with ULA, or give an energy"
        )
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"a target gives one log-density a chain, shape ({x.shape[0]},), got "
            f"{tuple(value.shape)}"
        )
    if not bool(value.isfinite().any()):
        raise ValueError(
            f"no chain of {name} starts where the log-density is finite (first values "
            f"{value[:3].tolist()}): start the chains inside the support"
        )
    return State(x, value, score)


def accept(
    old: State, new: State, log_ratio: Tensor, exponential: Tensor, box: Box | None
) -> tuple[State, Info]:
    """Metropolis: take `new` with probability ``min(1, exp(log_ratio))``, per chain.

    ``-exponential`` is the logarithm of a uniform number. A ratio that is NaN, a log-density of
    +inf and a point outside the box are rejections.
    """
    assert new.log_prob is not None
    assert old.log_prob is not None
    diverged = ~(new.log_prob < math.inf) | log_ratio.isnan()
    log_ratio = torch.where(diverged, -math.inf, log_ratio)
    if box is not None:
        log_ratio = torch.where(inside(new.x, box), log_ratio, -math.inf)
    accepted = log_ratio > -exponential
    wide = accepted.view(-1, *(1,) * (old.x.ndim - 1))
    state = State(
        torch.where(wide, new.x, old.x),
        torch.where(accepted, new.log_prob, old.log_prob),
        None if old.score is None or new.score is None else torch.where(wide, new.score, old.score),
    )
    return state, Info(log_ratio.clamp(max=0.0).exp(), accepted, diverged)
