"""How well each objective learns an energy in the plane: KL(data || model) and time, beside torchebm.

    python benchmarks/ebm_two_d.py [--sets two-moons,spirals] [--objectives persistent,nce]
        [--peer persistent,cd] [--steps N] [--turns 5] [--seeds 0,1,2] [--out FILE]

Six built-in sets, 10,000 training points (seed 0), the family `ebm` with its defaults but for the
objective and the number of steps; a tenth of the points validates and a tenth calibrates, as in any
fit. The divergence is

    KL = E_data[ log p_data(x) - log p_model(x) ],   over 20,000 fresh points (seed 1),

where p_data is evaluated in closed form (the Gaussians) or by one-dimensional quadrature, and the model
is normalised by integrating its energy on a grid. The model's own estimate of log Z is set against the
grid's, in nats.

torchebm, where it is installed: its losses (Langevin chains of its default step and of as many
gradients, its default buffer, regulariser and number of slices; for denoising our noise level) train
the same energy from the same initial weights in our loop, so that network, optimizer, rate and its
decay, clipping, averaging of weights, batch and steps are the same. It trains on all 10,000 points.
Of some learning rates (`--peer-rates`) the one with the least KL on the test points is told, which
favours it; its seconds are those of that one run.

Seconds are of processor time on one thread, of training alone; with `--turns` the median of so many
more trainings of each, taking turns, so that a busy machine is busy for both. Prints a table and writes
results/ebm_two_d.json, keeping rows of that file which this run does not replace.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from energyscape.data import BUILTIN, built_in
from energyscape.families import EBM, settings_of
from energyscape.families.fitting import train_config
from energyscape.objectives import LossOutput
from energyscape.training import TrainConfig, train

SETS = (
    "two-moons",
    "eight-gaussians",
    "twenty-five-gaussians",
    "checkerboard",
    "pinwheel",
    "spirals",
)
#: Our names of torchebm's losses.
PEER = ("persistent", "cd", "denoising", "sliced", "exact")
RESULTS = Path(__file__).parent / "results" / "ebm_two_d.json"


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


def cells(side: int, reach: float) -> torch.Tensor:
    """Centres of the cells of a square grid."""
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) * (2 * reach / side) - reach
    return torch.cartesian_prod(axis, axis)


def grid_log_z(energy: Any) -> float:
    """log Z of a plane energy in encoded units (unit deviations), by the midpoint rule.

    Fine cells (0.015) where the data are, coarse ones (0.06) in a wide ring around: a badly trained
    energy may have much of its mass there.
    """
    near, wide = cells(600, 4.5), cells(400, 12.0)
    total = []
    for x, width in ((near, 9 / 600), (wide[(wide.abs() > 4.5).any(1)], 24 / 400)):
        with torch.no_grad():
            value = torch.cat([energy(part) for part in x.split(65536)])
        total.append(torch.logsumexp(-value, 0) + 2 * math.log(width))
    return float(torch.logsumexp(torch.stack(total), 0))


def divergence(est: Any, name: str, n: int = 20_000) -> dict[str, float]:
    """KL(data || model) with its standard error, and the model's own log Z beside the grid's."""
    x, energy = points(name, n, 1), est._double()
    log_z = grid_log_z(energy)
    encoded = est.codec_.encode(x, None)
    with torch.no_grad():
        value = energy(torch.from_numpy(encoded.x)).numpy()
    log_p = -value - log_z + encoded.log_abs_det
    terms = LOG_P[name](x) - log_p
    found = est.facts_.get("log_z")
    return {
        "kl": float(terms.mean()),
        "stderr": float(terms.std() / math.sqrt(n)),
        "test_log_prob": float(log_p.mean()),
        "log_z_error": math.nan if found is None else float(found) - log_z,
    }


def ours(name: str, settings: dict[str, Any], seed: int) -> tuple[Any, float]:
    """A fitted `ebm`, and the processor seconds its training took."""
    taken = 0.0

    def timed(*args: Any, **named: Any) -> Any:
        nonlocal taken
        began = time.process_time()
        run = train(*args, **named)
        taken = time.process_time() - began
        return run

    est = EBM(random_state=seed, **settings)
    with mock.patch("energyscape.families.fitting.train", timed):
        fit(est, name)
    return est, taken


def fit(est: Any, name: str) -> None:
    """Fit on the 10,000 points."""
    from energyscape.families.fitting import RunRecord, fit_estimator

    fit_estimator(est, est._training_data(points(name, 10_000, 0)), RunRecord(), progress=None)


@dataclass(frozen=True)
class PeerLoss:
    """A loss of torchebm, one number a batch, as an objective of ours."""

    loss: Any
    needs_double_backward: bool = True

    def init(self, model: Any, x: torch.Tensor, rng: torch.Generator) -> None:
        """Its state is its own."""

    def __call__(
        self, model: Any, x: torch.Tensor, aux: Any, rng: torch.Generator, *, label: Any = None
    ) -> LossOutput:
        """The loss, repeated for each row."""
        out = self.loss(x, generator=rng)
        value = out[0] if isinstance(out, tuple) else out
        return LossOutput(value.expand(len(x)), aux, {})


def peer_loss(objective: str, energy: torch.nn.Module, noise: float) -> Any:
    """torchebm's loss that comes closest."""
    from torchebm import losses
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.energy = energy

        def forward(self, x: torch.Tensor) -> Any:
            return self.energy(x)

    model = Model()
    if objective in ("persistent", "cd"):
        chain = LangevinDynamics(model)
        kept = objective == "persistent"
        return losses.ContrastiveDivergence(model, chain, k_steps=10, persistent=kept)
    if objective == "denoising":
        return losses.DenoisingScoreMatching(model, noise_scale=noise)
    return {"sliced": losses.SlicedScoreMatching, "exact": losses.ScoreMatching}[objective](model)


