"""The section on a chain's variational bound, term by term.

Beside the model's terms stand those of the best answer that knows each coordinate's mean and variance
alone, ``m + v (x - m) / (v + sigma^2)``: what is below them, the model knows of how coordinates go
together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from energyscape.report import plots
from energyscape.report.sections import Item, Section, Table
from energyscape.report.subject import Subject, take

__all__ = ["bound"]

_ROWS = 32


def bound(subject: Subject, *, seed: int = 0, most_steps: int = 120) -> Section | None:
    """L_T, every step's L_i and L_0 of held-out rows; None for models without a chain."""
    est = subject.estimator
    if not hasattr(est, "bound_terms"):
        return None
    n = min(_ROWS, len(subject.data_x))
    rows = take(subject.data, range(n))
    terms = est.bound_terms(rows, most_steps=most_steps, random_state=seed)
    unit, name = 1.0, "nats"
    if subject.pictures:
        unit, name = math.log(2) * subject.data_x[0].size, "bits/dim"
    shown = terms.steps.tolist()
    lines = {
        "model": (shown, (terms.per_step.mean(0) / unit).tolist()),
        "mean and variance alone": (shown, (terms.reference.mean(0) / unit).tolist()),
    }
    alt = "Terms of the variational bound against the step of the chain"
    markup = plots.curves(
        [(f"Terms of the bound, {name} a step", lines)], "step", alt, log_x=True, log_y=(True,)
    )
    caption = (
        f"What each step back costs on {n} held-out rows"
        + ("" if len(shown) == terms.num_steps - 1 else f", at {len(shown)} steps")
        + "; beside it the terms of the best answer that knows the mean and variance of each "
        "coordinate and nothing of how they go together"
        + (", at the smaller variance." if est.get_params()["variance"] == "learned" else ".")
    )
    return Section(
        "The bound, term by term", "", [Item(markup, caption)], [_table(terms, unit, name)]
    )


def _table(terms: Any, unit: float, name: str) -> Table:
    last = "the probability of its levels" if terms.discretised else "the density of the row"
    parts = [
        ("end of the chain against N(0, I): L_T", terms.terminal),
        (f"the {terms.num_steps - 1:,} steps back: L_1 and so on", terms.transitions),
        (f"last step, {last}: L_0", terms.decoder),
        ("change of units", -terms.log_abs_det),
        ("bound on −log p", terms.value),
    ]
    rows = []
    for what, values in parts:
        spread = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.nan
        rows.append([what, f"{values.mean() / unit:.4g}", f"{spread / unit:.2g}"])
    return Table(["part", f"{name}, mean over rows", "standard error"], rows)
