"""Exact, sliced and denoising score matching on winequality-red: test score-matching losses.

After 1905.07088 section 6.1 (its data and preparation, with an energy network in the place of its deep
kernel family, so its numbers are not comparable, their order is): the column `quality` is left out,
columns are dequantised by uniform noise as wide as the median gap between neighbouring values, whitened
by principal components on all rows, and N(0, 0.05^2) is added. Per seed a tenth of the rows tests and a
tenth of the rest validates. Every method has the same network, steps and batches; weights are the best
averaged ones by the exact score-matching loss on validation rows; the level of denoising is chosen by
the same loss. Reported: the exact score-matching loss on test rows, and the seconds of training.

    python benchmarks/score_wine.py [--seeds 5] [--steps 1500] [--out FILE]

The data folder is taken from ENERGYSCAPE_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from energyscape.data import read_table
from energyscape.models import NetworkEnergy
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    Objective,
    SlicedScoreMatching,
)
from energyscape.training import TrainConfig, train

METHODS: dict[str, list[Objective]] = {
    "exact": [ExactScoreMatching()],
    "SSM": [SlicedScoreMatching(variance_reduced=False)],
    "SSM-VR": [SlicedScoreMatching()],
    "DSM": [DenoisingScoreMatching(sigma) for sigma in (0.05, 0.1, 0.2, 0.4)],
}


def wine(seed: int) -> Tensor:
    """The prepared rows, shape (1599, 11), in an order of the seed's own."""
    path = Path(os.environ.get("ENERGYSCAPE_DATA", "../shared/data")) / "uci/winequality-red.csv"
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: set ENERGYSCAPE_DATA to the folder that holds "
            "uci/winequality-red.csv (UCI Machine Learning Repository, Wine Quality)"
        )
    frame = read_table(path)
    x = np.stack([frame[c].cast(float).to_numpy() for c in frame.columns if c != "quality"], axis=1)
    rng = np.random.default_rng(seed)
    for column in x.T:
        gap = np.median(np.diff(np.unique(column)))
        column += rng.uniform(-gap / 2, gap / 2, len(column))
    x = x - x.mean(0)
    left, _, _ = np.linalg.svd(x, full_matrices=False)
    x = left * np.sqrt(len(x)) + rng.normal(0, 0.05, x.shape)
    return torch.as_tensor(x[rng.permutation(len(x))], dtype=torch.float32)


def exact_loss(model: NetworkEnergy, x: Tensor) -> float:
    """The exact score-matching loss, E[1/2 |s|^2 + tr(ds/dx)]."""
    rng = torch.Generator()
    with torch.no_grad():
        return float(ExactScoreMatching()(model, x, None, rng).loss.mean())


def run(objective: Objective, x: Tensor, seed: int, steps: int) -> dict[str, float]:
    """Train once; validation and test losses, and the seconds it took."""
    tenth = len(x) // 10
    test, validation, rows = x[:tenth], x[tenth : tenth + 144], x[tenth + 144 :]
    torch.manual_seed(seed)
    model = NetworkEnergy(MLP((x.shape[1],), width=64, depth=3, scalar=True))
    config = TrainConfig(max_steps=steps, seed=seed, device="cpu", validations=30)
    began = time.process_time()
    train(
        model, objective, rows, validation=validation,
        validation_objective=ExactScoreMatching(), config=config,
    )  # fmt: skip
    seconds = time.process_time() - began
    return {
        "validation": exact_loss(model, validation),
        "test": exact_loss(model, test),
        "seconds": seconds,
    }


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for seed in range(args.seeds):
        x = wine(seed)
        for name, choices in METHODS.items():
            runs = [run(objective, x, seed, args.steps) for objective in choices]
            best = min(range(len(runs)), key=lambda i: runs[i]["validation"])
            kept: dict[str, Any] = dict(runs[best])
            if name == "DSM":
                kept["sigma"] = METHODS[name][best].sigma  # type: ignore[attr-defined]
            rows[name].append(kept)
            print(seed, name, json.dumps(kept), flush=True)
    table = {
        name: {
            "test": float(np.mean([r["test"] for r in found])),
            "standard error": float(np.std([r["test"] for r in found], ddof=1) / len(found) ** 0.5)
            if len(found) > 1
            else None,
            "less exact, mean of pairs": float(
                np.mean([r["test"] - e["test"] for r, e in zip(found, rows["exact"], strict=True)])
            ),
            "seconds": float(np.mean([r["seconds"] for r in found])),
        }
        for name, found in rows.items()
    }
    for name, line in table.items():
        print(name, json.dumps(line))
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"seeds": args.seeds, "steps": args.steps, "width": 64, "batch": 128},
        "table": table,
        "runs": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
