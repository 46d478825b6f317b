"""Speed of Markov chains against a hand-written loop, torchebm and blackjax (where installed).

    python benchmarks/mcmc_speed.py [--compile] [--quick]

Langevin on a network energy (2-D, 3 hidden layers, SiLU, float32), 100 steps: of 100 chains at width 64
and of 10,000 at width 128. MALA on a 3-component mixture in 2-D (float32) for 10, 100 and 10,000
chains, in effective draws per second (bulk ESS of the worst coordinate). Contenders take turns and the
best of several repeats is kept, so that another process on the machine disturbs least; times compare
only within one run. The peers live in an environment of the benchmarks' own; a missing one is said.
Writes results/mcmc_speed.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from energyscape.mcmc import MALA, ULA, diagnostics, run_chains
from energyscape.models import NetworkEnergy
from energyscape.targets import FunctionTarget

STEPS, STEP_SIZE = 100, 0.01
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])


def network(width: int) -> nn.Module:
    """Three hidden layers with smooth activations."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width),
        nn.SiLU(), nn.Linear(width, 1),
    )  # fmt: skip


def best(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The shortest time of each, the contenders taking turns; each is run once before."""
    for run in runs.values():
        run()
    times = dict.fromkeys(runs, math.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - begin)
    return times


def flop_limit(chains: int, width: int) -> float:
    """Seconds the matrix products of forward and backward would take at this machine's matmul speed."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    speed = 2 * 1024**3 / best({"matmul": lambda: a @ b}, 10)["matmul"]
    return STEPS * 2 * 2 * chains * (2 * width + 2 * width**2 + width) / speed


def langevin(chains: int, width: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """100 Langevin steps on a network energy."""
    net = network(width)
    target, kernel = NetworkEnergy(net).at(), ULA(STEP_SIZE)
    x0 = torch.randn(chains, 2)
    rng = torch.Generator().manual_seed(0)

    def loop() -> Tensor:
        x = x0
        for _ in range(STEPS):
            x = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(net(x).sum(), x)
            x = x - STEP_SIZE * grad + math.sqrt(2 * STEP_SIZE) * torch.randn_like(x)
        return x

    runs: dict[str, Callable[[], Any]] = {
        "plain loop": loop,
        "energyscape": lambda: run_chains(kernel, target, x0, STEPS, rng=rng, keep="last"),
    }
    if importlib.util.find_spec("torchebm") is not None:
        runs["torchebm"] = torchebm_run(net, x0)
    found: dict[str, Any] = {"chains": chains, "width": width, **best(runs, repeats)}
    if compiled:
        found.update(compiled_langevin(target, kernel, x0, rng, repeats))
    found["limit"] = flop_limit(chains, width)
    return found


def compiled_langevin(
    target: Any, kernel: ULA, x0: Tensor, rng: torch.Generator, repeats: int
) -> dict[str, float]:
    """Blocks of 8 compiled steps, the compilation told separately."""
    from energyscape.mcmc.chains import split_noise
    from energyscape.mcmc.compilation import block_runner

    run = block_runner(kernel, target, STEPS, True)
    steps = 8 * (STEPS // 8)
    state = kernel.init(x0, target)

    def go() -> Any:
        return run(state, split_noise(kernel.draw(steps, x0, rng)))

    begin = time.perf_counter()
    go()
    compile_time = time.perf_counter() - begin
    seconds = best({"compiled": go}, repeats)["compiled"] * STEPS / steps
    return {"energyscape compiled": seconds, "compilation": compile_time}


def torchebm_run(net: nn.Module, x0: Tensor) -> Callable[[], Any]:
    """The same chains by torchebm."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

    sampler = LangevinDynamics(Model(), step_size=STEP_SIZE, noise_scale=1.0)
    return lambda: sampler.sample(x=x0, n_steps=STEPS)


def mixture_log_prob(x: Tensor) -> Tensor:
    """Three unit-variance components, unnormalised."""
    return torch.logsumexp(-0.5 * (x[:, None] - MEANS).square().sum(-1), 1)


class MixtureTarget(FunctionTarget):
    """The mixture with its score written out, as a careful user would."""

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offset = MEANS - x[:, None]
        joint = -0.5 * offset.square().sum(-1)
        value = torch.logsumexp(joint, 1, keepdim=True)
        return value[:, 0], ((joint - value).exp()[:, :, None] * offset).sum(1)


def mala(chains: int, steps: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """MALA on the analytic mixture, effective draws a second."""
    target, kernel, step = MixtureTarget(mixture_log_prob), MALA(0.8), 0.8
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(chains, 2, generator=rng)
    runs: dict[str, Callable[[], Any]] = {
        "energyscape": lambda: run_chains(kernel, target, x0, steps, rng=rng)
    }
    seen = min(chains, 100)
    worth = {"energyscape": diagnostics(runs["energyscape"]().draws[:, :seen]).ess_bulk / seen}
    if compiled:
        from energyscape.mcmc.chains import split_noise
        from energyscape.mcmc.compilation import block_runner

        run, state = block_runner(kernel, target, steps, True), kernel.init(x0, target)

        def go() -> None:
            at = state
            for _ in range(steps // 40):
                at = run(at, split_noise(kernel.draw(40, x0, rng)))[0][-1]

        runs["energyscape compiled"] = go
        worth["energyscape compiled"] = worth["energyscape"]
    if importlib.util.find_spec("blackjax") is not None:
        runs["blackjax"], worth["blackjax"] = blackjax_run(x0, steps, step)
    seconds = best(runs, repeats)
    found: dict[str, Any] = {"chains": chains, "steps": steps}
    for name, taken in seconds.items():
        found[name] = {"seconds": taken, "ess_per_second": worth[name] * chains / taken}
    return found


def blackjax_run(x0: Tensor, steps: int, step: float) -> tuple[Callable[[], Any], float]:
    """The same chains by blackjax in one compiled scan, and the ESS of one chain."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np

    means = jnp.asarray(MEANS.numpy())

    def log_prob(x: Any) -> Any:
        return jax.nn.logsumexp(-0.5 * ((x - means) ** 2).sum(-1))

    algorithm = blackjax.mala(log_prob, step)
    start = jax.vmap(algorithm.init)(jnp.asarray(x0.numpy()))

    @jax.jit
    def run(key: Any) -> Any:
        def one(states: Any, key: Any) -> Any:
            states, _ = jax.vmap(algorithm.step)(jax.random.split(key, x0.shape[0]), states)
            return states, states.position

        return jax.lax.scan(one, start, jax.random.split(key, steps))[1]

    draws = torch.from_numpy(np.array(run(jax.random.key(0))))[:, :100]
    ess = diagnostics(draws).ess_bulk / draws.shape[1]
    return lambda: jax.block_until_ready(run(jax.random.key(1))), ess


def main() -> None:
    """Print both tables and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="time compiled blocks too")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, small sizes only")
    args = parser.parse_args()
    repeats = 5 if args.quick else 15
    for peer in ("torchebm", "blackjax"):
        if importlib.util.find_spec(peer) is None:
            print(f"{peer} is not installed in this environment: not compared")
    sizes = [(100, 64)] if args.quick else [(100, 64), (10_000, 128)]
    first = [langevin(c, w, repeats if c < 1000 else 3, args.compile) for c, w in sizes]
    print(f"Langevin, {STEPS} steps, seconds")
    for row in first:
        print("  " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    runs = [(10, 1000), (100, 1000)] if args.quick else [(10, 1000), (100, 1000), (10_000, 200)]
    second = [mala(c, n, 3, args.compile) for c, n in runs]
    print("MALA on a mixture")
    for row in second:
        print(f"  {row['chains']} chains, {row['steps']} steps")
        for name, told in row.items():
            if isinstance(told, dict):
                print(f"    {name}: {told['seconds']:.3g} s, {told['ess_per_second']:.3g} ESS/s")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "langevin": first,
        "mala": second,
    }
    out = Path(__file__).parent / "results" / "mcmc_speed.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
