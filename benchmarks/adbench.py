"""One-class anomaly detection on 20 ADBench tables: the default detector beside its baselines.

    python benchmarks/adbench.py [--protocol shuffled] [--seeds 5] [--detectors NAME ...]

Data: ``$ENERGYSCAPE_DATA/adbench/*.npz`` (Minqi824/ADBench), default ``../shared/data``. Protocols:

- ``shuffled``: normal rows permuted by ``RandomState(seed)``, the first half trains; the other half
  and all anomalies are the test; seeds 0 to 4.
- ``published``: tables under 1,000 rows are resampled to 1,000 with replacement (seeds 0 to 4), then
  the first half of the normal rows in file order trains. Larger tables have nothing random: one seed.

Tables of more than 50,000 rows are subsampled to 50,000. One setting for all tables. Baselines see
columns standardised on the training rows; ours and IForest take them raw; ``ebm`` and ``edm`` are
families with their defaults and ``--steps`` optimizer steps; the ``PyOD`` networks have PyOD's
defaults (they need ``pip install pyod``). Prints AUROC and average precision (AP) in percent with a
bootstrap interval over tables, wins and losses, and seconds of fit and score on one thread.
Adds what it measured to ``results/adbench.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from energyscape import AnomalyDetector
from energyscape.detectors import empirical_energies

Rows = NDArray[np.float64]
OUT = Path(__file__).parent / "results" / "adbench.json"
DATA = Path(
    os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
MOST_ROWS, FEW_ROWS = 50_000, 1_000
OURS = "energyscape"
#: Networks of PyOD and the modules they live in.
PYOD = {"AutoEncoder": "auto_encoder", "VAE": "vae", "DeepSVDD": "deep_svdd", "LUNAR": "lunar"}


def load(path: Path, seed: int) -> tuple[Rows, Rows]:
    """Normal rows and anomalies of a table."""
    with np.load(path, allow_pickle=False) as archive:
        X, y = archive["X"].astype(np.float64), archive["y"].astype(int)
    if len(X) > MOST_ROWS:
        kept = np.random.RandomState(seed).permutation(len(X))[:MOST_ROWS]
        X, y = X[kept], y[kept]
    return X[y == 0], X[y == 1]


def split(path: Path, protocol: str, seed: int) -> tuple[Rows, Rows, NDArray[np.int64]]:
    """Training rows, test rows, and which of the latter are anomalies."""
    normal, strange = load(path, seed)
    if protocol == "shuffled":
        normal = normal[np.random.RandomState(seed).permutation(len(normal))]
    elif len(normal) + len(strange) < FEW_ROWS:
        with np.load(path, allow_pickle=False) as archive:
            X, y = archive["X"].astype(np.float64), archive["y"].astype(int)
        # The published protocol resamples the table as it stands in the file.
        kept = np.random.RandomState(seed).choice(len(X), FEW_ROWS, replace=True)
        normal, strange = X[kept][y[kept] == 0], X[kept][y[kept] == 1]
    half = round(0.5 * len(normal)) if protocol == "shuffled" else len(normal) // 2
    test = np.concatenate([normal[half:], strange])
    return normal[:half], test, np.arange(len(test)) >= len(normal) - half


def standardised(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Zero mean and unit variance on the training rows."""
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 0, std, 1.0)
    return (train - mean) / std, (test - mean) / std


def neighbours(k: int) -> Callable[..., Rows]:
    """The largest of the distances to the k nearest training rows."""

    def score(train: Rows, test: Rows, seed: int) -> Rows:
        train, test = standardised(train, test)
        tree = NearestNeighbors(n_neighbors=min(k, len(train))).fit(train)
        return np.asarray(tree.kneighbors(test)[0][:, -1])

    return score


def kernel_density(train: Rows, test: Rows, seed: int) -> Rows:
    """Minus the log of a Gaussian kernel density of bandwidth 0.25."""
    train, test = standardised(train, test)
    return empirical_energies(test, train, [0.25])[:, 0]


def forest(train: Rows, test: Rows, seed: int) -> Rows:
    """Isolation forest of 100 trees."""
    return -np.asarray(IsolationForest(random_state=seed).fit(train).score_samples(test))


def ours(train: Rows, test: Rows, seed: int) -> Rows:
    """The default, calibration included."""
    return AnomalyDetector(random_state=seed).fit(train).anomaly_score(test)


