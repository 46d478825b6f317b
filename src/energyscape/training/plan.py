"""Settings of a run, and how far along it is: by steps, or by a time limit turned into steps.

With a time limit the number of steps is planned from the measured speed, and planned again a few
times on the way; each plan is written into the checkpoint, so a resumed run follows the record, not
the clock. The learning rate depends on the fraction done, so it lands whatever the speed was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Plan", "TrainConfig"]


_CHOICES = {
    "decay": ("cosine", "constant"),
    "precision": ("float32", "bfloat16", "float64"),
    "keep": ("best", "last"),
    "on_divergence": ("stop", "rollback"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; everything a run depends on besides model, objective and rows.

    Parameters
    ----------
    max_steps : int
        Optimizer steps.
    batch_size : int
        Rows a step, over all processes together; at most the number of rows.
    learning_rate : float
        Peak rate of Adam.
    warmup : float
        Fraction of the run over which the rate rises from 0.
    decay : {"cosine", "constant"}
        How it falls after that; cosine ends at 0.
    weight_decay : float
        Decoupled (AdamW).
    grad_clip : float
        Largest norm of the gradient; infinity for none.
    ema_decay : float
        Per step; see `energyscape.nn.EMA`.
    seed : int
    device : str
        "auto" takes a GPU where there is one.
    precision : {"float32", "bfloat16", "float64"}
        bfloat16 is autocast: weights stay float32.
    time_limit : float, optional
        Seconds; `max_steps` is then replaced by what fits.
    validations : int
        How often the validation loss is measured over the run.
    patience : int, optional
        Stop after so many validations without a better one; None trains to the end. With validation
        rows the best averaged weights are kept either way, unless `keep` is "last".
    keep : {"best", "last"}
    on_divergence : {"stop", "rollback"}
        Whether a run that diverges ends with the reason, or goes back to its last good state and on
        from there at half the learning rate, up to five times. Good states are kept in memory alone:
        an interrupted run that rolls back after it was resumed may differ in its bits.
    checkpoint_seconds : float
        Between checkpoints, when the run has a folder.
    """

    max_steps: int = 4000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.02
    decay: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    time_limit: float | None = None
    validations: int = 20
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    on_divergence: Literal["stop", "rollback"] = "stop"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "validations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip", "checkpoint_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive, got {self.time_limit}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of the run in [0, 1), got {self.warmup}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                told = f"{', '.join(choices[:-1])} or {choices[-1]}"
                raise ValueError(f"{name} is {told}, got {getattr(self, name)!r}")

    def rate(self, fraction: float) -> float:
        """The learning rate when `fraction` of the run is done."""
        if fraction < self.warmup:
            return self.learning_rate * (fraction / self.warmup)
        if self.decay == "constant":
            return self.learning_rate
        done = (fraction - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass
class Plan:
    """The steps of a run: from `from_step`, where `from_fraction` was done, to `total`."""

    total: int
    from_step: int = 0
    from_fraction: float = 0.0
    from_elapsed: float = 0.0

    def fraction(self, step: int) -> float:
        """How much of the run is done before step `step`."""
        left = max(self.total - self.from_step, 1)
        return self.from_fraction + (1 - self.from_fraction) * (step - self.from_step) / left

    def due(self, step: int, elapsed: float, limit: float) -> bool:
        """Whether to plan again: the first time early, then every tenth of the time, or when the
        steps run out or run ahead of the clock long before the time does, or stay behind it late on;
        and when the time is over, for one more step."""
        if self.from_elapsed == 0:
            return step >= 3 and elapsed >= 0.02 * limit
        done = elapsed / limit
        if step >= self.total:
            return done < 0.93
        waited = (elapsed - self.from_elapsed) / limit
        off = self.fraction(step) - done
        # A plan is written with a checkpoint, which takes time as well: few of them.
        if done >= 1 or (done > 0.8 and off < -0.02 and waited >= 0.05):
            return True
        return done < 0.95 and (waited >= 0.1 or (off > 0.1 and waited >= 0.02))

    def replan(self, step: int, elapsed: float, limit: float) -> None:
        """Use the time that is left at the speed measured since the last plan."""
        speed = max(step - self.from_step, 1) / (elapsed - self.from_elapsed)
        self.from_step, self.from_elapsed = step, elapsed
        self.from_fraction = min(elapsed / limit, 1.0)
        self.total = step + max(int((limit - elapsed) * speed), 1)
