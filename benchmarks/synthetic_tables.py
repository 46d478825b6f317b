"""Synthetic tables: edm with its defaults beside a Gaussian copula and ForestDiffusion.

    python benchmarks/synthetic_tables.py [--tables penguins german housing adult] [--seeds 0 1 2]
        [--methods edm copula forest] [--rows 5000] [--seconds 100]
        [--forest-levels 20] [--forest-copies 10]

Data: ``$ENERGYSCAPE_DATA/tables`` (see `TABLES`), default ``../shared/data``. Each table is read as
`energyscape fit` reads it, ``--rows`` of it kept at random, a fifth held out, the rest trained on; the
same rows, columns and measures for every method:

- ``real``: other training rows in the place of drawn ones; what a perfect model reaches
- ``edm``: the family with its defaults; ``--seconds`` or ``--steps`` limit its training
- ``copula``: columns to normal scores by their ranks (ties, categories and blanks spread over their
  share), a Gaussian with their covariance, and back
- ``forest``: ForestDiffusion (2309.09968), flow matching by XGBoost, with fewer noise levels and copies
  of the data than its defaults (50, 100), as these take hours; not run where it is not installed

Needs an environment with energyscape installed and, for ``forest``, ForestDiffusion. As many rows are
drawn as were held out. Every result is written as it comes, to
``results/synthetic_tables.json`` beside this file; results there are kept unless measured again.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import energyscape
from energyscape.data import Dataset, as_dataset, load
from energyscape.families import EDM
from energyscape.fidelity import columns_of, fidelity_table

DATA = Path(
    os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
OUT = Path(__file__).parent / "results" / "synthetic_tables.json"
#: File, whether it has a head, and the columns that models trained on drawn rows must predict.
TABLES: dict[str, tuple[str, bool, list[str]]] = {
    "penguins": ("palmer_penguins_raw.csv", True, ["Species", "Body Mass (g)"]),
    "german": ("german.csv", False, ["c20"]),
    "housing": ("california_housing.csv", True, ["median_house_value"]),
    "adult": ("adult-train.csv", False, ["c14"]),
}
Columns = dict[str, NDArray[Any]]


def read(
    name: str, rows: int, seed: int, *, apart: bool = False, frame: bool = False
) -> tuple[Dataset, Columns, Columns] | pl.DataFrame:
    """The training rows as a data set and as columns, and the held-out rows as columns (or a frame).

    ``apart`` takes rows that seed 0 did not hold out, and of large tables none that it used.
    """
    file, head, _ = TABLES[name]
    whole = DATA / "tables" / file
    if not whole.is_file():
        raise SystemExit(f"{whole} is missing; set ENERGYSCAPE_DATA")
    if head:
        raw = load(whole).frame
    else:
        lines = [line.split(",") for line in whole.read_text().splitlines() if line.strip()]
        names = [f"c{j}" for j in range(len(lines[0]))]
        raw = load_text({n: [line[j].strip() for line in lines] for j, n in enumerate(names)})
    assert raw is not None
    if apart:
        first = np.random.default_rng(0).permutation(len(raw))
        raw = raw[first[5000:]] if len(raw) > 5000 + rows else raw[first[len(raw) // 5 :]]
    order = np.random.default_rng(seed).permutation(len(raw))[:rows]
    data = as_dataset(raw[order])
    assert data.frame is not None
    assert data.schema is not None
    held = len(data) // 5
    train, test = data.take(slice(held, None)), data.take(slice(0, held))
    if frame:
        return test.data
    return train, columns_of(train.data, data.schema), columns_of(test.data, data.schema)


def load_text(text: dict[str, list[str]]) -> pl.DataFrame:
    """Columns of words as their types, by way of the reader."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        pl.DataFrame(text).write_csv(path)
        frame = load(path).frame
    assert frame is not None
    return frame


# -- methods: training rows, number of rows and seed to columns -----------------------------------