def family(name: str, steps: int) -> Callable[..., Rows]:
    """A family's own anomaly score after short training."""

    def score(train: Rows, test: Rows, seed: int) -> Rows:
        from energyscape.families import FAMILIES

        extra = {"normalise": False} if name in ("ebm", "score") else {}
        model = FAMILIES[name](max_steps=steps, random_state=seed, **extra)
        return np.asarray(model.fit(train).anomaly_score(test))

    return score


def pyod(name: str) -> Callable[..., Rows]:
    """A network of PyOD with its defaults, on standardised columns."""

    def score(train: Rows, test: Rows, seed: int) -> Rows:
        from importlib import import_module

        import torch

        train, test = standardised(train, test)
        home = import_module(f"pyod.models.{PYOD[name]}")
        torch.manual_seed(seed)
        extra = {"n_features": train.shape[1]} if name == "DeepSVDD" else {}
        model = getattr(home, name)(random_state=seed, verbose=0, **extra)
        return np.asarray(model.fit(train).decision_function(test))

    return score


def detectors(steps: int) -> dict[str, Callable[..., Rows]]:
    """Every detector by its name in the table."""
    return {
        OURS: ours,
        "kNN(5)": neighbours(5),
        "nearest": neighbours(1),
        "kernel density": kernel_density,
        "IForest": forest,
        "ebm": family("ebm", steps),
        "edm": family("edm", steps),
        **{f"PyOD {name}": pyod(name) for name in PYOD},
    }


