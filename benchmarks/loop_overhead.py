"""What the loops cost over what they are for: a step of training, an evaluation of the network.

    python benchmarks/loop_overhead.py [--rounds 8] [--steps 200] [--only NAME ...]

Training: all loops train the same network on the same rows. The bare loop is a forward, a backward and
an optimizer step, and does nothing else: no clipping, no average of weights, no validation, no log, no
checkpoint, no batches to choose. diffusers' is that of its training tutorial (noise by its scheduler,
accelerate, clipping, a learning rate with warm-up), for its UNet2DModel, which ours trains as it is.

Sampling: `sample` on a grid of levels beside as many bare evaluations of the same denoiser.

Every loop has a process of its own, and they take turns in blocks, so that a busy machine slows all;
the median of the ratios of neighbouring blocks is what counts. Freed memory is glibc's to give back for
the bare loops and for diffusers', as in anyone's script, and stays with the process for ours, which the
library asks for (`energyscape.memory`); "kept" are the bare loops with that too, so that what the loop
itself costs is told apart. At most 1.03 is wanted where a step or an evaluation takes 5 ms.

The learning rate rises and falls as in a run of 4,000 steps. (At a rate of almost nothing, weights that
start at 0 stay within 1e-11 of it, squares of their gradients are denormal numbers, and the loops time
the processor's way of handling those.)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from energyscape.diffusion import sample
from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
from energyscape.nn import PictureNet, ResidualMLP
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.schedules import EDM
from energyscape.training import TrainConfig
from energyscape.training.run import Run

RESULT = Path(__file__).parent / "results" / "loop_overhead.json"
Loop = Callable[[int], None]


class UNet(nn.Module):
    """diffusers' UNet2DModel as a network of (x, c_noise)."""

    def __init__(self) -> None:
        super().__init__()
        from picture_throughput import Diffusers

        self.net = Diffusers().net

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """The field; its embedding of steps takes any number."""
        field: Tensor = self.net(x, 1000 * c_noise.flatten(), return_dict=False)[0]
        return field


#: Networks with the shape of a row and a batch.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "256 x 4": (lambda: ResidualMLP((64,), width=256, blocks=4), (64,), 128),
    "512 x 4": (lambda: ResidualMLP((64,), width=512, blocks=4), (64,), 128),
    "512 x 4, more rows": (lambda: ResidualMLP((64,), width=512, blocks=4), (64,), 512),
    "PictureNet": (lambda: PictureNet((1, 28, 28), width=40), (1, 28, 28), 64),
    "UNet2DModel": (UNet, (1, 28, 28), 64),
}


def model_of(name: str) -> PreconditionedDenoiser:
    """The same initial weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETWORKS[name][0]()
        if len(NETWORKS[name][1]) == 3:
            net = net.to(memory_format=torch.channels_last)
        return PreconditionedDenoiser(net, EDMPreconditioning(0.5))


def rows_of(name: str, n: int) -> Tensor:
    """Rows of unit scale over two."""
    _, shape, _ = NETWORKS[name]
    x = 0.5 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else x


def bare(name: str, folder: str) -> Loop:
    """A function that takes `n` steps of the smallest possible loop."""
    model = model_of(name)
    loss_of = DenoisingLoss(EDM.for_data(0.5), edm_weight(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    rng = torch.Generator().manual_seed(0)
    x = rows_of(name, NETWORKS[name][2])

    def steps(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            loss_of(model, x, None, rng).loss.mean().backward()
            optimizer.step()

    return steps


def ours(name: str, folder: str) -> Loop:
    """The same number of steps of the library's loop, with everything it does in a normal run."""
    x = rows_of(name, 5000)
    objective = DenoisingLoss(EDM.for_data(0.5), edm_weight(0.5))
    config = TrainConfig(
        max_steps=4000, batch_size=NETWORKS[name][2], device="cpu", learning_rate=1e-3
    )
    run = Run(model_of(name), objective, x, x[:500], None, config, folder)
    run.start(resume=False)
    saved, taken = time.monotonic(), 0

    def steps(n: int) -> None:
        # A run of 4,000 steps: 200 lines of log, 20 validations, a checkpoint every 30 s.
        nonlocal saved, taken
        for _ in range(n):
            _, norm, metrics = run.advance()
            taken += 1
            if taken % 20 == 0:
                run.log(norm, metrics)
            if taken % 200 == 0:
                run.check()
        if time.monotonic() - saved > config.checkpoint_seconds:
            run.save()
            saved = time.monotonic()

    return steps


