"""Which weights of a run to keep: those with the lowest loss of pictures held out, or the last.

    python benchmarks/picture_weights.py [--sets digits mnist:1000 mnist:4000] [--seeds 0 1 2 3 4]
        [--steps 1500] [--samples 1000] [--pictures 100]

`edm` by its defaults is trained once for each set (``mnist:1000``: so many of the training pictures,
for `--steps` steps) and seed, and both are judged, the averages of the weights in either case:

    frechet    distance of drawn pictures to test pictures on a classifier's features
    neighbour  distance of drawn pictures to the nearest training picture over that of test pictures, in
               pixels: below 1 training pictures are repeated
    bits       bits a dimension of test pictures by the probability flow, the same noise within grey
               levels for both; `worst` is the mean of the tenth that has most of them

`step` is where the loss of pictures held out was lowest. Writes ``results/picture_weights.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import ema_length
import numpy as np
import torch
from picture_features import Judge
from picture_sets import PictureSet, load_pictures

from energyscape.families import EDM
from energyscape.metrics import neighbour_ratio

OUT = Path(__file__).parent / "results" / "picture_weights.json"


def measured(
    model: EDM, data: PictureSet, judge: Judge, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """All measures of the weights that `model` has now."""
    count = min(args.samples, len(data.test))
    drawn = np.asarray(model.sample(count, random_state=seed))
    drawn = drawn.reshape(count, *data.test.shape[1:])
    order = np.random.default_rng(seed).permutation(len(data.test))
    real, few = data.test[order[:count]], np.sort(order[: args.pictures])
    density = model.log_density(data.test[few][..., None], random_state=seed).value
    bits = np.sort(-np.asarray(density) / (math.log(2.0) * math.prod(data.test.shape[1:])))
    return {
        "frechet": judge.compare(drawn, seed=seed).frechet,
        "neighbour": neighbour_ratio(data.train, real, drawn).value,
        "bits": float(bits.mean()),
        "bits_stderr": float(bits.std(ddof=1) / math.sqrt(len(bits))),
        "worst": float(bits[-max(len(bits) // 10, 1) :].mean()),
    }


def lowest(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The check with the lowest loss, and the last one."""
    checks = [h for h in history if "validation_loss" in h]
    best = min(checks, key=lambda h: h["validation_loss"])
    return {
        "step": best["step"],
        "loss": best["validation_loss"],
        "last_loss": checks[-1]["validation_loss"],
        "steps": checks[-1]["step"],
    }


def main() -> None:
    """Train, judge both, write as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["digits", "mnist:1000", "mnist:4000"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=1500, help="of MNIST")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=100, help="test pictures with a density")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ema_length.Lengths.powers = ()
    known: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.is_file() else []
    judges: dict[tuple[str, int], Judge] = {}
    for name in args.sets:
        kind, _, size = name.partition(":")
        for seed in args.seeds:
            data = load_pictures(kind, seed)
            of = (kind, seed if kind == "digits" else 0)
            judges[of] = judges.get(of) or Judge(data)
            if size:
                some = np.random.default_rng(seed).permutation(len(data.train))[: int(size)]
                data = data._replace(train=data.train[some], train_labels=data.train_labels[some])
            began = time.process_time()
            steps = args.steps if kind == "mnist" else None
            model, averages = ema_length.trained(data.train, seed, steps)
            record = {
                "set": name,
                "seed": seed,
                "cpu_seconds": round(time.process_time() - began, 1),
                **lowest(model.history_),
                "best": measured(model, data, judges[of], seed, args),
            }
            averages["default"]._live = list(model.model_.parameters())
            averages["default"].copy_to_model()
            model._frozen = None  # the copies that densities are taken with
            record["last"] = measured(model, data, judges[of], seed, args)
            record |= {
                "date": datetime.date.today().isoformat(),
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
            known = [k for k in known if (k["set"], k["seed"]) != (name, seed)] + [record]
            args.out.write_text(json.dumps(known, indent=1) + "\n")
            print(record, flush=True)


if __name__ == "__main__":
    main()
