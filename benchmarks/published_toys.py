"""The toys of the first score-based papers: mode weights, the error map, the denoising constant.

1. Mode weights (1907.05600 section 3.2.2 and figure 3): ``1/5 N((-5,-5), I) + 4/5 N((5,5), I)``, exact
   scores, 1,280 chains from U[-8,8]^2; Langevin with 1,000 steps and annealed Langevin with 10 levels
   from 20 to 1, 100 steps each, published eps 0.1 (a step of 0.05 in ``x + h s + sqrt(2h) z``). Chains
   over several seeds, and the expectation by quadrature; finer steps and longer walks.
2. The error of a score learned by variance-reduced sliced score matching (figure 2), by how far the
   density is below its top.
3. Denoising score matching differs from the Fisher divergence to the blurred density by a constant
   that no parameter changes: the gap for several networks, by the same draws.
4. Loss curves with and without noise on rows of low dimension (figure 1).

    python benchmarks/published_toys.py [--seeds 5] [--steps 10000] [--out FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from energyscape.densities import GaussianMixture
from energyscape.lab.chains import crossing
from energyscape.lab.density import score_error
from energyscape.lab.learning import generator, score_field
from energyscape.lab.noise import tiny_noise
from energyscape.lab.points import published_mixture
from energyscape.lab.quadrature import annealed_weight
from energyscape.objectives import DenoisingScoreMatching


def mode_weights(seeds: int) -> dict[str, Any]:
    """Weights of the smaller mode, whose true weight is 0.2."""
    runs = [crossing(seed=seed).numbers for seed in range(seeds)]
    walks: dict[str, Any] = {
        name: [run[f"{name} weight"] for run in runs] for name in ("Langevin", "annealed")
    }
    levels = np.geomspace(20, 1, 10)
    expected = {
        "Langevin": annealed_weight([1.0], 1000, 0.05),
        "annealed": annealed_weight(levels, 100, 0.05),
        "annealed, steps 1/2, twice as many": annealed_weight(levels, 200, 0.025),
        "annealed, steps 1/8, 8 times as many": annealed_weight(levels, 800, 0.00625),
        "annealed, 4 times as many": annealed_weight(levels, 400, 0.05),
        "annealed, 16 times as many": annealed_weight(levels, 1600, 0.05),
        "annealed, steps 1/4, 64 times as many": annealed_weight(levels, 6400, 0.0125),
        "annealed, 80 levels": annealed_weight(np.geomspace(20, 1, 80), 100, 0.05),
    }
    return {"chains": walks, "expected": expected, "true": 0.2}


def denoising_gap(networks: int = 6, draws: int = 400_000, sigma: float = 1.0) -> dict[str, Any]:
    """The denoising loss less the Fisher divergence to the blurred toy, network by network."""
    p = published_mixture()
    rng = generator(0)
    x = p.sample(draws, rng).float()
    gaps, errors, fishers = [], [], []
    for seed in range(networks):
        model = score_field(2, seed)
        with torch.no_grad():
            # Random networks of several sizes of output, from a small score to a wild one.
            model.network.layers[-1].weight.mul_(4.0**seed)
        noise = generator(1)
        with torch.no_grad():
            loss = DenoisingScoreMatching(sigma)(model, x, None, noise).loss.double()
            eps = torch.randn(x.shape, generator=generator(1))
            noisy = x + sigma * eps
            fisher = 0.5 * (model(noisy).double() - p.score(noisy, sigma)).square().sum(1)
        # Row by row, by the same draws: what is left to chance is s'(eps/sigma + grad log p_sigma).
        gap = loss - fisher
        gaps.append(float(gap.mean()))
        errors.append(float(gap.std()) / draws**0.5)
        fishers.append(float(fisher.mean()))
    expected = 0.5 * (2 / sigma**2 - _squared_score(p, sigma))
    return {
        "fisher": fishers,
        "gap": gaps,
        "standard error of the gap": errors,
        "gap in expectation": expected,
    }


def _squared_score(p: GaussianMixture, sigma: float) -> float:
    """``E||grad log p_sigma||^2`` over the blurred toy, by draws."""
    y = p.sample(400_000, generator(2), sigma)
    return float(p.score(y, sigma).square().sum(1).mean())


def main() -> None:
    """Print the numbers and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mode weights": mode_weights(args.seeds),
        "score error": score_error(steps=args.steps).numbers,
        "denoising constant": denoising_gap(),
        "noise": tiny_noise().numbers,
    }
    record["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
