"""A training step on 64 pictures of 28 x 28: our network, diffusers' UNet2DModel and azula's UNet.

    python benchmarks/picture_throughput.py [--repeats 3] [--precisions float32 bfloat16] [--threads 1]

All have about 1.6 million parameters (ours is 40 channels wide; theirs as below) and do the same: the
squared error of their output against noise, backward, a fused AdamW step. Told are the shortest
processor time of a few steps, the floating-point operations of forward and backward (torch's counter:
products and convolutions), the rate that follows, and the rate of a product of 1,024 x 1,024 matrices
in the same precision on the same thread, which a network could reach at most. bfloat16 is autocast.
Networks are timed in turn, each step of each after one of the others, so that a busy machine is busy
for all. Peers that are not installed are left out. Writes ``results/picture_throughput.json``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import energyscape
from energyscape.nn import PictureNet

SHAPE = (1, 28, 28)
BATCH = 64
RESULTS = Path(__file__).resolve().parent / "results" / "picture_throughput.json"


class Diffusers(nn.Module):
    """UNet2DModel as its tutorials have it, without attention, narrowed to 1.6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # breaks if not torch's own
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=28, in_channels=1, out_channels=1, layers_per_block=2,
            block_out_channels=(32, 64, 64), norm_num_groups=8,
            down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The field at steps 0 to 999."""
        return self.net(x, (t * 999).long(), return_dict=False)[0]


class Azula(nn.Module):
    """azula's UNet, modulated by a sine embedding through a small perceptron."""

    def __init__(self) -> None:
        super().__init__()
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet

        self.time = nn.Sequential(
            SineEncoding(64), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128)
        )
        self.net = UNet(1, 1, hid_channels=(32, 64, 96), hid_blocks=(2, 2, 2), mod_features=128)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The field at times in [0, 1]."""
        return self.net(x, self.time(t))


class Ours(nn.Module):
    """The network that the families take for pictures, wider."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PictureNet(SHAPE, width=40)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The field at a level."""
        return self.net(x, t)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "energyscape": Ours,
    "diffusers": Diffusers,
    "azula": Azula,
}


class Step:
    """A training step of one network."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        torch.manual_seed(0)
        self.net = make()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.x, self.eps, self.t = (
            torch.randn(BATCH, *SHAPE),
            torch.randn(BATCH, *SHAPE),
            torch.rand(BATCH),
        )

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(p.numel() for p in self.net.parameters())

    def __call__(self, precision: str) -> None:
        """Forward, backward, update."""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = (self.net(self.x, self.t).float() - self.eps).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def operations(self) -> int:
        """Floating-point operations of products and convolutions, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.net(self.x, self.t).square().mean().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def product_rate(precision: str, repeats: int) -> float:
    """Floating-point operations a second of a large product."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(1024, 1024).to(kind), torch.randn(1024, 1024).to(kind)
    return 2 * 1024**3 / min(seconds(lambda: a @ b) for _ in range(3 * repeats))


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    present = [n for n in NETWORKS if importlib.util.find_spec(n) is not None]
    steps = {name: Step(NETWORKS[name]) for name in present}
    operations = {name: step.operations() for name, step in steps.items()}
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": platform.processor(), "threads": args.threads},
        "load_average": os.getloadavg()[0],
        "versions": {n: metadata.version(n) for n in ("torch", *present) if n != "energyscape"}
        | {"energyscape": energyscape.__version__},
        "rows": [],
    }
    print(f"{'':12}{'':10}{'parameters':>12}{'GFLOP':>8}{'s/step':>8}{'GFLOP/s':>9}{'product':>9}")
    for precision in args.precisions:
        best = dict.fromkeys(present, float("inf"))
        for _ in range(args.repeats + 1):
            for name, step in steps.items():
                best[name] = min(best[name], seconds(lambda: step(precision)))  # noqa: B023
        rate = product_rate(precision, args.repeats)
        for name in present:
            row = {
                "network": name,
                "precision": precision,
                "parameters": steps[name].parameters,
                "gflop": operations[name] / 1e9,
                "cpu_seconds": best[name],
                "gflop_per_second": operations[name] / best[name] / 1e9,
                "product_gflop_per_second": rate / 1e9,
            }
            record["rows"].append(row)
            print(
                f"{name:12}{precision:10}{row['parameters']:12,}{row['gflop']:8.1f}{best[name]:8.3f}"
                f"{row['gflop_per_second']:9.1f}{rate / 1e9:9.1f}",
                flush=True,
            )
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
