"""Where the density peaks: gradient ascent from many starts, and annealing for the highest peak.

Every row climbs ``log p`` on its own with a Barzilai-Borwein step, ``s's / s'y`` from the last change
of point s and of (minus the) score y, taken only where it gains; otherwise the row's step is quartered.
Rows that end together are one mode, and the eigenvalues of the Hessian there (central differences of
the score) say whether it is a peak, a saddle or a flat ridge.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from energyscape.mcmc.annealing import anneal
from energyscape.mcmc.kernel import (
    ChainWarning,
    Kernel,
    both_at,
    check_chains,
    check_target,
    rows,
    sum_rows,
)
from energyscape.mcmc.langevin import MALA
from energyscape.mcmc.paths import Tempered
from energyscape.targets import Target

__all__ = ["Modes", "find_modes", "simulated_annealing"]


@dataclass(frozen=True, eq=False)
class Modes:
    """Stationary points found by ascent, the highest first.

    Attributes
    ----------
    points : Tensor of shape (K, ...)
    log_prob : Tensor of shape (K,)
        Unnormalised.
    eigenvalues : Tensor of shape (K, D)
        Of the Hessian of log p, rising; empty (K, 0) where D is too large to compute it.
    kinds : list of str
        "peak" (all negative), "saddle", "ridge" (a flat direction) or "unknown".
    counts : Tensor of shape (K,)
        How many starts ended there.
    lost : int
        Starts that did not settle.
    """

    points: Tensor
    log_prob: Tensor
    eigenvalues: Tensor
    kinds: list[str]
    counts: Tensor
    lost: int


def find_modes(
    target: Target,
    starts: Tensor,
    *,
    max_steps: int = 500,
    tolerance: float = 1e-5,
    merge_distance: float | None = None,
    max_hessian_dim: int = 256,
) -> Modes:
    """The modes of a target that ascent from the given starts reaches.

    Parameters
    ----------
    target : Target
        With a log-density.
    starts : Tensor of shape (n, ...)
        Best in float64; data, or draws of the target.
    max_steps : int
    tolerance : float
        A row has settled when its score, times the scale of the starts, is below this times the square
        root of D.
    merge_distance : float, optional
        Points closer than this are one mode; by default 1 % of the scale of the starts, times the
        square root of D.
    max_hessian_dim : int
        Above this dimension no Hessian is computed.

    Returns
    -------
    Modes

    Raises
    ------
    ValueError
        For a target without a log-density, or when no start settles.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> rng = torch.Generator().manual_seed(0)
    >>> found = find_modes(eight_gaussians().at(0.0), eight_gaussians().sample(100, rng))
    >>> len(found.points), set(found.kinds)
    (8, {'peak'})
    """
    check_chains(starts)
    check_target(target)
    x = starts.detach()
    if target.value(x[:1]) is None:
        raise ValueError("modes need a log-density, and this target knows only its score")
    dim = x[0].numel()
    scale = float(x.flatten(1).std(0).mean()) if len(x) > 1 else 1.0
    scale = scale if scale > 0 else 1.0
    x, value, score = _ascend(target, x, scale, max_steps, tolerance * dim**0.5 / scale)
    # Float noise bounds how flat a computed score can be; ten times the limit still is a mode.
    settled = (
        sum_rows(score.square()).sqrt() <= 10 * tolerance * dim**0.5 / scale
    ) & value.isfinite()
    lost = int((~settled).sum())
    if lost == len(x):
        raise ValueError(
            f"none of {len(x)} starts settled in {max_steps} steps: the energy may be unbounded below "
            "or not smooth; raise max_steps or tolerance"
        )
    reach = merge_distance if merge_distance is not None else 0.01 * scale * dim**0.5
    points, log_prob, counts = _merge(x[settled], value[settled], reach)
    if dim <= max_hessian_dim:
        eigenvalues = torch.linalg.eigvalsh(_hessian(target, points, scale))
    else:
        eigenvalues = points.new_empty((len(points), 0))
    return Modes(points, log_prob, eigenvalues, [_kind(e) for e in eigenvalues], counts, lost)


def _ascend(
    target: Target, x: Tensor, scale: float, max_steps: int, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each row climbs with its own step until its score is below `limit`."""
    value, score = both_at(target, x)
    norm = sum_rows(score.square()).sqrt()
    step = 0.1 * scale / norm.clamp(min=1e-12)
    for _ in range(max_steps):
        if bool((norm <= limit).all()):
            break
        move = rows(step, x) * score
        long = sum_rows(move.square()).sqrt().clamp(min=1e-300)
        move = move * rows((scale / long).clamp(max=1.0), x)
        new_value, new_score = both_at(target, x + move)
        gained = (new_value >= value) & new_value.isfinite() & (norm > limit)
        bend = -sum_rows(move * (new_score - score))
        proposed = sum_rows(move.square()) / bend.clamp(min=1e-300)
        grown = torch.where(bend > 0, proposed.minimum(100 * step), 4 * step)
        step = torch.where(gained, grown, torch.where(norm > limit, 0.25 * step, step))
        wide = gained.view(-1, *(1,) * (x.ndim - 1))
        x, score = torch.where(wide, x + move, x), torch.where(wide, new_score, score)
        value = torch.where(gained, new_value, value)
        norm = sum_rows(score.square()).sqrt()
    return x, value, score


