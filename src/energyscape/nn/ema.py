"""Exponential moving average of a model's weights, with warm-up.

``ema <- decay ema + (1 - decay) weights`` with ``decay_t = min(decay, (1 + t)/(10 + t))``, so that
early averages forget the initial weights. Samples and scores come from these weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA:
    """Averaged copies of a model's parameters; buffers are taken as they are.

    Parameters
    ----------
    model : Module
    decay : float in [0, 1)
        0 keeps the current weights.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(1, 1)
    >>> ema = EMA(model, decay=0.999)
    >>> ema.update(step=1)
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self._live: list[Tensor] = list(model.parameters())
        self._names = [name for name, _ in model.named_parameters()]
        self.shadow: list[Tensor] = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int, every: int = 1) -> None:
        """Move the averages towards the current weights; `step` counts from 1.

        `every` steps at once use the decay to that power, which costs less memory traffic.
        """
        decay = min(self.decay, (1 + step) / (10 + step)) ** every
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self._live], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights inside the block, its own weights again after it."""
        own = [p.detach().clone() for p in self._live]
        try:
            self.copy_to_model()
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live, own)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Overwrite the model's weights by their averages."""
        torch._foreach_copy_(self._live, self.shadow)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(zip(self._names, self.shadow, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the averages; names must match."""
        if set(state) != set(self._names):
            raise ValueError("the averaged weights belong to another model: parameter names differ")
        for name, tensor in zip(self._names, self.shadow, strict=True):
            tensor.copy_(state[name])
