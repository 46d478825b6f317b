"""What it is worth that freed memory stays with the process, by what is done.

    python benchmarks/freed_memory.py [--rounds 3] [--only NAME ...]

Each piece of work is done in a process of its own on one thread, in turn with freed memory kept
(`energyscape.memory`, as when the library is imported) and with glibc's own thresholds (a variable
of the environment that says what is glibc's default anyway keeps the library away). Told are the ratio
of processor seconds, page faults, and the resident memory at its largest and at the end, after
everything was freed. `loop_overhead.py` has single steps of networks.

    pictures    `EDM.fit` on 2,000 pictures of 28 x 28, 60 steps of 64
    drawing     200 pictures of it, 18 steps of Heun
    bits        log-density of 4 of those pictures
    table       `EDM.fit` on 20,000 rows of 10 columns, 300 steps
    density     log-density of 500 of those rows
    energy      `EBM.fit` on the same rows, 100 steps
    chains      10,000 chains of MALA on a mixture in the plane, 500 steps
    detector    `AnomalyDetector.fit` on 20,000 rows of 10 columns and their scores

Writes ``results/freed_memory.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "freed_memory.json"


def pictures() -> np.ndarray:
    """Blurred noise in grey levels."""
    noise = np.random.default_rng(0).normal(size=(2000, 28, 28)).cumsum(1).cumsum(2)
    return np.clip(noise * 4 + 128, 0, 255).astype(np.uint8)


def table() -> np.ndarray:
    """Ten columns that depend on one another."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 10))
    return np.tanh(z @ rng.normal(size=(10, 10))) + 0.3 * z**2


def of_pictures(work: str) -> Callable[[], object]:
    """Fit, then what is asked."""
    from energyscape import EDM

    x = pictures()
    model = EDM(max_steps=60, batch_size=64, precision="float32", random_state=0)
    if work == "pictures":
        return lambda: model.fit(x)
    model.set_params(max_steps=2, validation_fraction=0.0, calibration_fraction=0.0).fit(x)
    if work == "drawing":
        return lambda: model.sample(200, sampler="heun", steps=18, random_state=0)
    return lambda: model.log_density(x[:4], random_state=0)


def of_tables(work: str) -> Callable[[], object]:
    """Fit, then what is asked."""
    from energyscape import EBM, EDM, AnomalyDetector

    x = table()
    if work == "detector":
        return lambda: AnomalyDetector(random_state=0).fit(x).score_samples(x)
    if work == "energy":
        return lambda: EBM(max_steps=100, random_state=0).fit(x)
    model = EDM(max_steps=300, random_state=0)
    if work == "table":
        return lambda: model.fit(x)
    model.set_params(max_steps=2).fit(x)
    return lambda: model.log_density(x[:500])


def of_chains(work: str) -> Callable[[], object]:
    """Many chains at once."""
    import torch

    from energyscape.densities import eight_gaussians
    from energyscape.mcmc import MALA, run_chains

    target = eight_gaussians().at(0.5)
    start = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    return lambda: run_chains(MALA(0.1), target, start, 500, rng=rng, keep="last")


WORK: dict[str, Callable[[str], Callable[[], object]]] = {
    "pictures": of_pictures,
    "drawing": of_pictures,
    "bits": of_pictures,
    "table": of_tables,
    "density": of_tables,
    "energy": of_tables,
    "chains": of_chains,
    "detector": of_tables,
}


def done(name: str) -> None:
    """Do it once in this process and print what it took."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    work = WORK[name](name)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began = time.process_time()
    result = work()
    seconds = time.process_time() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    del result, work
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    told = {
        "seconds": seconds,
        "faults": used.ru_minflt - faults,
        "largest_mib": used.ru_maxrss / 1024,
        "end_mib": pages * resource.getpagesize() / 2**20,
    }
    print(json.dumps(told))


def measured(name: str, kept: bool) -> dict[str, float]:
    """The same in a new process."""
    own = {} if kept else {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    told = subprocess.run(
        [sys.executable, __file__, "--do", name],
        env=os.environ | own,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--do", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.do:
        done(args.do)
        return
    rows: dict[str, Any] = {}
    for name in args.only:
        pairs = [(measured(name, True), measured(name, False)) for _ in range(args.rounds)]
        rows[name] = {
            "ratio": median(kept["seconds"] / usual["seconds"] for kept, usual in pairs),
            **{
                f"{what}_{key}": median(pair[i][key] for pair in pairs)
                for i, what in enumerate(("kept", "usual"))
                for key in pairs[0][0]
            },
        }
        print(f"{name:10}", {k: round(v, 3) for k, v in rows[name].items()}, flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "rounds": args.rounds,
        "rows": rows,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
