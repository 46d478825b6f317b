"""Blocks of steps, one after another or compiled into one call.

A step is a pure function of (state, target, noise), so several of them, gradients included, trace into
one graph. Compiled blocks save the cost of dispatching small operations; on large batches the
arithmetic dominates and little is left to save. Compiling takes 10 to 70 seconds, needs a C++ compiler
on the CPU, and changes results in the last bits. The step size is an input of the graph, so a second
run of the same kernel, shape and target compiles nothing.
"""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc.kernel import ChainWarning, Info
from energyscape.mcmc.langevin import MALA, ULA
from energyscape.mcmc.metropolis import RandomWalk
from energyscape.targets import Target

__all__ = ["BlockRunner", "Walked", "block_runner", "split_noise"]


class Walked(NamedTuple):
    """A block of steps: the state it ended in, and each step's points, log-densities and info.

    `x` has shape (steps, chains, ...), `log_prob` and what `info` has (steps, chains). Of the info,
    `accepted` is left out and `diverged` there even where nothing was tested.
    """

    state: Any
    x: Tensor
    log_prob: Tensor | None
    info: Info


BlockRunner = Callable[[Any, Any], Walked]
"""Takes a state through the noise of a block, as a kernel's `draw` gives it."""

BACKEND = "inductor"
# On the CPU tensors are handed over in C++: a block of ten chains takes 0.36 instead of 0.57
# milliseconds, of which the arithmetic is 0.02, and compiles for half as long again.
OPTIONS: dict[str, Any] = {"cpp_wrapper": True}
# Steps traced into one graph; a block of noise holds a few of them. The numbers of steps that people
# ask for are multiples of it, and half as many take a fifth longer for ten chains.
CHUNK = 20
# "auto" compiles where it saves as many seconds as compiling takes, the first time on a machine (10 to
# 70). Saved are 0.1 to 0.3 milliseconds a step of few chains, and one to three of 10,000. By counts
# alone, so that a run repeats.
EARNS_BACK = 37.5
SAVED_A_STEP, SAVED_A_CHAIN = 1.5e-4, 1e-7


def split_noise(noise: Any) -> list[Any]:
    """One noise tuple a step from the noise of a block, without copying."""
    parts = [n.unbind(0) if isinstance(n, Tensor) else split_noise(n) for n in noise]
    return [type(noise)(*part) for part in zip(*parts, strict=True)]


def _part(noise: Any, begin: int, end: int) -> Any:
    """The noise of some steps of a block."""
    parts = [n[begin:end] if isinstance(n, Tensor) else _part(n, begin, end) for n in noise]
    return type(noise)(*parts)


def _walk(
    step: Callable[..., tuple[Any, Info]], target: Target, state: Any, noises: list[Any]
) -> tuple[list[Any], list[Info]]:
    states, infos = [], []
    for noise in noises:
        state, info = step(state, target, noise)
        states.append(state)
        infos.append(info)
    return states, infos


