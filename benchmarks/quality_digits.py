"""Quality of samples on scikit-learn's digits, for every family after the same training time.

    python benchmarks/quality_digits.py [--seconds 60] [--repeats 5] [--families edm ddpm ...]

1,797 pictures of 8 x 8 in 17 grey levels. In each repeat 300 are held out, a family is fitted to the
other 1,497 for the given time on 2 threads with its default settings (no validation or calibration
rows: nothing here is stopped early or calibrated), and draws 2 x 300 pictures. Two numbers:

- accuracy of a random forest in telling 300 held-out from 300 generated pictures, 5-fold, mean over
  the 2 sets: 0.5 is perfect, training against held-out pictures gives 0.48 to 0.51;
- distance of generated pictures to their nearest training picture over that of held-out ones: 1 is
  neither memorised (below) nor blurred or off the data (above).

Settings were chosen on splits 100 and above; the repeats here are splits 0, 1, ... Prints a table and
writes ``results/quality_digits.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from energyscape.families import FAMILIES
from energyscape.metrics import mean_with_error, neighbour_ratio, two_sample_accuracy

HELD_OUT = 300
SETS = 2


def one_run(family: str, seed: int, seconds: float, steps: int | None) -> dict[str, Any]:
    """Fit, draw and judge one family on one split."""
    pictures = load_digits().images.astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(pictures))
    test, train = pictures[order[:HELD_OUT]], pictures[order[HELD_OUT:]]
    length = {"time_limit": seconds} if steps is None else {"max_steps": steps}
    model = FAMILIES[family](
        validation_fraction=0.0, calibration_fraction=0.0, random_state=seed, **length
    )
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(train)
    trained = time.perf_counter()
    trained_cpu = time.process_time()
    drawn = model.sample(SETS * HELD_OUT, random_state=seed).reshape(-1, 8, 8)
    drawing = time.perf_counter() - trained
    rng = np.random.default_rng(1000 + seed)
    accuracies = [
        two_sample_accuracy(test, part, rng, repeats=1, num_trees=200).value
        for part in np.split(drawn, SETS)
    ]
    return {
        "family": family,
        "seed": seed,
        "accuracy": float(np.mean(accuracies)),
        "neighbour_ratio": neighbour_ratio(train, test, drawn).value,
        "steps": model.info_["steps"],
        "parameters": model.info_["parameters"],
        "training_seconds": trained - wall,
        "training_cpu_seconds": trained_cpu - cpu,
        "sampling_seconds": drawing,
        "load_average": os.getloadavg()[0],
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard error over the repeats of each family."""
    rows = []
    for family in dict.fromkeys(run["family"] for run in runs):
        own = [run for run in runs if run["family"] == family]
        row: dict[str, Any] = {"family": family, "repeats": len(own)}
        for key in ("accuracy", "neighbour_ratio"):
            row[key], row[f"{key}_stderr"] = mean_with_error([run[key] for run in own])
        for key in ("steps", "training_seconds", "training_cpu_seconds", "sampling_seconds"):
            row[key] = float(np.mean([run[key] for run in own]))
        rows.append(row)
    return rows


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run")
    parser.add_argument("--steps", type=int, help="training steps, instead of a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "quality_digits.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = []
    for family in arguments.families:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.repeats):
            runs.append(one_run(family, seed, arguments.seconds, arguments.steps))
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in runs[-1].items()}
            print(shown, flush=True)
            record = {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "seconds": None if arguments.steps else arguments.seconds,
                "machine": {"processor": processor(), "threads": torch.get_num_threads()},
                "versions": {
                    name: metadata.version(name)
                    for name in ("energyscape", "torch", "numpy", "scikit-learn")
                }
                | {"python": platform.python_version()},
                "summary": summary(runs),
                "runs": runs,
            }
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{'family':8}{'accuracy':>16}{'distance ratio':>18}{'steps':>8}{'train s':>9}")
    for row in summary(runs):
        print(
            f"{row['family']:8}{row['accuracy']:9.3f} ± {row['accuracy_stderr']:.3f}"
            f"{row['neighbour_ratio']:10.3f} ± {row['neighbour_ratio_stderr']:.3f}"
            f"{row['steps']:8.0f}{row['training_seconds']:9.1f}"
        )


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
