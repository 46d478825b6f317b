"""Known cells: how close drawn rows come to the closed-form conditional, and what it costs.

    python benchmarks/conditioning.py [--steps 2000] [--rows 300] [--families edm ncsn ddpm]

A table of three columns with a law in closed form: u from two normals, a category z given u by a
logistic law, v normal given both. Each family is fitted to 8,000 rows and asked three things:

- given a number u: total variation of z and Kolmogorov-Smirnov distance of v to their laws;
- given the category z, once by rejection (exact in the model's law) and once by conditioning;
- a fifth of the cells of new rows blanked: coverage of the interval from the 2nd to the 18th of 19
  draws, which should be 80 %, and how often the category drawn most is right.

The "floor" column is what rows of the law itself show, drawn in the same number. Prints a table and
writes ``results/conditioning.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from energyscape.families import FAMILIES, conditioning

CENTRES, WEIGHTS, SPREAD = np.array([-1.5, 1.0]), np.array([0.4, 0.6]), 0.6
SLOPES, SHIFTS = np.array([-1.5, 0.0, 1.5]), np.array([0.0, 0.5, 0.0])
NAMES = np.array(["a", "b", "c"])
GIVEN = (-1.8, 0.0, 1.2)


def chances(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """p(z | u), shape (n, 3)."""
    logits = u[:, None] * SLOPES + SHIFTS
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def draw(n: int, rng: np.random.Generator, u: float | None = None) -> pl.DataFrame:
    """Rows of the law, or of its conditional given u."""
    us = CENTRES[rng.choice(2, n, p=WEIGHTS)] + SPREAD * rng.normal(size=n)
    us = us if u is None else np.full(n, u)
    z = (chances(us).cumsum(1) < rng.random((n, 1))).sum(1)
    v = 0.8 * us + np.array([-2.0, 0.0, 2.0])[z] + 0.5 * rng.normal(size=n)
    return pl.DataFrame({"u": us, "z": NAMES[z], "v": v})


def variation(a: pl.Series, b: pl.Series) -> float:
    """Total variation of two samples of the category."""
    return float(0.5 * sum(abs((a == k).mean() - (b == k).mean()) for k in NAMES))  # type: ignore[operator]


def given_a_number(sample: Callable[[float], pl.DataFrame]) -> dict[str, float]:
    """Mean distances over three values of u."""
    rng, tv, ks = np.random.default_rng(7), [], []
    for u in GIVEN:
        law, drawn = draw(50_000, rng, u), sample(u)
        tv.append(variation(drawn["z"], law["z"]))
        ks.append(ks_2samp(drawn["v"], law["v"]).statistic)
    return {"number: variation of z": float(np.mean(tv)), "number: KS of v": float(np.mean(ks))}


def given_a_category(model: Any, rows: int, share: float) -> float:
    """Mean KS distance of u over the three categories; `share` decides the road."""
    law, ks = draw(100_000, np.random.default_rng(8)), []
    before, conditioning._RARE = conditioning._RARE, share
    for name in NAMES:
        drawn = model.sample(rows, given={"z": str(name)}, random_state=1)
        ks.append(ks_2samp(drawn["u"], law.filter(pl.col("z") == name)["u"]).statistic)
    conditioning._RARE = before
    return float(np.mean(ks))


def filled(model: Any, rows: int) -> dict[str, float]:
    """Coverage of intervals for numbers, and accuracy for the category."""
    rng = np.random.default_rng(9)
    whole = draw(rows, rng)
    hidden = rng.random((rows, 3)) < 0.2
    gaps = whole.with_columns(
        pl.when(~pl.Series(hidden[:, j])).then(pl.col(name)).alias(name)
        for j, name in enumerate(whole.columns)
    )
    draws = model.impute(gaps, draws=19, random_state=3)
    covered = []
    for j, name in ((0, "u"), (2, "v")):
        values = np.stack([d[name].to_numpy() for d in draws])[:, hidden[:, j]]
        low, high = np.sort(values, axis=0)[[1, 17]]
        truth = whole[name].to_numpy()[hidden[:, j]]
        covered.append(((truth >= low) & (truth <= high)).mean())
    votes = np.stack([d["z"].to_numpy() for d in draws])[:, hidden[:, 1]]
    most = np.array([NAMES[np.argmax([(c == k).sum() for k in NAMES])] for c in votes.T])
    right = (most == whole["z"].to_numpy()[hidden[:, 1]]).mean()
    return {"fill: coverage of 80 %": float(np.mean(covered)), "fill: category right": float(right)}


def write(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """What is known so far, beside this file."""
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "steps": arguments.steps,
        "rows": arguments.rows,
        "threads": arguments.threads,
        "versions": {name: metadata.version(name) for name in ("energyscape", "torch", "numpy")},
        "results": results,
    }
    out = Path(__file__).parent / "results" / "conditioning.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--families", nargs="+", default=["edm"], choices=["edm", "ncsn", "ddpm"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    train, rows = draw(8000, rng), arguments.rows
    floor = given_a_number(lambda u: draw(rows, rng, u))
    print({"family": "floor"} | {k: round(v, 3) for k, v in floor.items()}, flush=True)
    results: list[dict[str, Any]] = [{"family": "floor", **floor}]
    for family in arguments.families:
        model = FAMILIES[family](max_steps=arguments.steps, width=128, blocks=3, random_state=0)
        model.fit(train)
        began = time.perf_counter()
        row: dict[str, Any] = {"family": family}
        row |= given_a_number(lambda u, m=model: m.sample(rows, given={"u": u}, random_state=1))
        row["number: seconds per 100 rows"] = (time.perf_counter() - began) / (3 * rows) * 100
        row["category: KS of u by rejection"] = given_a_category(model, rows, 0.0)
        row["category: KS of u by conditioning"] = given_a_category(model, rows, 2.0)
        row |= filled(model, rows)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        results.append(row)
        write(results, arguments)


if __name__ == "__main__":
    main()
