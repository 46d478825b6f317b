"""Steps and gradients to a fixed error as the dimension grows: Metropolis, ULA, MALA and HMC.

    python benchmarks/mcmc_scaling.py [--quick]

Target: the standard normal in D = 2 ... 256 dimensions, chains started in equilibrium, so that mixing
alone is measured. The error is that of the mean of a coordinate: with `tau` the integrated
autocorrelation time, n steps of a chain are worth n/tau draws, and a standard error of 0.1 takes
100 tau steps. Coordinates and chains are alike, so their autocorrelations are averaged; tau is summed
up to the first lag below 0.02, all by absolute value.

Every kernel may choose its step: Metropolis and MALA by their best acceptance (0.234 and 0.574, found
in warm-up); HMC by an acceptance of 0.7, with the number of leapfrog steps from 2 to 8 that costs the
fewest gradients; ULA, which has a bias instead of a test, by the largest step whose stationary law
stays 0.05 nats from the target, ``KL = D/2 (v - 1 - log v), v = 1/(1 - h/2)``.

Theory, for steps to a fixed error (gradients for HMC): D (Roberts, Gelman and Gilks 1997), D^(1/3)
(Roberts and Rosenthal 1998), D^(1/4) (Beskos et al. 1001.4460); ULA's h goes as D^(-1/2) at a fixed KL,
hence D^(1/2). Writes results/mcmc_scaling.json.
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

from energyscape.mcmc import HMC, MALA, ULA, RandomWalk, run_chains
from energyscape.targets import ScoreTarget

ERROR = 0.1
BIAS = 0.05
FROM = 32  # exponents are fitted from this dimension on: theory is about large ones
THEORY = {"Metropolis": 1.0, "ULA": 1 / 2, "MALA": 1 / 3, "HMC": 1 / 4}


class Normal(ScoreTarget):
    """The standard normal with its score written out."""

    def __init__(self) -> None:
        super().__init__(torch.neg)

    def value(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The unnormalised log-density, shape (batch,)."""
        return -0.5 * x.square().sum(1)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Both."""
        return self.value(x), -x


def ula_step(dim: int) -> float:
    """The step whose stationary law is BIAS nats from the target, by bisection."""

    def bias(h: float) -> float:
        v = 1 / (1 - h / 2)
        return 0.5 * dim * (v - 1 - math.log(v))

    low, high = 0.0, 2.0 - 1e-9
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if bias(middle) < BIAS else (low, middle)
    return low


def correlation_time(draws: Tensor) -> float:
    """Integrated autocorrelation time of (steps, chains, D) of mean zero; infinite if unseen."""
    n = len(draws)
    raw = torch.zeros(n)
    for some in draws.flatten(1).split(64, dim=1):
        spectrum = torch.fft.rfft(some, n=2 * n, dim=0)
        raw += torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].sum(1)
    rho = raw / (raw[0] / n * torch.arange(n, 0, -1, dtype=raw.dtype))
    # By absolute value: trajectories of half a period give rho = -1, which flatters the mean, and
    # never leave their level of energy.
    rho = rho.abs()
    below = (rho < 0.02).nonzero()
    return float(1 + 2 * rho[1 : int(below[0])].sum()) if len(below) else math.inf


def kernel_of(name: str, dim: int) -> Any:
    """A start from which warm-up tunes (ULA is set)."""
    if name == "Metropolis":
        return RandomWalk(2.4 / math.sqrt(dim))
    if name == "ULA":
        return ULA(ula_step(dim))
    return MALA(1.4 * dim ** (-1 / 3))


def measure(
    name: str, dim: int, scale: int, rng: torch.Generator, leapfrog: int = 1
) -> dict[str, Any]:
    """One kernel in one dimension."""
    begin = time.perf_counter()
    x0 = torch.randn(max(2, 512 // dim), dim, generator=rng)
    kernel = HMC(1.2 * dim**-0.25, leapfrog) if name == "HMC" else kernel_of(name, dim)
    guess = {"Metropolis": 6 * dim, "ULA": 12 * dim**0.5, "MALA": 6 * dim**0.34, "HMC": 10}[name]
    steps = max(400, int(scale * guess))
    run = run_chains(kernel, Normal(), x0, steps, warmup=400, rng=rng, compile=False)
    to_error = correlation_time(run.draws) / ERROR**2
    accepted = run.info.acceptance
    return {
        "kernel": name,
        "dim": dim,
        "leapfrog": leapfrog,
        "step size": float(run.kernel.step_size),
        "acceptance": None if accepted is None else float(accepted.mean()),
        "steps": to_error,
        "evaluations": to_error * leapfrog,
        "seconds": time.perf_counter() - begin,
    }


def best_hmc(dim: int, scale: int, rng: torch.Generator) -> dict[str, Any]:
    """HMC with the number of leapfrog steps that costs fewest gradients."""
    rows = [measure("HMC", dim, scale, rng, leapfrog) for leapfrog in range(2, 9)]
    return min(rows, key=lambda row: float(row["evaluations"]))


def exponent(rows: list[dict[str, Any]], what: str) -> float:
    """Slope of log cost on log D."""
    kept = [r for r in rows if r["dim"] >= FROM]
    return float(np.polyfit(*(np.log([r[k] for r in kept]) for k in ("dim", what)), 1)[0])


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs, up to 64 dimensions")
    args = parser.parse_args()
    dims = [2, 8, 32, 64] if args.quick else [2, 4, 8, 16, 32, 64, 128, 256]
    scale = 20 if args.quick else 40
    rng = torch.Generator().manual_seed(0)
    rows = [
        best_hmc(d, scale, rng) if name == "HMC" else measure(name, d, scale, rng)
        for name in THEORY
        for d in dims
    ]
    for name in THEORY:
        print(f"{name}: evaluations to a standard error of {ERROR} (step size, acceptance)")
        for row in (r for r in rows if r["kernel"] == name):
            told = "" if row["acceptance"] is None else f", {row['acceptance']:.3f}"
            print(
                f"  D = {row['dim']:4d}: {row['evaluations']:9.0f} in {row['steps']:9.0f} steps "
                f"({row['step size']:.3g}{told}, {row['leapfrog']} leapfrog); {row['seconds']:.1f} s"
            )
    fits = {n: exponent([r for r in rows if r["kernel"] == n], "evaluations") for n in THEORY}
    for name, fit in fits.items():
        print(f"{name}: exponent {fit:.3f} from D = {FROM} on, theory {THEORY[name]:.3f}")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seed": 0,
        "error": ERROR,
        "ula bias in nats": BIAS,
        "exponents": fits,
        "theory": THEORY,
        "rows": rows,
    }
    if not args.quick:
        out = Path(__file__).parent / "results" / "mcmc_scaling.json"
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
