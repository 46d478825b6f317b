"""NCSN on pictures: classic, improved and predictor-corrector walks with equal evaluations.

    python benchmarks/ncsn_pictures.py [--data digits] [--steps 4000] [--batch 128]
                                       [--setups improved classic] [--run FOLDER]
                                       [--out FILE] [--sheet FILE.png]

Two models of the same network and training, on the ladder of each set-up: classic (10 levels over two
decades below the range of a pixel, last weights) and improved (2006.09011: the largest distance in the
data, ratio from the dimension, averaged weights). Training leaves checkpoints in FOLDER: run again, it
goes on, and what is trained already is read. Every walk has about `--evaluations` evaluations of
its network, 1,000 by default: L = 10 and T = 100 of the first paper, fewer steps on the improved
ladder's many levels, and predictor-corrector on the improved model with half as many levels. Langevin
walks are judged before and after the last noise-free step.

Reported, on as many test pictures as drawn or fewer: the Frechet distance and a forest's two-sample
accuracy on the features of a classifier of the set (its own test accuracy stated; see
`picture_features.py`), beside what test pictures reach against other test pictures; and, for pictures
of at most 100 pixels, the forest's accuracy on the pixels, as `quality_digits.py` has it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from picture_features import CACHE, Judge
from picture_sets import SETS, PictureSet, load_pictures

import energyscape
from energyscape.data import Dataset
from energyscape.families import NCSN
from energyscape.mcmc import annealed_langevin
from energyscape.metrics import neighbour_ratio, two_sample_accuracy
from energyscape.report import save_picture_grid

SETUPS = ("improved", "classic")


def spent(run: Path) -> float:
    """Processor seconds of all processes that trained a run, 0 before the first."""
    file = run.with_suffix(".cpu_seconds")
    return float(file.read_text()) if file.is_file() else 0.0


def fitted(data: PictureSet, setup: str, run: Path, args: argparse.Namespace) -> NCSN:
    """The model of a set-up: from its artifact, or trained, or trained on from its checkpoint.

    What it cost is kept beside it, see `spent`.
    """
    if (run / "manifest.json").is_file():
        return cast(NCSN, energyscape.load(run))
    before, began = spent(run), time.process_time()

    def note(progress: Any = None) -> None:
        run.parent.mkdir(parents=True, exist_ok=True)
        now = before + time.process_time() - began
        run.with_suffix(".cpu_seconds").write_text(f"{now:.1f}")

    model = NCSN(
        setup=cast(Any, setup), max_steps=args.steps, batch_size=args.batch, random_state=args.seed,
        device=args.device, validation_fraction=0.0, calibration_fraction=0.0,
    )  # fmt: skip
    pictures = Dataset("pictures", data.name, pictures=data.train[..., None])
    resume = (run / "train" / "run.json").is_file()
    model.fit_run(pictures, run, resume=resume, progress=note)
    note()
    return model


def langevin(model: NCSN, setup: str, args: argparse.Namespace) -> dict[str, tuple[Any, int]]:
    """Pictures by one walk of annealed Langevin dynamics before and after its last step.

    With each goes the number of evaluations a picture took.
    """
    levels = model.levels_
    each = max(1, round(args.evaluations / len(levels)))
    rng = torch.Generator().manual_seed(args.seed)
    shape = (args.samples, *model.facts_["event_shape"])
    x0 = levels[0] * torch.randn(shape, generator=rng)
    # The first paper's eps of 2e-5 at a smallest level of 0.01, half of it in this form of the update.
    size = 0.1 * levels[-1] ** 2 if setup == "classic" else None
    with torch.no_grad():
        x = annealed_langevin(
            model.model_.at, levels, x0, rng=rng, steps_per_level=each, step_size=size,
            denoise=False,
        ).x  # fmt: skip
        clean = model.model_(x, levels[-1])
    count = each * len(levels)
    return {
        f"{setup}, as the chains end": (model.decode(x), count),
        f"{setup}, last step without noise": (model.decode(clean), count + 1),
    }


def corrected(model: NCSN, args: argparse.Namespace) -> dict[str, tuple[Any, int]]:
    """Pictures by predictor-corrector, a predictor and a corrector a level."""
    levels = (args.evaluations + 1) // 2
    drawn = model.sample(args.samples, sampler="pc", steps=levels, random_state=args.seed)
    return {"improved model, predictor-corrector": (drawn, 2 * levels - 1)}


def judged(
    data: PictureSet, judge: Judge, pictures: np.ndarray, seed: int
) -> dict[str, float | str]:
    """All measures of one sheet."""
    found = judge.compare(pictures, seed=seed)
    numbers: dict[str, Any] = {
        "frechet": found.frechet,
        "accuracy on features": found.accuracy.value,
        "accuracy's standard error": found.accuracy.stderr,
        "share of the rarest class": float(judge.classes(pictures).min()),
    }
    if pictures[0].size <= 100:
        n = min(len(pictures), len(data.test))
        rng = np.random.default_rng(1000 + seed)
        told = two_sample_accuracy(data.test[:n], pictures[:n], rng, repeats=1, num_trees=200)
        near = neighbour_ratio(data.train, data.test, pictures)
        numbers |= {"accuracy on pixels": told.value, "neighbour ratio": near.value}
    return numbers


def main() -> None:
    """Train, draw, judge, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=SETS, default="digits")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=SETUPS)
    parser.add_argument("--run", type=Path, help="folder of the runs; default: in the cache")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    data = load_pictures(args.data)
    folder = args.run or CACHE / f"ncsn-{data.name}-{args.steps}"
    judge = Judge(data)
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": vars(args) | {"out": None, "sheet": None, "run": None},
        "classifier's test accuracy": judge.test_accuracy,
    }
    best = judge.reference(args.samples)
    record["test pictures against the others"] = {
        "frechet": best.frechet, "accuracy on features": best.accuracy.value, "n": best.n,
    }  # fmt: skip
    print(json.dumps(record["test pictures against the others"]), flush=True)
    rows: dict[str, dict[str, Any]] = {}
    record["rows"] = rows
    sheets = []
    for setup in args.setups:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = fitted(data, setup, folder / setup, args)
        record[setup] = {
            "levels": len(model.levels_),
            "largest": model.levels_[0],
            "smallest": model.levels_[-1],
            "steps": model.info_["steps"],
            "training processor seconds": spent(folder / setup),
            "parameters": model.info_["parameters"],
            "warned": [str(w.message) for w in told],
        }
        print(json.dumps(record[setup]), flush=True)
        if args.only_train:
            continue
        walks = [partial(langevin, model, setup, args)]
        walks += [partial(corrected, model, args)] if setup == "improved" else []
        for walk in walks:
            began = time.process_time()
            found = walk()
            seconds = round(time.process_time() - began, 1)
            for name, (drawn, count) in found.items():
                rows[name] = judged(data, judge, drawn, args.seed)
                rows[name] |= {"evaluations": count, "seconds": seconds}
                print(name, json.dumps(rows[name]), flush=True)
                sheets.append(drawn[:20])
            keep(record, sheets, 255 / (data.levels - 1), args)


def keep(
    record: dict[str, Any], sheets: list[np.ndarray], factor: float, args: argparse.Namespace
) -> None:
    """Write what is known so far, and the sheet: a row of pictures for each walk."""
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    if args.sheet:
        sheet = np.round(np.concatenate(sheets).astype(float) * factor).astype(np.uint8)
        save_picture_grid(sheet.reshape(*sheet.shape[:3], 1), args.sheet, 20)


if __name__ == "__main__":
    main()
