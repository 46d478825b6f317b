"""Pictures after the same time of training: our edm, diffusers' DDPM and azula's Karras denoiser.

    python benchmarks/picture_peers.py [--seconds 600] [--samples 1000] [--methods edm ...]
        [--run FOLDER]

All networks have about 1.6 million parameters (`picture_throughput.py`), all train for the same time
of one core (ours by the clock, peers by what the processor spent on them, so that other work on the
machine costs them nothing) on MNIST's training pictures and draw from an average of their weights:

    edm        the family with its defaults
    edm_grey   the same with `grey_network=True`, which is for densities of grey levels
    diffusers  UNet2DModel, the noise of its DDPMScheduler (1,000 linear steps), the error of the noise;
               drawn by its DPMSolverMultistepScheduler in 20 steps and by its DDIM in 50
    azula      UNet and KarrasDenoiser, VPSchedule at uniform times, its own loss; drawn by its
               HeunSampler in 18 steps and by its DDIMSampler in 50

All in float32. Peers take batches of 64, AdamW with 100 steps of warm-up and a fall to 0 in the second
half, gradients clipped at 1 and weights averaged over 0.999; the best of `--rates` counts (ours has its
own), and the better of a peer's two samplers. With `--run` ours stay in that folder, each by its
method, for `quality_per_evaluation.py` and `picture_model.py`. Drawn pictures are compared with the
test pictures on the features of a classifier (`picture_features.py`): Frechet distance, and accuracy of
a forest (0.5 is best); what as many test pictures reach is told too. Peers that are not installed are
left out. Rows of ``results/picture_peers.json`` that this run does not replace are kept.
"""

from __future__ import annotations

import abc
import argparse
import copy
import datetime
import importlib.util
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_features import Judge
from picture_sets import PictureSet, load_pictures
from picture_throughput import Azula, Diffusers
from torch import Tensor, nn

from energyscape import EDM
from energyscape.data import Dataset

RESULTS = Path(__file__).resolve().parent / "results" / "picture_peers.json"
BATCH, WARMUP, DECAY = 64, 100, 0.999
#: What each method draws with.
DRAWN = {
    "edm": ("heun, 18 steps", "sde_heun, 18 steps"),
    "edm_grey": ("heun, 18 steps", "sde_heun, 18 steps"),
    "diffusers": ("DPM-Solver++, 20 steps", "DDIM, 50 steps"),
    "azula": ("Heun, 18 steps", "DDIM, 50 steps"),
}


