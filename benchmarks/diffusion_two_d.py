"""How well diffusion learns densities of the plane: KL(data || model) by the exact likelihood.

    python benchmarks/diffusion_two_d.py [--sets two-moons eight-gaussians ...] [--steps 4000]
        [--width 128] [--blocks 3] [--batch 128] [--validation 0.1] [--decay 0]
        [--seeds 0] [--rows 2000]

The family edm (or `--family ddpm`) is fitted to 10,000 points (seed 0; some of them validate) and
gives the log-density of fresh points (seed 1) by the probability flow with exact divergence. Against
the known density of the set (`ebm_two_d`),

    KL = E_data[ log p_data(x) - log p_model(x) ],   with its standard error over the points.

A model that has not seen the points has KL >= 0 in expectation but for the solver's error (below 0.001
nats a row). Processor seconds on one thread. Each row is kept in ``results/diffusion_two_d.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ebm_two_d import LOG_P, points

from energyscape.families import DDPM, EDM

SETS = ("two-moons", "eight-gaussians", "twenty-five-gaussians", "pinwheel", "spirals")
RESULTS = Path(__file__).resolve().parent / "results" / "diffusion_two_d.json"
FAMILIES = {"edm": EDM, "ddpm": DDPM}


def measure(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Fit, and compare the densities."""
    settings = {
        "max_steps": args.steps,
        "width": args.width,
        "blocks": args.blocks,
        "batch_size": args.batch,
        "validation_fraction": args.validation,
        "weight_decay": args.decay,
    }
    model = FAMILIES[args.family](calibration_fraction=0.0, random_state=seed, **settings)
    began = time.process_time()
    model.fit(points(name, 10_000, 0))
    trained = time.process_time()
    x = points(name, args.rows, 1)
    terms = LOG_P[name](x) - model.score_samples(x)
    return {
        "family": args.family,
        "set": name,
        "seed": seed,
        **settings,
        "rows": args.rows,
        "kl": float(terms.mean()),
        "stderr": float(terms.std(ddof=1) / math.sqrt(len(terms))),
        "largest": float(np.max(terms)),
        "parameters": model.info_["parameters"],
        "training_cpu_seconds": round(trained - began, 1),
        "scoring_cpu_seconds": round(time.process_time() - trained, 1),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--family", default="edm", choices=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--validation", type=float, default=0.1, help="share of the points")
    parser.add_argument("--decay", type=float, default=0.0, help="of weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = (
        json.loads(args.out.read_text()) if args.out.is_file() else {"rows": []}
    )
    same = (
        "family",
        "set",
        "seed",
        "max_steps",
        "width",
        "blocks",
        "batch_size",
        "weight_decay",
        "validation_fraction",
    )
    for seed in args.seeds:
        for name in args.sets:
            row = measure(name, seed, args)
            old = [r for r in record["rows"] if any(r.get(k) != row[k] for k in same)]
            record |= {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": {"processor": platform.processor(), "threads": 1},
                "load_average": os.getloadavg()[0],
                "versions": {n: metadata.version(n) for n in ("energyscape", "torch", "numpy")}
                | {"python": platform.python_version()},
                "rows": [*old, row],
            }
            args.out.write_text(json.dumps(record, indent=1) + "\n")
            print(
                f"{args.family:5}{name:24}KL {row['kl']:7.4f} ± {row['stderr']:.4f}  "
                f"training {row['training_cpu_seconds']:.0f} s, "
                f"scoring {row['scoring_cpu_seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
