"""What the detector's p-values promise, and what contaminated training rows cost.

    python benchmarks/anomaly_p_values.py [--splits 200] [--contamination-seeds 3]

Data: the 20 ADBench tables of ``adbench.py`` in its shuffled protocol, seed 0: one fit a table on half
of the normal rows. The other normal rows and the anomalies are scored once, and over 200 re-splits:

- ``split``: half of the held-out normal rows calibrate; the other half and all anomalies are the batch;
- ``cross``: the detector's own calibration scores (cross-conformal for up to 10,000 rows); the batch is
  the same.

Reported, averaged over re-splits and then tables: the share of normal rows with ``p <= a``, the
false-discovery proportion of Benjamini-Hochberg and its power at 1, 5 and 10 %. Tables whose
calibration rows reach 1 % are counted. Then 0, 1, 5, 10 % of the training rows are replaced by
anomalies, which leave the test, with and without ``trim=0.1``: AUROC and AP.
Writes ``results/anomaly_p_values.json``.
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
from sklearn.metrics import average_precision_score, roc_auc_score

from energyscape import AnomalyDetector
from energyscape.detection import benjamini_hochberg, conformal_p_values, smallest_p_value

LEVELS = (0.01, 0.05, 0.1)
SHARES = (0.0, 0.01, 0.05, 0.1)
#: Contamination is measured on tables with anomalies to spare and rows that fit quickly.
CONTAMINATED = ("annthyroid", "breastw", "cardio", "fault", "PageBlocks", "Pima", "satellite")
CONTAMINATED += ("Ionosphere", "Cardiotocography", "thyroid")


def promises(path: Path, splits: int) -> dict[str, Any]:
    """Validity, false discoveries and power of one table, by both calibrations."""
    train, test, truth = split(path, "shuffled", 0)
    detector = AnomalyDetector(random_state=0).fit(train)
    scores = detector.anomaly_score(test)
    normal, strange = scores[~truth], scores[truth]
    rng = np.random.default_rng(0)
    found: dict[str, list[list[float]]] = {"cross": [], "split": []}
    for _ in range(splits):
        order = rng.permutation(len(normal))
        held, new = normal[order[: len(normal) // 2]], normal[order[len(normal) // 2 :]]
        for name, reference in (("cross", detector.calibration_scores_), ("split", held)):
            found[name].append(_once(reference, new, strange))
    out: dict[str, Any] = {"set": path.stem, "detector_calibrated_by": detector.calibrated_by_}
    for name, reference in (("cross", len(detector.calibration_scores_)), ("split", len(held))):
        mean = np.mean(found[name], axis=0).reshape(3, len(LEVELS))
        out[name] = {
            "calibration_rows": reference,
            "smallest_p": smallest_p_value(reference),
            "share_at_most": mean[0].tolist(),
            "false_discovery": mean[1].tolist(),
            "power": mean[2].tolist(),
        }
    return out


def _once(reference: Rows, new: Rows, strange: Rows) -> list[float]:
    p = conformal_p_values(reference, np.concatenate([new, strange]))
    n = len(new)
    share = [float((p[:n] <= a).mean()) for a in LEVELS]
    flags = [benjamini_hochberg(p, a) for a in LEVELS]
    false = [float(f[:n].sum() / max(f.sum(), 1)) for f in flags]
    return share + false + [float(f[n:].mean()) for f in flags]


def contaminated(path: Path, seeds: int) -> list[dict[str, Any]]:
    """AUROC and AP with anomalies among the training rows, by trim."""
    out = []
    for share in SHARES:
        for trim in (0.0, 0.1):
            found = []
            for seed in range(seeds):
                train, test, truth = split(path, "shuffled", seed)
                strange = test[truth]
                count = round(share * len(train))
                if count > len(strange) // 2:
                    break
                order = np.random.default_rng(seed).permutation(len(strange))
                mixed = np.concatenate([train[count:], strange[order[:count]]])
                rest = np.concatenate([test[~truth], strange[order[count:]]])
                labels = np.arange(len(rest)) >= (~truth).sum()
                detector = AnomalyDetector(trim=trim, random_state=seed).fit(mixed)
                s = detector.anomaly_score(rest)
                found.append([roc_auc_score(labels, s), average_precision_score(labels, s)])
            if found:
                auroc, ap = 100 * np.mean(found, axis=0)
                out.append(
                    {"set": path.stem, "share": share, "trim": trim, "auroc": auroc, "ap": ap}
                )
    return out


def show_promises(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over tables."""
    out: dict[str, Any] = {}
    for name in ("cross", "split"):
        means = {
            what: np.mean([r[name][what] for r in records], axis=0).round(4).tolist()
            for what in ("share_at_most", "false_discovery", "power")
        }
        means["tables_that_reach_1_percent"] = sum(r[name]["smallest_p"] <= 0.01 for r in records)
        out[name] = means
        print(name, "at", LEVELS, means)
    return out


def show_contaminated(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the tables that have every share."""
    whole = {r["set"] for r in records if r["share"] == SHARES[-1]}
    out = []
    for share in SHARES:
        for trim in (0.0, 0.1):
            mine = [
                r
                for r in records
                if r["set"] in whole and r["share"] == share and r["trim"] == trim
            ]
            entry = {
                "share": share,
                "trim": trim,
                "auroc": round(float(np.mean([r["auroc"] for r in mine])), 2),
                "ap": round(float(np.mean([r["ap"] for r in mine])), 2),
                "tables": len(mine),
            }
            print(entry)
            out.append(entry)
    return out


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--contamination-seeds", type=int, default=3)
    arguments = parser.parse_args()
    paths = sorted((DATA / "adbench").glob("*.npz"), key=lambda p: int(p.stem.split("_")[0]))
    if not paths:
        sys.exit(
            f"no tables in {DATA / 'adbench'}: set ENERGYSCAPE_DATA to the folder that has them"
        )
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "levels": LEVELS,
        "splits": arguments.splits,
        "contamination_seeds": arguments.contamination_seeds,
        "versions": {n: metadata.version(n) for n in ("energyscape", "numpy", "scikit-learn")},
    }
    kept: list[dict[str, Any]] = []
    for path in paths:
        kept.append(promises(path, arguments.splits))
        print(json.dumps(kept[-1]), flush=True)
    result["p_values"] = {"mean": show_promises(kept), "tables": kept}
    rows: list[dict[str, Any]] = []
    for path in paths:
        if any(path.stem.endswith(f"_{name}") for name in CONTAMINATED):
            rows += contaminated(path, arguments.contamination_seeds)
            print(path.stem, flush=True)
    result["contamination"] = {"mean": show_contaminated(rows), "tables": rows}
    out = Path(__file__).parent / "results" / "anomaly_p_values.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
