"""Many processes, one model: gradients are averaged explicitly after the backward pass.

Hooks that average gradients during the backward pass conflict with losses that differentiate a
score (double backward), so the sum over processes is one call on the flattened gradients.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """This process's place among all of them."""

    rank: int = 0
    world_size: int = 1
    device: torch.device | None = None

    @classmethod
    def discover(cls) -> Processes:
        """Join the group that torchrun or `accelerate launch` started, if one did."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        from accelerate import PartialState

        wished = os.environ.get("ACCELERATE_USE_CPU", "").lower()
        on_gpu = torch.cuda.is_available() and wished != "true"
        state = PartialState(cpu=not on_gpu)
        return cls(state.process_index, state.num_processes, state.device)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def average_gradients(self, parameters: list[Tensor]) -> None:
        """Replace every gradient by its mean over processes."""
        if self.world_size == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.world_size
        offset = 0
        for g in grads:
            g.copy_(flat[offset : offset + g.numel()].view_as(g))
            offset += g.numel()

    def average(self, value: float) -> float:
        """The mean of a number over processes, the same on each."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.world_size

    def of_first(self, value: float) -> float:
        """The first process's number, whole up to 2^53; one of its own, such as a seed or a timing."""
        return self.average(value * self.world_size if self.rank == 0 else 0.0)

    def agree(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        return self.average(float(flag)) > 0

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Take the first process's values."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)