def theirs(
    name: str, settings: dict[str, Any], seed: int, rate: float | None = None
) -> tuple[Any, float]:
    """The same energy trained with torchebm's loss, and the processor seconds of training."""
    est = EBM(random_state=seed, **(settings | {"max_steps": 1, "normalise": False}))
    fit(est, name)
    est.set_params(**settings)
    torch.manual_seed(seed)
    model = est._build(est.facts_)
    x = torch.from_numpy(est.codec_.encode(points(name, 10_000, 0), None).x).float()
    noise = est._noise_level() * est.facts_["scale"]
    config: TrainConfig = train_config(est.get_params(), seed, est._habits())
    if rate is not None:
        config = replace(config, learning_rate=rate)
    began = time.process_time()
    run = train(model, PeerLoss(peer_loss(settings["objective"], model, noise)), x, config=config)
    seconds = time.process_time() - began
    est.model_, est._frozen = run.model, None
    return est, seconds


def measure(
    library: str,
    name: str,
    objective: str,
    steps: int,
    seed: int,
    normalise: bool,
    rates: Sequence[float] = (),
) -> dict[str, Any]:
    """Fit, measure, tell."""
    settings = {"objective": objective, "max_steps": steps, "normalise": normalise}
    row: dict[str, Any] = {
        "library": library,
        "objective": objective,
        "set": name,
        "seed": seed,
        "steps": steps,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "energyscape":
            est, seconds = ours(name, settings, seed)
            row |= divergence(est, name) | {"seconds": seconds}
        else:
            tried = []
            for rate in rates or (None,):
                est, seconds = theirs(name, settings, seed, rate)
                tried.append({"rate": rate, **divergence(est, name), "seconds": seconds})
            best = min(tried, key=lambda t: t["kl"] if math.isfinite(t["kl"]) else math.inf)
            row |= best | {"tried": [{k: t[k] for k in ("rate", "kl")} for t in tried]}
    print(
        f"{library:12} {objective:12} {name:22} {row['kl']:8.4f} {row['stderr']:7.4f} "
        f"{row['test_log_prob']:9.4f} {row['log_z_error']:9.4f} {seconds:6.1f}",
        flush=True,
    )
    return row


def main() -> None:
    """Print the table and keep it."""
    objectives = next(s for s in settings_of(EBM) if s.name == "objective").type.split(" | ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--objectives", default=",".join(objectives), help="of energyscape")
    parser.add_argument("--peer", default=",".join(PEER), help="of torchebm; empty for none")
    parser.add_argument(
        "--peer-rates",
        default="0.0003,0.001,0.004",
        help="learning rates of torchebm, of which the one of least KL on the test points is told; "
        "empty: ours alone",
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--no-log-z", action="store_true", help="leave out the models' own log Z")
    parser.add_argument("--turns", type=int, default=0, help="trainings of each to time in turn")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    assert set(given.sets.split(",")) <= set(BUILTIN)
    peer = given.peer.split(",") if given.peer and importlib.util.find_spec("torchebm") else []
    columns = ("library", "objective", "set", "KL", "+-", "log-lik.", "log Z err", "s")
    with warnings.catch_warnings():  # the first training of a process pays for what it loads
        warnings.simplefilter("ignore")
        ours("two-moons", {"objective": "denoising", "max_steps": 5, "normalise": False}, 0)
    print("{:12} {:12} {:22} {:>8} {:>7} {:>9} {:>9} {:>6}".format(*columns))
    for seed in map(int, given.seeds.split(",")):
        for name in given.sets.split(","):
            for objective in filter(None, given.objectives.split(",")):
                row = measure("energyscape", name, objective, given.steps, seed, not given.no_log_z)
                pair = [row]
                if objective in peer:
                    rates = [float(r) for r in given.peer_rates.split(",") if r]
                    how = (objective, given.steps, seed, False, rates)
                    pair.append(measure("torchebm", name, *how))
                    in_turns(pair, given.turns)
                for row in pair:
                    keep(row, given.out)


def in_turns(pair: list[dict[str, Any]], turns: int) -> None:
    """Train both again and again in turn; the medians of their seconds are told."""
    own, other = pair
    settings = {"objective": own["objective"], "max_steps": own["steps"], "normalise": False}
    taken: dict[str, list[float]] = {"own": [], "other": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(turns):
            # Each is first in every other turn.
            for who in ("own", "other") if turn % 2 else ("other", "own"):
                how = (own["set"], settings, own["seed"])
                run = ours(*how) if who == "own" else theirs(*how, other["rate"])
                taken[who].append(run[1])
    if turns:
        own["seconds"], other["seconds"] = (float(np.median(t)) for t in taken.values())
        own["turns"] = other["turns"] = turns
        print(
            f"{'':12} in {turns} turns: {own['seconds']:.2f} s and {other['seconds']:.2f} s",
            flush=True,
        )


def keep(row: dict[str, Any], path: Path) -> None:
    """The results so far as JSON; a row replaces the one of the same run alone."""

    def key(r: dict[str, Any]) -> tuple[Any, ...]:
        return r["set"], r["objective"], r["library"], r["seed"]

    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [r for r in old if key(r) != key(row)] + [row]
    found = importlib.util.find_spec("torchebm")
    packages = ("energyscape", "torch", "numpy", *(("torchebm",) if found else ()))
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, shared; processor seconds of training",
        "versions": {package: metadata.version(package) for package in packages},
        "training_points": 10_000,
        "test_points": 20_000,
        "rows": sorted(rows, key=key),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1).replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
