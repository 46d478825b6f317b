"""What products by the faster library save: a training step and an evaluation of the default networks.

    python benchmarks/product_speed.py

Each network is timed with products as `energyscape.products` chooses them and with torch's own, taking
turns, the best of many repeats; where the choice is torch's own, the ratios are 1. Writes
results/product_speed.json.
"""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from energyscape import products
from energyscape.models import NetworkEnergy
from energyscape.nn import MLP, ResidualMLP
from energyscape.products import matmul

REPEATS = 40
PRODUCTS = [(n, d) for d in (64, 128, 256, 512) for n in (128, 512, 2048)]


def turns(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds with torch's own products and with ours, the two taking turns, and their ratio."""
    best = {"torch": float("inf"), "energyscape": float("inf")}
    for _ in range(REPEATS):
        for name in best:
            torch._C._set_mkldnn_enabled(name == "energyscape")
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    torch._C._set_mkldnn_enabled(True)
    return best | {"ratio": best["torch"] / best["energyscape"]}


def denoiser(dim: int, batch: int, width: int, blocks: int) -> dict[str, Any]:
    """A denoising step and an evaluation of the perceptron that tables take."""
    torch.manual_seed(0)
    net = ResidualMLP((dim,), width=width, blocks=blocks)
    nn.init.normal_(net.output.weight, std=0.01)
    x, c_noise = torch.randn(batch, dim), torch.randn(batch)

    def step() -> None:
        net.zero_grad()
        (net(x, c_noise) - x).square().mean().backward()

    @torch.no_grad()
    def evaluation() -> None:
        net(x, c_noise)

    return {"network": f"ResidualMLP {width}x{blocks}, {dim} columns, batch {batch}"} | {
        "training step": turns(step), "evaluation": turns(evaluation)
    }  # fmt: skip


def energy(dim: int, batch: int, width: int) -> dict[str, Any]:
    """A sliced score-matching step and a score of the perceptron that energies of tables take."""
    torch.manual_seed(0)
    model = NetworkEnergy(MLP((dim,), width=width, depth=3, scalar=True))
    x, v = torch.randn(batch, dim), torch.randn(1, batch, dim).sign()

    def step() -> None:
        model.zero_grad()
        score, along = model.score_and_slices(x, v, create_graph=True)
        (0.5 * score.square().sum(1) + along[0]).mean().backward()

    return {"network": f"energy MLP {width}x3, {dim} columns, batch {batch}"} | {
        "training step": turns(step), "evaluation": turns(lambda: model.energy_and_score(x))
    }  # fmt: skip


def main() -> None:
    """Print the table and keep it."""
    print(f"oneDNN is {'taken where it pays' if products._AHEAD else 'not ahead on this machine'}")
    pairs = {(n, d): (torch.randn(n, d), torch.randn(d, d)) for n, d in PRODUCTS}
    alone = [
        {"rows": n, "width": d} | turns(lambda x=x, w=w: matmul(x, w))  # type: ignore[misc]
        for (n, d), (x, w) in pairs.items()
    ]
    for row in alone:
        speed = 2e-9 * row["rows"] * row["width"] ** 2
        print(
            f"  {row['rows']:5d} rows x {row['width']:3d}: {speed / row['torch']:4.0f} to "
            f"{speed / row['energyscape']:4.0f} GFLOP/s, {row['ratio']:.2f}"
        )
    rows = [
        denoiser(20, 512, 256, 4),
        denoiser(20, 256, 256, 4),
        denoiser(64, 512, 512, 4),
        energy(10, 512, 128),
        energy(30, 512, 256),
    ]
    for row in rows:
        told = ", ".join(
            f"{name} {1e3 * row[name]['torch']:.2f} to {1e3 * row[name]['energyscape']:.2f} ms "
            f"({row[name]['ratio']:.2f})"
            for name in ("training step", "evaluation")
        )
        print(f"  {row['network']}: {told}")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onednn taken": products._AHEAD,
        "products": alone,
        "networks": rows,
    }
    out = Path(__file__).parent / "results" / "product_speed.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
