"""Which cell is to blame: planted causes, what an oracle could tell of them, and expected values.

    python benchmarks/anomaly_reasons.py [--seeds 1] [--rows 400] [--tables NAME ...]

Six tables (``$ENERGYSCAPE_DATA``): adult, California housing and german credit as they come (mixed
columns, 8,000 rows at most), normal rows of annthyroid, pendigits and PageBlocks (ADBench). Half of the
rows train. In ``--rows`` of the others one cell is replaced by another row's of the same column, and in
as many again two cells. Rows count that the detector calls strange (p at most 0.05).

**The ceiling.** Some replaced cells go with their row as well as the old ones did. The oracle knows the
training rows and how causes are planted: gradient-boosted trees learn, from 20,000 copies of training
rows with one cell replaced in the same way, which column it was. A cause can be told where the oracle
gives the column that it was at least half of its probability (of two cells: both together). Its first
choice alone is told too; it is right by luck where nothing can be told.

Ways to blame, for the same rows:

- ``replacement``: the detector's own, the odds of each cell against the rest of its row;
- ``rarity``: the same odds by how rare they are in that column among ordinary rows;
- ``integrated``: the integrated score, ``int s_j(x) dx_j`` from the row to the typical row downhill
  (mean shift, sigma 1/2) along the line between, summed over a column's coordinates;
- ``distance``: the largest distance of a cell to that of the nearest training row, without a model.

Then intervals and sets of 90 %: of all cells of 200 unchanged rows, and of the cells that were rightly
blamed. Adds what it measured to ``results/anomaly_reasons.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from energyscape import AnomalyDetector
from energyscape.data import load
from energyscape.detectors import Reasons, TableRows

DATA = Path(
    os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
OUT = Path(__file__).parent / "results" / "anomaly_reasons.json"
FILES = {
    "adult": "tables/adult-train.csv",
    "california": "tables/california_housing.csv",
    "german": "tables/german.csv",
    "annthyroid": "adbench/2_annthyroid.npz",
    "pendigits": "adbench/28_pendigits.npz",
    "PageBlocks": "adbench/27_PageBlocks.npz",
}
MOST, COPIES, LEVEL, SIGMA = 8000, 20_000, 0.05, 0.5
WAYS = ("replacement", "rarity", "integrated", "distance")


def halves(name: str, seed: int) -> tuple[Any, Any]:
    """Rows that train, and the others, as frames or arrays."""
    path = DATA / FILES[name]
    if not path.is_file():
        sys.exit(f"no {path}: set ENERGYSCAPE_DATA to the folder that has it")
    rng = np.random.default_rng(seed)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            rows: Any = archive["X"].astype(np.float64)[archive["y"] == 0]
    else:
        dataset = load(path)
        rows = dataset.raw if dataset.raw is not None else dataset.data
    order = rng.permutation(len(rows))[:MOST]
    half = len(order) // 2
    return rows[np.sort(order[:half])], rows[np.sort(order[half:])]


def planted(
    rows: TableRows, source: TableRows, cells: int, rng: np.random.Generator
) -> tuple[TableRows, NDArray[np.bool_]]:
    """Rows with so many cells from elsewhere in their column, and which."""
    numbers, codes = rows.numbers.copy(), rows.codes.copy()
    width, total = numbers.shape[1], numbers.shape[1] + codes.shape[1]
    changed = np.zeros((len(rows), total), dtype=bool)
    for i in range(len(rows)):
        for j in rng.permutation(total):
            if changed[i].sum() == cells:
                break
            table, k = (numbers, j) if j < width else (codes, j - width)
            known = source.numbers[:, k] if j < width else source.codes[:, k]
            other = known[rng.integers(len(known), size=50)]
            same = (other == table[i, k]) | (
                np.isnan(other.astype(float)) & np.isnan(float(table[i, k]))
            )
            if not same.all():  # a column that hardly changes may have no other value
                table[i, k] = other[~same][0]
                changed[i, j] = True
    return TableRows(numbers, codes), changed


def oracle(train: TableRows, rng: np.random.Generator) -> Any:
    """A classifier that learned on training rows which column was replaced."""
    copies = train.take(rng.integers(len(train), size=COPIES))
    rows, changed = planted(copies, train, 1, rng)
    told = changed.any(axis=1)
    width = rows.numbers.shape[1]
    kinds = [
        k >= width and len(np.unique(train.codes[:, k - width])) < 250
        for k in range(changed.shape[1])
    ]
    trees = HistGradientBoostingClassifier(
        categorical_features=kinds, max_iter=80, learning_rate=0.2, random_state=0
    )
    return trees.fit(as_matrix(rows)[told], changed.argmax(axis=1)[told])


def as_matrix(rows: TableRows) -> NDArray[np.float64]:
    """Numbers and codes in one matrix; codes below 0 are blanks."""
    codes = rows.codes.astype(np.float64)
    return np.hstack([rows.numbers, np.where(codes < 0, np.nan, codes)])


def integrated(reasons: Reasons, rows: TableRows, steps: int = 16) -> NDArray[np.float64]:
    """Integrated score of each column over the way downhill, mean over the views."""
    total = np.zeros((len(rows), reasons.num_columns))
    for view in reasons.views:
        known, x = view.transform(reasons.rows), view.transform(rows)
        owner = list(range(len(view.mean))) + list(np.flatnonzero(view.blanks))
        for k, names in enumerate(view.names):
            owner += [len(view.mean) + k] * len(names)
        for i, point in enumerate(x):
            low = point
            for _ in range(20):
                low = mean_shift(low[None], known)[0]
            t = (np.arange(steps) + 0.5) / steps
            path = low + t[:, None] * (point - low)
            slope = (path - mean_shift(path, known)).mean(axis=0) / SIGMA**2
            part = slope * (point - low)
            # The last coordinate is of values never seen, which belongs to no column.
            total[i] += np.bincount(owner, part[:-1], minlength=total.shape[1])
    return total


def mean_shift(x: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """The denoiser of the data at SIGMA: means of the known rows weighed by their kernels."""
    squares = ((x[:, None] - known[None]) ** 2).sum(-1) if len(x) == 1 else distances(x, known)
    weight = np.exp((squares.min(axis=1, keepdims=True) - squares) * (0.5 / SIGMA**2))
    return weight @ known / weight.sum(axis=1, keepdims=True)


def distances(x: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances, shape (m, n)."""
    both = (x**2).sum(1)[:, None] + (known**2).sum(1) - 2 * x @ known.T
    return np.maximum(both, 0.0)


