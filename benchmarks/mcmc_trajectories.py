"""Do trees (NUTS) pay for many chains in one batch, or lengths tuned across chains (ChEES), or neither?

    python benchmarks/mcmc_trajectories.py [--chains 64] [--steps 500] [--warmup 500] [--seeds 0 1 2]

Two targets: a Gaussian in 20 dimensions whose axes are rotated and have variances from 1 to 100, and a
banana in 2. From the same starts, drawn twice as wide as the target:

    chees    `HMC` whose step and trajectory length are tuned across chains in warm-up (2110.11576)
    fixed L  `HMC` of so many leapfrog steps, the step tuned in warm-up
    nuts     blackjax's NUTS, step and diagonal mass tuned on one chain in as many warm-up steps

Told is the bulk effective sample size of the worst coordinate for each gradient, warm-up apart. In a
batch every chain waits for the longest tree, so NUTS has two counts: gradients that its chains used,
and those that the batch computed (the longest tree of each step, times chains). Seconds are of this
machine, compilation apart. Writes results/mcmc_trajectories.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from energyscape.mcmc import HMC, diagnostics, run_chains
from energyscape.targets import FunctionTarget

OUT = Path(__file__).parent / "results" / "mcmc_trajectories.json"
DIM = 20
LENGTHS = (5, 10, 20, 40)


def precision_matrix() -> np.ndarray:
    """Of the Gaussian: variances 1 to 100, log-uniform, along random axes."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    return np.asarray(axes / np.geomspace(1, 100, DIM) @ axes.T)


def starts(name: str, chains: int, seed: int) -> Tensor:
    """Twice as wide as the target."""
    rng = np.random.default_rng(seed)
    if name == "gaussian":
        noise = rng.normal(size=(chains, DIM))
        return torch.from_numpy(2 * noise @ np.linalg.cholesky(np.linalg.inv(precision_matrix())).T)
    return torch.from_numpy(2 * rng.normal(size=(chains, 2)))


class Counted(FunctionTarget):
    """Counts gradients, one a row."""

    count = 0

    def value_and_score(self, x: Tensor) -> Any:
        """As of the function, counted."""
        self.count += len(x)
        return super().value_and_score(x)


def target(name: str) -> Counted:
    """The log-density."""
    if name == "gaussian":
        matrix = torch.from_numpy(precision_matrix())
        return Counted(lambda x: -0.5 * ((x @ matrix) * x).sum(1))
    return Counted(lambda x: -0.5 * x[:, 0].square() - 0.5 * (x[:, 1] - x[:, 0].square()).square())


def ours(name: str, length: int | None, seed: int, args: Any) -> dict[str, Any]:
    """HMC, tuned across chains or of a fixed number of leapfrog steps."""
    x0, p = starts(name, args.chains, seed), target(name)
    kernel = HMC(0.1, trajectory_length=1.0) if length is None else HMC(0.1, length)
    rng = torch.Generator().manual_seed(seed)
    warm = run_chains(kernel, p, x0, 1, warmup=args.warmup, rng=rng, keep="last")
    p.count, began = 0, time.perf_counter()
    run = run_chains(warm.kernel, p, warm.x, args.steps, rng=rng)
    seconds = time.perf_counter() - began
    ess = diagnostics(run.draws).ess_bulk
    found: dict[str, Any] = {"ess": ess, "seconds": seconds, "gradients": p.count}
    if isinstance(warm.kernel, HMC) and warm.kernel.trajectory_length is not None:
        found["trajectory"] = warm.kernel.trajectory_length
    return found | {"computed": p.count, "step_size": float(warm.kernel.step_size)}  # type: ignore[attr-defined]


def nuts(name: str, seed: int, args: Any) -> dict[str, Any]:
    """blackjax's."""
    import blackjax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    matrix = jnp.asarray(precision_matrix())

    def log_prob(x: Any) -> Any:
        if name == "gaussian":
            return -0.5 * x @ matrix @ x
        return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2

    x0 = jnp.asarray(starts(name, args.chains, seed).numpy())
    keys = jax.random.split(jax.random.key(seed), 3)
    adapt = blackjax.window_adaptation(blackjax.nuts, log_prob)
    (_, parameters), _ = adapt.run(keys[0], x0[0], num_steps=args.warmup)
    kernel = blackjax.nuts(log_prob, **parameters)
    init = jax.vmap(kernel.init)(x0)

    @jax.jit
    def run(states: Any, keys: Any) -> Any:
        def one(states: Any, key: Any) -> Any:
            states, info = jax.vmap(kernel.step)(jax.random.split(key, args.chains), states)
            return states, (states.position, info.num_integration_steps)

        return jax.lax.scan(one, states, keys)

    settled, _ = run(init, jax.random.split(keys[1], args.steps))
    began = time.perf_counter()
    _, (draws, leaps) = jax.block_until_ready(run(settled, jax.random.split(keys[2], args.steps)))
    seconds = time.perf_counter() - began
    leaps = np.asarray(leaps)
    return {
        "ess": diagnostics(torch.from_numpy(np.array(draws))).ess_bulk,
        "seconds": seconds,
        "gradients": int(leaps.sum()),
        "computed": int(leaps.max(1).sum()) * args.chains,
        "step_size": float(parameters["step_size"]),
    }


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    peer = importlib.util.find_spec("blackjax") is not None
    rows = []
    for name in ("gaussian", "banana"):
        methods = ["chees", *(f"L={length}" for length in LENGTHS), *(["nuts"] if peer else [])]
        for method in methods:
            found = []
            for seed in args.seeds:
                if method == "nuts":
                    found.append(nuts(name, seed, args))
                else:
                    length = None if method == "chees" else int(method[2:])
                    found.append(ours(name, length, seed, args))
            row = {"target": name, "method": method, "runs": found}
            rows.append(row)
            told = {
                "ess per 1,000 gradients": [1000 * f["ess"] / f["gradients"] for f in found],
                "computed": [1000 * f["ess"] / f["computed"] for f in found],
                "ess per second": [f["ess"] / f["seconds"] for f in found],
            }
            line = ", ".join(f"{k} {np.mean(v):.3g} ± {np.std(v):.2g}" for k, v in told.items())
            print(f"{name:9} {method:6} {line}", flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            n: metadata.version(n)
            for n in ("torch", *(("blackjax", "jax") if peer else ()), "energyscape")
        },
        "chains": args.chains,
        "steps": args.steps,
        "warmup": args.warmup,
        "rows": rows,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
