"""Test log-likelihood of tables of numbers: ours beside a spline flow, mixtures and a kernel density.

    python benchmarks/table_density.py [--sets NAME ...] [--seeds 2] [--methods NAME ...] [--out FILE]

Data (``$ENERGYSCAPE_DATA``, default ``../shared/data``): winequality-red without `quality`, the numeric
columns of California housing (rows without blanks), the normal rows of three ADBench tables.

Every column is dequantised once, for all methods alike: uniform noise as wide as the median gap between
its neighbouring values (after 1905.07088, section 6.1). A seed draws the noise and a test part of a
tenth, 1,000 rows at most; columns are standardised on the other rows, which every method gets, to
train and to choose by as it sees fit. Reported: mean log-density of test rows in nats, in
standardised units, with its standard error, and seconds to fit and to score.

- ``edm``, ``ebm``: the families' defaults, but no rows set aside for p-values; edm's density is the
  exact one of the flow, ebm's normalised by its own estimate of log Z.
- ``flow``: zuko's neural spline flow (needs ``pip install zuko``), five transforms of two layers of
  128, Adam at 1e-3 annealed to 0 over 6,000 steps of 256 rows, the best of its weights on a tenth of
  the rows.
- ``mixture``: scikit-learn's Gaussian mixture with full covariances, 1 to 40 components by BIC.
- ``kernel``: Gaussian kernels on the rows, the bandwidth by leaving one out; it is also the energy of
  the empirical data at a noise level (`energyscape.detectors.empirical_energies`).

Adds what it measured to ``results/table_density.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from energyscape.data import read_table
from energyscape.detectors import empirical_energies
from energyscape.families import EBM, EDM

Rows = NDArray[np.float64]
OUT = Path(__file__).parent / "results" / "table_density.json"
DATA = Path(
    os.environ.get("ENERGYSCAPE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
ADBENCH = ("2_annthyroid", "28_pendigits", "30_satellite")
SETS = ("wine", "housing", *ADBENCH)
MOST_TEST = 1000


def load(name: str) -> Rows:
    """The rows of a set as they are."""
    if name in ADBENCH:
        with np.load(DATA / "adbench" / f"{name}.npz", allow_pickle=False) as archive:
            return archive["X"][archive["y"] == 0].astype(np.float64)
    file = {"wine": "uci/winequality-red.csv", "housing": "tables/california_housing.csv"}[name]
    frame = read_table(DATA / file)
    columns = [c for c in frame.columns if c not in ("quality", "ocean_proximity")]
    x = np.stack([frame[c].cast(float, strict=False).to_numpy() for c in columns], axis=1)
    return x[~np.isnan(x).any(axis=1)]


def prepared(name: str, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and test rows, dequantised, standardised on the former."""
    x, rng = load(name), np.random.default_rng(seed)
    x = x[:, (x != x[0]).any(axis=0)]
    for column in x.T:
        column += np.median(np.diff(np.unique(column))) * rng.uniform(-0.5, 0.5, len(column))
    x = x[rng.permutation(len(x))]
    size = min(len(x) // 10, MOST_TEST)
    test, train = x[:size], x[size:]
    mean, std = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / std, (test - mean) / std


def family(model: Any, seed: int) -> Callable[[Rows, Rows], Rows]:
    """A family's log-density after training with its defaults."""

    def log_density(train: Rows, test: Rows) -> Rows:
        found = model(calibration_fraction=0.0, random_state=seed).fit(train).log_density(test)
        print(f"    {model.__name__}: {found.kind}, stderr {float(np.mean(found.stderr)):.3f}")
        return np.asarray(found.value)

    return log_density


def flow(seed: int) -> Callable[[Rows, Rows], Rows]:
    """The neural spline flow."""

    def log_density(train: Rows, test: Rows) -> Rows:
        import zuko

        torch.manual_seed(seed)
        x = torch.from_numpy(train).float()
        held, x = x[: len(x) // 10], x[len(x) // 10 :]
        net = zuko.flows.NSF(x.shape[1], transforms=5, hidden_features=(128, 128))
        steps, best, kept = 6000, np.inf, net.state_dict()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            loss = -net().log_prob(x[torch.randint(len(x), (256,))]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 200 == 0:
                with torch.no_grad():
                    now = -float(net().log_prob(held).mean())
                if now < best:
                    best = now
                    kept = {k: v.clone() for k, v in net.state_dict().items()}
                elif step > 1000 and now > best + 0.5:
                    break
        net.load_state_dict(kept)
        with torch.no_grad():
            return net().log_prob(torch.from_numpy(test).float()).double().numpy()

    return log_density


def mixture(seed: int) -> Callable[[Rows, Rows], Rows]:
    """Gaussians, as many as BIC wants."""

    def log_density(train: Rows, test: Rows) -> Rows:
        with warnings.catch_warnings():
            # A mixture that is not yet at rest is judged by its BIC as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            tried = [
                GaussianMixture(k, random_state=seed).fit(train)
                for k in (1, 2, 3, 5, 7, 10, 14, 20, 28, 40)
            ]
        best = min(tried, key=lambda model: model.bic(train))
        print(f"    mixture of {best.n_components}")
        return np.asarray(best.score_samples(test))

    return log_density


def kernel(seed: int) -> Callable[[Rows, Rows], Rows]:
    """Kernels on the rows."""

    def log_density(train: Rows, test: Rows) -> Rows:
        levels = np.geomspace(0.02, 1.0, 18).tolist()
        some = np.random.default_rng(seed).permutation(len(train))[:2000]
        energies = empirical_energies(train[some], train, levels, own=some)
        best = levels[int(energies.mean(axis=0).argmin())]
        print(f"    kernel of {best:.3f}")
        return -empirical_energies(test, train, [best])[:, 0]

    return log_density


METHODS: dict[str, Callable[[int], Callable[[Rows, Rows], Rows]]] = {
    "mixture": mixture,
    "kernel": kernel,
    "flow": flow,
    "edm": lambda seed: family(EDM, seed),
    "ebm": lambda seed: family(EBM, seed),
}


def show(records: list[dict[str, Any]]) -> None:
    """Mean over seeds for every set and method."""
    print("\n" + " " * 14 + "".join(f"{m:>18s}" for m in METHODS))
    for name in SETS:
        line = f"{name:14s}"
        for method in METHODS:
            mine = [r for r in records if r["set"] == name and r["method"] == method]
            words = ""
            if mine:
                mean = np.mean([r["log_density"] for r in mine])
                stderr = np.mean([r["stderr"] for r in mine]) / np.sqrt(len(mine))
                words = f"{mean:.2f} ± {stderr:.2f}"
            line += f"{words:>18s}"
        print(line, flush=True)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in arguments.sets:
            train, test = prepared(name, seed)
            print(f"{name}, seed {seed}: {train.shape}, {len(test)} to test", flush=True)
            for method in arguments.methods:
                began, spent = time.perf_counter(), time.process_time()
                values = METHODS[method](seed)(train, test)
                record = {
                    "set": name,
                    "seed": seed,
                    "method": method,
                    "log_density": round(float(values.mean()), 4),
                    "stderr": round(float(values.std(ddof=1) / np.sqrt(len(values))), 4),
                    "median": round(float(np.median(values)), 4),
                    "seconds": round(time.perf_counter() - began, 1),
                    "processor_seconds": round(time.process_time() - spent, 1),
                    "train": len(train),
                    "test": len(test),
                    "columns": train.shape[1],
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
                    "versions": {
                        n: metadata.version(n)
                        for n in ("energyscape", "torch", "zuko", "scikit-learn")
                        if find_spec(n.replace("scikit-learn", "sklearn")) is not None
                    },
                }
                print(f"  {method}: {json.dumps(record)}", flush=True)
                known = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
                key = ("set", "seed", "method")
                known = [r for r in known if [r[k] for k in key] != [record[k] for k in key]]
                arguments.out.write_text(json.dumps([*known, record], indent=1) + "\n")
    show(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    main()
