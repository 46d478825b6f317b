"""Going back to the last good state when training diverges, for those who asked for it.

Two copies of the state are kept in memory, taken every fiftieth of the run. The run goes back to the
older one, since a run is often lost before its loss says so, and goes on at half the learning rate.
After `LIMIT` times it gives up: something else than the rate is wrong.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from energyscape.nn import EMA

__all__ = ["LIMIT", "TIMES", "Snapshots"]

LIMIT = 5
#: Snapshots in a run of the planned length.
TIMES = 50


class _Going(Protocol):
    """What of a run is put back."""

    @property
    def optimizer(self) -> Optimizer: ...

    step: int
    model: nn.Module
    ema: EMA
    aux: dict[str, Tensor] | None


class _Snapshot(NamedTuple):
    step: int
    model: dict[str, Tensor]
    averages: dict[str, Tensor]
    optimizer: dict[str, Any]
    aux: dict[str, Tensor] | None


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class Snapshots:
    """The last two good states of a run."""

    def __init__(self) -> None:
        self._kept: list[_Snapshot] = []

    def take_if_due(self, run: _Going, apart: int) -> None:
        """Copy the state before a step, `apart` steps after the last copy."""
        if self._kept and run.step < self._kept[-1].step + apart:
            return
        taken = _Snapshot(
            run.step,
            _cloned(run.model.state_dict()),
            _cloned(run.ema.state_dict()),
            copy.deepcopy(run.optimizer.state_dict()),
            None if run.aux is None else _cloned(run.aux),
        )
        self._kept = [*self._kept[-1:], taken]

    def restore(self, run: _Going) -> int:
        """Put the older state back; returns its step."""
        found = self._kept[0]
        run.model.load_state_dict(found.model)
        run.ema.load_state_dict(found.averages)
        run.optimizer.load_state_dict(copy.deepcopy(found.optimizer))
        run.aux = None if found.aux is None else _cloned(found.aux)
        run.step = found.step
        self._kept = self._kept[:1]
        return found.step
