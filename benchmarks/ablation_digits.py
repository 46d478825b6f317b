"""What DDPM's parts are worth, on scikit-learn's digits: the published ablation in small.

    python benchmarks/ablation_digits.py [--steps 2000] [--seeds 0 1 2 3 4] [--variants eps-simple ...]
    python benchmarks/ablation_digits.py --data mnist --steps 1500 --seeds 0 --samples 400

The family ddpm with one part changed at a time: what is predicted (the noise, or the mean of the next
state, as in table 2 of 2006.11239, all of it or its difference from this state, which a perceptron
cannot copy as a UNet can; v as well, which asks less of a perceptron at large noise), the loss
(simple, the bound, both), how noise grows (linear, cosine, 2102.09672), and the variance of the reverse
steps (fixed at its lower or upper bound, or learned between them). Network (a perceptron of 3 blocks of
128), batches of 64, learning rate and number of steps are the same, all else is at its default; a tenth
of the training pictures validates. In each repeat 300 of the 1,797 are held out. On MNIST the network
is the family's own for pictures of that size, and `--samples` of the test pictures are taken.

    bits/dim   the bound on -log2 P of a held-out picture / 64 (noise is drawn within the cells of its
               grey levels, and the chain has a Gaussian decoder), 166 of the 1,000 steps, drawn so that
               their sum has no bias; the network in float32, all else in float64
    accuracy   of a forest in telling 300 held-out from 300 drawn pictures by their pixels (0.5
               is best), as in `quality_digits.py`
    Frechet    distance of 300 drawn to the 300 held-out pictures on the features of a classifier
               (`picture_features`): it cannot reach 0 with so few

Pictures are drawn by 250 ancestral steps of the respaced chain, those of a predicted mean, which knows
its own chain alone, by all 1,000. Estimates of x_0 are clipped to [-1, 1], but not those of a predicted
mean, which is taken as it is (as published). Each run is written to
``results/ablation_DATA.json`` when it is done, and not made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_features import Judge
from picture_sets import PictureSet, load_pictures
from torch import Tensor, nn

from energyscape.diffusion import BoundLoss, MeanPrediction, SimpleLoss, bound_by_step
from energyscape.families import DDPM
from energyscape.families.family import Composition
from energyscape.families.networks import field_network
from energyscape.metrics import mean_with_error, neighbour_ratio, two_sample_accuracy

RESULTS = Path(__file__).resolve().parent / "results"
#: What is trained, and the fixed variances that it is judged with.
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "eps-simple": ({}, ("fixed_small", "fixed_large")),
    "v-simple": ({"parametrisation": "v"}, ("fixed_small", "fixed_large")),
    "eps-bound": ({"loss": "bound"}, ("fixed_small", "fixed_large")),
    "eps-simple-cosine": ({"schedule": "cosine"}, ("fixed_small", "fixed_large")),
    "eps-hybrid-learned": ({"loss": "hybrid", "variance": "learned"}, ("learned",)),
    "mu-bound": ({"loss": "bound"}, ("fixed_small",)),
    "mu-simple": ({}, ("fixed_small",)),
    "mu-step-bound": ({"loss": "bound"}, ("fixed_small",)),
    "mu-step-simple": ({}, ("fixed_small",)),
    "eps-bound-learned": ({"loss": "bound", "variance": "learned"}, ("learned",)),
    "eps-hybrid-learned-cosine": (
        {"loss": "hybrid", "variance": "learned", "schedule": "cosine"},
        ("learned",),
    ),
}
MEASURES = ("bits_per_dim", "accuracy", "frechet", "neighbour_ratio")


class Step(nn.Module):
    """A network whose output is added to its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """The input and what the network adds."""
        moved: Tensor = x + self.net(x, *others)
        return moved


class MeanDDPM(DDPM):
    """The chain whose network predicts the mean of the next state; no denoiser, so it only draws."""

    adds = False

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        net = field_network(self.get_params(), facts)
        return MeanPrediction(Step(net) if self.adds else net)

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        chain = self._chain()
        if self.get_params()["loss"] == "bound":
            return Composition(model, BoundLoss(chain, self._variance, importance=True))
        return Composition(model, SimpleLoss(chain))

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        return {}


class StepDDPM(MeanDDPM):
    """The same, told by its difference from this state."""

    adds = True


def bits_per_dim(model: DDPM, pictures: np.ndarray, seed: int) -> tuple[float, float, list[float]]:
    """Mean over pictures, its standard error over them, and L_T, L_1.., L_0 apart; all in bits/dim."""
    encoded = model.codec_.encode(pictures[..., None], np.random.default_rng([seed, 7]))
    rng = torch.Generator().manual_seed(seed)
    found = bound_by_step(
        model.chain_, model.model_, torch.from_numpy(encoded.x), rng, most=250,
        variance=model._variance, clip=model._bound_clip,
    )  # fmt: skip
    unit = math.log(2) * pictures[0].size
    decoder = found.decoder - torch.from_numpy(encoded.log_abs_det)
    parts = [found.terminal, found.transitions, decoder]
    bits = sum(parts).numpy() / unit
    return (
        float(bits.mean()),
        float(bits.std(ddof=1) / math.sqrt(len(bits))),
        [float(part.mean()) / unit for part in parts],
    )


