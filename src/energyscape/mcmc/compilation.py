"""Blocks of steps, one after another or compiled into one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from energyscape.mcmc.kernel import Info
from energyscape.targets import Target

__all__ = ["block_runner"]

BlockRunner = Callable[[Any, list[Any]], tuple[list[Any], list[Info]]]


def block_runner(
    kernel: Any, target: Target, state: Any, num_steps: int, compile: bool | Literal["auto"]
) -> BlockRunner:
    """A function that takes a state through a list of noises: all states and infos on the way."""
    step = kernel.step

    def plain(state: Any, noises: list[Any]) -> tuple[list[Any], list[Info]]:
        states, infos = [], []
        for noise in noises:
            state, info = step(state, target, noise)
            states.append(state)
            infos.append(info)
        return states, infos

    return plain