def of_diffusers(name: str, folder: str) -> Loop:
    """The loop of diffusers' tutorial on unconditional training, without its logging."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup

    net, noise = model_of(name).network.net, DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    rate = get_cosine_schedule_with_warmup(optimizer, 100, 4000)
    loader = torch.utils.data.DataLoader(rows_of(name, 5000), NETWORKS[name][2], shuffle=True)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    net, optimizer, loader, rate = accelerator.prepare(net, optimizer, loader, rate)

    def batches() -> Any:
        while True:
            yield from loader

    data = batches()

    def steps(n: int) -> None:
        for _ in range(n):
            x = next(data)
            eps = torch.randn_like(x)
            t = torch.randint(0, 1000, (len(x),))
            noisy = noise.add_noise(x, eps, t)
            with accelerator.accumulate(net):
                field = net(noisy, t, return_dict=False)[0]
                accelerator.backward(nn.functional.mse_loss(field, eps))
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()

    return steps


def evaluations(name: str, folder: str) -> Loop:
    """`n` bare evaluations of the denoiser."""
    model, x = model_of(name).eval(), rows_of(name, NETWORKS[name][2])
    levels = torch.full((len(x),), 1.0)

    def steps(n: int) -> None:
        with torch.no_grad():
            for _ in range(n):
                model(x, levels)

    return steps


def walk(sampler: str) -> Callable[[str, str], Loop]:
    """`n` evaluations by a sampler; n is odd, as Heun takes one at the last level and two before."""

    def made(name: str, folder: str) -> Loop:
        model, x = model_of(name).eval(), rows_of(name, NETWORKS[name][2])

        def steps(n: int) -> None:
            levels = EDM.for_data(0.5).levels((n + 1) // 2 if sampler == "heun" else n)
            rng = torch.Generator().manual_seed(0)
            sample(model, 80 * x, levels=levels, sampler=sampler, rng=rng)

        return steps

    return made


LOOPS: dict[str, Callable[[str, str], Loop]] = {
    "diffusers": of_diffusers,
    "bare": bare,
    "bare, kept": bare,
    "training": ours,
    "evaluations": evaluations,
    "evaluations, kept": evaluations,
    "heun": walk("heun"),
    "dpmpp_2m": walk("dpmpp_2m"),
    "ancestral": walk("ancestral"),
}
#: Loops that leave freed memory to glibc.
PLAIN = ("diffusers", "bare", "evaluations")


def serve(pipe: Connection, label: str, name: str) -> None:
    """In a process of its own: take as many steps as are asked for, and tell the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        steps = LOOPS[label](name, folder)
        steps(5)
        pipe.send(0.0)
        while n := pipe.recv():
            began = time.perf_counter()
            steps(n)
            pipe.send(time.perf_counter() - began)


def started(label: str, name: str) -> tuple[BaseProcess, Connection]:
    """A process that has one loop ready."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, label, name))
    if label in PLAIN:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.check=0"  # its default; ours keeps away then
    try:
        process.start()
    finally:
        os.environ.pop("GLIBC_TUNABLES", None)
    here.recv()
    return process, here


def compared(name: str, labels: list[str], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Each loop over the first, block by block in turn."""
    made = {label: started(label, name) for label in labels}
    times: dict[str, list[float]] = {label: [] for label in made}
    for _ in range(rounds):
        for label, (_, pipe) in made.items():
            pipe.send(steps)
            times[label].append(pipe.recv() / steps * 1e3)
    for process, pipe in made.values():
        pipe.send(0)
        process.join()
    first = labels[0]
    rows = []
    for label in labels[1:]:
        ratio = median(b / a for a, b in zip(times[first], times[label], strict=True))
        a, b = median(times[first]), median(times[label])
        rows.append(
            {
                "network": f"{name}, batch {NETWORKS[name][2]}",
                "of": first,
                "loop": label,
                f"{first}_ms": a,
                "loop_ms": b,
                "ratio": ratio,
            }
        )
        print(f"{rows[-1]['network']:>30} {first:>12} {a:8.2f} {label:>10} {b:8.2f} {ratio:7.3f}")
        sys.stdout.flush()
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="of one block, of 5 ms or so")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    args = parser.parse_args()
    found = importlib.util.find_spec("diffusers") is not None
    rows: list[dict[str, Any]] = []
    for name in args.only:
        if name == "UNet2DModel" and not found:
            print("diffusers is not installed: left out")
            continue
        pictures = len(NETWORKS[name][1]) == 3
        steps = args.steps // 8 if pictures else args.steps
        peers = ["diffusers"] if name == "UNet2DModel" else []
        rows += compared(name, [*peers, "bare", "bare, kept", "training"], args.rounds, steps)
        walked = ["evaluations", "evaluations, kept", "heun", "dpmpp_2m", "ancestral"]
        rows += compared(name, walked, args.rounds, steps // 2 * 2 + 1)
    record = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "rounds": args.rounds,
        "steps": args.steps,
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