def _column(found: list[Tensor | None], join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    """Those of several steps or blocks that are known, as one tensor; None where none is."""
    known = [f for f in found if f is not None]
    return join(known) if known else None


def _stacked(states: list[Any], infos: list[Info]) -> Walked:
    """What a walk went through, in few tensors."""
    x = torch.stack([s.x for s in states])
    none = x.new_zeros(x.shape[1], dtype=torch.bool)
    return Walked(
        states[-1],
        x,
        _column([s.log_prob for s in states], torch.stack),
        Info(
            _column([i.acceptance for i in infos], torch.stack),
            None,
            torch.stack([none if i.diverged is None else i.diverged for i in infos]),
        ),
    )


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


def pays(num_steps: int, chains: int) -> bool:
    """Whether a run is long enough to earn its compilation back."""
    return num_steps * (SAVED_A_STEP + SAVED_A_CHAIN * chains) >= EARNS_BACK


def block_runner(
    kernel: Any, target: Target, num_steps: int, chains: int, compile: bool | Literal["auto"]
) -> BlockRunner:
    """Plain or compiled stepping, as asked.

    Parameters
    ----------
    kernel : Kernel
    target : Target
    num_steps, chains : int
        Length and width of the run, by which "auto" decides.
    compile : bool or "auto"

    Raises
    ------
    ValueError
        Where compilation is asked for and the kernel's steps depend on numbers read back from tensors.
    """
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile is True, False or 'auto', got {compile!r}")

    def plain(state: Any, noise: Any) -> Walked:
        return _stacked(*plain_block(kernel, target, state, split_noise(noise)))

    # As a tensor the step size is an input of the graph, which then serves the next run too.
    size = getattr(kernel, "step_size", None)
    if isinstance(kernel, RandomWalk | ULA | MALA) and not isinstance(size, torch.Tensor):
        traceable = replace(kernel, step_size=torch.tensor(size, dtype=torch.float64))
    else:
        traceable = kernel

    suits = getattr(kernel, "traceable", False)
    if compile is False:
        return plain
    if compile == "auto":
        found = torch.cuda.is_available() or any(shutil.which(c) for c in ("g++", "c++", "clang++"))
        if not (suits and found and pays(num_steps, chains)):
            return plain
    elif not suits:
        raise ValueError(
            f"{type(kernel).__name__} cannot be compiled with these settings: its steps do not say "
            "that they depend on tensors alone (`traceable`); run it with compile=False"
        )
    # Chains that share nothing but one step size may be walked a group after another.
    at_once = getattr(target, "rows_at_once", None) if traceable is not kernel else None
    return _compiled(traceable, target, plain, at_once, forgiving=compile == "auto")


def _traced(kernel: Any, target: Target, state: Any, noise: Any) -> Walked:
    """A chunk of steps as the compiler sees it."""
    return _stacked(*_walk(kernel.step, target, state, split_noise(noise)))


@functools.cache
def _compiler(backend: str, on_cpu: bool) -> Callable[[Any, Target, Any, Any], Walked]:
    """`_traced` compiled, one function for all runs: to make it takes as long as five steps do."""
    # On a GPU the C++ of it would need the toolkit's headers, which torch does without.
    near = backend == "inductor" and on_cpu
    how: dict[str, Any] = {"options": OPTIONS} if near else {}
    return torch.compile(_traced, backend=backend, fullgraph=True, dynamic=False, **how)


def _compiled(
    kernel: Any,
    target: Target,
    plain: BlockRunner,
    at_once: Callable[[Tensor], int | None] | None,
    *,
    forgiving: bool,
) -> BlockRunner:
    """Blocks whose full chunks are compiled; a shorter rest runs as it is.

    `at_once` tells how many chains stay within the caches. `forgiving` is for those who did not ask:
    what cannot be compiled runs as it is, and says so.
    """
    import torch._dynamo

    failed = False
    # Each kernel, shape and kind of target is a graph of its own; torch gives up after eight.
    settings = {
        "trace_autograd_ops": True,
        "recompile_limit": 1 << 16,
        "accumulated_recompile_limit": 1 << 16,
    }

    def whole(state: Any, noise: Any) -> Walked:
        nonlocal failed
        if failed:
            return plain(state, noise)
        try:
            return _compiler(BACKEND, state.x.device.type == "cpu")(kernel, target, state, noise)
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
            failed = True
            return plain(state, noise)

    def along(state: Any, noise: Any) -> Walked:
        parts: list[Walked] = []
        steps = _steps_of(noise)
        for i in range(0, steps, CHUNK):
            part = _part(noise, i, min(i + CHUNK, steps))
            parts.append((whole if i + CHUNK <= steps else plain)(state, part))
            state = parts[-1].state
        return _joined(parts, 0)

    def run(state: Any, noise: Any) -> Walked:
        with torch._dynamo.config.patch(settings):
            # What turned out not to compile is walked as it would have been.
            known = None if at_once is None or failed else at_once(state.x)
            count = _groups(len(state.x), known)
            if count == 1:
                return along(state, noise)
            groups = zip(_split(state, count, 0), _split(noise, count, 1), strict=True)
            return _joined([along(*group) for group in groups], 1)

    return run


def _groups(chains: int, at_once: int | None) -> int:
    """Into how many equal groups chains are walked, so that what a step needs stays in the caches.

    A graph is for one number of chains, so where no number of groups near it divides them there is one.
    """
    least = 1 if at_once is None else -(-chains // at_once)
    return next((n for n in range(least, 2 * least) if chains % n == 0), 1)


def _split(held: Any, count: int, dim: int) -> list[Any]:
    """A state or the noise of a block as those of equal groups of chains, `dim` of its tensors."""
    parts = [[None] * count if h is None else h.chunk(count, dim) for h in held]
    return [type(held)(*part) for part in zip(*parts, strict=True)]


def _steps_of(noise: Any) -> int:
    """How many steps a block of noise is for."""
    return len(noise[0]) if isinstance(noise[0], Tensor) else _steps_of(noise[0])


def _joined(parts: list[Walked], dim: int) -> Walked:
    """Blocks of steps that follow one another (dim 0), or of groups of chains (dim 1), as one."""
    if len(parts) == 1:
        return parts[0]

    def join(held: list[Any], at: int) -> Any:
        return _column(held, lambda known: torch.cat(known, at))

    state = parts[-1].state
    if dim:
        state = type(state)(
            *(join([*held], 0) for held in zip(*(p.state for p in parts), strict=True))
        )
    return Walked(
        state,
        join([p.x for p in parts], dim),
        join([p.log_prob for p in parts], dim),
        Info(*(join([p.info[k] for p in parts], dim) for k in range(3))),
    )
