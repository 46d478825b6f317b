"""log Z of a fitted energy, and whether to trust it: mass far from the data is looked for.

In one and two dimensions log Z is an integral over a box that sees all mass but needles far from the
rows (narrower than a tenth of three quarters of a standard deviation). In more it is estimated by
chains, whose bounds bracket log Z where they go. An energy is free to fall where there were no rows,
and chains that start at the data never see it: both bounds can lie below the truth and agree. So some
of the chains start far out.

    three and four  the base is a mixture of a Gaussian fitted to the rows and a wide round one. Mass
                    far out is found and counted; where the draws of the model miss it, the bound from
                    above may fall below the one from below, and the estimate is refused.
    all             a second run starts from the wide Gaussian alone (in more dimensions narrow and wide
                    shells hardly meet, and one ladder does not serve both). The estimate is refused
                    where the draws it ends with lie outside those of the model, or its bound above
                    theirs.

A few strays among the draws, of energies that no draw of the model has, would spoil every mean of 1/p:
the share `_STRAYS` of highest energy is left out, which lowers the bound from above by at most
``-log(1 - share)``, and that is given back to it.

Nothing finds a narrow well that no chain falls into: trust is the absence of a contradiction.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc import Base, GaussianBase, Integral, LogZ, MixtureBase, ais, quadrature
from energyscape.targets import Target

__all__ = ["Verdict", "broad_base", "normalised"]

_PLANE, _FEW = 2, 4
#: Half the box of a grid in units of the data's deviation, eight times the confinement's; the share of
#: Z that its border may hold, and the error to accept.
_REACH, _BORDER, _ERROR = 24.0, 1e-6, 0.01
#: Standard deviation of the wide Gaussian in few dimensions and in more, in units of the data's, and
#: the share of the chains that start there.
_WIDE, _WIDER_THAN_DATA, _SHARE = 4.0, 3.0, 0.25
#: Draws farther out than 99 % of the model's are 1 % where the runs agree.
_QUANTILE, _MOST = 0.99, 0.05
#: Of 2,048 slots of a replay buffer 4 lay 13 nats above all others, and moved the bound by 10 nats.
_STRAYS = 0.005


class Verdict(NamedTuple):
    """An estimate, whether it is trusted, and in words what speaks against it (empty: nothing).

    A trusted one may have a reason too: mass that draws of the model do not show.
    """

    found: LogZ | Integral
    trusted: bool
    reason: str

    @property
    def kind(self) -> str:
        """Of the log-density it normalises: "quadrature" or "ais"."""
        return "quadrature" if isinstance(self.found, Integral) else "ais"


def _wide(rows: Tensor, widen: float) -> GaussianBase:
    """A round Gaussian `widen` times as wide as the rows in the mean over coordinates."""
    flat = rows.flatten(1)
    variance = flat.var(0).mean().clamp(min=1e-12)
    eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return GaussianBase(rows.mean(0), widen**2 * variance * eye)


def broad_base(rows: Tensor) -> Base:
    """Where walks to a fitted energy start: the rows' Gaussian, in few dimensions with a wide part.

    Parameters
    ----------
    rows : Tensor of shape (n, ...)
        Encoded training rows.
    """
    near = GaussianBase.fit(rows, jitter=1e-3, widen=1.2)
    if rows[0].numel() > _FEW:
        return near
    return MixtureBase([near, _wide(rows, _WIDE)], [1 - _SHARE, _SHARE])


def normalised(target: Target, rows: Tensor, samples: Tensor, rng: torch.Generator) -> Verdict:
    """log Z of a fitted energy with a verdict.

    Parameters
    ----------
    target : Target
        With a log-density.
    rows : Tensor of shape (n, ...)
        Encoded training rows, which place the bases.
    samples : Tensor of shape (m, ...)
        Draws of the model, for the bound from above.
    rng : torch.Generator

    Raises
    ------
    ValueError
        As `energyscape.mcmc.ais` does, and in one and two dimensions `energyscape.mcmc.quadrature`.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> rng, p = torch.Generator().manual_seed(0), eight_gaussians()
    >>> rows, draws = p.sample(1000, rng), p.sample(500, rng)
    >>> verdict = normalised(p.at(0.0), rows, draws, rng)
    >>> verdict.trusted, bool(abs(verdict.found.estimate) < 0.1)
    (True, True)
    """
    if rows[0].numel() <= _PLANE:
        integral = _integral(target, rows)
        if integral is not None:
            return Verdict(integral, True, _unshown(integral, rows, samples))
    return _by_chains(target, rows, samples, rng)


def _by_chains(target: Target, rows: Tensor, samples: Tensor, rng: torch.Generator) -> Verdict:
    """Annealed importance sampling from both sides, and a look far out."""
    dim = rows[0].numel()
    few = dim <= _FEW
    value = target.value(samples)
    if value is None:
        raise ValueError("log Z needs a log-density, and this target knows only its score")
    kept = samples[value.argsort(descending=True)[: max(2, int((1 - _STRAYS) * len(samples)))]]
    kept = kept[torch.randperm(len(kept), generator=rng, device=rng.device)]
    found = ais(
        target,
        broad_base(rows),
        rng=rng,
        samples=kept,
        num_chains=max(2, min(2048 if few else 1024 if dim <= 16 else 512, len(samples))),
        ess_drop=0.01 if few else 0.05,
        max_rungs=200,
    )
    assert found.upper is not None
    upper = found.upper - math.log1p(-_STRAYS)
    found = replace(found, upper=upper, gap=upper - found.lower)
    if not found.trustworthy:
        return Verdict(
            found,
            False,
            f"the bounds on log Z, {found.lower:.2f} and {found.upper:.2f}, do not agree (standard "
            f"error {found.stderr:.2g}, {found.ess:.0f} effective chains)",
        )
    reason = _far(target, rows, samples, found, rng)
    return Verdict(found, not reason, reason)


def _integral(target: Target, rows: Tensor) -> Integral | None:
    """log Z on a grid; None where mass reaches its border, or it does not settle."""
    flat = rows.flatten(1)
    found = quadrature(target, rows, _REACH * float(flat.var(0).mean().clamp(min=1e-12).sqrt()))
    return found if found.border < _BORDER and found.stderr < _ERROR else None


def _edge(rows: Tensor, samples: Tensor) -> tuple[GaussianBase, Tensor]:
    """A Gaussian around the rows, and its log-density at the ellipse that holds 99 % of the draws."""
    near = GaussianBase.fit(rows, jitter=1e-3)
    return near, near.value(samples).quantile(1 - _QUANTILE)


def _unshown(found: Integral, rows: Tensor, samples: Tensor) -> str:
    """Mass of a grid that the draws of the model do not show, in words."""
    near, edge = _edge(rows, samples)
    centres = found.centres.reshape(-1, *rows.shape[1:]).to(rows)
    share = float(found.shares.to(edge)[near.value(centres) < edge].sum())
    return _mass_outside(share) if share > _MOST else ""


def _mass_outside(share: float) -> str:
    return f"about {100 * share:.0f} % of the model's mass lies far outside the data"


def _far(target: Target, rows: Tensor, samples: Tensor, found: LogZ, rng: torch.Generator) -> str:
    """What a run from far out found that the first did not, in words."""
    assert found.upper is not None
    try:
        second = ais(
            target,
            _wide(rows, _WIDER_THAN_DATA),
            rng=rng,
            num_chains=512,
            ess_drop=0.1,
            steps_per_level=3,
            pilot_chains=128,
            max_rungs=200,
        )
    except ValueError as error:
        return f"chains from far outside the data found no way to them ({error})"
    assert second.draws is not None
    assert second.log_weights is not None
    if second.lower > found.upper:
        return (
            f"chains from far outside the data find log Z above {second.lower:.2f}, those near it "
            f"below {found.upper:.2f}"
        )
    near, edge = _edge(rows, samples)
    outside = near.value(second.draws) < edge
    share = float(second.log_weights.softmax(0)[outside].sum())
    if second.ess >= 10 and share > _MOST + 3 * (_MOST / second.ess) ** 0.5:
        return _mass_outside(share)
    return ""
