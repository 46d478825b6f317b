"""How wrong a learned score is at each noise level, on mixtures whose score is known.

Ten Gaussians of standard deviation 0.75 with means drawn from N(0, 2.9^2 I), in 2, 10 and 50
dimensions, 20,000 rows. Every method trains a residual perceptron of the same width and depth for the
same steps, batches, learning rates and averaged weights (the library's loop); they differ in the face
of the model and in the loss:

    NCSN                 ScorePreconditioning, levels of a geometric ladder, weight 1/sigma^2
    EDM                  EDMPreconditioning and level law, the scale of the data measured
    EDM, energy          the same loss on the denoiser of a PreconditionedEnergy: a scalar network
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

    python benchmarks/score_accuracy.py [--seeds 2] [--steps 1500] [--out FILE]

Peers that cannot be imported are left out, and named.
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


def ours(dim: int, x: Tensor, config: TrainConfig) -> dict[str, Score]:
    """Three compositions of the library that learn all levels at once."""
    scale = float(x.std(0).square().mean().sqrt())
    ladder = Ladder(Geometric(*LADDER).levels(30))
    edm = DenoisingLoss(EDM.for_data(scale), edm_weight(scale))
    field = network(dim, config.seed)
    scalar = PreconditionedEnergy(network(dim, config.seed, scalar=True), scale)
    pairs = {
        "NCSN": (
            PreconditionedDenoiser(field, ScorePreconditioning(scale)),
            DenoisingLoss(ladder, simple_weight),
        ),
        "EDM": (
            PreconditionedDenoiser(network(dim, config.seed), EDMPreconditioning(scale)),
            edm,
        ),
        "EDM, energy": (EnergyDenoiser(scalar), edm),
    }
    found: dict[str, Score] = {}
    for name, (denoiser, objective) in pairs.items():
        model = train(denoiser, objective, x, config=config).model
        found[name] = lambda y, s, m=model: m.score(y, s)
    return found


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


def a_level_each(dim: int, x: Tensor, config: TrainConfig) -> dict[str, Score]:
    """An energy a level, as the library would."""
    scale = float(x.std(0).square().mean().sqrt())
    models = {}
    for sigma in LEVELS:
        energy = PreconditionedEnergy(network(dim, config.seed, scalar=True), scale)
        models[sigma] = train(energy, OppositeHalf(sigma), x, config=config).model
    return {"a level each": lambda y, sigma: models[sigma].score(y, sigma)}


def azula(dim: int, x: Tensor, config: TrainConfig) -> dict[str, Score]:
    """KarrasDenoiser on the rows as they are, and on rows of unit scale."""
    from azula.denoise import KarrasDenoiser
    from azula.noise import VESchedule

    scale = float(x.std(0).square().mean().sqrt())
    found: dict[str, Score] = {}
    for name, unit in {"azula": 1.0, "azula, scaled": scale}.items():
        schedule = VESchedule(LADDER[0] / unit, LADDER[1] / unit)
        model = KarrasDenoiser(Backbone(network(dim, config.seed)), schedule)
        objective = PeerObjective(lambda z, m=model: m.loss(z, torch.rand(len(z))))
        trained = train(model, objective, x / unit, config=config).model

        def score(y: Tensor, sigma: float, m: Any = trained, u: float = unit) -> Tensor:
            span = np.log(LADDER[1] / LADDER[0])
            t = torch.tensor(np.log(sigma / LADDER[0]) / span, dtype=y.dtype)
            mean = m(y / u, t.expand(len(y))).mean * u
            return (mean - y) / sigma**2

        found[name] = score
    return found


def torchebm(dim: int, x: Tensor, config: TrainConfig) -> dict[str, Score]:
    """An energy a level."""
    from torchebm.losses import DenoisingScoreMatching

    models = {}
    for sigma in LEVELS:
        energy = NetworkEnergy(network(dim, config.seed, scalar=True, noise=False))
        loss = DenoisingScoreMatching(model=energy, noise_scale=sigma)
        models[sigma] = train(energy, PeerObjective(loss), x, config=config).model
    return {"torchebm": lambda y, sigma: models[sigma].score(y)}


def relative_error(p: GaussianMixture, score: Score, sigma: float, seed: int) -> float:
    """Root mean square error of a score under p_sigma, over that of the truth."""
    y = p.sample(20_000, torch.Generator().manual_seed(seed), sigma)
    truth = p.score(y, sigma)
    with torch.no_grad():
        found = torch.cat([score(part.float(), sigma) for part in y.split(5000)]).double()
    return float(((found - truth).square().sum() / truth.square().sum()).sqrt())


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    errors: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float] = {}
    missing: list[str] = []
    for dim in args.dims:
        for seed in range(args.seeds):
            p = mixture(dim, seed)
            x = p.sample(20_000, torch.Generator().manual_seed(seed)).float()
            config = TrainConfig(
                max_steps=args.steps, batch_size=256, learning_rate=1e-3, seed=seed, device="cpu"
            )
            for method in (ours, azula, torchebm, a_level_each):
                began = time.process_time()
                torch.manual_seed(seed)
                try:
                    scores = method(dim, x, config)
                except ImportError as error:
                    missing += [] if method.__name__ in missing else [method.__name__]
                    print(f"{method.__name__} is left out: {error}")
                    continue
                spent = time.process_time() - began
                seconds[method.__name__] = seconds.get(method.__name__, 0.0) + spent
                for name, score in scores.items():
                    for sigma in LEVELS:
                        found = relative_error(p, score, sigma, 50 + seed)
                        errors.setdefault(f"{dim}", {}).setdefault(f"{name} @ {sigma:g}", [])
                        errors[f"{dim}"][f"{name} @ {sigma:g}"].append(found)
    names = list(dict.fromkeys(key.split(" @ ")[0] for key in errors[f"{args.dims[0]}"]))
    for dim in args.dims:
        shown = ", ".join(f"{s:g}" for s in LEVELS)
        print(f"{dim} dimensions; relative error at {shown}, and the geometric mean")
        for name in names:
            line = [np.mean(errors[f"{dim}"][f"{name} @ {s:g}"]) for s in LEVELS]
            line.append(np.exp(np.mean(np.log(line))))
            print(f"  {name:16}" + "".join(f"{value:9.4f}" for value in line))
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"seeds": args.seeds, "steps": args.steps, "batch": 256, "rows": 20_000},
        "missing": missing,
        "processor seconds": {k: round(v, 1) for k, v in seconds.items()},
        "relative error": errors,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
