"""Time and memory of one training step: exact, sliced and denoising score matching against D.

One field network (three hidden layers, SiLU) of fixed width on rows of N(0, I), D = 2 ... 1,024.
A step is loss and backward; no optimizer. One thread, processor time, the fastest of interleaved
repeats (ten times as many as said, but of the exact losses), so that other programs on the machine
weigh on no method; the speeds are ratios. Memory is the
growth of the resident size up to the backward pass, in a fresh process. The peer, torchebm's
`SlicedScoreMatching`, takes an energy: it and ours run on the same energy network in the same repeats
where it can be imported, and it is said to be missing where not. With `--forward` the exact loss with
its trace by forward mode is measured too, which gains at most a twentieth anywhere and is not offered.

    python benchmarks/score_matching_cost.py [--width 128] [--repeats 5] [--forward] [--out FILE]

Rows of FILE that are of the same settings stay, and only dimensions not among them are measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from energyscape.models import NetworkEnergy, ScoreField
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    Objective,
    SlicedScoreMatching,
)

METHODS: dict[str, Objective] = {
    "denoising": DenoisingScoreMatching(0.1),
    "sliced-1": SlicedScoreMatching(probes=1),
    "sliced-5": SlicedScoreMatching(probes=5),
    "exact": ExactScoreMatching(),
}
Step = Callable[[], None]
SLOW = 2  # repeats of a step that takes over a second


def make(dim: int, width: int, batch: int) -> tuple[ScoreField, Tensor]:
    """The network and the rows, the same in every process."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    return ScoreField(MLP((dim,), width=width)), torch.randn(batch, dim, generator=rng)


def forward_over_reverse(model: ScoreField, x: Tensor) -> Tensor:
    """The exact loss with its trace by D Jacobian-vector products, forward mode, in one batch."""
    eye = torch.eye(x.shape[1], dtype=x.dtype)

    def along(e: Tensor) -> tuple[Tensor, Tensor]:
        score, product = torch.func.jvp(model, (x,), (e.expand_as(x),))
        return score, (product * e).sum(1)

    score, parts = torch.func.vmap(along, out_dims=(None, 0))(eye)
    return 0.5 * score.square().sum(1) + parts.sum(0)


def forward_step(model: ScoreField, x: Tensor) -> None:
    """Loss and backward of the form by forward mode."""
    model.zero_grad()
    forward_over_reverse(model, x).mean().backward()


def step(objective: Objective, model: nn.Module, x: Tensor, rng: torch.Generator) -> None:
    """Loss and backward."""
    model.zero_grad()
    objective(model, x, None, rng).loss.mean().backward()


def energy_steps(dim: int, width: int, x: Tensor, rng: torch.Generator) -> dict[str, Step]:
    """Sliced steps on an energy network, ours and, where it can be imported, the peer's."""
    torch.manual_seed(0)
    energy = NetworkEnergy(MLP((dim,), width=width, scalar=True))
    steps: dict[str, Step] = {
        f"energy-{probes}": lambda o=SlicedScoreMatching(probes): step(o, energy, x, rng)
        for probes in (1, 5)
    }
    try:
        from torchebm.losses import SlicedScoreMatching as Peer
    except ImportError:
        return steps
    for probes in (1, 5):
        loss = Peer(model=energy, n_projections=probes)

        def run(loss: Any = loss) -> None:
            energy.zero_grad()
            loss(x).backward()

        steps[f"torchebm-{probes}"] = run
    return steps


def measure(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Least processor milliseconds of each step; the steps are interleaved over the repeats."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in steps.values():
        run()
    for repeat in range(repeats):
        for name, run in steps.items():
            if repeat >= SLOW and times[name][0] > 1000:
                continue
            began = time.process_time()
            run()
            times[name].append(1000 * (time.process_time() - began))
    return {name: min(values) for name, values in times.items()}


def held_memory(name: str, dim: int, width: int, batch: int) -> float:
    """Megabytes that one step holds for its backward pass."""
    args = [sys.executable, __file__, "--memory", name, "--dims", str(dim)]
    args += ["--width", str(width), "--batch", str(batch)]
    return float(subprocess.run(args, capture_output=True, text=True, check=True).stdout)


def report_memory(name: str, dim: int, width: int, batch: int) -> None:
    """Print the growth of the resident size over one loss (in a child process)."""
    rng = torch.Generator().manual_seed(0)
    step(METHODS[name], *make(4, width, batch), rng)
    model, x = make(dim, width, batch)
    before = resident()
    loss = METHODS[name](model, x, None, rng).loss.mean()
    print(resident() - before)
    del loss


def resident() -> float:
    """Megabytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 32, 128, 512, 1024])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--forward", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.memory:
        report_memory(args.memory, args.dims[0], args.width, args.batch)
        return
    torch.set_num_threads(1)
    rng, table = torch.Generator().manual_seed(0), []
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"width": args.width, "batch": args.batch, "repeats": args.repeats},
        "torchebm": importlib.util.find_spec("torchebm") is not None,
    }
    if args.out and args.out.is_file():
        earlier = json.loads(args.out.read_text())
        if all(earlier[key] == value for key, value in record.items()):
            table = earlier["rows"]
    if not record["torchebm"]:
        print("torchebm is not installed here: no comparison with it")
    for dim in args.dims:
        if any(row["dim"] == dim for row in table):
            continue
        model, x = make(dim, args.width, args.batch)
        steps: dict[str, Step] = {
            name: lambda o=objective, m=model, z=x: step(o, m, z, rng)
            for name, objective in METHODS.items()
        }
        slow = {"exact": steps.pop("exact")}
        if args.forward:
            slow["exact-forward"] = partial(forward_step, model, x)
        # Apart from the exact losses, whose memory would leave the next step in line a cold cache.
        times = measure(steps, 10 * args.repeats)
        steps = energy_steps(dim, args.width, x, rng)
        times |= measure(steps, 10 * args.repeats)
        times |= measure(slow, args.repeats)
        memory = {n: round(held_memory(n, dim, args.width, args.batch), 1) for n in METHODS}
        row = {"dim": dim, "ms": {k: round(v, 3) for k, v in times.items()}, "held_mb": memory}
        row["exact_over_sliced"] = round(times["exact"] / times["sliced-1"], 1)
        row["sliced_over_denoising"] = round(times["sliced-1"] / times["denoising"], 2)
        if args.forward:
            row["forward_over_vjp"] = round(times["exact-forward"] / times["exact"], 2)
        for probes in (1, 5) if "torchebm-1" in times else ():
            pair = times[f"torchebm-{probes}"], times[f"energy-{probes}"]
            row[f"torchebm_over_ours_{probes}"] = round(pair[0] / pair[1], 2)
        table.append(row)
        table.sort(key=lambda row: row["dim"])
        print(json.dumps(row), flush=True)
        if args.out:
            args.out.write_text(json.dumps(record | {"rows": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
