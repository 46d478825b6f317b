"""What a log-density costs and loses by a network in float32 instead of float64.

    python benchmarks/density_precision.py [--tables bend german wine] [--families edm ncsn ddpm]
        [--steps 600] [--rows 300]

Path, sums and probes are the same (float64); the network of the family alone changes its type. Told:
ms a row by each, the largest and the median distance between the two, of float32 the largest distance
between a row alone and the row among others, and the error of the solver on these rows: how far 64
steps are from 256 (exact traces only; with probes other steps have other noise). ``bend`` has ten
columns, one the square of another. One thread. Writes ``results/density_precision.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from energyscape.data import read_table
from energyscape.diffusion import log_density
from energyscape.families import FAMILIES

OUT = Path(__file__).parent / "results" / "density_precision.json"
DATA = Path(
    os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
FILES = {"german": "tables/german.csv", "wine": "uci/winequality-red.csv"}
ALONE = 10


def rows_of(table: str) -> Any:
    """What the family is fitted to."""
    if table in FILES:
        return read_table(DATA / FILES[table])
    x = np.random.default_rng(0).normal(size=(3000, 10))
    x[:, 1] += x[:, 0] ** 2
    return x


def measured(table: str, family: str, steps: int, count: int) -> dict[str, Any]:
    """One fit, four ways to its density."""
    data = rows_of(table)
    model = FAMILIES[family](max_steps=steps, random_state=0).fit(data)
    some = data[:count]
    found: dict[str, np.ndarray] = {}
    spent: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        with mock.patch.object(model, "_density_dtype", return_value=dtype):
            model.log_density(data[:2])
            began = time.process_time()
            found[name] = np.asarray(model.log_density(some).value)
            spent[name] = 1000 * (time.process_time() - began) / count
    alone = np.concatenate(
        [np.asarray(model.log_density(data[i : i + 1]).value) for i in range(ALONE)]
    )
    coarse = None
    if model.log_density(data[:1]).kind == "exact_ode":
        usual = log_density

        def finer(*words: Any, **named: Any) -> Any:
            return usual(*words, **(named | {"steps": 256}))

        few = data[:50]
        with mock.patch("energyscape.families.denoising.log_density", finer):
            fine = np.asarray(model.log_density(few).value)
        coarse = float(np.abs(found["float32"][:50] - fine).max())
    apart = np.abs(found["float32"] - found["float64"])
    return {
        "table": table,
        "family": family,
        "dimensions": int(np.prod(model.facts_["event_shape"])),
        "ms_a_row": {name: round(value, 2) for name, value in spent.items()},
        "largest_distance": float(apart.max()),
        "median_distance": float(np.median(apart)),
        "alone_and_among_others": float(np.abs(alone - found["float32"][:ALONE]).max()),
        "error_of_the_solver": coarse,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=["bend", *FILES], choices=["bend", *FILES])
    parser.add_argument("--families", nargs="+", default=["edm", "ncsn", "ddpm"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for table in options.tables:
        for family in options.families:
            results.append(measured(table, family, options.steps, options.rows))
            print(results[-1], flush=True)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "results": results,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
