"""Chains of pictures as they go on: from held-out pictures and from noise, step after step.

On an energy that has learned its pictures both look like them in every row. Drift is plain to the eye:
chains from the data that turn into something else, or chains from noise that never arrive.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from energyscape.families.levels import LevelEnergy
from energyscape.mcmc import run_chains
from energyscape.models import Energy
from energyscape.report import sheets
from energyscape.report.sections import Item, Section, Table, stretched
from energyscape.report.subject import Subject

__all__ = ["strips"]

_CHAINS = 6
_STOPS = (10, 100, 1_000, 5_000)


def strips(
    subject: Subject, *, seed: int = 0, seconds: float = 20.0, stops: Sequence[int] = _STOPS
) -> Section | None:
    """Chains after each of `stops` steps that `seconds` allow, the first in any case; None but for
    energies of pictures."""
    est = subject.estimator
    if not subject.pictures or not isinstance(est.model_, Energy):
        return None
    model: Energy = est.model_
    own = next(model.parameters())
    rng = torch.Generator(own.device).manual_seed(seed)
    data = torch.as_tensor(subject.data_x[:_CHAINS]).to(own)
    eps = torch.randn(data.shape, generator=rng, dtype=data.dtype, device=data.device)
    data = data + est.blur_ * eps
    levelled = isinstance(model, LevelEnergy)
    noise = (est.from_noise if levelled else est._round)(len(data), rng)
    x, kernel, target = torch.cat([data, noise]), est._kernel("mala"), model.at(None)
    states, reached, accepted = [x], [0], [math.nan]
    left, each = seconds, 0.0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for stop in stops:
            steps = stop - reached[-1]
            if each and steps * each > left:
                break
            begin = time.perf_counter()
            run = run_chains(kernel, target, x, steps, rng=rng, keep="last")
            spent = time.perf_counter() - begin
            x, left, each = run.x, left - spent, spent / steps
            assert run.info.acceptance is not None
            states.append(x)
            reached.append(stop)
            accepted.append(float(run.info.acceptance.mean()))
    named = ", ".join(f"{steps:,}" for steps in reached)
    begun = "noise brought down the levels" if levelled else "a Gaussian with the rows' deviations"
    clean = ", shown without the noise of the model's level" if levelled else ""
    items = [
        _strip(subject, [s[: len(data)] for s in states], "held-out pictures", named),
        _strip(subject, [s[len(data) :] for s in states], "noise", named),
    ]
    text = (
        f"{len(data)} chains from held-out pictures with the model's noise, as many from {begun}, by "
        f"Metropolis steps at temperature 1{clean}. Where the energy is right, every row of both looks "
        "like the data; what turns into something else drifts."
    )
    text = " ".join([text, *dict.fromkeys(f"{w.message}." for w in told)])
    table = _table(model, states, reached, accepted, len(data))
    return Section("Chains of pictures", text, items, [table])


def _strip(subject: Subject, states: list[Tensor], start: str, named: str) -> Item:
    """A row of pictures for each state, a column for each chain."""
    est = subject.estimator
    shown = torch.cat([est._finish(x) for x in states])
    pictures = stretched(subject, est.codec_.decode(shown.cpu().double().numpy()))
    alt = f"Chains from {start} after {named} steps, a row for each"
    caption = f"From {start}: a column is a chain; rows after {named} steps, from above to below."
    return Item(sheets.picture_html(pictures, len(states[0]), alt), caption)


def _table(
    model: Energy, states: list[Tensor], reached: list[int], accepted: list[float], n: int
) -> Table:
    """Energies, and how far chains have gone in units of the distance between two pictures."""
    first = states[0].flatten(1)
    apart = torch.pdist(first[:n]).mean() if n > 1 else first[0].norm()
    rows = []
    for x, steps, share in zip(states, reached, accepted, strict=True):
        with torch.no_grad():
            energy = model(x).double()
        moved = (x.flatten(1) - first).norm(dim=1) / apart
        parts = [
            f"{float(part[half].mean()):.4g}"
            for half in (slice(n), slice(n, None))
            for part in (energy, moved)
        ]
        rows.append([f"{steps:,}", "–" if math.isnan(share) else f"{share:.2f}", *parts])
    head = ["steps", "accepted", "energy, from data", "moved", "energy, from noise", "moved"]
    caption = (
        "Means over chains: of moves accepted since the row above, of the energy in nats, of the way "
        "from the start in units of the distance between two held-out pictures."
    )
    return Table(head, rows, caption)
