"""How well each objective learns an energy in the plane: KL(data || model) and wall time.

    python benchmarks/ebm_two_d.py [--sets two-moons,spirals] [--objectives persistent,nce] [--steps N]

Six built-in sets, 10,000 training points (seed 0), the family `ebm` with its defaults but for the
objective and, where given, the number of steps. The divergence is

    KL = E_data[ log p_data(x) - log p_model(x) ],   over 20,000 fresh points (seed 1),

where p_data is evaluated in closed form or by one-dimensional quadrature, and the model is normalised
by integrating its energy on a grid. The model's own estimate of log Z is set against the grid's.
Prints a table and writes JSON beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from energyscape.data import BUILTIN, built_in
from energyscape.families import EBM, settings_of

SETS = (
    "two-moons",
    "eight-gaussians",
    "twenty-five-gaussians",
    "checkerboard",
    "pinwheel",
    "spirals",
)
CLOSED = ("eight-gaussians", "twenty-five-gaussians")


# -- densities of the built-in sets ---------------------------------------------------------------


def _mixture(x: np.ndarray, means: np.ndarray, std: float) -> np.ndarray:
    """An equal mixture of round Gaussians; nothing but these is closed-form to the last digit."""
    out = []
    for part in np.array_split(x, max(1, len(x) * len(means) // 4_000_000)):
        square = ((part[:, None, :] - means[None]) ** 2).sum(-1)
        top = square.min(1, keepdims=True)
        mass = np.exp(-0.5 * (square - top) / std**2).mean(1)
        out.append(np.log(mass) - 0.5 * top[:, 0] / std**2 - math.log(2 * math.pi * std**2))
    return np.concatenate(out)


def eight_gaussians(x: np.ndarray) -> np.ndarray:
    """log p of eight Gaussians on a circle."""
    angle = np.arange(8) * np.pi / 4
    return _mixture(x, 2 * np.stack([np.cos(angle), np.sin(angle)], 1), 0.2)


def twenty_five_gaussians(x: np.ndarray) -> np.ndarray:
    """log p of a 5 x 5 grid of Gaussians."""
    cell = np.arange(25)
    return _mixture(x, np.stack([cell // 5 - 2, cell % 5 - 2], 1).astype(float), 0.1)


def two_moons(x: np.ndarray) -> np.ndarray:
    """Blurred half circles: the midpoint rule over the angle."""
    t = (np.arange(400) + 0.5) * np.pi / 400
    outer = np.stack([np.cos(t), np.sin(t)], 1)
    inner = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], 1)
    return _mixture(x, np.concatenate([outer, inner]), 0.1)


def spirals(x: np.ndarray) -> np.ndarray:
    """Blurred spirals: the midpoint rule over the quantile of the radius."""
    t = 3 * np.pi * np.sqrt((np.arange(4000) + 0.5) / 4000)
    arm = np.stack([-np.cos(t) * t, np.sin(t) * t], 1) / 3
    return _mixture(x, np.concatenate([arm, -arm]), 0.1)


def checkerboard(x: np.ndarray) -> np.ndarray:
    """Eight squares of constant density 1/32."""
    column, row = np.floor((x[:, 0] + 4) / 2), np.floor((x[:, 1] + 4) / 2)
    inside = (np.abs(x) < 4).all(1) & ((column + row) % 2 == 0)
    return np.where(inside, -math.log(32.0), -np.inf)


def pinwheel(x: np.ndarray) -> np.ndarray:
    """Five arms: every (radius, across) that maps to x, over the map's determinant."""
    y = x / 2
    rho, theta = np.hypot(y[:, 0], y[:, 1]), np.arctan2(y[:, 1], y[:, 0])
    radii = np.linspace(-1.0, 3.0, 2001)
    turn = 0.25 * np.exp(radii)
    total = np.zeros(len(x))
    for arm in range(5):
        for rows in np.array_split(np.arange(len(x)), max(1, len(x) // 2000)):
            angle = theta[rows, None] - 2 * np.pi * arm / 5 - turn
            gap = rho[rows, None] * np.cos(angle) - radii
            where, k = np.nonzero(np.sign(gap[:, :-1]) != np.sign(gap[:, 1:]))
            share = gap[where, k] / (gap[where, k] - gap[where, k + 1])
            radius = radii[k] + share * (radii[1] - radii[0])
            final = theta[rows[where]] - 2 * np.pi * arm / 5 - 0.25 * np.exp(radius)
            across = rho[rows[where]] * np.sin(final)
            det = np.abs(1 - across * 0.25 * np.exp(radius))
            log_p = -0.5 * ((radius - 1) / 0.3) ** 2 - 0.5 * (across / 0.1) ** 2
            mass = np.exp(log_p) / (2 * np.pi * 0.03 * np.maximum(det, 1e-9))
            np.add.at(total, rows[where], mass / 5)
    return np.log(np.maximum(total / 4, 1e-300))


LOG_P: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "checkerboard": checkerboard,
    "eight-gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "spirals": spirals,
    "twenty-five-gaussians": twenty_five_gaussians,
    "two-moons": two_moons,
}


def points(name: str, n: int, seed: int) -> np.ndarray:
    """Rows of a built-in set."""
    columns = built_in(name, n, seed).columns
    assert columns is not None
    return np.stack([columns["x"], columns["y"]], 1)


# -- measuring ------------------------------------------------------------------------------------


def grid_log_z(est: Any, side: int = 601, reach: float = 4.5) -> float:
    """log Z of a plane energy in encoded units, by the midpoint rule."""
    axis = torch.linspace(-reach, reach, side, dtype=torch.float64)
    with torch.no_grad():
        energy = torch.cat(
            [est._double()(part) for part in torch.cartesian_prod(axis, axis).split(65536)]
        )
    return float(torch.logsumexp(-energy, 0) + 2 * math.log(2 * reach / (side - 1)))


def divergence(est: Any, name: str, n: int = 20_000) -> dict[str, float]:
    """KL(data || model) with its standard error, and the model's own log Z beside the grid's."""
    x = points(name, n, 1)
    log_z = grid_log_z(est)
    encoded = est.codec_.encode(x, None)
    with torch.no_grad():
        energy = est._double()(torch.from_numpy(encoded.x)).numpy()
    log_p = -energy - log_z + encoded.log_abs_det
    terms = LOG_P[name](x) - log_p
    found = est.facts_.get("log_z")
    return {
        "kl": float(terms.mean()),
        "stderr": float(terms.std() / math.sqrt(n)),
        "test_log_prob": float(log_p.mean()),
        "log_z_error": math.nan if found is None else float(found) - log_z,
    }


def one_run(name: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fit, measure, tell."""
    began = time.perf_counter()
    est = EBM(random_state=seed, **settings).fit(points(name, 10_000, 0))
    seconds = time.perf_counter() - began
    return {"set": name, **divergence(est, name), "seconds": seconds, "steps": est.info_["steps"]}


def main() -> None:
    """Print the table and keep it."""
    objectives = next(s for s in settings_of(EBM) if s.name == "objective").type.split(" | ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--objectives", default=",".join(objectives))
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps; the default's")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    assert set(given.sets.split(",")) <= set(BUILTIN)
    rows = []
    print(f"{'objective':14} {'set':22} {'KL':>8} {'+-':>7} {'log Z err':>9} {'s':>6}")
    for objective in given.objectives.split(","):
        for name in given.sets.split(","):
            settings: dict[str, Any] = {"objective": objective}
            if given.steps is not None:
                settings["max_steps"] = given.steps
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row = {"objective": objective, **one_run(name, settings, given.seed)}
            rows.append(row)
            print(
                f"{objective:14} {name:22} {row['kl']:8.4f} {row['stderr']:7.4f} "
                f"{row['log_z_error']:9.4f} {row['seconds']:6.1f}",
                flush=True,
            )
    keep(rows, given.seed)


def keep(rows: list[dict[str, Any]], seed: int) -> None:
    """The results as JSON; a run of some objectives replaces those alone."""
    path = Path(__file__).with_suffix(".json")
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    fresh = {(r["objective"], r["set"]) for r in rows}
    rows = [r for r in old if (r["objective"], r["set"]) not in fresh] + rows
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), shared",
        "torch": torch.__version__,
        "training_points": 10_000,
        "seed": seed,
        "rows": sorted(rows, key=lambda r: (r["objective"], r["set"])),
    }
    clean = json.dumps(record, indent=1).replace("NaN", "null")
    path.write_text(clean + "\n")


if __name__ == "__main__":
    main()
