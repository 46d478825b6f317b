"""How wrong a learned score is at each noise level, on mixtures whose score is known.

Ten Gaussians of standard deviation 0.75 with means drawn from N(0, 2.9^2 I), in 2, 10 and 50
dimensions, 20,000 rows. Every method trains a residual perceptron of the same width and depth for the
same steps, batches, learning rates and averaged weights (the library's loop); they differ in the face
of the model and in the loss:

    NCSN                 ScorePreconditioning, levels of a geometric ladder, weight 1/sigma^2
    NCSN, EDM's skip     EDMPreconditioning, the same ladder and weight: the default of ncsn
    NCSN, energy         the same ladder, EDM's weight, the denoiser of a PreconditionedEnergy
    EDM                  EDMPreconditioning and level law, the scale of the data measured
    EDM, energy          the same loss on the denoiser of a PreconditionedEnergy: a scalar network
    NCSN, stable         NCSN with EDM's skip and EDM, learned from the mean of the possible origins
    EDM, stable          in the batch of each noisy row (the targets of ncsn and edm, whose
                         levels on tables of 1,000 rows are lower than these)
    EDM, energy, stable
    azula                KarrasDenoiser with its own loss, VESchedule over the ladder's range
    azula, scaled        the same on rows divided by their scale, which it takes to be 1
    torchebm             DenoisingScoreMatching of an energy: one model for each level, all steps each
    a level each         the library's DenoisingScoreMatching of a PreconditionedEnergy told its level,
                         one model for each level and all steps each, opposite noise on the first half
                         of each batch, so that a step takes as many evaluations of the network

What is fair: a model of one level has four times the steps for these four levels, and need not know
any other, so torchebm stands beside ours of a level each, and azula, which learns all levels in one
run, beside EDM. azula takes the scale of the rows to be 1, which is wrong here: both uses are shown.
A gain at one level may be a loss at another, so the geometric mean over levels is told too.

Reported: root mean square of ``s - grad log p_sigma`` over that of ``grad log p_sigma``, over 20,000
draws of p_sigma, averaged over seeds. The mixtures are those of seeds 0 and up; nothing was chosen on
them.

    python benchmarks/score_accuracy.py [--seeds 2] [--steps 1500] [--seconds S] [--methods NAME ...]
        [--out FILE]

Results are written as they come; run again with the same FILE it trains only what is not there, and
it stops before the next training after S seconds. Peers that cannot be imported are left out, and
named.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture
from energyscape.models import (
    EDMPreconditioning,
    EnergyDenoiser,
    NetworkEnergy,
    PreconditionedDenoiser,
    PreconditionedEnergy,
    ScorePreconditioning,
)
from energyscape.nn import ResidualMLP
from energyscape.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    LossOutput,
    edm_weight,
    simple_weight,
)
from energyscape.schedules import EDM, Geometric, Ladder
from energyscape.training import TrainConfig, train

LEVELS = (0.3, 1.0, 3.0, 9.0)
LADDER = (0.1, 30.0)
PUBLISHED_WEIGHT = ("NCSN", "NCSN, EDM's skip")
FACES = (*PUBLISHED_WEIGHT, "NCSN, energy", "EDM", "EDM, energy")
STABLE = ("NCSN, stable", "EDM, stable", "EDM, energy, stable")
Score = Callable[[Tensor, float], Tensor]


def mixture(dim: int, seed: int) -> GaussianMixture:
    """The density of one repeat."""
    rng = torch.Generator().manual_seed(1000 + seed)
    means = 2.9 * torch.randn(10, dim, generator=rng, dtype=torch.float64)
    return GaussianMixture.isotropic(means, 0.75)


class PeerObjective:
    """A peer's loss, a mean over the batch, as an objective of the loop."""

    needs_double_backward = True

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        self.loss = loss

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> None:
        """No state."""

    def __call__(
        self, model: nn.Module, x: Tensor, aux: Any, rng: torch.Generator, *, label: Any = None
    ) -> LossOutput:
        """The mean, once a row."""
        return LossOutput(self.loss(x).expand(len(x)), None, {})