def edm(train: Dataset, known: Columns, n: int, seed: int, options: Any) -> Columns:
    """The family as it comes."""
    steps = {} if options.steps is None else {"max_steps": options.steps}
    model = EDM(random_state=seed, time_limit=options.seconds, **steps).fit(train)
    print(f"   {model.info_['steps']} steps, {model.info_['seconds']:.0f} s", flush=True)
    return columns_of(model.decode(model.sample_encoded(n, random_state=seed)), train.schema)


def copula(train: Dataset, known: Columns, n: int, seed: int, options: Any) -> Columns:
    """Normal scores, one covariance, and back."""
    rng = np.random.default_rng(seed)
    scores, backs = [], []
    for values in known.values():
        score, back = _scores(values, rng)
        scores.append(score)
        backs.append(back)
    covariance = np.cov(np.stack(scores), ddof=0).reshape(len(scores), -1)
    drawn = rng.multivariate_normal(np.zeros(len(scores)), covariance, size=n, method="eigh")
    return {
        name: back(drawn[:, j]) for j, (name, back) in enumerate(zip(known, backs, strict=True))
    }


def _scores(
    values: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], NDArray[Any]]]:
    """Scores of one column, and the way back; labels are in the order of their frequency."""
    if values.dtype.kind == "f":
        places: list[Any] = [*np.unique(values[~np.isnan(values)])]
        codes = np.searchsorted(np.array(places), values)
        codes = np.where(np.isnan(values), len(places), codes)
        places.append(np.nan)
    else:
        words, counts = np.unique([repr(v) for v in values], return_counts=True)
        order = np.argsort(-counts)
        by_word = {repr(v): v for v in values}
        places = [by_word[words[i]] for i in order]
        spot = {words[i]: j for j, i in enumerate(order)}
        codes = np.array([spot[repr(v)] for v in values])
    share = np.bincount(codes, minlength=len(places)) / len(codes)
    ends = np.concatenate([[0.0], np.cumsum(share)])
    u = ends[codes] + share[codes] * rng.random(len(codes))
    dtype = np.float64 if values.dtype.kind == "f" else object
    kept = np.empty(len(places), dtype=dtype)
    kept[:] = places

    def back(z: NDArray[np.float64]) -> NDArray[Any]:
        found = np.searchsorted(ends[1:-1], ndtr(z), side="right")
        return kept[np.minimum(found, len(kept) - 1)]

    return ndtri(np.clip(u, 1e-6, 1 - 1e-6)), back


def forest(train: Dataset, known: Columns, n: int, seed: int, options: Any) -> Columns:
    """ForestDiffusion, flow matching."""
    import pandas
    from ForestDiffusion import ForestDiffusionModel

    from energyscape.fidelity.columns import codes_of

    class Model(ForestDiffusionModel):  # type: ignore[misc, no-any-unimported]
        """As it comes, but for two slips that would count against it.

        It rounds an array that pandas 3 gives it to read only; and it takes the levels of column 13 for
        those of column 3, as it looks for "3_" in their names: names of one length have no such parts.
        """

        def clip_extremes(self, X: Any) -> Any:
            return super().clip_extremes(np.array(X))

        def dummify(self, X: Any) -> Any:
            names = [f"{j:04d}" for j in range(X.shape[1])]
            frame = pandas.DataFrame(X, columns=names)
            before = frame.columns
            for j in self.cat_indexes:
                frame = pandas.get_dummies(
                    frame, columns=[names[j]], prefix=names[j], dtype="float", drop_first=True
                )
            return frame.to_numpy(), before, frame.columns

    X, names, labels, whole = [], [], [], []
    assert train.schema is not None
    for j, (name, values) in enumerate(known.items()):
        if values.dtype.kind == "f":
            X.append(values)
            if train.schema[name].kind == "integer":
                whole.append(j)
            continue
        codes = codes_of(values)[0]
        places: list[Any] = sorted({str(v) for v in values if v is not None})
        X.append(np.where(codes < 0, len(places), codes).astype(np.float64))
        labels.append(j)
        names.append((j, [*places, None]))
    model = Model(
        np.column_stack(X),
        n_t=options.forest_levels,
        duplicate_K=options.forest_copies,
        cat_indexes=labels,
        int_indexes=whole,
        n_jobs=1,
        seed=seed,
    )
    np.random.seed(seed)  # noqa: NPY002 - its sampler knows no other generator
    drawn = model.generate(batch_size=n)
    made: Columns = {name: drawn[:, j].astype(np.float64) for j, name in enumerate(known)}
    keys = list(known)
    for j, places in names:
        place = np.empty(len(places), dtype=object)
        place[:] = places
        made[keys[j]] = place[drawn[:, j].round().astype(int).clip(0, len(places) - 1)]
    return made


