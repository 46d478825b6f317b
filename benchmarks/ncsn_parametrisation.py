"""NCSN's network as published beside one whose skip vanishes at high levels, on pictures and tables.

    python benchmarks/ncsn_parametrisation.py [--data digits wine housing penguins] [--steps 1000]
        [--faces edm score] [--rates 0.001 0.003] [--seeds 0 1] [--out FILE]

The same network, rows, levels, loss and number of steps; what differs is what the network predicts
(``parametrisation``) and the learning rate. On rows that `fit` never saw, in encoded units:

- the mean square error of the predicted noise at the highest level, at the geometric mean of all, at
  half the data's scale and at a fifth of it; 1 is what answering nothing gives;
- the energy distance of samples (annealed Langevin, defaults) from those rows, beside that of as many
  training rows from them;
- of tables the mean log-density, by the probability-flow equation in original units.

Tables lie in ENERGYSCAPE_DATA; at most 4,000 of their rows train.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from energyscape.data import Dataset, load
from energyscape.families import NCSN
from energyscape.metrics import energy_distance
from energyscape.objectives import level_losses

ROOT = Path(os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = {
    "digits": "digits",
    "wine": ROOT / "uci" / "winequality-red.csv",
    "housing": ROOT / "tables" / "california_housing.csv",
    "penguins": ROOT / "tables" / "palmer_penguins_raw.csv",
}
ROWS, HELD = 4000, 500


def parts(name: str, seed: int) -> tuple[Dataset, Dataset]:
    """Rows to fit on and rows that are held out."""
    data = load(str(SETS[name]))
    order = np.random.default_rng(seed).permutation(len(data))
    held = min(HELD, len(data) // 4)
    return data.take(order[held : held + ROWS]), data.take(order[:held])


def measured(name: str, face: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """One model, trained and judged."""
    train, held = parts(name, seed)
    began = time.process_time()
    model = NCSN(
        parametrisation=cast(Any, face), learning_rate=rate, max_steps=steps, random_state=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        model.fit_run(train, folder)
    trained = time.process_time() - began
    levels, scale = model.levels_, model.facts_["sigma_data"]
    x = torch.from_numpy(model.codec_.encode(held.data, None).x).float()
    asked = [levels[0], (levels[0] * levels[-1]) ** 0.5, 0.5 * scale, 0.2 * scale]
    rng = torch.Generator().manual_seed(7)
    errors = level_losses(model.model_, x.repeat(4, *[1] * (x.ndim - 1)), asked, rng)
    drawn = model.codec_.encode(model.sample(len(x), random_state=seed), None).x
    same = model.codec_.encode(train.data[: len(x)], None).x
    flat = x.flatten(1).numpy()
    row: dict[str, Any] = {
        "data": name, "face": face, "rate": rate, "seed": seed, "levels": len(levels),
        "noise error at": [round(level / scale, 3) for level in asked],
        "noise error": [round(float(e), 5) for e in errors],
        "energy distance": energy_distance(drawn.reshape(len(drawn), -1), flat),
        "of training rows": energy_distance(same.reshape(len(same), -1), flat),
        "training CPU s": round(trained, 1),
    }  # fmt: skip
    if held.kind == "table":
        row["log-density"] = float(np.mean(model.score_samples(held.frame[:60])))
    return row


def main() -> None:
    """Train, judge, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--faces", nargs="+", choices=("edm", "score"), default=["edm", "score"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for seed in args.seeds:
        for name in args.data:
            for rate in args.rates:
                for face in args.faces:
                    rows.append(measured(name, face, rate, seed, args.steps))
                    print(json.dumps(rows[-1]), flush=True)
                    if args.out:
                        record = {
                            "date": datetime.date.today().isoformat(),
                            "torch": torch.__version__,
                            "threads": torch.get_num_threads(),
                            "steps": args.steps,
                            "rows": rows,
                        }
                        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
