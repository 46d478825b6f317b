"""Blocks of steps, one after another or compiled into one call.

A step is a pure function of (state, target, noise), so several of them, gradients included, trace into
one graph. Compiled blocks save the cost of dispatching small operations; on large batches the
arithmetic dominates and little is left to save. Compiling takes 5 to 20 seconds, needs a C++ compiler
on the CPU, and changes results in the last bits. The step size is an input of the graph, so a second
run of the same kernel, shape and target compiles nothing.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch

from energyscape.mcmc.hmc import HMC
from energyscape.mcmc.kernel import ChainWarning, Info
from energyscape.mcmc.langevin import MALA, ULA
from energyscape.mcmc.metropolis import IntegerWalk, RandomWalk
from energyscape.targets import Target

__all__ = ["BlockRunner", "block_runner"]

BlockRunner = Callable[[Any, list[Any]], tuple[list[Any], list[Info]]]
"""Takes a state through a list of noises: all states and infos on the way."""

BACKEND = "inductor"
CHUNK = 8  # steps traced into one graph: twice as many compile twice as long for a few per cent
# Steps from which "auto" compiles: 5 to 20 s of compiling against 30 to 60 microseconds saved a step.
# By count alone, so that a run repeats.
EARNS_BACK = 200_000


def _walk(
    step: Callable[..., tuple[Any, Info]], target: Target, state: Any, noises: list[Any]
) -> tuple[list[Any], list[Info]]:
    states, infos = [], []
    for noise in noises:
        state, info = step(state, target, noise)
        states.append(state)
        infos.append(info)
    return states, infos


def plain_block(
    kernel: Any, target: Target, state: Any, noises: list[Any]
) -> tuple[list[Any], list[Info]]:
    """Steps one after another.

    Where a kernel has an `unchecked_step`, the block is walked with it. What is not finite stays so to
    the end of the block; found there, the same noise is walked again with every step checked.
    """
    unchecked = getattr(kernel, "unchecked_step", None)
    if unchecked is None:
        return _walk(kernel.step, target, state, noises)
    states, infos = _walk(unchecked, target, state, noises)
    if bool(states[-1].x.sum().isfinite()):
        return states, infos
    return _walk(kernel.step, target, state, noises)


def block_runner(
    kernel: Any, target: Target, num_steps: int, compile: bool | Literal["auto"]
) -> BlockRunner:
    """Plain or compiled stepping, as asked.

    Parameters
    ----------
    kernel : Kernel
    target : Target
    num_steps : int
        Length of the run, by which "auto" decides.
    compile : bool or "auto"

    Raises
    ------
    ValueError
        Where compilation is asked for and the kernel's steps depend on numbers read back from tensors.
    """
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile is True, False or 'auto', got {compile!r}")

    def plain(state: Any, noises: list[Any]) -> tuple[list[Any], list[Info]]:
        return plain_block(kernel, target, state, noises)

    # As a tensor the step size is an input of the graph, which then serves the next run too.
    size = getattr(kernel, "step_size", None)
    if isinstance(kernel, RandomWalk | ULA | MALA) and not isinstance(size, torch.Tensor):
        traceable = replace(kernel, step_size=torch.tensor(size, dtype=torch.float64))
    else:
        traceable = kernel

    def traced(state: Any, noises: list[Any]) -> tuple[list[Any], list[Info]]:
        return _walk(traceable.step, target, state, noises)

    suits = isinstance(kernel, RandomWalk | IntegerWalk | ULA | MALA) or (
        isinstance(kernel, HMC) and kernel.trajectory_length is None
    )
    if compile is False:
        return plain
    if compile == "auto":
        found = torch.cuda.is_available() or any(shutil.which(c) for c in ("g++", "c++", "clang++"))
        if not (suits and found and num_steps >= EARNS_BACK):
            return plain
    elif not suits:
        raise ValueError(
            f"{type(kernel).__name__} cannot be compiled with these settings, since its steps depend "
            "on numbers drawn as it goes: run it with compile=False"
        )
    return _compiled(traced, plain, forgiving=compile == "auto")


def _compiled(traced: BlockRunner, plain: BlockRunner, *, forgiving: bool) -> BlockRunner:
    """`traced` with its full chunks compiled; a shorter rest runs as it is.

    `forgiving` is for those who did not ask: what cannot be compiled runs as it is, and says so.
    """
    import torch._dynamo

    chunk = torch.compile(traced, backend=BACKEND, fullgraph=True, dynamic=False)
    # Each kernel, shape and kind of target is a graph of its own; torch gives up after eight.
    settings = {
        "trace_autograd_ops": True,
        "recompile_limit": 1 << 16,
        "accumulated_recompile_limit": 1 << 16,
    }

    def whole(state: Any, part: list[Any]) -> tuple[list[Any], list[Info]]:
        nonlocal chunk
        try:
            found: tuple[list[Any], list[Info]] = chunk(state, part)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not forgiving:
                raise
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"this run is long enough to be compiled and could not be ({reason}): it goes on "
                "step by step; compile=False says so beforehand",
                ChainWarning,
                stacklevel=2,
            )
            chunk = plain
            found = plain(state, part)
        return found

    def run(state: Any, noises: list[Any]) -> tuple[list[Any], list[Info]]:
        states: list[Any] = []
        infos: list[Info] = []
        with torch._dynamo.config.patch(settings):
            for i in range(0, len(noises), CHUNK):
                part = noises[i : i + CHUNK]
                new, seen = whole(state, part) if len(part) == CHUNK else plain(state, part)
                state = new[-1]
                states.extend(new)
                infos.extend(seen)
        return states, infos

    return run
