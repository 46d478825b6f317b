"""Chains and modes of an energy: do its chains move, what they cross, and where it peaks.

Chains start where the run's own settled ones ended and walk the model once more; ascent from the same
points finds the modes, by which the chains are then judged: a mode that no chain left is told.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from energyscape.mcmc import Modes, find_modes, run_chains
from energyscape.models import Energy
from energyscape.report import plots, sheets
from energyscape.report.sections import Item, Section, Table, cells, number, stretched
from energyscape.report.subject import Subject, affordable
from energyscape.targets import Target

__all__ = ["Found", "chains", "modes_of"]

_CHAINS, _STEPS, _SHOWN = 16, 300, 8
_CLIMB = 500


class Found(NamedTuple):
    """Modes of an energy and how many ascents began; or why there are none."""

    modes: Modes | None
    starts: int
    why: str

    @property
    def points(self) -> np.ndarray | None:
        """The modes as encoded, shape (K, ...)."""
        return None if self.modes is None else self.modes.points.cpu().numpy()


def _settled(subject: Subject, most: int) -> tuple[Target, Tensor] | None:
    """The energy in float64 and where its settled chains stand; None for what is no energy."""
    est = subject.estimator
    if not isinstance(est.model_, Energy) or "chains" not in est.calibration_:
        return None
    model = cast(Energy, est._double())
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    pool = np.ascontiguousarray(est.calibration_["chains"][:most])
    return model.at(None), torch.as_tensor(pool, dtype=torch.float64, device=device)


def modes_of(subject: Subject, *, seconds: float = 4.0) -> Found | None:
    """The modes that ascent from settled chains reaches; None for what is no energy."""
    settled = _settled(subject, 128)
    if settled is None:
        return None
    target, starts = settled
    few = 4 if subject.pictures else 32
    count = affordable(
        lambda n: target.value_and_score(starts[:n]), few, len(starts), seconds / _CLIMB
    )
    try:
        found = find_modes(target, starts[:count], max_steps=_CLIMB, tolerance=1e-4)
    except ValueError as error:
        return Found(None, count, str(error))
    return Found(found, count, "")


def chains(subject: Subject, found: Found | None, *, seconds: float = 4.0) -> Section | None:
    """Traces of some chains, their verdict, and the modes; None for what is no energy."""
    settled = _settled(subject, _CHAINS)
    if settled is None or found is None:
        return None
    target, starts = settled
    est = subject.estimator
    begin = time.perf_counter()
    target.value_and_score(starts)
    each = max(time.perf_counter() - begin, 1e-6)
    steps = int(np.clip(seconds / each, 20, _STEPS))
    kernel = cast(Any, est)._kernel("mala")
    modes = None if found.modes is None else found.modes.points
    rng = torch.Generator(starts.device).manual_seed(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = run_chains(kernel, target, starts, steps, rng=rng, modes=modes)
    verdict = run.diagnostics.verdict
    items = [Item(_traces(subject, run.draws, run.log_prob), _caption(len(starts), steps))]
    said = [f"{verdict[0].upper()}{verdict[1:]}.", *(f"{w.message}." for w in told)]
    tables: list[Table] = []
    if found.modes is None:
        said.append(f"No modes are shown: {found.why}.")
    else:
        said.append(_count(found, found.modes))
        if subject.pictures:
            shown = stretched(subject, est.codec_.decode(found.points[:20]))  # type: ignore[index]
            alt = "Pictures at the modes of the energy"
            items.append(Item(sheets.picture_html(shown, 10, alt), "Modes, the highest first."))
        else:
            tables.append(_table(subject, found, found.modes))
    return Section("Chains and modes", " ".join(said), items, tables)


def _caption(count: int, steps: int) -> str:
    return (
        f"{count} chains of {steps} Metropolis steps from where settled ones ended, "
        f"{min(count, _SHOWN)} of them shown. Settled chains wander about a common level; one that "
        "drifts has not arrived, one that keeps to itself does not cross between modes."
    )


def _traces(subject: Subject, draws: Tensor, log_prob: Tensor | None) -> str:
    """Energies, and the coordinates along the directions in which the data vary most."""
    flat = subject.data_x.reshape(len(subject.data_x), -1).astype(np.float64)
    walks = draws.detach().cpu().numpy().reshape(*draws.shape[:2], -1)[:, :_SHOWN]
    panels: list[tuple[str, np.ndarray]] = []
    if log_prob is not None:
        panels.append(("Energy, nats", -log_prob.cpu().numpy()[:, :_SHOWN]))
    if subject.data_x.shape[1:] == (2,) or flat.shape[1] == 1:
        names = (subject.names * 2)[: flat.shape[1]]
        panels += [(f"{name}, as encoded", walks[..., i]) for i, name in enumerate(names)]
    else:
        directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
        along = (walks - flat.mean(0)) @ directions.T
        titles = ("Along the first principal direction", "Along the second")
        panels += [(titles[i], along[..., i]) for i in range(len(directions))]
    return plots.traces(panels, "Chains over their steps: energies and coordinates")


def _count(found: Found, modes: Modes) -> str:
    peaks, kinds = len(modes.points), sorted(set(modes.kinds))
    lost = f"; {modes.lost} did not settle" if modes.lost else ""
    kind = "" if kinds in (["peak"], ["unknown"]) else f" ({', '.join(kinds)})"
    plural = "s" if peaks != 1 else ""
    return f"Ascent from {found.starts} settled chains found {peaks} mode{plural}{kind}{lost}."


def _table(subject: Subject, found: Found, modes: Modes, most: int = 12) -> Table:
    """Where the highest modes are, in the data's own units, and what they are."""
    points = found.points
    assert points is not None
    names = subject.names[:8]
    columns: dict[str, Any] = cells(
        subject.estimator.codec_.decode(points[:most]), subject.estimator.schema_
    )
    height = (modes.log_prob - modes.log_prob[0]).tolist()
    body = [
        [
            f"{height[k]:.2f}",
            modes.kinds[k],
            f"{int(modes.counts[k]) / found.starts:.0%}",
            *(number(columns[name][k]) for name in names),
        ]
        for k in range(min(most, len(points)))
    ]
    more = "" if len(points) <= most else f" The first {most} of {len(points)}."
    caption = (
        "Modes, the highest first: log-density less that of the highest in nats, the signs of the "
        f"Hessian, and the share of the starts that ended there.{more}"
    )
    return Table(["log-density", "kind", "starts", *names], body, caption)