def batches(pictures: np.ndarray, seed: int) -> Iterator[Tensor]:
    """Pictures in [-1, 1] without end, shape (64, 1, H, W)."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(pictures))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            part = pictures[np.sort(order[first : first + BATCH])]
            yield torch.from_numpy(part)[:, None].float() / 127.5 - 1


def trained(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    data: Iterator[Tensor],
    seconds: float,
    rate: float,
) -> tuple[nn.Module, int]:
    """The averaged network after so many seconds of a core, and how many steps those were."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, fused=True)
    mean, steps, began = copy.deepcopy(net), 0, time.process_time()
    while time.process_time() - began < seconds:
        for group in optimizer.param_groups:
            gone = (time.process_time() - began) / seconds
            group["lr"] = rate * min(1.0, (steps + 1) / WARMUP, 2 * max(1 - gone, 0.01))
        optimizer.zero_grad()
        loss(next(data)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        steps += 1
        decay = min(DECAY, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)
    return mean.eval(), steps


def in_parts(n: int, shape: tuple[int, ...], draw: Callable[[Tensor], Tensor]) -> np.ndarray:
    """What `draw` makes of standard normal pictures, as grey levels (n, H, W)."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        parts = [
            draw(torch.randn(min(100, n - i), *shape, generator=rng)) for i in range(0, n, 100)
        ]
    drawn = ((torch.cat(parts)[:, 0] + 1) * 127.5).round().clamp(0, 255)
    return drawn.to(torch.uint8).numpy()


class Method(abc.ABC):
    """Trains for some seconds; `steps` is how many steps those were."""

    steps, seconds = 0, 0.0

    @abc.abstractmethod
    def __init__(
        self, data: PictureSet, seconds: float, seed: int, rate: float, run: Path | None
    ) -> None: ...

    @abc.abstractmethod
    def draw(self, how: str, n: int) -> np.ndarray:
        """Pictures (n, H, W) as grey levels."""


class Ours(Method):
    """The family edm."""

    grey = False

    def __init__(
        self, data: PictureSet, seconds: float, seed: int, rate: float, run: Path | None
    ) -> None:
        self.model = EDM(
            time_limit=seconds, precision="float32", grey_network=self.grey, random_state=seed
        )
        began, last = time.perf_counter(), 0.0

        def watch(progress: Any) -> None:
            nonlocal last
            if progress.phase == "training":
                last = time.perf_counter() - began

        pictures = Dataset("pictures", data.name, pictures=data.train[..., None])
        with tempfile.TemporaryDirectory() as folder:
            self.model.fit_run(pictures, run or Path(folder) / "run", progress=watch)
        self.steps, self.seconds = int(self.model.info_["steps"]), last

    def draw(self, how: str, n: int) -> np.ndarray:
        """By 18 steps of Heun, without noise or with."""
        sampler = how.split(",")[0]
        drawn = np.asarray(self.model.sample(n, sampler=sampler, steps=18, random_state=1))
        return drawn[..., 0] if drawn.ndim == 4 else drawn


class OursOfGreyLevels(Ours):
    """The family edm with a network for few grey levels."""

    grey = True


class OfDiffusers(Method):
    """UNet2DModel with DDPMScheduler."""

    def __init__(
        self, data: PictureSet, seconds: float, seed: int, rate: float, run: Path | None
    ) -> None:
        torch.manual_seed(seed)
        made = Diffusers()
        from diffusers import DDPMScheduler

        self.noise = DDPMScheduler(num_train_timesteps=1000)

        def loss(x: Tensor) -> Tensor:
            eps, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
            noisy = self.noise.add_noise(x, eps, t)
            return (self.net(noisy, t) - eps).square().mean()

        self.net: Callable[[Tensor, Tensor], Tensor] = lambda x, t: made.net(x, t).sample
        mean, self.steps = trained(made, loss, batches(data.train, seed), seconds, rate)
        self.net = lambda x, t: mean.net(x, t).sample  # type: ignore[operator, union-attr]
        self.seconds = seconds

    def draw(self, how: str, n: int) -> np.ndarray:
        """By its own schedulers."""
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        kind, steps = (
            (DDIMScheduler, 50) if how.startswith("DDIM") else (DPMSolverMultistepScheduler, 20)
        )

        def draw(x: Tensor) -> Tensor:
            scheduler = kind.from_config(self.noise.config, timestep_spacing="linspace")
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                x = scheduler.step(self.net(x, t), t, x).prev_sample
            return x

        return in_parts(n, (1, 28, 28), draw)


class OfAzula(Method):
    """UNet in a Karras denoiser."""

    def __init__(
        self, data: PictureSet, seconds: float, seed: int, rate: float, run: Path | None
    ) -> None:
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule

        torch.manual_seed(seed)
        denoiser = KarrasDenoiser(Azula(), VPSchedule())
        mean, self.steps = trained(
            denoiser,
            lambda x: denoiser.loss(x, torch.rand(len(x))),
            batches(data.train, seed),
            seconds,
            rate,
        )
        self.denoiser, self.seconds = mean, seconds

    def draw(self, how: str, n: int) -> np.ndarray:
        """By its own samplers."""
        from azula.sample import DDIMSampler, HeunSampler

        kind, steps = (DDIMSampler, 50) if how.startswith("DDIM") else (HeunSampler, 18)
        sampler = kind(self.denoiser, steps=steps, silent=True)
        return in_parts(n, (1, 28, 28), sampler)


METHODS: dict[str, type[Method]] = {
    "edm": Ours,
    "edm_grey": OursOfGreyLevels,
    "diffusers": OfDiffusers,
    "azula": OfAzula,
}
OURS = ("edm", "edm_grey")


def measured(method: str, data: PictureSet, judge: Judge, args: Any) -> dict[str, Any]:
    """Train, draw, compare."""
    tried: list[dict[str, Any]] = []
    rates = [0.0] if method in OURS else args.rates
    tries = [(rate, how) for rate in rates for how in DRAWN[method]]
    made: Method | None = None
    for rate, how in tries:
        if made is None or how == DRAWN[method][0]:
            made = METHODS[method](
                data, args.seconds, args.seed, rate, args.run and args.run / method
            )
        began = time.process_time()
        drawn = made.draw(how, args.samples)
        spent = time.process_time() - began
        found = judge.compare(drawn, seed=args.seed, trees=40)
        tried.append(
            {
                "rate": rate or None,
                "steps": made.steps,
                "training_seconds": round(made.seconds, 1),
                "sampler": how,
                "frechet": found.frechet,
                "accuracy": found.accuracy.value,
                "rarest_class": float(judge.classes(drawn).min()),
                "drawing_seconds": round(spent, 1),
            }
        )
    # Ours is told by its first sampler, a peer by the better of its two.
    best = tried[0] if method in OURS else min(tried, key=lambda t: t["frechet"])
    return {
        "method": method,
        "data": data.name,
        "seed": args.seed,
        "seconds": args.seconds,
        "samples": args.samples,
        **best,
        "tried": tried,
    }


def main() -> None:
    """Measure, print, write after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 1e-3], help="of peers")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--run", type=Path, help="a new folder for our runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # breaks if not torch's own
    warnings.simplefilter("ignore")
    data = load_pictures("mnist")
    judge = Judge(data)
    known = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "threads": 1,
        "torch": torch.__version__,
        "reference": judge.reference(args.samples)._asdict()["frechet"],
        "rows": known,
    }
    for method in args.methods:
        if method not in OURS and importlib.util.find_spec(method) is None:
            print(f"{method} is not installed: left out")
            continue
        if method not in OURS:
            record[method] = metadata.version(method)
        row = measured(method, data, judge, args)
        key = ("method", "data", "seed", "seconds", "samples")
        record["rows"] = [r for r in record["rows"] if any(r[k] != row[k] for k in key)] + [row]
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        print({k: v for k, v in row.items() if k != "tried"}, flush=True)


if __name__ == "__main__":
    main()
