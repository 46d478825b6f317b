"""What a family can say against a row: its kinds of evidence on 20 anomaly tables, beside the detector.

    python benchmarks/model_evidence.py [--families edm ebm] [--seeds 1] [--steps 500] [--sets NAME ...]

Tables and splits are those of `adbench.py`, shuffled; each family is fitted once a split with its
defaults and ``--steps`` optimizer steps, and `ModelDetector` then goes by each kind of evidence that it
has, at its own levels, and by all of them together. ``detector`` is `AnomalyDetector` on the same rows.
At most ``--rows`` test rows are scored, the same for all, and 200 calibrate. AUROC and average
precision (AP) in percent, means over tables and seeds; seconds of fit, and of scoring a thousand rows,
on one thread.
Adds what it measured to ``results/model_evidence.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
import warnings
from pathlib import Path
from typing import Any

import adbench
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from energyscape import AnomalyDetector
from energyscape.families import FAMILIES, ModelDetector

OUT = Path(__file__).parent / "results" / "model_evidence.json"
KINDS: dict[str, tuple[str, ...]] = {
    "edm": ("own", "log_density", "denoising_error", "score_norm"),
    "ncsn": ("own", "log_density", "denoising_error", "score_norm"),
    "ddpm": ("own", "log_density", "bound", "denoising_error", "score_norm"),
    "ebm": ("own", "energy", "score_norm"),
}


def record(about: dict[str, Any], truth: NDArray[np.int64], scores: NDArray[Any]) -> dict[str, Any]:
    """What one kind of evidence reached."""
    return about | {
        "auroc": 100 * float(roc_auc_score(truth, scores)),
        "ap": 100 * float(average_precision_score(truth, scores)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def measured(
    family: str, path: Path, seed: int, steps: int, rows: int, detector: bool
) -> list[dict[str, Any]]:
    """Every kind on one split."""
    train, test, truth = adbench.split(path, "shuffled", seed)
    kept = np.sort(np.random.default_rng(seed).permutation(len(test))[:rows])
    test, truth = test[kept], truth[kept]
    about = {"set": path.stem, "seed": seed, "family": family}
    found = []
    if detector:
        scores = AnomalyDetector(random_state=seed).fit(train).anomaly_score(test)
        found.append(record(about | {"family": "detector", "by": "own"}, truth, scores))
    extra = {"normalise": False} if family == "ebm" else {}
    began = time.perf_counter()
    share = min(0.1, 200 / len(train))
    model = FAMILIES[family](
        max_steps=steps, calibration_fraction=share, random_state=seed, **extra
    ).fit(train)
    about |= {"steps": steps, "fit_seconds": round(time.perf_counter() - began, 1)}
    kinds: dict[str, Any] = {kind: kind for kind in KINDS[family]}
    kinds["all"] = [kind for kind in KINDS[family] if kind != "own"]
    for name, by in kinds.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # few rows to calibrate on
            judge = ModelDetector.of(model, by=by)
        began = time.perf_counter()
        scores = judge.anomaly_score(test)
        seconds = 1000 * (time.perf_counter() - began) / len(test)
        about |= {"by": name, "seconds_a_thousand": round(seconds, 2)}
        found.append(record(about, truth, scores))
    return found


def show(results: list[dict[str, Any]]) -> None:
    """Means over tables."""
    for key in dict.fromkeys((r["family"], r["by"]) for r in results):
        own = [r for r in results if (r["family"], r["by"]) == key]
        auroc, ap = (np.mean([r[what] for r in own]) for what in ("auroc", "ap"))
        tables, seeds = len({r["set"] for r in own}), len({r["seed"] for r in own})
        print(f"{key[0]:10}{key[1]:18}{auroc:7.1f}{ap:7.1f}   {tables} tables, {seeds} seeds")


def main() -> None:
    """Run, print, write as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--families", nargs="+", default=["edm", "ebm"], choices=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--sets", nargs="+", default=[""], help="parts of the names of sets")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    if options.out.is_file():
        results = json.loads(options.out.read_text())["results"]
    paths = sorted(
        (
            p
            for p in (adbench.DATA / "adbench").glob("*.npz")
            if any(s in p.stem for s in options.sets)
        ),
        key=lambda p: int(p.stem.split("_")[0]),
    )
    for seed in range(options.seeds):
        for path in paths:
            for i, family in enumerate(options.families):
                new = measured(family, path, seed, options.steps, options.rows, detector=i == 0)
                for r in new:
                    print({k: round(v, 1) if isinstance(v, float) else v for k, v in r.items()})
                same = {(r["set"], r["seed"], r["family"], r["by"]) for r in new}
                results = [
                    r for r in results if (r["set"], r["seed"], r["family"], r["by"]) not in same
                ] + new
                record_ = {"torch": torch.__version__, "results": results}
                options.out.write_text(json.dumps(record_, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