def rare_odds(reasons: Reasons, rows: TableRows) -> NDArray[np.float64]:
    """Surprise of each column's odds among those of ordinary rows."""
    odds = reasons.odds(rows).T
    return np.stack([law.surprise(o) for law, o in zip(reasons.laws, odds, strict=True)], axis=1)


def apart(reasons: Reasons, rows: TableRows) -> NDArray[np.float64]:
    """Squared distance of each cell to that of the nearest known row, standard view."""
    view = reasons.views[0]
    near = distances(view.transform(rows), view.transform(reasons.rows)).argmin(axis=1)
    known = reasons.rows.take(near)
    cells = [
        ((a - b) ** 2).sum(1) for a, b in zip(view.cells(rows), view.cells(known), strict=True)
    ]
    names = [2.0 * (a != b) for a, b in zip(rows.codes.T, known.codes.T, strict=True)]
    return np.stack([*cells, *names], axis=1)


def held(
    reasons: Reasons, truth: TableRows, cells: list[tuple[int, int]], rows: TableRows
) -> list[bool]:
    """Whether the interval or set of each cell (row, column) holds the truth."""
    width = truth.numbers.shape[1]
    found = reasons.expected(rows.take(np.array([i for i, _ in cells])), [[j] for _, j in cells])
    out = []
    for (i, j), (what,) in zip(cells, found, strict=True):
        if j >= width:
            out.append(int(truth.codes[i, j - width]) in what.names)
        elif not np.isnan(truth.numbers[i, j]) and not np.isnan(what.low):
            out.append(bool(what.low <= truth.numbers[i, j] <= what.high))
    return out


