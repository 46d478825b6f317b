"""The section on a model's energies, and what is known of its chains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from energyscape.models import Energy
from energyscape.report import plots
from energyscape.report.sections import Item, Section, Table, number
from energyscape.report.subject import Subject

__all__ = ["energies"]


def energies(subject: Subject, sampling: Mapping[str, Any] | None = None) -> Section | None:
    """Energies of data and samples, and what is known of the chains: those of the fit, and of the last
    call of sample where it is given. None for denoisers."""
    est = subject.estimator
    chains = est.info_.get("chains")
    items, tables = [], []
    if isinstance(est.model_, Energy):
        # Chains follow the density that was learned, which is that of slightly noisy data; samples of
        # pictures are shown without that noise, so chains are taken as they ended.
        eps = np.random.default_rng(0).normal(size=subject.data_x.shape)
        chain_ends = est.calibration_.get("chains", subject.samples_x)[: len(subject.data_x)]
        both = {
            "Data": _energy(est.model_, subject.data_x + est.blur_ * eps),
            "Samples": _energy(est.model_, chain_ends),
        }
        gap = float(both["Samples"].mean() - both["Data"].mean())
        alt = "Energies of held-out rows and of samples"
        caption = (
            "Chains that have settled have the energies of data at the model's noise level; here "
            f"the means differ by {gap:+.2f} nats (samples minus data)."
        )
        items.append(Item(plots.histograms(both, "energy, nats", alt), caption))
    if isinstance(chains, dict):
        body = [[str(key).replace("_", " "), number(value)] for key, value in chains.items()]
        tables.append(Table(["chains", ""], body))
    if sampling:
        body = [[str(key).replace("_", " "), number(value)] for key, value in sampling.items()]
        tables.append(Table(["last samples", ""], body, "The chains that `sample` walked last."))
    log_z = est.info_.get("log_z")
    if isinstance(log_z, dict):
        # The bounds differ in decimals that four significant digits would hide.
        body = [
            [
                str(key).replace("_", " "),
                f"{value:,.3f}"
                if key in ("estimate", "lower", "upper") and value
                else number(value),
            ]
            for key, value in log_z.items()
        ]
        caption = (
            "By quadrature on a grid that refines itself, and the bounds of its error, nats."
            if log_z.get("kind") == "quadrature"
            else "Bounds by annealed importance sampling from below and above, nats."
        )
        tables.append(Table(["log Z", ""], body, caption))
    if not items and not tables:
        return None
    return Section("Energies and chains", "", items, tables)


def _energy(model: Energy, x: np.ndarray) -> np.ndarray:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        value = model(torch.as_tensor(x, dtype=torch.float32, device=device))
    return np.asarray(value.cpu(), dtype=np.float64)
