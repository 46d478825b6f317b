"""AdamW with its fused kernel called at once.

torch's own step sorts parameters, checks and wraps for several times as long as its kernel takes on
small networks: 0.5 ms for 26 tensors of 130,000 numbers, of which the kernel 0.1. The state, the
kernel and so the weights are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FusedAdamW"]


class FusedAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with ``fused=True`` for the parameters of one device.

    As with torch's, ``grad_scale`` is what gradients are divided by as they are read, or None. Hooks
    of a step are not called, nor is it recorded by name in profiles.

    Examples
    --------
    >>> import torch
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = FusedAdamW([w], lr=0.1, weight_decay=0.0)
    >>> w.grad = torch.ones(2)
    >>> optimizer.step()
    >>> w.detach()
    tensor([-0.1000, -0.1000])
    """

    grad_scale: torch.Tensor | None = None

    def __init__(
        self,
        parameters: list[torch.Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        group = self.param_groups[0]
        moved = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in moved]
        usual = len(self.param_groups) == 1 and not (group["amsgrad"] or group["maximize"])
        if closure is not None or not usual or not moved or not all(states):
            return super().step(closure)
        steps = [s["step"] for s in states]
        with torch.no_grad():
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                moved,
                [p.grad for p in moved],
                [s["exp_avg"] for s in states],
                [s["exp_avg_sq"] for s in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=self.grad_scale,
            )
        return None

    # torch wraps what is not marked so in hooks and records nobody asks for: 60 of 150 microseconds.
    step.hooked = True  # type: ignore[attr-defined]