class Backbone(nn.Module):
    """The network with a level of any shape, as azula calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The field at this level, shape of x."""
        return self.network(x, time.reshape(-1).expand(len(x)))


def network(dim: int, seed: int, **kind: Any) -> ResidualMLP:
    """The network of every method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualMLP((dim,), width=128, blocks=2, **kind)


Trainer = Callable[[int, Tensor, TrainConfig], Score]


def composed(face: str) -> Trainer:
    """A composition of the library that learns all levels at once."""

    def fit(dim: int, x: Tensor, config: TrainConfig) -> Score:
        scale = float(x.std(0).square().mean().sqrt())
        ladder, law = Ladder(Geometric(*LADDER).levels(30)), EDM.for_data(scale)
        field = network(dim, config.seed, scalar="energy" in face)
        denoiser: nn.Module
        if "energy" in face:
            denoiser = EnergyDenoiser(PreconditionedEnergy(field, scale))
        elif face == "NCSN":
            denoiser = PreconditionedDenoiser(field, ScorePreconditioning(scale))
        else:
            denoiser = PreconditionedDenoiser(field, EDMPreconditioning(scale))
        published = face in (*PUBLISHED_WEIGHT, "NCSN, stable")
        weight = simple_weight if published else edm_weight(scale)
        loss = DenoisingLoss(ladder if "NCSN" in face else law, weight, stable=face in STABLE)
        model: Any = train(denoiser, loss, x, config=config).model
        return lambda y, sigma: model.score(y, sigma)

    return fit


class OppositeHalf(PeerObjective):
    """Denoising at one level with opposite noise on half of the rows: the evaluations of a batch."""

    def __init__(self, sigma: float) -> None:
        self.objective = DenoisingScoreMatching(sigma, conditional=True, antithetic=True)

    def __call__(
        self, model: nn.Module, x: Tensor, aux: Any, rng: torch.Generator, *, label: Any = None
    ) -> LossOutput:
        """The losses of the first half of the rows, twice."""
        half = self.objective(model, x[: len(x) // 2], aux, rng).loss
        return LossOutput(torch.cat([half, half]), None, {})


def one_level(sigma: float) -> Trainer:
    """An energy of one level, as the library would."""

    def fit(dim: int, x: Tensor, config: TrainConfig) -> Score:
        scale = float(x.std(0).square().mean().sqrt())
        energy = PreconditionedEnergy(network(dim, config.seed, scalar=True), scale)
        model = train(energy, OppositeHalf(sigma), x, config=config).model
        return lambda y, level: model.score(y, level)

    return fit


def azula(scaled: bool) -> Trainer:
    """KarrasDenoiser on the rows as they are, or on rows of unit scale."""

    def fit(dim: int, x: Tensor, config: TrainConfig) -> Score:
        from azula.denoise import KarrasDenoiser
        from azula.noise import VESchedule

        unit = float(x.std(0).square().mean().sqrt()) if scaled else 1.0
        schedule = VESchedule(LADDER[0] / unit, LADDER[1] / unit)
        model = KarrasDenoiser(Backbone(network(dim, config.seed)), schedule)
        objective = PeerObjective(lambda z: model.loss(z, torch.rand(len(z))))
        trained: Any = train(model, objective, x / unit, config=config).model

        def score(y: Tensor, sigma: float) -> Tensor:
            span = np.log(LADDER[1] / LADDER[0])
            t = torch.tensor(np.log(sigma / LADDER[0]) / span, dtype=y.dtype)
            mean = trained(y / unit, t.expand(len(y))).mean * unit
            return (mean - y) / sigma**2

        return score

    return fit


def torchebm(sigma: float) -> Trainer:
    """An energy of one level by torchebm's loss."""

    def fit(dim: int, x: Tensor, config: TrainConfig) -> Score:
        from torchebm.losses import DenoisingScoreMatching as Peer

        energy = NetworkEnergy(network(dim, config.seed, scalar=True, noise=False))
        loss = Peer(model=energy, noise_scale=sigma)
        model = train(energy, PeerObjective(loss), x, config=config).model
        return lambda y, level: model.score(y)

    return fit


