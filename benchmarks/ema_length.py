"""Whether choosing the length of the average of weights after training would pay.

    python benchmarks/ema_length.py [--sets wine digits mnist] [--seeds 0 1 2] [--steps 3000]
        [--powers 3 5 8 12 20 40]

One training of `edm` by its defaults keeps averages of the weights at every step in proportion to a
power of the step (2312.02696, section 3.1; from two of them any length between could be made after
training). The library's own average, told as "default", is nearly that of power 8 up to step 4,490,
where its decay reaches .998, and exponential from there on; "none" are the last weights. All of these
are taken at the end of the run. "kept" is what the family uses: its own average where the loss of rows
held out was lowest. Each is judged:

- tables (`table_density.py`): mean log-density of test rows, nats, larger is better
- digits and MNIST: Frechet distance of drawn pictures to as many test pictures on a classifier's
  features (`picture_features.py`), smaller is better

A gain would count where one length is better than what is kept on all sets, or by much on one.
Writes ``results/ema_length.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import table_density
import torch
from picture_features import Judge
from picture_sets import load_pictures
from torch import nn

from energyscape.families import EDM
from energyscape.nn import EMA
from energyscape.training import run

OUT = Path(__file__).parent / "results" / "ema_length.json"
PICTURES = ("digits", "mnist")


class PowerAverage(EMA):
    """The mean of the weights of all steps, each weighed by a power of its step."""

    def __init__(self, model: nn.Module, power: float) -> None:
        super().__init__(model)
        self.power = power

    @torch.no_grad()
    def update(self, step: int, every: int = 1) -> None:
        """Move the averages towards the current weights, which stand for the last `every` steps."""
        kept = max(1 - every / step, 0.0) ** (self.power + 1)
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self._live], 1 - kept)


class Lengths(EMA):
    """An average that carries others of the same weights along."""

    powers: tuple[float, ...] = ()
    latest: Lengths

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__(model, decay)
        self.others = {
            "default": EMA(model, decay),
            "none": EMA(model, 0.0),
            **{f"{power:g}": PowerAverage(model, power) for power in self.powers},
        }
        Lengths.latest = self

    def update(self, step: int, every: int = 1) -> None:
        """All of them."""
        super().update(step, every)
        for other in self.others.values():
            other.update(step, every)


def trained(train: np.ndarray, seed: int, steps: int | None) -> tuple[EDM, dict[str, EMA]]:
    """A fitted family, and the averages that its run has kept."""
    limit = {} if steps is None else {"max_steps": steps}
    usual, run.EMA = run.EMA, Lengths  # type: ignore[attr-defined, misc]
    try:
        model = EDM(calibration_fraction=0.0, random_state=seed, **limit).fit(train)
    finally:
        run.EMA = usual  # type: ignore[attr-defined, misc]
    return model, Lengths.latest.others


def judged(
    name: str, seed: int, samples: int
) -> tuple[np.ndarray, Callable[[EDM], tuple[float, float]]]:
    """Training rows, and the measure of a model with its standard error (0 where it has none)."""
    if name in PICTURES:
        data = load_pictures(name, seed)
        judge = Judge(data)
        count = min(samples, len(data.test))

        def frechet(model: EDM) -> tuple[float, float]:
            drawn = np.asarray(model.sample(count, random_state=seed))
            return judge.compare(drawn.reshape(count, *data.test.shape[1:]), seed=seed).frechet, 0.0

        return data.train, frechet
    train, test = table_density.prepared(name, seed)

    def density(model: EDM) -> tuple[float, float]:
        value = np.asarray(model.log_density(test).value)
        return float(value.mean()), float(value.std() / np.sqrt(len(value)))

    return train, density


def main() -> None:
    """Train, judge every length, write as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["wine", "2_annthyroid", "digits", "mnist"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of MNIST; other sets have the family's own")
    parser.add_argument("--samples", type=int, default=1000, help="pictures drawn")
    parser.add_argument("--powers", type=float, nargs="+", default=[3, 5, 8, 12, 20, 40])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Lengths.powers = tuple(options.powers)
    known: list[dict[str, Any]] = (
        json.loads(options.out.read_text()) if options.out.is_file() else []
    )
    for name in options.sets:
        for seed in options.seeds:
            train, measure = judged(name, seed, options.samples)
            began = time.process_time()
            model, averages = trained(train, seed, options.steps if name == "mnist" else None)
            seconds = time.process_time() - began
            for length in ("kept", *averages):
                if length in averages:
                    averages[length]._live = list(model.model_.parameters())
                    averages[length].copy_to_model()
                    model._frozen = None
                value, error = measure(model)
                known = [
                    k for k in known if (k["set"], k["seed"], k["length"]) != (name, seed, length)
                ]
                known.append(
                    {
                        "set": name,
                        "seed": seed,
                        "length": length,
                        "measure": "frechet" if name in PICTURES else "log_density",
                        "value": value,
                        "stderr_over_rows": error,
                        "steps": int(model.history_[-1]["step"]),
                        "cpu_seconds": round(seconds, 1),
                        "date": datetime.date.today().isoformat(),
                        "torch": torch.__version__,
                        "machine": platform.machine(),
                    }
                )
                print(name, seed, length, round(value, 4), round(error, 4), flush=True)
                options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