def measure(name: str, seed: int, count: int) -> dict[str, Any]:
    """One table, one seed."""
    rng = np.random.default_rng(seed)
    train, test = halves(name, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector = AnomalyDetector(random_state=seed).fit(train)
    known, rows = detector._rows(detector._conform(train)), detector._rows(detector._conform(test))
    reasons, alarm = detector._why(), detector.threshold(LEVEL)
    ordinary = rows.take(rng.permutation(len(rows))[:count])
    trees = oracle(known, rng)
    out: dict[str, Any] = {
        "table": name,
        "seed": seed,
        "train": len(known),
        "columns": reasons.num_columns,
    }
    for cells in (1, 2):
        changed, where = planted(ordinary, rows, cells, rng)
        found = detector.detector_.score(changed) > alarm
        changed, where, truth = (
            changed.take(np.flatnonzero(found)),
            where[found],
            ordinary.take(np.flatnonzero(found)),
        )
        index = np.arange(len(where))
        chance = np.zeros(where.shape)
        chance[:, trees.classes_] = trees.predict_proba(as_matrix(changed))
        told = (chance * where).sum(axis=1) >= 0.5
        began = time.perf_counter()
        blamed, _ = reasons.blame(changed)
        seconds = time.perf_counter() - began
        first = {
            "replacement": np.array([b[0] for b in blamed], dtype=int),
            "rarity": rare_odds(reasons, changed).argmax(axis=1),
            "integrated": integrated(reasons, changed).argmax(axis=1),
            "distance": apart(reasons, changed).argmax(axis=1),
        }
        entry: dict[str, Any] = {
            "planted": count,
            "detected": int(found.sum()),
            "told": int(told.sum()),
            "oracle": {
                "right": int(where[index, chance.argmax(axis=1)].sum()),
                "right_where_told": int(where[index, chance.argmax(axis=1)][told].sum()),
            },
            "milliseconds_a_row": round(1000 * seconds / max(len(where), 1), 2),
        }
        for way in WAYS:
            right = where[index, first[way]]
            entry[way] = {"right": int(right.sum()), "right_where_told": int(right[told].sum())}
        if cells == 2:
            both = [set(np.flatnonzero(w)) <= set(b) for w, b in zip(where, blamed, strict=True)]
            entry["both_blamed"] = int(np.sum(both))
        else:
            good = [
                (int(i), int(first["replacement"][i]))
                for i in index
                if where[i, first["replacement"][i]]
            ]
            entry["interval_of_blamed"] = share(held(reasons, truth, good, changed) if good else [])
            extra = [len(b) - 1 for b in blamed]
            entry["further_cells_blamed"] = round(float(np.mean(extra)), 3) if extra else None
        out[f"{cells}_cells"] = entry
    plain = [
        (int(i), int(j)) for i in range(min(200, len(ordinary))) for j in range(reasons.num_columns)
    ]
    out["interval"] = share(held(reasons, ordinary, plain, ordinary))
    return out


def share(held_cells: list[bool]) -> list[float]:
    """Share and number."""
    return [round(float(np.mean(held_cells)), 4) if held_cells else float("nan"), len(held_cells)]


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Pooled over seeds for each table, then over tables."""
    out: dict[str, Any] = {}
    for cells in ("1_cells", "2_cells"):
        for name in [*dict.fromkeys(r["table"] for r in records), "all"]:
            mine = [r[cells] for r in records if name in (r["table"], "all")]
            detected, told = sum(r["detected"] for r in mine), sum(r["told"] for r in mine)
            entry = {"detected": detected, "told": told}
            for way in ("oracle", *WAYS):
                entry[way] = round(sum(r[way]["right_where_told"] for r in mine) / max(told, 1), 3)
                right = sum(r[way]["right"] for r in mine)
                entry[f"{way}_of_detected"] = round(right / max(detected, 1), 3)
            out.setdefault(cells, {})[name] = entry
            print(cells, name, entry)
    return out


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--tables", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    old = json.loads(arguments.out.read_text())["records"] if arguments.out.is_file() else []
    records: list[dict[str, Any]] = [r for r in old if r["table"] not in arguments.tables]
    for seed in range(arguments.seeds):
        for name in arguments.tables:
            records.append(measure(name, seed, arguments.rows))
            print(json.dumps(records[-1]), flush=True)
            result = {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "versions": {
                    n: metadata.version(n) for n in ("energyscape", "numpy", "scikit-learn")
                },
                "records": records,
            }
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    result["summary"] = summary(records)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