def jobs() -> list[tuple[str, tuple[float, ...], Trainer]]:
    """All trainings of a repeat: the method's name, the levels it is good for, and how."""
    found: list[tuple[str, tuple[float, ...], Trainer]] = [
        (face, LEVELS, composed(face)) for face in (*FACES, *STABLE)
    ]
    found += [("azula", LEVELS, azula(False)), ("azula, scaled", LEVELS, azula(True))]
    for sigma in LEVELS:
        found.append(("torchebm", (sigma,), torchebm(sigma)))
        found.append(("a level each", (sigma,), one_level(sigma)))
    return found


def relative_error(p: GaussianMixture, score: Score, sigma: float, seed: int) -> float:
    """Root mean square error of a score under p_sigma, over that of the truth."""
    y = p.sample(20_000, torch.Generator().manual_seed(seed), sigma)
    truth = p.score(y, sigma)
    with torch.no_grad():
        found = torch.cat([score(part.float(), sigma) for part in y.split(5000)]).double()
    return float(((found - truth).square().sum() / truth.square().sum()).sqrt())


def show(errors: dict[str, dict[str, float]]) -> None:
    """A table for each dimension: means over the seeds a method ran with, and how many those are."""
    for dim in sorted({key.split(", seed")[0] for key in errors}, key=lambda d: int(d.split()[0])):
        repeats = [found for key, found in errors.items() if key.startswith(dim)]
        shown = ", ".join(f"{s:g}" for s in LEVELS)
        print(f"{dim}; relative error at {shown}, and the geometric mean (seeds)")
        for name in dict.fromkeys(name for name, _, _ in jobs()):
            keys = [f"{name} @ {s:g}" for s in LEVELS]
            whole = [found for found in repeats if all(key in found for key in keys)]
            if not whole:
                continue
            line = [float(np.mean([found[key] for found in whole])) for key in keys]
            line.append(float(np.exp(np.mean(np.log(line)))))
            print(f"  {name:20}" + "".join(f"{value:9.4f}" for value in line) + f"  ({len(whole)})")


def main() -> None:
    """Train what is not on record, write each result as it comes, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--methods", nargs="+", help="by the names above; all by default")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"steps": args.steps, "batch": 256, "rows": 20_000, "rate": 1e-3},
        "missing": [],
        "processor seconds": {},
        "relative error": {},
    }
    if args.out and args.out.is_file():
        earlier = json.loads(args.out.read_text())
        if earlier["settings"] != record["settings"]:
            raise SystemExit(f"{args.out} is of other settings: {earlier['settings']}")
        record |= {key: earlier[key] for key in ("processor seconds", "relative error")}
    for seed in range(args.seeds):
        for dim in args.dims:
            p = mixture(dim, seed)
            x = p.sample(20_000, torch.Generator().manual_seed(seed)).float()
            config = TrainConfig(
                max_steps=args.steps, batch_size=256, learning_rate=1e-3, seed=seed, device="cpu"
            )
            errors = record["relative error"].setdefault(f"{dim} dimensions, seed {seed}", {})
            for name, levels, trainer in jobs():
                if args.methods and name not in args.methods:
                    continue
                if all(f"{name} @ {s:g}" in errors for s in levels):
                    continue
                if time.monotonic() - began > args.seconds:
                    show(record["relative error"])
                    return
                spent = time.process_time()
                torch.manual_seed(seed)
                try:
                    score = trainer(dim, x, config)
                except ImportError as error:
                    record["missing"] += [name] if name not in record["missing"] else []
                    print(f"{name} is left out: {error}")
                    continue
                spent = time.process_time() - spent
                record["processor seconds"].setdefault(name, []).append(round(spent, 1))
                for sigma in levels:
                    errors[f"{name} @ {sigma:g}"] = relative_error(p, score, sigma, 50 + seed)
                    print(f"{dim}, {seed}, {name} @ {sigma:g}", errors[f"{name} @ {sigma:g}"])
                if args.out:
                    args.out.write_text(json.dumps(record, indent=2) + "\n")
    show(record["relative error"])


if __name__ == "__main__":
    main()
