"""What the training loop costs over a bare forward, backward and optimizer step.

Both train the same network by the same denoising loss on the same rows. The bare loop does nothing
else: no clipping, no average of weights, no validation, no log, no checkpoint, no batches to choose.
The two take turns in blocks, in one process, so that a busy machine slows both; the median of the
ratios of neighbouring blocks is what counts. At most 1.10 is wanted for steps of 5 ms or more.

The learning rate rises and falls as in a run of 4,000 steps. (At a rate of almost nothing, weights that
start at 0 stay within 1e-11 of it, squares of their gradients are denormal numbers, and both loops time
the processor's way of handling those.)

    python benchmarks/loop_overhead.py
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch

from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
from energyscape.nn import ResidualMLP
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.schedules import EDM
from energyscape.training import TrainConfig
from energyscape.training.run import Run

RESULT = Path(__file__).parent / "results" / "loop_overhead.json"


def model_of(width: int, blocks: int) -> PreconditionedDenoiser:
    """The same initial weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PreconditionedDenoiser(
            ResidualMLP((64,), width=width, blocks=blocks), EDMPreconditioning(0.5)
        )


def bare(width: int, blocks: int, batch: int) -> object:
    """A function that takes `n` steps of the smallest possible loop."""
    model = model_of(width, blocks)
    loss_of = DenoisingLoss(EDM.for_data(0.5), edm_weight(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    rng = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(batch, 64, generator=rng)

    def steps(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            loss_of(model, x, None, rng).loss.mean().backward()
            optimizer.step()

    return steps


def ours(width: int, blocks: int, batch: int, folder: str) -> object:
    """The same number of steps of the library's loop, with everything it does in a normal run."""
    rng = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(5000, 64, generator=rng)
    objective = DenoisingLoss(EDM.for_data(0.5), edm_weight(0.5))
    config = TrainConfig(max_steps=4000, batch_size=batch, device="cpu", learning_rate=1e-3)
    run = Run(model_of(width, blocks), objective, x, x[:500], None, config, folder)
    run.start(resume=False)

    saved = time.monotonic()

    def steps(n: int) -> None:
        # A run of 4,000 steps: 200 lines of log, 20 validations, a checkpoint every 30 s.
        nonlocal saved
        for i in range(1, n + 1):
            _, norm, metrics = run.advance()
            if i % 20 == 0:
                run.log(norm, metrics)
        run.check()
        if time.monotonic() - saved > config.checkpoint_seconds:
            run.save()
            saved = time.monotonic()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="steps a block: one validation each")
    args = parser.parse_args()
    rows = []
    print(f"{'network':>22} {'bare ms':>9} {'loop ms':>9} {'ratio':>7}")
    for width, blocks, batch in [(256, 4, 128), (512, 4, 128), (512, 4, 512)]:
        with tempfile.TemporaryDirectory() as folder:
            pair = {"bare": bare(width, blocks, batch), "loop": ours(width, blocks, batch, folder)}
            times: dict[str, list[float]] = {"bare": [], "loop": []}
            for steps in pair.values():
                steps(20)
            for _ in range(args.rounds):
                for name, steps in pair.items():
                    began = time.perf_counter()
                    steps(args.steps)
                    times[name].append((time.perf_counter() - began) / args.steps * 1e3)
        ratio = median(b / a for a, b in zip(times["bare"], times["loop"], strict=True))
        a, b = (median(times[name]) for name in ("bare", "loop"))
        label = f"{width} x {blocks}, batch {batch}"
        rows.append({"network": label, "bare_ms": a, "loop_ms": b, "ratio": ratio})
        print(f"{label:>22} {a:9.2f} {b:9.2f} {ratio:7.3f}", flush=True)
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
