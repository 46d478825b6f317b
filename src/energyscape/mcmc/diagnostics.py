"""Have the chains mixed? Rank-normalised R-hat and effective sample sizes, in numbers and words.

R-hat compares the spread between chains with the spread within them, on ranks and on folded ranks,
the larger of the two (Vehtari et al. 1903.08008): above 1.01 the chains do not agree yet. Bulk and
tail effective sample sizes say what the draws are worth for means and for the 5 % and 95 %
quantiles. Chains that each sit in one mode look fine to the effective sample size alone, so start
them far apart and read R-hat first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["RHAT_LIMIT", "Diagnostics", "diagnostics"]

RHAT_LIMIT = 1.01
MAX_COORDINATES = 256


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What `diagnostics` found.

    Attributes
    ----------
    rhat : float
        The worst over coordinates; NaN where it has no meaning (fewer than 4 draws, or draws that do
        not vary).
    ess_bulk, ess_tail : float
        The smallest over coordinates.
    acceptance : float or None
        Mean acceptance, None for kernels without a test.
    divergences : int
        Steps that diverged, over all chains.
    verdict : str
        In plain words.
    rhat_each, ess_bulk_each, ess_tail_each : ndarray
        Per coordinate, flattened.
    """

    rhat: float
    ess_bulk: float
    ess_tail: float
    acceptance: float | None
    divergences: int
    verdict: str
    rhat_each: np.ndarray
    ess_bulk_each: np.ndarray
    ess_tail_each: np.ndarray


def diagnostics(
    draws: Tensor,
    *,
    acceptance: Tensor | None = None,
    divergences: Tensor | None = None,
    modes: Tensor | None = None,
) -> Diagnostics:
    """Convergence measures of chains and a verdict.

    Parameters
    ----------
    draws : Tensor of shape (n, chains, ...)
        Of more than 256 coordinates, 256 evenly spread ones are looked at.
    acceptance, divergences : Tensor of shape (chains,), optional
    modes : Tensor of shape (K, ...), optional
        Known modes: the verdict then says how many of them the chains that began there never left,
        and how many no chain saw.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        If draws do not have shape (n, chains, ...).

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Burkner, 1903.08008; computed by arviz-stats.

    Examples
    --------
    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> diagnostics(torch.randn(500, 4, 1, generator=rng)).verdict.split(":")[0]
    'chains have mixed'
    >>> stuck = torch.randn(500, 4, 1, generator=rng) + torch.tensor([0.0, 0.0, 9.0, 9.0])[:, None]
    >>> diagnostics(stuck).verdict.split(":")[0]
    'chains have not mixed'
    """
    if draws.ndim < 2:
        raise ValueError(f"draws have shape (n, chains, ...), got {tuple(draws.shape)}")
    values = (
        draws.detach().to("cpu", torch.float64).flatten(2) if draws.ndim > 2 else draws[..., None]
    )
    if values.shape[2] > MAX_COORDINATES:
        chosen = torch.linspace(0, values.shape[2] - 1, MAX_COORDINATES).long()
        values = values[..., chosen]
    rhat, bulk, tail = _measures(values.to(torch.float64).permute(2, 1, 0).numpy())
    worst = _extreme(rhat, np.max)
    ess_bulk, ess_tail = _extreme(bulk, np.min), _extreme(tail, np.min)
    mean_acceptance = None if acceptance is None else float(acceptance.double().mean())
    bad = 0 if divergences is None else int(divergences.sum())
    return Diagnostics(
        rhat=worst,
        ess_bulk=ess_bulk,
        ess_tail=ess_tail,
        acceptance=mean_acceptance,
        divergences=bad,
        verdict=_verdict(worst, ess_bulk, ess_tail, mean_acceptance, bad, draws, modes),
        rhat_each=rhat,
        ess_bulk_each=bulk,
        ess_tail_each=tail,
    )


def _extreme(values: np.ndarray, which: object) -> float:
    finite = values[np.isfinite(values)]
    return float(which(finite)) if finite.size else float("nan")  # type: ignore[operator]


def _measures(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R-hat, bulk and tail ESS of each coordinate of (coordinates, chains, n)."""
    from arviz_stats.base.array import array_stats

    count = values.shape[0]
    rhat, bulk, tail = (np.full(count, np.nan) for _ in range(3))
    varies = np.isfinite(values).all((1, 2)) & (np.ptp(values, axis=(1, 2)) > 0)
    if values.shape[2] < 4 or not varies.any():
        return rhat, bulk, tail
    chosen = values[varies]
    with np.errstate(all="ignore"):
        if values.shape[1] > 1:
            rhat[varies] = array_stats.rhat(chosen, chain_axis=1, draw_axis=2)
        bulk[varies] = array_stats.ess(chosen, chain_axis=1, draw_axis=2, method="bulk")
        tail[varies] = array_stats.ess(
            chosen, chain_axis=1, draw_axis=2, method="tail", prob=(0.05, 0.95)
        )
    return rhat, bulk, tail


def _verdict(
    rhat: float,
    bulk: float,
    tail: float,
    acceptance: float | None,
    divergences: int,
    draws: Tensor,
    modes: Tensor | None,
) -> str:
    """The numbers as a sentence."""
    chains = draws.shape[1]
    notes = []
    if acceptance is not None and acceptance < 1e-3:
        notes.append(f"almost nothing is accepted ({100 * acceptance:.2g} %)")
    if divergences:
        notes.append(f"{divergences} steps diverged")
    frozen = int((draws == draws[:1]).flatten(2).all(2).all(0).sum()) if draws.ndim > 2 else 0
    if frozen and draws.shape[0] > 1:
        notes.append(f"{frozen} of {chains} chains never moved")
    if modes is not None:
        notes.extend(_mode_notes(draws, modes))
    if np.isnan(rhat):
        head = "mixing cannot be judged"
        body = ["it takes at least 4 draws of 2 chains that vary"]
    elif rhat > RHAT_LIMIT:
        head, body = "chains have not mixed", [f"R-hat {rhat:.3g}"]
    elif bulk < 100 * chains and bulk < 400:
        head = "chains agree but are short"
        body = [f"R-hat {rhat:.3g}", f"only {bulk:.0f} effective draws"]
    else:
        head = "chains have mixed"
        body = [f"R-hat {rhat:.3g}", f"{bulk:.0f} effective draws ({tail:.0f} in the tails)"]
    return f"{head}: {'; '.join(body + notes)}"


def _mode_notes(draws: Tensor, modes: Tensor) -> list[str]:
    """How many modes the chains that began there never left, and how many no chain saw."""
    flat = draws.detach().double().flatten(2)
    nearest = torch.cdist(flat, modes.to(flat).flatten(1).expand(len(flat), -1, -1)).argmin(2)
    stayed = (nearest == nearest[:1]).all(0)
    first = nearest[0]
    kept = [k for k in first.unique().tolist() if bool(stayed[first == k].all())]
    unseen = len(modes) - int(nearest.unique().numel())
    notes = []
    if kept and len(draws) > 1:
        inside = sum(int((first == k).sum()) for k in kept)
        notes.append(
            f"{len(kept)} of {len(modes)} modes never left, by {inside} of {draws.shape[1]} chains"
        )
    if unseen:
        notes.append(f"{unseen} of {len(modes)} modes never visited")
    return notes
