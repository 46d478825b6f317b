"""Bounds on log Z of three-component Gaussian mixtures, from a Gaussian base fitted to samples.

    python benchmarks/logz_bounds.py

Data: unit-variance components with means 4 apart (an equilateral triangle in the first two
coordinates), in 2, 8, 32 and 64 dimensions, shifted so that the true log Z is 7.5. The base sees 4,000
samples, the reverse run 2,000 others. Five seeds each; prints a table
and writes results/logz_bounds.json.
"""

from __future__ import annotations

import datetime
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.mcmc import GaussianBase, ais
from energyscape.targets import FunctionTarget, Target

TRUTH = 7.5


class Shifted:
    """A mixture whose log Z is `TRUTH`, with the closed-form score."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture

    def value(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x) + TRUTH

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, score = self.mixture.value_and_score(x)
        return value + TRUTH, score


def triangle(dim: int) -> GaussianMixture:
    """Three unit-variance components whose means are 4 apart."""
    means = torch.zeros(3, dim, dtype=torch.float64)
    means[1, 0] = 4.0
    means[2, 0], means[2, 1] = 2.0, 12.0**0.5
    return GaussianMixture.isotropic(means, 1.0)


def one_run(dim: int, seed: int) -> dict[str, float]:
    """One estimate with its bounds and time."""
    rng = torch.Generator().manual_seed(seed)
    mixture = triangle(dim)
    begin = time.perf_counter()
    base = GaussianBase.fit(mixture.sample(4000, rng))
    target: Target = Shifted(mixture)
    found = ais(target, base, rng=rng, samples=mixture.sample(2000, rng), num_chains=2000)
    assert found.upper is not None
    assert found.gap is not None
    return {
        "dim": dim,
        "seed": seed,
        "lower": found.lower - TRUTH,
        "estimate": found.estimate - TRUTH,
        "upper": found.upper - TRUTH,
        "gap": found.gap,
        "stderr": found.stderr,
        "ess": found.ess,
        "rungs": len(found.betas),
        "seconds": time.perf_counter() - begin,
    }


def grid_check(seed: int) -> dict[str, float]:
    """An untrained, rugged 2-D network energy in a parabola, against integration on a grid."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1)
    ).double()

    def log_prob(x: Tensor) -> Tensor:
        return 6 * net(x).squeeze(1) - 0.5 * x.square().sum(1)

    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    with torch.no_grad():
        values = log_prob(torch.cartesian_prod(axis, axis))
    exact = float(torch.logsumexp(values, 0) + 2 * torch.log(axis[1] - axis[0]))
    rng = torch.Generator().manual_seed(seed)
    which = torch.multinomial(values.softmax(0), 4000, replacement=True, generator=rng)
    x = torch.cartesian_prod(axis, axis)[which]
    found = ais(FunctionTarget(log_prob), GaussianBase.fit(x), rng=rng, samples=x[:1000])
    return {"seed": seed, "error": found.estimate - exact, "stderr": found.stderr}


def main() -> None:
    """Print the tables and keep them."""
    rows = [one_run(dim, seed) for dim in (2, 8, 32, 64) for seed in range(5)]
    print("bounds less the truth, nats")
    print(
        f"{'dim':>4} {'seed':>4} {'lower':>8} {'estim.':>8} {'upper':>8} {'gap':>7} {'s':>6} rungs"
    )
    for r in rows:
        mark = "" if r["lower"] <= 0 <= r["upper"] else "  misses the truth"
        print(
            f"{r['dim']:>4} {r['seed']:>4} {r['lower']:>8.4f} {r['estimate']:>8.4f} "
            f"{r['upper']:>8.4f} {r['gap']:>7.4f} {r['seconds']:>6.2f} {r['rungs']}{mark}"
        )
    grid = [grid_check(seed) for seed in range(5)]
    print("2-D network energies against a grid:", [f"{g['error']:+.4f}" for g in grid])
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "mixtures": rows,
        "grid": grid,
    }
    out = Path(__file__).parent / "results" / "logz_bounds.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
