"""Dates in seasons: drawn where rows are, or between them; by ranks, and by a smooth density.

    python benchmarks/seasons.py [--tables seasons hours surveys] [--seeds 0 1]

Made tables of 2,500 rows, 500 of them held out, whose date has stretches that hold nothing:

- ``seasons``: 60 days in spring of ten years, the temperature of the day, a count that grows over the
  years, and one of three sites
- ``hours``: moments within the working hours of ninety days, minutes that depend on the kind, staff
- ``surveys``: thirty Julys, an income that grows over the years, an age

`edm` with its defaults learns each twice: as the codec encodes it, where `energyscape.data.ranks` finds
islands, and with that rule switched off. Of 500 draws: the share whose date lies where no row can lie,
and how well a forest tells them from the 500 held out (.5 is best), by all columns, by the date alone
and by the others. Adds to ``results/seasons.json``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from energyscape.data import ranks
from energyscape.families import EDM
from energyscape.metrics import two_sample_accuracy

OUT = Path(__file__).parent / "results" / "seasons.json"
ROWS, HELD = 2500, 500
_YEAR = 365.25


def seasons(n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Sixty days of each of ten years."""
    year, day = rng.integers(0, 10, n), rng.integers(0, 60, n)
    site = rng.integers(0, 3, n)
    start = dt.date(2010, 4, 1)
    days = zip(year.tolist(), day.tolist(), strict=True)
    return pl.DataFrame(
        {
            "date": [start + dt.timedelta(int(_YEAR * a) + b) for a, b in days],
            "temperature": 8 + 12 * np.sin(day / 60 * np.pi) + 0.2 * year + rng.normal(0, 1, n),
            "count": rng.poisson(np.exp(1 + 0.15 * year + 0.5 * (site == 1))),
            "site": [f"s{k}" for k in site],
        }
    )


def hours(n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Nine to five on ninety days."""
    day, second = rng.integers(0, 90, n), 9 * 3600 + rng.beta(2, 2, n) * 8 * 3600
    kind = np.where(rng.random(n) < 0.3 + 0.4 * (second > 13 * 3600), "call", "visit")
    start = dt.datetime(2024, 1, 1)
    moments = zip(day.tolist(), second.tolist(), strict=True)
    return pl.DataFrame(
        {
            "date": [start + dt.timedelta(a, int(b)) for a, b in moments],
            "minutes": np.round(np.exp(rng.normal(2, 0.5, n) + (kind == "visit")), 1),
            "kind": kind,
            "staff": [f"p{k}" for k in rng.integers(0, 5, n)],
        }
    )


def surveys(n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Thirty days of each of thirty years."""
    year, day = rng.integers(0, 30, n), rng.integers(0, 30, n)
    start = dt.date(1990, 7, 1)
    days = zip(year.tolist(), day.tolist(), strict=True)
    return pl.DataFrame(
        {
            "date": [start + dt.timedelta(int(_YEAR * a) + b) for a, b in days],
            "income": np.round(np.exp(rng.normal(9 + 0.03 * year, 0.6)), -2),
            "age": rng.integers(18, 90, n),
        }
    )


def outside(table: str, rows: pl.DataFrame) -> float:
    """Share of dates where none can lie, but for a day at either end."""
    date = rows["date"]
    if table == "hours":
        hour = date.dt.hour().to_numpy()
        return float(((hour < 9) | (hour >= 17)).mean())
    first, length = {"seasons": ((4, 1), 60), "surveys": ((7, 1), 30)}[table]
    past = np.array([(d - dt.date(d.year, *first)).days for d in date.to_list()])
    return float(((past < -1) | (past > length)).mean())


def numbers(rows: pl.DataFrame) -> NDArray[np.float64]:
    """Columns for a forest: dates in seconds, names by their place in the alphabet."""
    columns = []
    for column in rows:
        if column.dtype == pl.String:
            columns.append(column.rank("dense").to_numpy().astype(float))
        elif column.dtype.is_temporal():
            columns.append(column.cast(pl.Datetime("us")).dt.epoch("s").to_numpy().astype(float))
        else:
            columns.append(column.to_numpy().astype(float))
    return np.stack(columns, axis=1)


TABLES: dict[str, Callable[[int, np.random.Generator], pl.DataFrame]] = {
    "seasons": seasons,
    "hours": hours,
    "surveys": surveys,
}


def measured(table: str, seed: int, rule: str) -> dict[str, Any]:
    """One fit."""
    rows = TABLES[table](ROWS, np.random.default_rng(seed))
    train, test = rows[HELD:], rows[:HELD]
    began = time.process_time()
    off = mock.patch.object(ranks, "islands", return_value=False)
    with off if rule == "smooth" else mock.MagicMock():
        model = EDM(calibration_fraction=0.0, random_state=seed).fit(train)
    drawn = model.sample(HELD, random_state=seed).select(test.columns)
    seconds = time.process_time() - began
    real, made = numbers(test), numbers(drawn)
    parts = {"all": slice(None), "date": slice(1), "others": slice(1, None)}
    return {
        "table": table,
        "seed": seed,
        "rule": rule,
        "outside": outside(table, drawn),
        **{
            f"told_by_{name}": two_sample_accuracy(
                real[:, part], made[:, part], np.random.default_rng(seed)
            ).value
            for name, part in parts.items()
        },
        "cpu_seconds": round(seconds, 1),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def main() -> None:
    """Run, print, write as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known: list[dict[str, Any]] = []
    if options.out.is_file():
        known = json.loads(options.out.read_text())["results"]
    for table in options.tables:
        for seed in options.seeds:
            for rule in ("smooth", "islands"):
                new = measured(table, seed, rule)
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in new.items()})
                same = (table, seed, rule)
                known = [k for k in known if (k["table"], k["seed"], k["rule"]) != same] + [new]
                record = {"torch": torch.__version__, "results": known}
                options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
