"""Three ways to log Z on a mixture with far modes: annealed importance, resampled, and tempered.

    python benchmarks/logz_methods.py [--seeds 5]

Three round Gaussians of weights 0.5, 0.3 and 0.2, `distance` deviations apart, whose true log Z
is 0; the base is a Gaussian fitted to 4,000 draws (1.2 deviations wide). The same ladder of rungs (laid
by the pilot of the first), 512 chains and 5 moves a rung for each:

    AIS    weights without resampling
    SMC    the same, resampled below half of the effective sample size (8 islands)
    PT     a chain at every rung, exchanging with its neighbours, and the integral over beta of
           E_beta[log f_1 - log f_0] by the trapezoid rule; as many moves in all as AIS makes

Prints a table and writes results/logz_methods.json.
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

import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.mcmc import GaussianBase, ais

CHAINS, MOVES = 512, 5


def far_modes(dim: int, distance: float) -> GaussianMixture:
    """Unit Gaussians at the corners of an equilateral triangle."""
    means = torch.zeros(3, dim, dtype=torch.float64)
    means[1, 0] = distance
    means[2, 0], means[2, 1] = distance / 2, distance * 0.75**0.5
    return GaussianMixture.isotropic(means, 1.0, [0.5, 0.3, 0.2])


def tempered(
    p: GaussianMixture, base: GaussianBase, betas: tuple[float, ...], rng: torch.Generator
) -> float:
    """Thermodynamic integration over exchanging chains, the first half of their moves left out."""
    rungs = len(betas)
    chains = max(1, CHAINS // rungs)
    beta = torch.tensor(betas, dtype=torch.float64).repeat_interleave(chains)
    x = base.sample(rungs * chains, rng)
    spread = float(base.covariance.diagonal().mean())
    h = (beta + (1 - beta) / spread).reciprocal() * x.shape[1] ** (-1 / 3)

    def both(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (f0, s0), (f1, s1) = base.value_and_score(x), p.value_and_score(x)
        return f0, f1, torch.lerp(s0, s1, beta[:, None])

    f0, f1, score = both(x)
    sums, count, total = torch.zeros(rungs, dtype=torch.float64), 0, MOVES * rungs
    for step in range(total):
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        y = x + h[:, None] * score + (2 * h).sqrt()[:, None] * eps
        g0, g1, ahead = both(y)
        back = (x - y - h[:, None] * ahead).square().sum(1) / (4 * h)
        log_a = torch.lerp(g0, g1, beta) - torch.lerp(f0, f1, beta) + eps.square().sum(1) / 2 - back
        taken = torch.rand(len(x), generator=rng, dtype=x.dtype).log() < log_a
        x = torch.where(taken[:, None], y, x)
        f0, f1 = torch.where(taken, g0, f0), torch.where(taken, g1, f1)
        score = torch.where(taken[:, None], ahead, score)
        # Neighbours exchange, even and odd pairs in turn.
        slope = (f1 - f0).view(rungs, chains)
        order = torch.arange(rungs * chains).view(rungs, chains)
        for i in range(step % 2, rungs - 1, 2):
            log_a = (betas[i] - betas[i + 1]) * (slope[i + 1] - slope[i])
            swap = torch.rand(chains, generator=rng, dtype=x.dtype).log() < log_a
            low, high = order[i].clone(), order[i + 1].clone()
            order[i], order[i + 1] = torch.where(swap, high, low), torch.where(swap, low, high)
        x = x[order.flatten()]
        f0, f1, score = both(x)
        if step >= total // 2:
            sums += (f1 - f0).view(rungs, chains).mean(1)
            count += 1
    return float(torch.trapezoid(sums / count, torch.tensor(betas, dtype=torch.float64)))


def one_run(dim: int, distance: float, seed: int) -> list[dict[str, Any]]:
    """Errors and seconds of the three on one mixture."""
    p, rows = far_modes(dim, distance), []
    base = GaussianBase.fit(p.sample(4000, torch.Generator().manual_seed(seed)), widen=1.2)
    betas: tuple[float, ...] = ()
    for method in ("AIS", "SMC", "PT"):
        rng = torch.Generator().manual_seed(1000 + seed)
        begin = time.process_time()
        if method == "PT":
            error = tempered(p, base, betas, rng)
        else:
            how = {"resample_below": 0.5 if method == "SMC" else 0.0, "num_chains": CHAINS}
            found = ais(p.at(0.0), base, rng=rng, ess_drop=0.05, steps_per_level=MOVES, **how)
            error, betas = found.estimate, found.betas
        row = {"dim": dim, "distance": distance, "seed": seed, "method": method, "error": error}
        rows.append(row | {"rungs": len(betas), "seconds": time.process_time() - begin})
    return rows


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'dim':>4} {'apart':>6} {'method':>6} {'mean error':>10} {'rms':>8} {'s':>6} rungs")
    for dim in (2, 16):
        for distance in (6.0, 20.0):
            found = [row for seed in seeds for row in one_run(dim, distance, seed)]
            rows += found
            for method in ("AIS", "SMC", "PT"):
                these = [r for r in found if r["method"] == method]
                errors = torch.tensor([r["error"] for r in these])
                seconds = sum(r["seconds"] for r in these) / len(these)
                rms = math.sqrt(float(errors.square().mean()))
                print(
                    f"{dim:>4} {distance:>6.0f} {method:>6} {float(errors.mean()):>10.4f} {rms:>8.4f} "
                    f"{seconds:>6.2f} {these[0]['rungs']}",
                    flush=True,
                )
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, shared; processor seconds",
        "torch": torch.__version__,
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / "logz_methods.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
