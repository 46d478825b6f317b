"""Bounds on log Z of three-component Gaussian mixtures, from a Gaussian base fitted to samples.

    python benchmarks/logz_bounds.py [--trained-only]

Data: unit-variance components with means 4 apart (an equilateral triangle in the first two
coordinates), in 2, 8, 32 and 64 dimensions, shifted so that the true log Z is 7.5. The base sees 4,000
samples, the reverse run 2,000 others. Five seeds each. Then energies of two columns trained for 600
steps by three objectives, whose kept estimates are compared with a sum over a grid. Prints two tables
and writes results/logz_bounds.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from energyscape.data.builtin import built_in
from energyscape.densities import GaussianMixture
from energyscape.families import EBM
from energyscape.mcmc import GaussianBase, ais
from energyscape.targets import Target

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


def grid_check(name: str, objective: str, seed: int) -> dict[str, Any]:
    """A trained energy of two columns: the estimate kept with the model, and a sum over a grid."""
    columns = built_in(name, 4000, seed).columns
    assert columns is not None
    x = np.stack(list(columns.values()), axis=1)
    begin = time.perf_counter()
    model = EBM(objective=objective, max_steps=600, random_state=seed).fit(x)
    seconds = time.perf_counter() - begin
    record = model.info_["log_z"]
    energy = model._double()
    rows = model.encode(x)
    low, high = rows.amin(0) - 10.0, rows.amax(0) + 10.0
    axes = [
        torch.linspace(float(a), float(b), 1001).double() for a, b in zip(low, high, strict=True)
    ]
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    with torch.no_grad():
        values = torch.cat([-energy(part) for part in torch.cartesian_prod(*axes).split(65536)])
    exact = float(torch.logsumexp(values, 0)) + math.log(cell)
    return {
        "data": name,
        "objective": objective,
        "seed": seed,
        "lower": record["lower"] - exact,
        "estimate": record["estimate"] - exact,
        "upper": record["upper"] - exact,
        "stderr": record["stderr"],
        "ess": record.get("ess"),
        "trusted": record["trusted"],
        "seconds_with_training": seconds,
    }


def mixtures() -> list[dict[str, float]]:
    """All runs on mixtures, printed."""
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
    return rows


def main() -> None:
    """Print the tables and keep them, the trained energies one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained-only", action="store_true", help="keep the mixtures on record")
    trained_only = parser.parse_args().trained_only
    out = Path(__file__).parent / "results" / "logz_bounds.json"
    rows = json.loads(out.read_text())["mixtures"] if trained_only else mixtures()
    print("trained 2-D energies: log Z less that of a 1001 x 1001 grid, nats")
    grid: list[dict[str, Any]] = []
    for name in ("two-moons", "eight-gaussians", "checkerboard"):
        for objective in ("sliced", "nce", "persistent"):
            g = grid_check(name, objective, 0)
            trusted = "" if g["trusted"] else "  not trusted: density told as unnormalised"
            print(
                f"{name:>16} {objective:>10} {g['lower']:>8.4f} {g['estimate']:>8.4f} "
                f"{g['upper']:>8.4f} +- {g['stderr']:.4f}{trusted}",
                flush=True,
            )
            grid.append(g)
            keep(rows, grid, out)


def keep(rows: list[dict[str, float]], grid: list[dict[str, Any]], out: Path) -> None:
    """The tables so far."""
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "mixtures": rows,
        "grid": grid,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
