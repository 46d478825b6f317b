"""What is told of the chains that samples came from: did they move, and do they agree?

Of many chains the last draws alone are kept, as samples. A few draws of a few chains are kept along the
way (`energyscape.mcmc.Excerpt`) and judged when somebody asks, so that a sample costs no more for it.
R-hat is asked only where chains are meant to cross the density: an energy learned level by level, or by
short runs, has its draws from where chains begin, and single chains stay near there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from energyscape.mcmc import Chains, Excerpt
from energyscape.mcmc.diagnostics import RHAT_LIMIT

__all__ = ["Sampled", "of_one_class"]

_CHAINS = 64


def of_one_class(classes: Tensor | None) -> int | Tensor:
    """Which chains to look at: some, of the commonest class where each has its own."""
    if classes is None:
        return _CHAINS
    own = torch.nonzero(classes == classes.mode().values)[:, 0].cpu()
    chosen = torch.linspace(0, len(own) - 1, min(_CHAINS, len(own)), dtype=torch.float64)
    return own[chosen.round().long()]


class Sampled:
    """The chains of one call of `sample`, which may walk in several groups.

    Parameters
    ----------
    sampler, start : str
        Which kernel walked, and where its chains began.
    unasked : str, optional
        Why R-hat is not asked.
    """

    def __init__(self, sampler: str, start: str, unasked: str = "") -> None:
        self.sampler, self.start, self.unasked = sampler, start, unasked
        self.steps = self.warmup = self.chains = self.divergences = 0
        self.accepted: float | None = None
        self.excerpt: Excerpt | None = None

    def add(self, run: Chains, steps: int, warmup: int, excerpt: Excerpt) -> None:
        """A group of chains; draws of the first group are looked at."""
        count = len(run.x)
        self.steps, self.warmup = steps, warmup
        self.divergences += int(run.info.diverged.sum())
        if run.info.acceptance is not None:
            mean = float(run.info.acceptance.double().mean())
            self.accepted = (self.accepted or 0.0) + count * mean
        self.chains += count
        self.excerpt = self.excerpt or excerpt

    def told(self) -> dict[str, Any]:
        """Plain values; None for what is not known, or not asked."""
        assert self.excerpt is not None
        acceptance = None if self.accepted is None else self.accepted / self.chains
        draws, energies = self.excerpt.draws, self.excerpt.energies
        known: dict[str, Any] = {
            "sampler": self.sampler,
            "chains": self.chains,
            "steps": self.steps,
            "warmup": self.warmup,
            "start": self.start,
            "acceptance": acceptance,
            "divergences": self.divergences,
        }
        if self.unasked:
            found: dict[str, Any] = {"rhat": None, "ess_bulk": None, "ess_tail": None}
            verdict = self.unasked
            if self.divergences:
                verdict += f"; {self.divergences} steps diverged"
        else:
            judged = self.excerpt.diagnostics(
                acceptance=None if acceptance is None else torch.tensor(acceptance),
                divergences=torch.tensor(self.divergences),
            )
            found = {k: getattr(judged, k) for k in ("rhat", "ess_bulk", "ess_tail")}
            found |= {"chains_seen": draws.shape[1], "draws_seen": draws.shape[0]}
            verdict = judged.verdict
            if judged.rhat > RHAT_LIMIT:
                others = " or ".join(k for k in ("hmc", "tempering") if k != self.sampler)
                verdict += (
                    f"; until they have (more steps, or sampler {others}) samples are spread as their "
                    f"starts are, {self.start}"
                )
        if energies is not None:
            found |= {
                "energy_first": float(energies[0].mean()),
                "energy_last": float(energies[-1].mean()),
            }
        known |= {k: v if v is None or math.isfinite(v) else None for k, v in found.items()}
        return known | {"verdict": verdict}
