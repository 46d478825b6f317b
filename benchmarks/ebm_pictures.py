"""An energy of pictures: what its chains look like as they go on, and what it finds strange.

    python benchmarks/ebm_pictures.py [--data digits] [--seconds 90] [--run FOLDER]

The family ebm is fitted to the training pictures for the given time with its default settings,
leaving checkpoints (run again, it goes on) and an artifact. Then

- chains walk on its energy at temperature 1 with a Metropolis test, started at training pictures
  blurred at the model's level ("data") and at a Gaussian brought down the levels ("noise"; the
  gradients spent on the way count as steps). After 100, 1,000 and 5,000 steps they are compared with
  the test pictures on the features of a classifier of the same data (`picture_features`): Frechet
  distance, accuracy of a forest. Pictures are compared after one denoising step, as the family's
  `sample` gives them, and as the chains stand ("raw") with test pictures that carry the same noise.
  Told beside: how far chains moved, in units of the distance between two test pictures, and how many
  changed their class;
- the anomaly score of test pictures is set against that of pictures that do not belong
  (`picture_sets.strange_pictures`): AUROC.

Prints tables, writes ``results/ebm_pictures_DATA.json`` and a PNG with a row for each state.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from picture_features import CACHE, Judge
from picture_sets import SETS, PictureSet, load_pictures, strange_pictures
from PIL import Image
from torch import Tensor

import energyscape
from energyscape.data import Dataset
from energyscape.families import EBM
from energyscape.mcmc import run_chains
from energyscape.metrics import auroc, frechet_distance, two_sample_accuracy

HERE = Path(__file__).resolve().parent
STEPS = (100, 1_000, 5_000)
SHOWN = 16


def fitted(data: PictureSet, run: Path, seconds: float) -> EBM:
    """The family after `seconds` of training: from its artifact, or trained, or trained on."""
    if (run / "manifest.json").is_file():
        return cast(EBM, energyscape.load(run))
    pictures = Dataset("pictures", data.name, pictures=data.train[..., None])
    resume = (run / "train" / "run.json").is_file()
    return EBM(random_state=0).fit_run(pictures, run, resume=resume, time_limit=seconds)


class Chains:
    """Chains on a fitted energy, where they started, and what they look like."""

    def __init__(self, model: EBM, judge: Judge, n: int, seed: int) -> None:
        self.model, self.judge, self.n = model, judge, n
        self.rng = torch.Generator().manual_seed(seed)
        self.energy = cast(Any, model.model_)
        self.kernel = model._kernel("mala")
        self.sigma = float(self.energy.sigma)
        test = judge.data.test
        x = self.blurred(test[: 2 * n])
        half = len(x) // 2
        self.apart = float((x[:half] - x[half : 2 * half]).flatten(1).norm(dim=1).mean())
        self.real = judge.features(self.seen(x))

    def blurred(self, pictures: np.ndarray) -> Tensor:
        """Encoded pictures with the noise of the model's level."""
        x = self.model.encode(pictures).float()
        return x + self.sigma * torch.randn(x.shape, generator=self.rng)

    def seen(self, x: Tensor) -> np.ndarray:
        """Encoded rows as pictures (n, H, W)."""
        return np.asarray(self.model.codec_.decode(x.double().numpy()))[..., 0]

    def start(self, kind: str) -> tuple[Tensor, int]:
        """First states, and the gradients that they cost."""
        if kind == "data":
            rows = np.random.default_rng(1).permutation(len(self.judge.data.train))[: self.n]
            return self.blurred(self.judge.data.train[rows]), 0
        return self.model.from_noise(self.n, self.rng), 63

    def look(self, x: Tensor, first: Tensor, classes: np.ndarray) -> dict[str, Any]:
        """Every measure of one state."""
        raw = self.judge.features(self.seen(x))
        clean = self.seen(self.model._finish(x))
        likeness = self.judge.compare(clean)
        with torch.no_grad():
            energy = self.energy(x).double()
        accuracy = two_sample_accuracy(self.real, raw, np.random.default_rng(0), repeats=1)
        return {
            "frechet": likeness.frechet,
            "accuracy": likeness.accuracy.value,
            "accuracy_stderr": likeness.accuracy.stderr,
            "raw_frechet": frechet_distance(self.real, raw),
            "raw_accuracy": accuracy.value,
            "energy": float(energy.mean()),
            "moved": float((x - first).flatten(1).norm(dim=1).mean()) / self.apart,
            "changed_class": float((self.judge.classify(clean) != classes).mean()),
            "classes": self.judge.classes(clean).round(3).tolist(),
        }

    def walk(self, kind: str, most: int) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """Measures and pictures of chains from one start, at the start and after each of STEPS."""
        x, done = self.start(kind)
        first = x
        classes = self.judge.classify(self.seen(self.model._finish(x)))
        rows = [{"start": kind, "steps": done, **self.look(x, first, classes)}]
        strips = [self.seen(self.model._finish(x[:SHOWN]))]
        for steps in (s for s in STEPS if s <= most):
            began = time.process_time()
            target = self.energy.at(None)
            states = run_chains(self.kernel, target, x, steps - done, rng=self.rng, keep="last")
            x, done = states.x, steps
            acceptance = float(states.info.acceptance.mean())
            cost = {"cpu_seconds": time.process_time() - began, "acceptance": acceptance}
            rows.append({"start": kind, "steps": steps, **self.look(x, first, classes), **cost})
            strips.append(self.seen(self.model._finish(x[:SHOWN])))
            print(line(rows[-1]), flush=True)
        return rows, strips


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"{row['start']:6}{row['steps']:7}{row['frechet']:9.1f}{row['accuracy']:8.3f}"
        f" ± {row['accuracy_stderr']:.3f}{row['raw_frechet']:9.1f}{row['raw_accuracy']:8.3f}"
        f"{row['energy']:10.1f}{row['moved']:8.2f}{row['changed_class']:8.2f}"
    )


