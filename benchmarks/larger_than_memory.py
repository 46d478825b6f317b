"""A table larger than the memory it is scored in, killed on the way and gone on with.

    python benchmarks/larger_than_memory.py [--rows 4000000] [--gib 1.0] [--suffix csv parquet]

Sixty columns of numbers, whole numbers, names and days, written in pieces; `fit --model anomaly` learns
from a file of 20,000 rows (500 to compare with, so that reading is what takes the time). `score` then
runs in a control group of ``--gib`` of memory (Linux, cgroup v1 or v2, as root; what exceeds it is
killed by the kernel; without such a group the peak is only told). It is killed by SIGKILL when a third
of the pieces is done, and gone on with by ``--resume``. Checked: as many scores as rows; those of some
rows as the same rows have in a file of their own. Writes ``results/larger_than_memory.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
import table_scale

OUT = Path(__file__).parent / "results" / "larger_than_memory.json"
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMITS = ("memory.limit_in_bytes", "memory.max")
PIECE = 200_000
LEARNED = 20_000


def wide(rows: int, seed: int) -> pl.DataFrame:
    """Three tables of `table_scale` side by side."""
    parts = [table_scale.table(rows, 3 * seed + k, 0.01)[0] for k in range(3)]
    return pl.concat(
        [part.rename({c: f"{c} {k}" for c in part.columns}) for k, part in enumerate(parts)],
        how="horizontal",
    )


def write(path: Path, rows: int) -> None:
    """In pieces, as it would not fit."""
    text = path.with_suffix(".csv")
    with text.open("wb") as file:
        for k in range(-(-rows // PIECE)):
            part = wide(min(PIECE, rows - k * PIECE), k + 1)
            part.write_csv(file, include_header=k == 0)
    if path != text:
        pl.scan_csv(text, try_parse_dates=True).sink_parquet(path, row_group_size=PIECE)
        text.unlink()


def group(gib: float) -> Path | None:
    """A control group of so much memory, where one can be made."""
    for root in GROUPS:
        place = root / f"larger-{os.getpid()}"
        for limit in LIMITS:
            try:
                place.mkdir(exist_ok=True)
                (place / limit).write_text(str(int(gib * 2**30)))
            except OSError:
                continue
            return place
    return None


def start(words: list[str], place: Path | None) -> subprocess.Popen[bytes]:
    """A command, inside of the group."""

    def enter() -> None:
        if place is not None:
            (place / "cgroup.procs").write_text(str(os.getpid()))

    line = [sys.executable, "-m", "energyscape", *words]
    return subprocess.Popen(line, preexec_fn=enter)


def done(parts: Path) -> int:
    """Pieces that are there."""
    return len(list(parts.glob("scores-*.parquet"))) if parts.is_dir() else 0


def measure(folder: Path, run: Path, suffix: str, rows: int, gib: float) -> dict[str, Any]:
    """One file."""
    data, out = folder / f"large.{suffix}", folder / "scores.parquet"
    write(data, rows)
    place = group(gib)
    words = ["score", str(run), str(data), "--out", str(out), "--reasons", "20"]
    parts = out.with_name(out.name + ".parts")
    began = time.perf_counter()
    first = start(words, place)
    # A third of what pieces of 64 MB would make; looked at ten times a second.
    aim = max(2, int(data.stat().st_size / 64e6 / 3))
    while first.poll() is None and done(parts) < aim:
        time.sleep(0.1)
    if first.poll() is not None:
        raise SystemExit(
            f"score ended by itself with code {first.returncode}, before it was killed"
        )
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = done(parts)
    stopped = time.perf_counter() - began
    second = start([*words, "--resume"], place)
    code = second.wait()
    took = time.perf_counter() - began
    record = {
        "file": suffix,
        "rows": rows,
        "columns": 60,
        "file_gib": round(data.stat().st_size / 2**30, 2),
        "limit_gib": gib if place is not None else None,
        "killed_after_seconds": round(stopped, 1),
        "pieces_kept": kept,
        "seconds": round(took, 1),
        "exit_code": code,
        "peak_rss_of_any_command_gib": round(
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2
        ),
    }
    if code == 0:
        found = pl.read_parquet(out)
        some = wide(PIECE, 2)[1000:1500]
        some.write_csv(folder / "some.csv")
        alone = folder / "alone.parquet"
        again = ["score", str(run), str(folder / "some.csv"), "--out", str(alone)]
        assert start(again, None).wait() == 0
        there = found["anomaly_score"][PIECE + 1000 : PIECE + 1500].to_numpy()
        error = np.abs(there - pl.read_parquet(alone)["anomaly_score"].to_numpy()).max()
        record |= {
            "scores": found.height,
            "largest_difference_alone": float(error),
            "parts_left": parts.exists(),
        }
    data.unlink()
    if place is not None:
        place.rmdir()
    return record


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--suffix", nargs="+", default=["csv", "parquet"])
    arguments = parser.parse_args()
    known = json.loads(OUT.read_text())["results"] if OUT.is_file() else []
    results = [r for r in known if r["file"] not in arguments.suffix]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide(LEARNED, 0).write_csv(folder / "learned.csv")
        run = folder / "run"
        words = ["fit", str(folder / "learned.csv"), "--model", "anomaly", "--out", str(run)]
        assert start([*words, "--set", "max_rows=500", "--seed", "0"], None).wait() == 0
        for suffix in arguments.suffix:
            record = measure(folder, run, suffix, arguments.rows, arguments.gib)
            print(json.dumps(record), flush=True)
            results.append(record)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)",
        "results": results,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
