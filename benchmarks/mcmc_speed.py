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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from energyscape.mcmc import MALA, ULA, diagnostics, run_chains
from energyscape.models import NetworkEnergy
from energyscape.products import matmul
from energyscape.targets import FunctionTarget

STEPS, STEP_SIZE = 100, 0.01
JUDGED_STEPS = 2000
PEERS = ("torchebm", "blackjax", "jax")
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])


def installed(name: str) -> bool:
    """Whether a peer is in this environment."""
    return importlib.util.find_spec(name) is not None


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
    """Seconds the matrix products of forward and backward would take at this machine's best speed for
    a large one, by either of torch's two libraries."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    found = best({"torch's": lambda: torch.mm(a, b), "ours": lambda: matmul(a, b)}, 10)
    speed = 2 * 1024**3 / min(found.values())
    return STEPS * 2 * 2 * chains * (2 * width + 2 * width**2 + width) / speed


def op_floor(run: Callable[[], Any], steps: int) -> dict[str, float]:
    """Operators dispatched a step, and what that many of the smallest would take: the limit of
    stepping without compilation."""

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Count.seen += 1
            return func(*args, **(kwargs or {}))

    with Count():
        run()
    x, many = torch.zeros(2), range(1000)
    one = best({"add": lambda: [x + x for _ in many]}, 10)["add"] / len(many)
    return {"operators a step": Count.seen / steps, "dispatch limit": Count.seen * one}


def compiled_run(run: Callable[[], Any]) -> float:
    """Seconds of the first call, which compiles."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


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

    def ours(compile: bool) -> Any:
        return run_chains(kernel, target, x0, STEPS, rng=rng, keep="last", compile=compile)

    runs: dict[str, Callable[[], Any]] = {"plain loop": loop, "energyscape": lambda: ours(False)}
    found: dict[str, Any] = {"chains": chains, "width": width}
    if compiled:
        runs["energyscape compiled"] = lambda: ours(True)
        found["compilation"] = compiled_run(runs["energyscape compiled"])
    if installed("torchebm"):
        runs["torchebm"] = torchebm_run(net, x0)
    found.update(best(runs, repeats))
    found["limit"] = flop_limit(chains, width)
    found.update(op_floor(runs["energyscape"], STEPS))
    for name in ("energyscape", "energyscape compiled"):
        if "torchebm" in found and name in found:
            found[f"{name}, times torchebm's speed"] = found["torchebm"] / found[name]
    return found


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
    """The mixture with its score written out, as a careful user would: chains last, in one piece."""

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offset = MEANS.T[:, :, None] - x.T.contiguous()[:, None]
        joint = -0.5 * offset.square().sum(0)
        top = joint.amax(0)
        weight = (joint - top).exp()
        total = weight.sum(0)
        score = ((weight / total) * offset).sum(1)
        return top + total.log(), score.T.contiguous()


def judged() -> Tensor:
    """Starts of the runs that tell what a draw is worth, the same for everyone."""
    return 2 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))


def worth_of(draws: Any) -> float:
    """Bulk effective sample size of the worst coordinate for each draw, of (steps, chains, 2)."""
    held = draws if isinstance(draws, Tensor) else torch.from_numpy(np.array(draws))
    return diagnostics(held).ess_bulk / (held.shape[0] * held.shape[1])


def mala(chains: int, steps: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """MALA on the analytic mixture, effective draws a second."""
    target, kernel, step = MixtureTarget(mixture_log_prob), MALA(0.8), 0.8
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(chains, 2, generator=rng)

    def ours(compile: bool) -> Any:
        return run_chains(kernel, target, x0, steps, rng=rng, compile=compile)

    runs: dict[str, Callable[[], Any]] = {"energyscape": lambda: ours(False)}
    found: dict[str, Any] = {"chains": chains, "steps": steps}
    worth = worth_of(run_chains(kernel, target, judged(), JUDGED_STEPS, rng=rng).draws)
    found["ess a draw"] = worth
    if compiled:
        runs["energyscape compiled"] = lambda: ours(True)
        found["compilation"] = compiled_run(runs["energyscape compiled"])
    if installed("blackjax"):
        found["blackjax ess a draw"] = worth_of(blackjax_run(judged(), JUDGED_STEPS, step)())
        runs["blackjax"] = blackjax_run(x0, steps, step)
        found["blackjax compilation"] = compiled_run(runs["blackjax"])
    seconds = best(runs, repeats)
    for name, taken in seconds.items():
        mine = found["blackjax ess a draw"] if name == "blackjax" else worth
        rate = mine * steps * chains / taken
        found[name] = {"seconds": taken, "ess_per_second": rate}
    for name in ("energyscape", "energyscape compiled"):
        if "blackjax" in found and name in found:
            ratio = found[name]["ess_per_second"] / found["blackjax"]["ess_per_second"]
            found[f"{name}, times blackjax's rate"] = ratio
    found.update(op_floor(runs["energyscape"], steps))
    return found


def blackjax_run(x0: Tensor, steps: int, step: float) -> Callable[[], Any]:
    """The same chains by blackjax in one compiled scan."""
    import blackjax
    import jax
    import jax.numpy as jnp

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

    return lambda: jax.block_until_ready(run(jax.random.key(1)))


def main() -> None:
    """Print both tables and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="time compiled blocks too")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, small sizes only")
    args = parser.parse_args()
    repeats = 5 if args.quick else 15
    for peer in PEERS:
        if not installed(peer):
            print(f"{peer} is not installed in this environment: not compared")
    sizes = [(100, 64)] if args.quick else [(100, 64), (10_000, 128)]
    first = [langevin(c, w, repeats if c < 1000 else 8, args.compile) for c, w in sizes]
    print(f"Langevin, {STEPS} steps, seconds")
    for row in first:
        print("  " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    runs = [(10, 1000), (100, 1000)] if args.quick else [(10, 1000), (100, 1000), (10_000, 200)]
    second = [mala(c, n, 5, args.compile) for c, n in runs]
    print("MALA on a mixture")
    for row in second:
        print(f"  {row['chains']} chains, {row['steps']} steps")
        for name, told in row.items():
            if isinstance(told, dict):
                print(f"    {name}: {told['seconds']:.3g} s, {told['ess_per_second']:.3g} ESS/s")
            elif name not in ("chains", "steps"):
                print(f"    {name}: {told:.3g}")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", *PEERS) if installed(name)},
        "repeats": repeats,
        "langevin": first,
        "mala": second,
    }
    out = Path(__file__).parent / "results" / "mcmc_speed.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