def measure(
    path: Path, protocol: str, seed: int, name: str, score: Callable[..., Rows]
) -> dict[str, Any]:
    """One detector on one split."""
    train, test, truth = split(path, protocol, seed)
    began = time.perf_counter()
    scores = score(train, test, seed)
    # What a network could not put a number on is as strange as can be.
    scores = np.where(np.isfinite(scores), scores, np.finfo(np.float32).max)
    seconds = time.perf_counter() - began
    return {
        "protocol": protocol,
        "set": path.stem,
        "seed": seed,
        "detector": name,
        "auroc": 100 * float(roc_auc_score(truth, scores)),
        "ap": 100 * float(average_precision_score(truth, scores)),
        "seconds": round(seconds, 3),
        "train": len(train),
        "test": len(test),
        "columns": train.shape[1],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cells(records: list[dict[str, Any]], protocol: str, name: str) -> dict[tuple[str, int], dict]:
    """What a detector reached, by set and seed."""
    return {
        (r["set"], r["seed"]): r
        for r in records
        if r["protocol"] == protocol and r["detector"] == name
    }


def by_set(found: dict[tuple[str, int], dict], what: str) -> dict[str, float]:
    """Means over seeds."""
    sets = sorted({s for s, _ in found}, key=lambda s: int(s.split("_")[0]))
    return {s: float(np.mean([r[what] for (t, _), r in found.items() if t == s])) for s in sets}


def interval(values: Rows, rng: np.random.Generator) -> list[float]:
    """95 % bootstrap interval of the mean over sets."""
    means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(1)
    return [round(float(q), 2) for q in np.quantile(means, [0.025, 0.975])]


def summary(records: list[dict[str, Any]], protocol: str) -> dict[str, Any]:
    """Means with intervals, and the difference of ours to each on the splits that both were run on."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    ours = cells(records, protocol, OURS)
    for name in dict.fromkeys(r["detector"] for r in records if r["protocol"] == protocol):
        mine = cells(records, protocol, name)
        seconds = list(by_set(mine, "seconds").values())
        entry = out[name] = {
            "sets": len({s for s, _ in mine}),
            "seeds": len({seed for _, seed in mine}),
            "seconds_median": round(float(np.median(seconds)), 2),
            "seconds_most": round(max(seconds), 2),
        }
        shared = mine.keys() & ours.keys()
        for what in ("auroc", "ap"):
            values = np.array(list(by_set(mine, what).values()))
            entry[what] = round(float(values.mean()), 2)
            entry[f"{what}_interval"] = interval(values, rng)
            if name == OURS or not shared:
                continue
            there = by_set({k: mine[k] for k in shared}, what)
            here = by_set({k: ours[k] for k in shared}, what)
            ahead = np.array([here[s] - there[s] for s in there])
            entry[f"{what}_ours_ahead"] = round(float(ahead.mean()), 2)
            entry[f"{what}_ours_ahead_interval"] = interval(ahead, rng)
            # A tenth of a point is a tie.
            entry[f"{what}_wins_losses"] = [int((ahead > 0.1).sum()), int((ahead < -0.1).sum())]
    return out


def show(records: list[dict[str, Any]], protocol: str) -> None:
    """The tables."""
    for what in ("auroc", "ap"):
        names = dict.fromkeys(r["detector"] for r in records if r["protocol"] == protocol)
        found = {name: by_set(cells(records, protocol, name), what) for name in names}
        sets = sorted({s for v in found.values() for s in v}, key=lambda s: int(s.split("_")[0]))
        print(f"\n{protocol}, {what}\n{'':20s}" + "".join(f"{name:>15s}" for name in found))
        for s in sets:
            print(f"{s:20s}" + "".join(f"{v.get(s, np.nan):15.1f}" for v in found.values()))
        means = [np.mean(list(v.values())) for v in found.values()]
        print(f"{'mean':20s}" + "".join(f"{m:15.1f}" for m in means))
    for name, entry in summary(records, protocol).items():
        print(name, entry)


def published() -> dict[str, Any]:
    """Means over the same sets of the published detectors, from ``reference/``."""
    import csv

    names = {p.stem.split("_", 1)[1].lower() for p in (DATA / "adbench").glob("*.npz")}
    out: dict[str, Any] = {}
    for what, file in (("auroc", "dte_semi_aucroc.csv"), ("ap", "dte_semi_aucpr.csv")):
        path = DATA / "reference" / file
        if not path.is_file():
            return {}
        with path.open() as text:
            rows = [r for r in csv.DictReader(text) if r["dataset"].lower() in names]
        for name in rows[0]:
            if name != "dataset" and not name.endswith("_std"):
                mean = np.mean([float(r[name]) for r in rows])
                out.setdefault(name, {})[what] = round(float(mean), 2)
    return out


def write(records: list[dict[str, Any]]) -> None:
    """All records so far and what follows from them."""
    protocols = sorted({r["protocol"] for r in records})
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, one thread, beside other work",
        "versions": {
            n: metadata.version(n)
            for n in ("energyscape", "numpy", "scikit-learn", "torch", "pyod")
            if find_spec(n.replace("scikit-learn", "sklearn")) is not None
        },
        "summary": {p: summary(records, p) for p in protocols},
        "published_means": published(),
        "records": records,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    aside = OUT.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(OUT)


def known() -> list[dict[str, Any]]:
    """Records of earlier runs."""
    return json.loads(OUT.read_text())["records"] if OUT.is_file() else []


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--protocol", choices=["shuffled", "published"], default="shuffled")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="seeds below it are left as they are"
    )
    names = list(detectors(1))
    parser.add_argument("--detectors", nargs="+", default=names[:5], choices=names)
    parser.add_argument("--sets", nargs="+", default=[""], help="parts of the names of sets")
    parser.add_argument("--steps", type=int, default=500, help="of the families' training")
    parser.add_argument("--out", type=Path, help="another file than results/adbench.json")
    arguments = parser.parse_args()
    global OUT
    OUT = arguments.out or OUT
    paths = sorted((DATA / "adbench").glob("*.npz"), key=lambda p: int(p.stem.split("_")[0]))
    paths = [p for p in paths if any(part in p.stem for part in arguments.sets)]
    if not paths:
        sys.exit(
            f"no tables in {DATA / 'adbench'}: set ENERGYSCAPE_DATA to the folder that has them"
        )
    chosen = {name: detectors(arguments.steps)[name] for name in arguments.detectors}
    for seed in range(arguments.first_seed, arguments.seeds):
        for path in paths:
            with np.load(path) as archive:
                large = len(archive["y"]) >= FEW_ROWS
            if arguments.protocol == "published" and large and seed > 0:
                continue
            new = [measure(path, arguments.protocol, seed, n, f) for n, f in chosen.items()]
            line = "  ".join(f"{r['detector']} {r['auroc']:.1f}/{r['ap']:.1f}" for r in new)
            print(f"{path.stem} seed {seed}: {line}", flush=True)
            key = {(r["protocol"], r["set"], r["seed"], r["detector"]) for r in new}
            old = [
                r for r in known() if (r["protocol"], r["set"], r["seed"], r["detector"]) not in key
            ]
            write(old + new)
    show(known(), arguments.protocol)


if __name__ == "__main__":
    main()
