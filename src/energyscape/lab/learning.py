"""Small networks and short trainings, the same for all lessons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from energyscape.models import ScoreField
from energyscape.nn import MLP
from energyscape.objectives import Aux, LossOutput, Objective
from energyscape.training import TrainConfig, train

_Model = TypeVar("_Model", bound=nn.Module)

__all__ = ["PLAIN", "Recorded", "fit", "generator", "score_field", "seeded"]


def generator(seed: int) -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights from a seed; torch's own generator is put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def score_field(dim: int, seed: int, *, width: int = 128, depth: int = 3) -> ScoreField:
    """A free field: three hidden layers of softplus, as in 1907.05600 appendix B.1."""
    with seeded(seed):
        return ScoreField(MLP((dim,), width=width, depth=depth, activation=nn.Softplus()))


class Recorded:
    """An objective that keeps the mean loss of every batch it is given in training."""

    def __init__(
        self,
        objective: Objective,
        watch: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.objective = objective
        self.watch = watch
        self.losses: list[float] = []

    @property
    def needs_double_backward(self) -> bool:
        """That of the objective within."""
        return self.objective.needs_double_backward

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """That of the objective within."""
        return self.objective.init(model, x, rng)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of the objective within, written down."""
        if self.watch is not None:
            self.watch(model)
        out = self.objective(model, x, aux, rng, label=label)
        self.losses.append(float(out.loss.detach().mean()))
        return out


def fit(model: _Model, objective: Any, x: Tensor, steps: int, seed: int, **settings: Any) -> _Model:
    """Train by Adam at a rate that falls to 0; the averaged weights are taken."""
    config = TrainConfig(max_steps=steps, seed=seed, device="cpu", **settings)
    return cast(_Model, train(model, objective, x, config=config).model)


PLAIN: dict[str, Any] = {"decay": "constant", "grad_clip": math.inf, "ema_decay": 0.0}
"""Settings that leave a training as unstable as it is."""
