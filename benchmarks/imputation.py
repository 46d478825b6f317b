"""Blank cells filled in: edm beside scikit-learn's imputers, with the coverage of 90 % intervals.

    python benchmarks/imputation.py [--tables housing wine german penguins] [--shares 0.1 0.3 0.5]
        [--kinds random other] [--methods edm iterative knn forest] [--seeds 0 1] [--steps 2000]
        [--rows 1000] [--test-rows 80]

Cells of complete tables are blanked, in the rows that are learned from as in those that are filled in:

- ``random``: every cell with the same probability
- ``other``: where another column is above its median three times as often as where it is below; a third
  of the columns, at random, are such causes and are never blank themselves

Every imputer is fitted on the rows with blanks and fills others in. Measures on the blanked cells: RMSE
of numbers in units of the column's standard deviation, averaged over columns; accuracy of categories;
for those that draw, the share of numbers inside the range of 19 draws, 18/20 = 90 % where the truth is
exchangeable with them. ``edm`` predicts the mean of its 19 draws and the category drawn most;
``iterative`` is IterativeImputer with BayesianRidge (19 draws by ``sample_posterior``), ``forest`` it
with 30 trees and 4 rounds, ``knn`` KNNImputer, ``mean`` the column's mean or most frequent category.
They see standardised numbers and one-hot categories. Adds to ``results/imputation.json`` as they come.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_tables as tables

from energyscape.data import as_dataset, load
from energyscape.families import EDM
from energyscape.fidelity import columns_of

OUT = Path(__file__).parent / "results" / "imputation.json"
DRAWS = 19
Columns = dict[str, NDArray[Any]]


def whole(name: str, rows: int, seed: int) -> pl.DataFrame:
    """A table without blanks: its modelled columns, complete rows, shuffled."""
    if name == "wine":
        frame = load(tables.DATA / "uci" / "winequality-red.csv").frame
        assert frame is not None
        frame = frame.sample(fraction=1.0, shuffle=True, seed=seed)[:rows]
    else:
        train, _, _ = tables.read(name, rows * 5 // 4, seed)
        frame = train.frame
    schema = as_dataset(frame).schema
    return frame.select([c.name for c in schema.modelled]).drop_nulls()


def hidden(
    frame: pl.DataFrame, kind: str, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which cells are blanked."""
    n, d = frame.shape
    if kind == "random":
        return rng.random((n, d)) < share
    numbers = [j for j, t in enumerate(frame.dtypes) if t.is_numeric()]
    causes = rng.choice(numbers, size=max(1, min(len(numbers) - 1, d // 3)), replace=False)
    chance = np.zeros((n, d))
    for j in range(d):
        if j in causes:
            continue
        cause = frame.to_series(int(rng.choice(causes))).cast(pl.Float64).to_numpy()
        chance[:, j] = np.where(cause > np.median(cause), 1.5 * share, 0.5 * share)
    return rng.random((n, d)) < chance


def blanked(frame: pl.DataFrame, gone: NDArray[np.bool_]) -> pl.DataFrame:
    """The table with those cells blank."""
    return frame.with_columns(
        pl.when(~pl.Series(gone[:, j])).then(pl.col(name)).alias(name)
        for j, name in enumerate(frame.columns)
    )


class Matrix:
    """Columns as one matrix of standardised numbers and one-hot categories, and back."""

    def __init__(self, columns: Columns) -> None:
        self.parts: list[tuple[str, Any, Any, slice]] = []
        at = 0
        for name, values in columns.items():
            if values.dtype.kind == "f":
                std = float(np.nanstd(values)) or 1.0
                self.parts.append((name, float(np.nanmean(values)), std, slice(at, at + 1)))
            else:
                names = sorted({str(v) for v in values if v is not None})
                self.parts.append((name, names, None, slice(at, at + len(names))))
            at = self.parts[-1][3].stop

    def __call__(self, columns: Columns) -> NDArray[np.float64]:
        made = []
        for name, centre, scale, _ in self.parts:
            values = columns[name]
            if scale is not None:
                made.append(((values - centre) / scale)[:, None])
                continue
            block = np.array(
                [[np.nan if v is None else float(str(v) == k) for k in centre] for v in values]
            )
            made.append(block)
        return np.concatenate(made, axis=1)

    def back(self, x: NDArray[np.float64]) -> Columns:
        """Numbers and the category of the largest coordinate."""
        made: Columns = {}
        for name, centre, scale, where in self.parts:
            if scale is not None:
                made[name] = x[:, where.start] * scale + centre
            else:
                made[name] = np.array(centre, dtype=object)[x[:, where].argmax(1)]
        return made


def filled(
    method: str, train: pl.DataFrame, test: pl.DataFrame, schema: Any, seed: int, options: Any
) -> tuple[Columns, list[Columns]]:
    """A guess for every cell, and draws of it where the method has any."""
    if method == "edm":
        model = EDM(max_steps=options.steps, width=options.width, random_state=seed).fit(train)
        draws = [columns_of(d, schema) for d in model.impute(test, draws=DRAWS, random_state=seed)]
        guess: Columns = {}
        for name in draws[0]:
            several = [d[name] for d in draws]
            if several[0].dtype.kind == "f":
                guess[name] = np.mean(several, axis=0)
            else:
                guess[name] = np.array(
                    [max(set(v), key=v.count) for v in zip(*map(list, several), strict=True)],
                    dtype=object,
                )
        return guess, draws
    known, other = columns_of(train, schema), columns_of(test, schema)
    matrix = Matrix(known)
    x, z = matrix(known), matrix(other)
    if method == "iterative":
        imputer = IterativeImputer(random_state=seed).fit(x)
        drawing = IterativeImputer(random_state=seed, sample_posterior=True).fit(x)
        return matrix.back(imputer.transform(z)), [
            matrix.back(drawing.transform(z)) for _ in range(DRAWS)
        ]
    forest = RandomForestRegressor(30, min_samples_leaf=3, max_features=0.5, random_state=seed)
    imputer = {
        "mean": SimpleImputer(),
        "knn": KNNImputer(),
        "forest": IterativeImputer(forest, max_iter=4, random_state=seed),
    }[method].fit(x)
    return matrix.back(imputer.transform(z)), []


def judged(
    truth: Columns,
    gone: NDArray[np.bool_],
    scale: dict[str, float],
    guess: Columns,
    draws: list[Columns],
) -> dict[str, float]:
    """RMSE in standard deviations, accuracy, coverage: means over columns, coverage over cells."""
    errors, right, inside = [], [], []
    for j, (name, values) in enumerate(truth.items()):
        rows = np.flatnonzero(gone[:, j])
        if not len(rows):
            continue
        if values.dtype.kind == "f":
            off = (guess[name][rows] - values[rows]) / scale[name]
            errors.append(np.sqrt(np.mean(off**2)))
            if draws:
                several = np.stack([d[name][rows] for d in draws])
                within = (several.min(0) <= values[rows]) & (values[rows] <= several.max(0))
                inside += within.tolist()
        else:
            right.append(
                np.mean(
                    [str(a) == str(b) for a, b in zip(guess[name][rows], values[rows], strict=True)]
                )
            )
    return {
        "rmse": float(np.mean(errors)) if errors else float("nan"),
        "accuracy": float(np.mean(right)) if right else float("nan"),
        "coverage": float(np.mean(inside)) if inside else float("nan"),
        "cells": float(len(inside)),
    }


def keep(results: list[dict[str, Any]], out: Path) -> None:
    """Beside this file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


def show(results: list[dict[str, Any]]) -> None:
    """Means over seeds, a line for each table, kind and share."""
    for key in sorted({(r["table"], r["kind"], r["share"]) for r in results}):
        line = f"{key[0]:9} {key[1]:7} {key[2]:.1f} "
        for method in ("mean", "knn", "iterative", "forest", "edm"):
            of = [
                r
                for r in results
                if (r["table"], r["kind"], r["share"]) == key and r["method"] == method
            ]
            if of:
                rmse, accuracy, coverage = (
                    np.mean(np.array([r[k] for r in of], dtype=np.float64))  # None is no number
                    for k in ("rmse", "accuracy", "coverage")
                )
                line += f"| {method} {rmse:.3f} {accuracy:.3f} {coverage:.2f} "
        print(line)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ["housing", "wine", "german", "penguins"]
    parser.add_argument("--tables", nargs="+", default=names)
    parser.add_argument(
        "--methods", nargs="+", default=["mean", "knn", "iterative", "forest", "edm"]
    )
    parser.add_argument("--kinds", nargs="+", default=["random", "other"])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=80)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in options.seeds:
        for share in options.shares:
            for kind in options.kinds:
                for name in options.tables:
                    frame = whole(name, options.rows + options.test_rows, seed)
                    schema = as_dataset(frame).schema
                    rng = np.random.default_rng([seed, int(100 * share)])
                    gone = hidden(frame, kind, share, rng)
                    gaps, cut = blanked(frame, gone), options.test_rows
                    truth = columns_of(frame[:cut], schema)
                    known = columns_of(frame[cut:], schema)
                    scale = {k: float(np.std(v)) for k, v in known.items() if v.dtype.kind == "f"}
                    for method in options.methods:
                        key = {
                            "table": name,
                            "kind": kind,
                            "share": share,
                            "seed": seed,
                            "method": method,
                        }
                        if any(all(r[k] == v for k, v in key.items()) for r in results):
                            continue
                        began = time.process_time()
                        found = filled(method, gaps[cut:], gaps[:cut], schema, seed, options)
                        row = key | judged(truth, gone[:cut], scale, *found)
                        row |= {
                            "cpu_seconds": time.process_time() - began,
                            "rows": len(frame) - cut,
                        }
                        row |= {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
                        results.append(row)
                        print(
                            {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()},
                            flush=True,
                        )
                        keep(results, options.out)
    show(results)


if __name__ == "__main__":
    main()