def trained(name: str, seed: int, steps: int, data: PictureSet) -> tuple[DDPM, float]:
    """A fitted variant, and the processor seconds it took."""
    settings, variances = VARIANTS[name]
    settings = {"variance": variances[0]} | settings
    family: type[DDPM] = DDPM
    if name.startswith("mu"):
        family = StepDDPM if name.startswith("mu-step") else MeanDDPM
    clip = {"clip": "none"} if issubclass(family, MeanDDPM) else {}
    small = {"width": 128, "blocks": 3} if data.name == "digits" else {}
    model = family(
        max_steps=steps, batch_size=64, calibration_fraction=0.0,
        validation_fraction=0.1 if small else 0.02, random_state=seed, **settings, **clip, **small,
    )  # fmt: skip
    began = time.process_time()
    model.fit(data.train)
    return model, time.process_time() - began


def judged(model: DDPM, data: PictureSet, judge: Judge, seed: int) -> dict[str, Any]:
    """Every measure of a fitted model at the variance it is set to."""
    bits, error, parts = bits_per_dim(model, data.test, seed)
    began = time.process_time()
    steps = None if isinstance(model, MeanDDPM) else 250
    drawn = model.sample(len(data.test), steps=steps, random_state=seed)
    drawn = np.asarray(drawn).reshape(data.test.shape)
    seconds = time.process_time() - began
    rng = np.random.default_rng(1000 + seed)
    told = two_sample_accuracy(data.test, drawn, rng, repeats=1, num_trees=200)
    return {
        "bits_per_dim": bits,
        "bits_stderr_over_pictures": error,
        "terminal_transitions_decoder": parts,
        "accuracy": told.value,
        "frechet": judge.compare(drawn, seed=seed).frechet,
        "neighbour_ratio": neighbour_ratio(data.train, data.test, drawn).value,
        "sampling_cpu_seconds": round(seconds, 1),
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard error over repeats."""
    rows = []
    keys = ("variant", "variance", "steps")
    for key in dict.fromkeys(tuple(run[k] for k in keys) for run in runs):
        own = [run for run in runs if tuple(run[k] for k in keys) == key]
        row: dict[str, Any] = dict(zip(keys, key, strict=True)) | {"repeats": len(own)}
        for name in MEASURES:
            row[name], error = mean_with_error([run[name] for run in own])
            row[f"{name}_stderr"] = error if len(own) > 1 else None
        rows.append(row)
    return rows


def table(runs: list[dict[str, Any]]) -> str:
    """The summary as text."""
    lines = [
        f"{'':38}{'steps':>7}{'bits/dim':>16}{'accuracy':>16}{'Frechet':>16}{'ratio':>16}  runs"
    ]
    for row in summary(runs):
        cells = [f"{row['variant'] + ', ' + row['variance']:38}{row['steps']:7}"]
        for name, digits in zip(MEASURES, (3, 3, 1, 3), strict=True):
            error = row[f"{name}_stderr"]
            told = "" if error is None else f" ± {error:.{digits}f}"
            cells.append(f"{row[name]:8.{digits}f}{told:8}")
        lines.append("".join(cells) + f"{row['repeats']:6}")
    return "\n".join(lines)


def main() -> None:
    """Train, judge, write after each run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument(
        "--samples", type=int, help="test pictures, and as many drawn; default: all"
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--most", type=int, default=1000, help="trainings before it stops for now")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or RESULTS / f"ablation_{args.data}.json"
    record = json.loads(args.out.read_text()) if args.out.is_file() else {"runs": []}
    runs, left = record["runs"], args.most
    for seed in args.seeds:
        data = load_pictures(args.data, seed)
        few = data._replace(test=data.test[: args.samples])
        judge: Judge | None = None
        for name in args.variants:
            done = [
                r for r in runs if (r["variant"], r["seed"], r["steps"]) == (name, seed, args.steps)
            ]
            if len(done) == len(VARIANTS[name][1]) or left == 0:
                continue
            left -= 1
            judge = judge or Judge(data)
            model, seconds = trained(name, seed, args.steps, data)
            for variance in VARIANTS[name][1]:
                model.set_params(variance=variance)
                runs.append(
                    {"variant": name, "variance": variance, "seed": seed, "steps": args.steps}
                    | judged(model, few, judge, seed)
                    | {"training_cpu_seconds": round(seconds, 1), "load": os.getloadavg()[0]}
                )
                shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in runs[-1].items()}
                print(shown, flush=True)
            record |= {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": {"processor": platform.processor(), "threads": torch.get_num_threads()},
                "versions": {n: metadata.version(n) for n in ("energyscape", "torch", "numpy")}
                | {"python": platform.python_version()},
                "summary": summary(runs),
                "runs": runs,
            }
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