def _merge(x: Tensor, value: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points within `reach` of a higher one are counted to it."""
    order = value.argsort(descending=True, stable=True)
    x, value = x[order], value[order]
    flat = x.flatten(1)
    left = torch.ones(len(x), dtype=torch.bool, device=x.device)
    firsts, counts = [], []
    while bool(left.any()):
        first = int(left.to(torch.int8).argmax())
        near = left & ((flat - flat[first]).norm(dim=1) <= reach)
        firsts.append(first)
        counts.append(int(near.sum()))
        left = left & ~near
    return x[firsts], value[firsts], torch.tensor(counts)


def _hessian(target: Target, points: Tensor, scale: float) -> Tensor:
    """Symmetrised central differences of the score, shape (K, D, D)."""
    count, dim = len(points), points[0].numel()
    delta = scale * torch.finfo(points.dtype).eps ** (1 / 3)
    shift = delta * torch.eye(dim, dtype=points.dtype, device=points.device)
    columns = []
    for point in points.flatten(1):
        both = torch.cat([point + shift, point - shift]).view(2 * dim, *points.shape[1:])
        score = both_at(target, both)[1].flatten(1)
        columns.append((score[:dim] - score[dim:]) / (2 * delta))
    hessian = torch.stack(columns).view(count, dim, dim)
    return 0.5 * (hessian + hessian.transpose(1, 2))


def _kind(eigenvalues: Tensor) -> str:
    """Peak, saddle or ridge by the signs of the eigenvalues."""
    if eigenvalues.numel() == 0:
        return "unknown"
    flat = 1e-3 * float(eigenvalues.abs().max())
    if bool((eigenvalues < -flat).all()):
        return "peak"
    return "saddle" if bool((eigenvalues > flat).any()) else "ridge"


def simulated_annealing(
    target: Target,
    x0: Tensor,
    *,
    rng: torch.Generator,
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    steps_per_level: int = 100,
    kernel: Kernel | None = None,
    step_size: float = 0.1,
) -> Tensor:
    """Chains cooled towards the highest modes: the same walk down a ladder as everything else.

    Parameters
    ----------
    target : Target
        With a log-density, unless `kernel` needs none.
    x0 : Tensor of shape (chains, ...)
    rng : torch.Generator
    betas : tuple of float
        Rising inverse temperatures.
    steps_per_level : int
    kernel : Kernel, optional
        For every rung; by default MALA with ``step_size / beta``.
    step_size : float

    Returns
    -------
    Tensor of shape (chains, ...)
        Where the chains ended; hand them to `find_modes`.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import GaussianMixture
    >>> p = GaussianMixture.isotropic(torch.tensor([[-3.0], [3.0]]), 1.0, [0.1, 0.9])
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = simulated_annealing(p.at(0.0), torch.full((64, 1), -3.0), rng=rng, step_size=0.5)
    >>> bool((x > 0).double().mean() > 0.5)
    True
    """
    if not betas or betas[0] <= 0 or any(a >= b for a, b in pairwise(betas)):
        raise ValueError(f"inverse temperatures are positive and rise, got {betas}")
    kernels = [MALA(step_size / b) if kernel is None else kernel for b in betas]
    walked = anneal(x0, [Tempered(target, b) for b in betas], kernels, steps_per_level, rng=rng)
    last = walked.levels[-1].acceptance
    if last is not None and not bool((last > 0).any()):
        warnings.warn(
            "nothing was accepted at the lowest temperature: give a smaller step_size",
            ChainWarning,
            stacklevel=2,
        )
    return walked.x
