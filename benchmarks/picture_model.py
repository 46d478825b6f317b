"""Everything that is asked of one model of pictures: how good, how varied, how new, how probable.

    python benchmarks/picture_model.py --run FOLDER [--data mnist] [--samples 2000] [--pictures 1000]
        [--threads 1]

The run is one that `quality_per_evaluation.py --only-train`, or `energyscape fit` with the same
training pictures, has left. Of pictures drawn by 18 steps of Heun:

    Frechet     distance to all test pictures, on the features of a classifier of the training pictures
    accuracy    of a forest in telling as many test pictures from them; .5 is best
    precision   share within reach of the test pictures, and
    recall      share of test pictures within reach of them (1904.06991), on the same features
    neighbour   mean distance to the nearest training picture over that of test pictures, in pixels and
                in features: below 1 training pictures are repeated

and the same of as many test pictures against others, which is what a perfect model reaches. Then
the log-density of test pictures by the probability flow, noise drawn within the grey levels, as
bits/dim with its standard error over pictures; each part of 50 is written when it is known.
Writes ``results/picture_model_DATA.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from picture_features import Judge, Likeness
from picture_sets import SETS, PictureSet, load_pictures

import energyscape
from energyscape.families import EDM
from energyscape.metrics import mean_with_error, neighbour_ratio, precision_recall

HERE = Path(__file__).resolve().parent
PART = 50


def likeness(
    judge: Judge, data: PictureSet, found: Likeness, drawn: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    """Every measure of some pictures against as many real ones."""
    features, like = judge.features(drawn), judge.features(real)
    precision, recall = precision_recall(like, features)
    train = data.train[np.random.default_rng(0).permutation(len(data.train))]
    pixels = neighbour_ratio(train, real, drawn)
    inner = neighbour_ratio(judge.features(train), like, features)
    return {
        "frechet": found.frechet,
        "accuracy": found.accuracy._asdict(),
        "precision": precision._asdict(),
        "recall": recall._asdict(),
        "neighbour_pixels": pixels._asdict(),
        "neighbour_features": inner._asdict(),
        "classes": judge.classes(drawn).round(3).tolist(),
    }


def main() -> None:
    """Load, draw, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", choices=SETS, default="mnist")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures with a density")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = args.out or HERE / "results" / f"picture_model_{args.data}.json"
    data, model = load_pictures(args.data), cast(EDM, energyscape.load(args.run))
    judge = Judge(data)
    n = min(args.samples, len(data.test) // 2)
    order = np.random.default_rng(0).permutation(len(data.test))
    test = data.test[order]  # the second half of MNIST's is harder to read than the first
    began = time.perf_counter()
    drawn = np.asarray(model.sample(n, sampler="heun", steps=18, random_state=1))[..., 0]
    spent = time.perf_counter() - began
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.machine(), "threads": args.threads},
        "versions": {p: metadata.version(p) for p in ("energyscape", "torch", "numpy")},
        "python": platform.python_version(),
        "settings": model.get_params(),
        "training": {k: model.info_[k] for k in ("steps", "seconds", "parameters")},
        "samples": n,
        "drawing_seconds": round(spent, 1),
        "drawn": likeness(judge, data, judge.compare(drawn), drawn, test[:n]),
        "test_pictures": likeness(judge, data, judge.reference(n), test[n : 2 * n], test[:n]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    for name in ("drawn", "test_pictures"):
        print(name, json.dumps(record[name]), flush=True)
    order = order[: args.pictures]
    scale = -1 / (math.log(2.0) * math.prod(data.test.shape[1:]))
    bits: list[float] = []
    errors: list[float] = []
    began = time.perf_counter()
    for first in range(0, len(order), PART):
        rows = np.sort(order[first : first + PART])
        found = model.log_density(data.test[rows][..., None], random_state=first)
        bits += (scale * found.value).tolist()
        errors += (-scale * found.stderr).tolist()
        mean = mean_with_error(bits)
        record["bits_per_dim"] = {
            "value": mean.value,
            "stderr": mean.stderr,
            "kind": found.kind,
            "stderr_of_one": float(np.sqrt(np.mean(np.square(errors)))),
            "pictures": len(bits),
            "seconds": round(time.perf_counter() - began, 1),
        }
        out.write_text(json.dumps(record, indent=1) + "\n")
        print(
            f"{len(bits):5} pictures: {mean.value:.4f} ± {mean.stderr:.4f} bits/dim",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
