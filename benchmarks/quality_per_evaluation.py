"""Quality of generated pictures against the evaluations of the network that each sampler spent.

    python benchmarks/quality_per_evaluation.py [--data mnist] [--seconds 2400 | --steps N]
        [--run FOLDER] [--only-train] [--samples 300] [--seeds 0] [--counts 5 10 18 ...]
        [--samplers heun ...] [--png FILE]

The family edm is fitted once to the training pictures, in batches of 64, for the given time or number
of steps (digits: a perceptron of 3 blocks of 128), leaving checkpoints (run again, it goes on) and an
artifact. Every sampler then draws from that one model with
about as many evaluations of the network as asked for: one a level, two for Heun's (less one at the
last level, so 18 steps of Heun are 35 evaluations) and for predictor-corrector, and steps of annealed
Langevin dynamics times its levels (15 or so: it cannot do with less). A hook on the network counts
what was really spent. Walks of 1,000 evaluations are done for ancestral sampling and stochastic Heun
alone. Pictures are judged on the features of a classifier (`picture_features`): Frechet distance to the
test pictures, and a forest's accuracy in telling as many of them from the generated ones.

Each point is written to ``results/quality_per_evaluation_DATA.json`` when it is known, and is not
drawn again.
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
from typing import Any, cast

import numpy as np
import torch
from picture_features import CACHE, Judge
from picture_sets import SETS, PictureSet, load_pictures

import energyscape
from energyscape.data import Dataset
from energyscape.families import EDM

HERE = Path(__file__).resolve().parent
SAMPLERS = ("heun", "dpmpp_2m", "ancestral", "sde_heun", "unipc", "ddim", "pc", "langevin")
COUNTS = (5, 10, 18, 20, 35, 50, 100, 250, 1000)
LONGEST = ("ancestral", "sde_heun")
#: The points that are compared first of all.
FIRST = (("heun", 35), ("dpmpp_2m", 20), ("ancestral", 1000), ("ancestral", 35))


def fitted(data: PictureSet, run: Path, args: argparse.Namespace) -> EDM:
    """The model: from its artifact, or trained, or trained on."""
    if (run / "manifest.json").is_file():
        return cast(EDM, energyscape.load(run))
    pictures = Dataset("pictures", data.name, pictures=data.train[..., None])
    length = {"time_limit": args.seconds} if args.steps is None else {"max_steps": args.steps}
    small = {"width": 128, "blocks": 3, "batch_size": 64} if data.name == "digits" else {}
    held_out = 0.1 if data.name == "digits" else 0.02
    model = EDM(
        grey_network=args.grey, validation_fraction=held_out, calibration_fraction=held_out,
        random_state=0,
        **length, **small,
    )  # fmt: skip
    began = time.process_time()
    before = _spent(run)

    def note(progress: Any) -> None:
        run.parent.mkdir(parents=True, exist_ok=True)
        run.with_suffix(".cpu_seconds").write_text(f"{before + time.process_time() - began:.1f}")

    resume = (run / "train" / "run.json").is_file()
    return model.fit_run(pictures, run, resume=resume, progress=note)


def _spent(run: Path) -> float:
    """Processor seconds of all processes that trained a run."""
    file = run.with_suffix(".cpu_seconds")
    return float(file.read_text()) if file.is_file() else 0.0


def steps_of(model: EDM, sampler: str, evaluations: int) -> int | None:
    """The setting `steps` that spends about so many evaluations; None where there is none."""
    if sampler in ("heun", "sde_heun", "pc"):
        return (evaluations + 1) // 2
    if sampler == "langevin":
        return evaluations // len(model._langevin_levels()) or None
    return evaluations


def draw(model: EDM, sampler: str, steps: int, n: int, seed: int) -> tuple[np.ndarray, int, float]:
    """Pictures (n, H, W), evaluations a picture, and processor seconds."""
    rows = 0

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal rows
        rows += len(output)

    hook = model.model_.register_forward_hook(count)
    began = time.process_time()
    drawn = model.sample(n, sampler=sampler, steps=steps, random_state=seed)
    seconds = time.process_time() - began
    hook.remove()
    return np.asarray(drawn)[..., 0], rows // n, seconds


def points(args: argparse.Namespace) -> list[tuple[str, int]]:
    """What is drawn, in this order."""
    asked = [
        (sampler, count)
        for count in sorted(args.counts)
        for sampler in args.samplers
        if count < 1000 or sampler in LONGEST
    ]
    first = [point for point in FIRST if point in asked]
    return first + [point for point in asked if point not in first]


def measure(model: EDM, judge: Judge, record: dict[str, Any], args: argparse.Namespace) -> None:
    """Draw what is not known yet, and write after each point."""
    known = {(r["sampler"], r["asked"], r["seed"], r["n"]) for r in record["rows"]}
    for seed in args.seeds:
        for sampler, asked in points(args):
            steps = steps_of(model, sampler, asked)
            if steps is None or (sampler, asked, seed, args.samples) in known:
                continue
            drawn, spent, seconds = draw(model, sampler, steps, args.samples, seed)
            found = judge.compare(drawn, seed=seed, trees=40)
            row = {
                "sampler": sampler,
                "asked": asked,
                "steps": steps,
                "evaluations": spent,
                "seed": seed,
                "n": args.samples,
                "frechet": found.frechet,
                "accuracy": found.accuracy.value,
                "accuracy_stderr": found.accuracy.stderr,
                "rarest_class": float(judge.classes(drawn).min()),
                "cpu_seconds": round(seconds, 1),
            }
            record["rows"].append(row)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
            print(
                f"{sampler:10}{steps:6} steps {spent:6} evaluations  Frechet {row['frechet']:7.1f}  "
                f"accuracy {row['accuracy']:.3f} ± {row['accuracy_stderr']:.3f} {seconds:7.0f} s",
                flush=True,
            )


def table(rows: list[dict[str, Any]]) -> str:
    """Frechet distances, a line for each sampler, means over seeds."""
    counts = sorted({r["asked"] for r in rows})
    lines = [f"{'':12}" + "".join(f"{c:>8}" for c in counts)]
    for sampler in dict.fromkeys(r["sampler"] for r in rows):
        cells = []
        for count in counts:
            own = [r["frechet"] for r in rows if (r["sampler"], r["asked"]) == (sampler, count)]
            cells.append(f"{np.mean(own):8.1f}" if own else f"{'':8}")
        lines.append(f"{sampler:12}" + "".join(cells))
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    """The curves: Frechet distance against evaluations, both logarithmic."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7.2, 4.4), layout="constrained")
    ax = fig.subplots()
    rows = record["rows"]
    for sampler in dict.fromkeys(r["sampler"] for r in rows):
        own: dict[int, list[float]] = {}
        for row in (r for r in rows if r["sampler"] == sampler):
            own.setdefault(row["evaluations"], []).append(row["frechet"])
        line = sorted((count, float(np.mean(values))) for count, values in own.items())
        ax.plot(*zip(*line, strict=True), marker="o", ms=3.5, lw=1.5, label=sampler)
    ax.axhline(
        record["reference"]["frechet"],
        color="0.5",
        lw=1,
        ls="--",
        label=f"{record['reference']['n']} test pictures",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("evaluations of the network")
    ax.set_ylabel("Frechet distance")
    ax.legend(frameon=False, fontsize=8, ncols=2)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    fig.savefig(path, dpi=120)


def main() -> None:
    """Train or load, draw, judge, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", choices=SETS, default="mnist")
    parser.add_argument("--steps", type=int, help="of training, instead of a time")
    parser.add_argument("--seconds", type=float, default=2400.0, help="of training")
    parser.add_argument("--run", type=Path, help="default: in the cache")
    parser.add_argument("--grey", action="store_true", help="a network for few grey levels")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    data = load_pictures(args.data)
    args.run = args.run or CACHE / f"edm-{data.name}"
    args.out = args.out or HERE / "results" / f"quality_per_evaluation_{data.name}.json"
    model = fitted(data, args.run, args)
    print(f"{model.info_['steps']} steps, {model.info_['parameters']} parameters", flush=True)
    if args.only_train:
        return
    judge = Judge(data)
    reference = judge.reference(args.samples)
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    rows = model.get_params()["batch_size"] or model._habits()["batch_size"]
    training = {k: model.info_[k] for k in ("steps", "seconds", "parameters", "precision", "seed")}
    record: dict[str, Any] = {
        "data": data.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "training": training | {"cpu_seconds": _spent(args.run), "batch_size": rows},
        "machine": {"processor": platform.processor(), "threads": torch.get_num_threads()},
        "load_average": os.getloadavg()[0],
        "versions": {n: metadata.version(n) for n in ("energyscape", "torch", "numpy")}
        | {"python": platform.python_version()},
        "classifier_test_accuracy": judge.test_accuracy,
        "reference": {
            "n": reference.n,
            "frechet": reference.frechet,
            "accuracy": reference.accuracy.value,
        },
        "rows": kept.get("rows", [])
        if kept.get("training", {}).get("steps") == training["steps"]
        else [],
    }
    print(
        f"{reference.n} test pictures against the others: Frechet {reference.frechet:.1f}",
        flush=True,
    )
    measure(model, judge, record, args)
    print(table(record["rows"]))
    if args.png:
        plot(record, args.png)


if __name__ == "__main__":
    main()
