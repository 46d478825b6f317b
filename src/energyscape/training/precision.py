"""The precision that trains fastest here, found by trying.

Processors with matrix units multiply bfloat16 several times as fast as float32; others have to emulate
it and are slower. What a step gains depends on the network as well: normalisations and copies gain
nothing. A few steps of each on a copy of the model tell. Weights, their averages and the optimizer's
moments are kept in float32 either way; autocast rounds what is multiplied (1710.03740).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from energyscape.training.processes import Processes
from energyscape.training.run import autocast, choose_device

__all__ = ["fastest_precision"]

#: How many times as fast bfloat16 must be to be taken: less is not worth its rounding.
_GAIN = 1.3
_TRIALS = 3


def fastest_precision(
    model: nn.Module, objective: Callable[..., Any], x: Tensor, device: str = "auto"
) -> tuple[str, float]:
    """float32, or bfloat16 where steps of it are at least 1.3 times as fast.

    Parameters
    ----------
    model : Module
        Is copied, not touched.
    objective : callable
        As for `train`; one without state.
    x : Tensor of shape (batch, ...)
        Rows to try on, as many as in a step or fewer.
    device : str
        As in `TrainConfig`.

    Returns
    -------
    precision : {"float32", "bfloat16"}
        The same on every process.
    gain : float
        Seconds of a step in float32 over those in bfloat16.
    """
    processes = Processes.discover()
    where = processes.device or choose_device(device)
    copied, x = copy.deepcopy(model).to(where, torch.float32).train(), x.to(where, torch.float32)
    with torch.random.fork_rng():
        seconds = {name: _seconds(copied, objective, x, name) for name in ("float32", "bfloat16")}
    gain = processes.average(seconds["float32"] / seconds["bfloat16"])
    return ("bfloat16" if gain >= _GAIN else "float32"), gain


def _seconds(model: nn.Module, objective: Callable[..., Any], x: Tensor, precision: str) -> float:
    """The shortest of a few steps, after one that sets things up."""
    taken = []
    for _ in range(1 + _TRIALS):
        rng = torch.Generator(x.device).manual_seed(0)
        _wait(x.device)
        began = time.perf_counter()
        with autocast(precision, x.device):
            loss = objective(model, x, None, rng)[0]
        loss.mean().backward()
        model.zero_grad(set_to_none=True)
        _wait(x.device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
