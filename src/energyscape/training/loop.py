"""The loop: steps until the end, the clock, early stopping or an interruption; see `run` for a step.

Samples and scores come from the averaged weights: the best validated ones, or the last.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from energyscape.training.plan import TrainConfig
from energyscape.training.rows import Rows
from energyscape.training.run import Run

__all__ = ["Progress", "Trained", "train"]


class Progress(NamedTuple):
    """What a progress bar shows."""

    phase: str
    step: int
    total: int
    loss: float | None
    speed: float
    eta: float
    detail: str = ""


class Trained(NamedTuple):
    """A finished run; `model` carries the averaged weights and is in eval mode."""

    model: nn.Module
    history: list[dict[str, Any]]
    step: int
    stop_reason: str
    seconds: float
    aux: dict[str, Tensor] | None


def train(
    model: nn.Module,
    objective: Callable[..., Any],
    rows: Rows | Tensor,
    *,
    validation: Rows | Tensor | None = None,
    validation_objective: Callable[..., Any] | None = None,
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train any model with any objective.

    Parameters
    ----------
    model : Module
        Trained in place.
    objective : Objective
        ``objective(model, x, aux, rng, label=...) -> (loss[batch], aux, metrics)``. One that changes
        on the way has a method ``during(done)``: the objective when that share of the run is done.
    rows : Rows or Tensor
        A tensor of shape (n, ...) is taken as it is.
    validation : Rows or Tensor, optional
        Held-out rows, at most 2,048 of which are used.
    validation_objective : Objective, optional
        What is measured on them; the objective itself by default. A contrastive loss measures nothing
        there: give a score-matching one.
    config : TrainConfig, optional
    out : path, optional
        Folder for ``metrics.jsonl`` and ``train/`` (checkpoints).
    resume : bool
        Go on from the newest checkpoint in `out`, if there is one, to the same bits as an
        uninterrupted run on the same machine, threads and number of processes.
    progress : callable, optional
        Called about ten times a second.

    Returns
    -------
    Trained

    Raises
    ------
    TrainingDiverged
        On a loss or gradient that is not finite; names step, rate and the last checkpoint. With
        ``on_divergence="rollback"`` only after five times.
    KeyboardInterrupt
        On Ctrl-C, after the step in progress and a checkpoint.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
    >>> from energyscape.nn import MLP
    >>> from energyscape.objectives import DenoisingLoss, edm_weight
    >>> from energyscape.schedules import EDM
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> model = PreconditionedDenoiser(MLP((2,), width=8, noise=True), EDMPreconditioning(1.0))
    >>> run = train(model, DenoisingLoss(EDM.for_data(1.0), edm_weight(1.0)), x,
    ...             config=TrainConfig(max_steps=3))
    >>> run.step
    3
    """
    config = config or TrainConfig()
    run = Run(model, objective, rows, validation, validation_objective, config, out)
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _interrupts() as interrupted:
        run.start(resume)
        return _loop(run, progress, interrupted)


def _loop(
    run: Run, progress: Callable[[Progress], None] | None, interrupted: threading.Event
) -> Trained:
    began, before, first = time.monotonic(), run.elapsed, run.step
    saved = shown = began
    run.model.train()
    while run.step < run.plan.total and not run.stop_reason:
        advanced = run.try_advance()
        if advanced is None:
            continue
        value, norm, metrics = advanced
        now = time.monotonic()
        run.elapsed = before + now - began
        replanned = run.replan_if_due()
        done = run.step >= run.plan.total
        run.log_if_due(done, value, norm, metrics)
        run.check_if_due(done)
        if replanned or run.agreed(now - saved > run.config.checkpoint_seconds):
            run.save()
            saved = time.monotonic()
        if progress is not None and (now - shown > 0.1 or done):
            shown = now
            speed = (run.step - first) / max(now - began, 1e-9)
            total, eta = run.outlook(speed)
            progress(Progress("training", run.step, total, value, speed, eta))
        if run.agreed(interrupted.is_set()):
            run.save()
            raise KeyboardInterrupt
    run.save()
    run.take_best_weights()
    reason = run.stop_reason or "finished"
    return Trained(run.model, run.history, run.step, reason, run.elapsed, run.aux)


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