METHODS: dict[str, Callable[..., Columns]] = {"edm": edm, "copula": copula, "forest": forest}


def keep(result: dict[str, Any], options: Any) -> None:
    """Beside this file; a result of the same table, method and seed is replaced."""
    known = json.loads(OUT.read_text())["results"] if OUT.exists() else []
    same = ("table", "method", "seed")
    known = [r for r in known if any(r[k] != result[k] for k in same)] + [result]
    versions = {"energyscape": energyscape.__version__, "torch": torch.__version__}
    record = {"machine": platform.machine(), "versions": versions, "results": known}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


def show() -> None:
    """Means over seeds of what was measured."""
    results = json.loads(OUT.read_text())["results"]
    measures = ["column_shapes", "pair_trends", "two_sample_accuracy", "train_on_drawn", "target"]
    measures += ["coverage", "neighbour_ratio", "copies"]
    for table in TABLES:
        rows = [r for r in results if r["table"] == table]
        for method in sorted({r["method"] for r in rows}):
            of = [r for r in rows if r["method"] == method]
            cells = []
            for m in measures:
                values = [r["measures"][m][0] for r in of if m in r["measures"]]
                cells.append(f"{m} {np.mean(values):.3f}" if values else "")
            seconds = np.mean([r["seconds"] for r in of])
            print(f"{table:9} {method:7} {len(of)} seeds {seconds:6.0f} s  " + "  ".join(cells))


def main() -> None:
    """Run, print, write."""
    global OUT
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument(
        "--seconds", type=float, help="of edm's training, in the place of its steps"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--forest-levels", type=int, default=20)
    parser.add_argument("--forest-copies", type=int, default=10)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--show", action="store_true", help="print what is known, run nothing")
    options = parser.parse_args()
    OUT = options.out
    if options.show:
        return show()
    torch.set_num_threads(1)
    for table in options.tables:
        for seed in options.seeds:
            train, known, test = read(table, options.rows, seed)
            n = len(next(iter(test.values())))
            for method in options.methods:
                if method == "forest" and importlib.util.find_spec("ForestDiffusion") is None:
                    print("forest: ForestDiffusion is not installed", flush=True)
                    continue
                began, cpu = time.perf_counter(), time.process_time()
                drawn = METHODS[method](train, known, n, seed, options)
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                found = fidelity_table(test, drawn, np.random.default_rng(seed), train=known)
                target = fidelity_table_target(known, test, drawn, TABLES[table][2], seed)
                measures = {f.name: [f.value, f.low, f.high, f.real] for f in found}
                result = {
                    "table": table,
                    "method": method,
                    "seed": seed,
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "rows": [len(train), n],
                    "seconds": seconds,
                    "cpu_seconds": cpu,
                    "measures": measures | {"target": target},
                }
                if method == "forest":
                    cut = {"forest_levels": options.forest_levels}
                    result |= cut | {"forest_copies": options.forest_copies}
                keep(result, options)
                head = {
                    k: round(v[0], 3) for k, v in result["measures"].items() if "column " not in k
                }
                print(f"{table} {method} {seed} {cpu:.0f} s {head}", flush=True)
    show()
    return None


def fidelity_table_target(
    known: Columns, test: Columns, drawn: Columns, targets: list[str], seed: int
) -> list[float]:
    """Skill on the table's own targets: trained on drawn rows, and on as many real ones."""
    from energyscape.fidelity import train_on_drawn

    found = train_on_drawn(known, test, drawn, np.random.default_rng(seed), targets=targets)
    ours, theirs = np.mean(list(found.values()), axis=0)
    return [float(ours), float(ours), float(ours), float(theirs)]


if __name__ == "__main__":
    main()
