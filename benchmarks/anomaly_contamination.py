"""Anomalies among the training rows, and what leaving suspect rows out gives back.

    python benchmarks/anomaly_contamination.py [--half tuning|report] [--seeds 2]

Ten ADBench tables in ``adbench.py``'s shuffled protocol, at most 1,200 training rows, 1,000 ordinary
ones and 600 anomalies to test on. 0, 1, 5, 10 % of the training rows are replaced by anomalies, which
leave the test. Every other table was for choosing (``tuning``), the others only report. Rules:

- ``all``: nothing is left out;
- ``scores``: twice the tenth that the detector itself finds strangest;
- ``suspicion``: twice the tenth of the largest `EmpiricalDetector.suspicion`, which adds the distance
  to the k-th nearest row, k a fifth of the rows: what ``trim=0.1`` does.

Prints and writes AUROC, AP and the share of the anomalies that was left out
(``results/anomaly_contamination.json``). Tables with too few anomalies for 10 % are left out of means.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from adbench import DATA, Rows, split
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from energyscape.detectors import EmpiricalDetector, TableRows

OUT = Path(__file__).parent / "results" / "anomaly_contamination.json"
HALVES = {
    "tuning": ("2_annthyroid", "6_cardio", "12_fault", "27_PageBlocks", "30_satellite"),
    "report": ("4_breastw", "7_Cardiotocography", "18_Ionosphere", "29_Pima", "38_thyroid"),
}
SHARES, TRIM = (0.0, 0.01, 0.05, 0.1), 0.1
RULES = ("all", "scores", "suspicion")


def table(x: Rows) -> TableRows:
    """Numbers without names."""
    return TableRows(x, np.zeros((len(x), 0), dtype=np.int64))


def kept_rows(x: Rows, rule: str) -> NDArray[np.int64]:
    """Which rows a rule keeps."""
    kept = np.arange(len(x))
    for _ in range(0 if rule == "all" else 2):
        detector = EmpiricalDetector.fit(table(x[kept]))
        if rule == "suspicion":
            suspect = detector.suspicion(table(x), kept)
        else:
            suspect, rest = np.empty(len(x)), np.setdiff1d(np.arange(len(x)), kept)
            suspect[kept] = detector.own_scores
            suspect[rest] = detector.score(table(x[rest])) if len(rest) else 0.0
        order = np.argsort(suspect, kind="stable")
        kept = np.sort(order[: round((1 - TRIM) * len(x))])
    return kept


def measure(stem: str, seed: int) -> list[dict[str, Any]]:
    """One table, one seed: all shares and rules."""
    train, test, truth = split(DATA / "adbench" / f"{stem}.npz", "shuffled", seed)
    train = train[np.random.default_rng(seed).permutation(len(train))[:1200]]
    strange = test[truth][np.random.default_rng(seed).permutation(int(truth.sum()))]
    ordinary, out = test[~truth][:1000], []
    for share in SHARES:
        count = round(share * len(train))
        if count > len(strange) // 2:
            continue
        mixed = np.concatenate([train[count:], strange[:count]])
        rest = np.concatenate([ordinary, strange[count:][:600]])
        labels = np.arange(len(rest)) >= len(ordinary)
        for rule in RULES:
            kept = kept_rows(mixed, rule)
            scores = EmpiricalDetector.fit(table(mixed[kept])).score(table(rest))
            caught = ~np.isin(np.arange(len(mixed) - count, len(mixed)), kept)
            out.append(
                {
                    "set": stem,
                    "seed": seed,
                    "share": share,
                    "rule": rule,
                    "auroc": 100 * float(roc_auc_score(labels, scores)),
                    "ap": 100 * float(average_precision_score(labels, scores)),
                    "left_out": float(caught.mean()) if count else None,
                }
            )
    return out


def means(records: list[dict[str, Any]], half: str) -> list[dict[str, Any]]:
    """Over the half's tables that have every share."""
    mine = [r for r in records if r["set"] in HALVES[half]]
    whole = {r["set"] for r in mine if r["share"] == SHARES[-1]}
    out = []
    for share in SHARES:
        for rule in RULES:
            some = [
                r for r in mine if r["set"] in whole and (r["share"], r["rule"]) == (share, rule)
            ]
            if some:
                entry: dict[str, Any] = {
                    "half": half,
                    "tables": len(whole),
                    "share": share,
                    "rule": rule,
                }
                for what in ("auroc", "ap", "left_out"):
                    found = [r[what] for r in some if r[what] is not None]
                    entry[what] = round(float(np.mean(found)), 2) if found else None
                print(entry)
                out.append(entry)
    return out


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--half", choices=list(HALVES), default="report")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    if not (DATA / "adbench").is_dir():
        sys.exit(
            f"no tables in {DATA / 'adbench'}: set ENERGYSCAPE_DATA to the folder that has them"
        )
    old = json.loads(OUT.read_text())["records"] if OUT.is_file() else []
    records = [r for r in old if r["set"] not in HALVES[arguments.half]]
    for stem in HALVES[arguments.half]:
        for seed in range(arguments.seeds):
            records += measure(stem, seed)
            print(stem, seed, flush=True)
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "trim": TRIM,
            "versions": {n: metadata.version(n) for n in ("energyscape", "numpy", "scikit-learn")},
            "means": [m for half in HALVES for m in means(records, half)],
            "records": records,
        }
        OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
