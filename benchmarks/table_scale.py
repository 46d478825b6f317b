"""A table of many rows: seconds and peak memory to learn, score and go on, through the command line.

    python benchmarks/table_scale.py [--rows 100000] [--models anomaly edm] [--suffix csv] [--time 60s]

Twenty columns: twelve correlated numbers (three with heavy tails, one with blanks), four of whole
numbers, three of names (5, 20 and 200 levels), one of days; 1 % of the rows scored are strange in
three columns. A file of ``--rows`` rows is learned from, another is scored. Each command is a process
of its own, its peak resident memory read from the system. ``anomaly`` has its defaults; ``edm``
trains for ``--time`` and scores without its log-density. Adds what it measured to
``results/table_scale.json``.
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
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

OUT = Path(__file__).parent / "results" / "table_scale.json"


def table(rows: int, seed: int, strange: float = 0.0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows, and which of them are strange."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(4, 12))
    x = rng.normal(size=(rows, 4)) @ mix + 0.5 * rng.normal(size=(rows, 12))
    x[:, 9:] = np.exp(0.7 * x[:, 9:])
    counts = rng.poisson(np.exp(0.3 * x[:, :4]))
    levels = [5, 20, 200]
    names = [(rng.geometric(3 / n, rows) + (x[:, k] > 0)) % n for k, n in enumerate(levels)]
    days = rng.integers(0, 3650, rows)
    odd = rng.random(rows) < strange
    for i in np.flatnonzero(odd):
        for j in rng.permutation(12)[:3]:
            x[i, j] = x[rng.integers(rows), j] * 1.5
    x[rng.random(rows) < 0.1, 8] = np.nan
    columns: dict[str, Any] = {f"x{j}": np.round(x[:, j], 4) for j in range(12)}
    columns |= {f"count{j}": counts[:, j] for j in range(4)}
    columns |= {f"name{k}": [f"level {v}" for v in codes] for k, codes in enumerate(names)}
    frame = pl.DataFrame(columns, nan_to_null=True)
    start = datetime.date(2015, 1, 1)
    day = pl.Series("day", days).cast(pl.Int64)
    return frame.with_columns((pl.lit(start) + pl.duration(days=day)).alias("day")), odd


def run(*words: str) -> dict[str, float]:
    """A command's seconds (elapsed, and of the processor) and peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    code = "import resource, sys; from energyscape.cli import main; end = main(sys.argv[1:]); "
    code += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(end)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(done.stdout.strip(), flush=True)
    peak = int(done.stdout.strip().splitlines()[-1].split()[-1])
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(spent, 1),
        "peak_gib": round(peak / 2**20, 2),
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--models", nargs="+", default=["anomaly"], choices=["anomaly", "edm"])
    parser.add_argument("--suffix", default="csv", choices=["csv", "parquet"])
    parser.add_argument("--time", default="60s", help="training of edm")
    arguments = parser.parse_args()
    records = json.loads(OUT.read_text()) if OUT.is_file() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for seed, strange in ((1, 0.0), (2, 0.01)):
            frame, odd = table(arguments.rows, seed, strange)
            files.append(str(folder / f"{seed}.{arguments.suffix}"))
            frame.write_csv(files[-1]) if arguments.suffix == "csv" else frame.write_parquet(
                files[-1]
            )
        size = os.path.getsize(files[1])
        del frame
        for model in arguments.models:
            out, scores = str(folder / model), str(folder / f"{model}.parquet")
            extra = ["--time", arguments.time] if model == "edm" else []
            record = {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": f"{platform.machine()}, beside other work",
                "cores": len(os.sched_getaffinity(0)),
                "threads": os.environ.get("OMP_NUM_THREADS", "all"),
                "model": model,
                "rows": arguments.rows,
                "file": arguments.suffix,
                "megabytes": round(size / 1e6, 1),
                "fit": run("fit", files[0], "--model", model, "--out", out, "--seed", "0", *extra),
                "score": run(
                    "score", out, files[1], "--out", scores, "--no-density", "--fdr", "0.05"
                ),
            }
            found = pl.read_parquet(scores)
            record["auroc"] = round(float(roc_auc_score(odd, found["anomaly_score"])), 4)
            flagged = found["flagged"].to_numpy()
            record["flagged"] = int(flagged.sum())
            record["false"] = int((flagged & ~odd).sum())
            print(json.dumps(record), flush=True)
            records.append(record)
            OUT.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
