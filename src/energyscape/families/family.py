"""What a family says of itself, and all that a fitted one offers.

It says which network and face (`_build`), which objective (`_compose`), how it samples, and how it
scores an encoded row. Everything else stands once: drawing in `records`, densities and anomaly scores
in `judging`, training, calibration and keeping in `base`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from energyscape.families.bar import ProgressCallback
from energyscape.families.judging import Judging
from energyscape.families.records import Records

__all__ = ["Composition", "Family"]


class Composition(NamedTuple):
    """What a family is made of: a model, what trains it, and what is measured on held-out rows."""

    model: nn.Module
    objective: Callable[..., Any]
    validation_objective: Callable[..., Any] | None = None


class Family(Records, Judging):
    """The hooks that a family fills in, below the faces that use them."""

    #: What the family is for, in a line; shown by the command line.
    purpose: ClassVar[str] = ""

    # -- what a family adds --------------------------------------------------------------------

    @abc.abstractmethod
    def _measure(self, x: Tensor) -> dict[str, Any]:
        """Facts of the encoded training rows that the model is built from (plain values)."""

    @abc.abstractmethod
    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        """The untrained model; also used to load a trained one."""

    @abc.abstractmethod
    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        """Model and objectives, ready to train."""

    @classmethod
    def _kept_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings read from a run; one that did not exist yet takes the value that it then had."""
        return dict(settings)

    def _habits(self) -> Mapping[str, Any]:
        """What of `TrainConfig` differs from its defaults, beside the settings; facts are known."""
        return {}

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        """Arrays to keep beside the calibration scores (a replay buffer, say)."""
        return {}

    def _adjust(self, progress: ProgressCallback | None) -> None:
        """Work on the trained model itself, before rows are calibrated with it."""