HEAD = (
    f"{'start':6}{'steps':>7}{'Frechet':>9}{'accuracy':>16}{'raw':>9}{'raw':>8}{'energy':>10}"
    f"{'moved':>8}{'changed':>8}"
)


def detection(model: EBM, data: PictureSet, n: int) -> dict[str, float]:
    """AUROC of test pictures against strange ones, by kind."""
    usual = data.test[-n:]
    rng = np.random.default_rng(0)
    scores = model.anomaly_score(usual)
    found = {}
    for name, pictures in strange_pictures(data.test[:n], data.levels, rng).items():
        labels = np.repeat([0, 1], [len(usual), len(pictures)])
        found[name] = auroc(labels, np.concatenate([scores, model.anomaly_score(pictures)]))
    return found


def sheet(strips: list[np.ndarray], top: int, path: Path) -> None:
    """A PNG with a row of pictures for each strip, twice as large where they are small."""
    rows = [np.concatenate(list(strip), axis=1) for strip in strips]
    grey = np.concatenate(rows).astype(np.float64) * (255 / top)
    picture = Image.fromarray(grey.round().astype(np.uint8))
    scale = max(1, 28 // strips[0].shape[1])
    size = (picture.width * scale, picture.height * scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)


def measured(model: EBM, data: PictureSet, options: argparse.Namespace) -> dict[str, Any]:
    """Everything but the training, as plain values; writes the sheet."""
    judge = Judge(data, options.cache)
    chains = Chains(model, judge, options.chains, seed=0)
    n = min(options.chains, len(data.test) // 2)
    reference = judge.reference(n)
    print(f"classifier: test accuracy {judge.test_accuracy:.4f}")
    print(
        f"{n} test pictures against the others: Frechet distance {reference.frechet:.1f}, "
        f"accuracy {reference.accuracy.value:.3f} ± {reference.accuracy.stderr:.3f}\n{HEAD}"
    )
    table: list[dict[str, Any]] = []
    strips = [data.test[:SHOWN]]
    for kind in options.starts:
        rows, pictures = chains.walk(kind, options.most)
        table += rows
        strips += pictures
    sheet(strips, data.levels - 1, options.png)
    found = detection(model, data, min(1000, len(data.test) // 2))
    print("\nAUROC of the anomaly score: test pictures against")
    for name, value in found.items():
        print(f"  {name:28}{value:.3f}")
    print(f"  {'mean':28}{np.mean(list(found.values())):.3f}")
    return {
        "classifier_test_accuracy": judge.test_accuracy,
        "chains": options.chains,
        "noise_level": chains.sigma,
        "reference": {
            "n": n,
            "frechet": reference.frechet,
            "accuracy": reference.accuracy.value,
        },
        "walks": table,
        "auroc": found,
    }


def main() -> None:
    """Train or load, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", choices=SETS, default="digits")
    parser.add_argument("--seconds", type=float, default=90.0, help="of training")
    parser.add_argument("--run", type=Path, help="folder of the run; default: in the cache")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--chains", type=int, default=300)
    parser.add_argument("--most", type=int, default=STEPS[-1], help="the most steps of a chain")
    parser.add_argument("--starts", nargs="+", default=["data", "noise"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    data = load_pictures(options.data)
    run = options.run or options.cache / f"ebm-{data.name}"
    name = f"ebm_pictures_{data.name}"
    options.out = options.out or HERE / "results" / f"{name}.json"
    options.png = options.png or options.cache / f"{name}.png"
    began = time.process_time()
    model = fitted(data, run, options.seconds)
    cpu = time.process_time() - began
    found = measured(model, data, options)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "data": data.name,
        "settings": model.get_params(),
        "training": {k: model.info_[k] for k in ("steps", "seconds", "parameters", "seed")}
        | {"cpu_seconds_of_this_process": cpu},
        "model_sha256": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "machine": {"processor": platform.processor(), "threads": torch.get_num_threads()},
        "load_average": os.getloadavg()[0],
        "versions": {
            package: metadata.version(package)
            for package in ("energyscape", "torch", "numpy", "scikit-learn")
        }
        | {"python": platform.python_version()},
        **found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(_finite(record), indent=1) + "\n")
    print(f"\n{options.out}\n{options.png}")


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
