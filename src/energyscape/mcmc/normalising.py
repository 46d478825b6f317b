"""log Z by annealed importance sampling, from both sides.

Forward, chains go from a normalised base up a geometric path; the mean of their weights has
expectation Z, so by Jensen ``E[log Zhat] <= log Z``: read as a log-likelihood, ``-E(x) - log Zhat`` is
an *over*estimate. Reverse, chains start at samples of the target and go down the same path; the mean
of those weights has expectation 1/Z and bounds log Z from above (as far as the samples are exact).
Both directions together give Bennett's acceptance ratio, the estimate of least variance: with forward
log-weights w and reverse ones v (sign turned), log Z solves ::

    sum_F sigmoid(w - C - M) = sum_R sigmoid(C - v + M),      M = log(n_F / n_R).

The ladder is laid by a pilot run: each rung is as far from the last as leaves the conditional
effective sample size at a set fraction, and its kernel is tuned there and then frozen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from energyscape.mcmc.annealing import anneal
from energyscape.mcmc.chains import warm_up
from energyscape.mcmc.hmc import HMC
from energyscape.mcmc.kernel import Kernel, check_target
from energyscape.mcmc.langevin import MALA
from energyscape.mcmc.paths import Base, GaussianBase, GeometricPath
from energyscape.targets import Target

__all__ = ["LogZ", "ais"]

_CHECKED = 4096  # draws by which a base is checked, twice
_OFF = 0.1  # nats that a base's own log Z may be off


@dataclass(frozen=True, eq=False)
class LogZ:
    """An estimate of log Z in nats, and how far it can be trusted.

    Attributes
    ----------
    estimate : float
        By Bennett's ratio where samples of the target were given, else the forward one.
    stderr : float
        Of `estimate`, over chains (islands of chains where they were resampled).
    forward, reverse : float
        The two stochastic bounds themselves; `reverse` is None without samples.
    lower, upper : float
        The bounds moved outwards by three of their own standard errors; `upper` is None without
        samples.
    gap : float or None
        ``upper - lower``.
    ess : float
        Effective sample size of the forward weights.
    betas : tuple of float
        The ladder, from 0 to 1.
    draws, log_weights : Tensor or None
        Where the forward chains ended, shape (chains, ...), and their log-weights: by importance they
        are draws of the target.
    """

    estimate: float
    stderr: float
    forward: float
    reverse: float | None
    lower: float
    upper: float | None
    gap: float | None
    ess: float
    betas: tuple[float, ...]
    draws: Tensor | None = None
    log_weights: Tensor | None = None

    @property
    def trustworthy(self) -> bool:
        """Standard error under 0.1 nats, at least 10 effective chains, and bounds within 0.5 nats.

        Bounds that cross by more than rounding are refused: what the forward chains found and the
        samples did not (or the other way round) is mass that one of the two has missed. Exact runs
        cross three standard errors each in less than one case of 1,000.
        """
        bracket = self.gap is None or -1e-3 < self.gap < 0.5
        return self.stderr < 0.1 and self.ess >= 10 and bracket


def ais(
    target: Target,
    base: Base,
    *,
    rng: torch.Generator,
    samples: Tensor | None = None,
    num_chains: int = 1000,
    kernel: MALA | HMC | None = None,
    betas: Sequence[float] | None = None,
    steps_per_level: int = 5,
    ess_drop: float = 0.02,
    resample_below: float = 0.0,
    pilot_chains: int = 256,
    max_rungs: int = 500,
) -> LogZ:
    """Bounds on the normalising constant of a target.

    Parameters
    ----------
    target : Target
        With a log-density.
    base : Base
        Normalised, and wider than the target; `GaussianBase.fit` of samples is a good one.
    rng : torch.Generator
    samples : Tensor of shape (n, ...), optional
        Exact or nearly exact draws of the target, for the bound from above; at most `num_chains` are
        used.
    num_chains : int
    kernel : MALA or HMC, optional
        Where tuning starts; MALA by default.
    betas : sequence of float, optional
        The ladder from 0 to 1; by default laid by the pilot.
    steps_per_level : int
    ess_drop : float
        The share of the conditional effective sample size each rung of the pilot may cost.
    resample_below : float
        Resample chains (SMC) when their ESS falls below this fraction; 0 never.
    pilot_chains : int

    Returns
    -------
    LogZ

    Raises
    ------
    ValueError
        For a base that cannot be sampled, is improper or is not finite, or whose density is not that of
        its draws; a target that knows only its score; a ladder of more than `max_rungs` rungs (an
        energy that is unbounded below).

    References
    ----------
    Neal 1998; Grosse, Ghahramani and Adams 1511.02543 (bidirectional); Bennett 1976.

    Examples
    --------
    >>> import math, torch
    >>> from energyscape.mcmc import GaussianBase
    >>> from energyscape.targets import FunctionTarget
    >>> rng = torch.Generator().manual_seed(0)
    >>> target = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    >>> base = GaussianBase(torch.zeros(2), 1.5 * torch.eye(2))
    >>> found = ais(target, base, rng=rng, num_chains=200, samples=torch.randn(200, 2, generator=rng))
    >>> found.lower < math.log(2 * math.pi) < found.upper
    True
    """
    check_target(target)
    if not isinstance(base, Base):
        raise ValueError(
            f"annealed importance sampling starts from a normalised density that can be sampled; "
            f"{type(base).__name__} has no sample(n, rng), so it may be improper: use GaussianBase"
        )
    if num_chains < 2 or steps_per_level < 1 or not 0 < ess_drop < 1:
        raise ValueError(
            "num_chains must be at least 2, steps_per_level at least 1 and 0 < ess_drop < 1, got "
            f"{num_chains}, {steps_per_level}, {ess_drop}"
        )
    first = base.sample(pilot_chains, rng)
    if target.value(first[:1]) is None:
        raise ValueError("log Z needs a log-density, and this target knows only its score")
    _require_normalised(base, first)
    start: Any = MALA(float(first.var(0).mean()) * first[0].numel() ** (-1 / 3))
    ladder, kernels = _pilot(
        target,
        base,
        first,
        kernel if kernel is not None else start,
        betas,
        ess_drop,
        max_rungs,
        rng,
    )
    path = [GeometricPath(base, target, b) for b in ladder]
    forward_w, islands, ends = _forward(
        path, kernels, steps_per_level, num_chains, resample_below, rng
    )
    forward, forward_se = _log_mean(forward_w, islands)
    share = forward_w.softmax(0)
    ess = float(1 / share.square().sum())
    if samples is None:
        lower = forward - 3 * forward_se
        bounds = (lower, None, None, ess, tuple(ladder))
        return LogZ(forward, forward_se, forward, None, *bounds, ends, forward_w)
    reverse_w = _reverse(path, kernels, steps_per_level, samples[:num_chains], rng)
    minus, reverse_se = _log_mean(reverse_w, 1)
    estimate, stderr = _bennett(forward_w, -reverse_w)
    if islands > 1:
        estimate, stderr = 0.5 * (forward - minus), 0.5 * math.hypot(forward_se, reverse_se)
    lower, upper = forward - 3 * forward_se, -minus + 3 * reverse_se
    both = (lower, upper, upper - lower, ess, tuple(ladder))
    return LogZ(estimate, stderr, forward, -minus, *both, ends, forward_w)


def _require_normalised(base: Base, like: Tensor) -> None:
    """Refuse a base whose density, over its own draws, does not integrate to one.

    A Gaussian g is fitted to half of the draws. Bennett's ratio between draws of g and the other half
    is the base's own log Z, to be 0; where the two hardly overlap there are still the bounds of
    Jensen, ``E_g[log f/g] <= log Z <= E_f[log f/g]``. A generator of its own draws them.
    """
    count = min(_CHECKED, max(2048, 32 * like[0].numel()))
    rng = torch.Generator(like.device).manual_seed(0)
    x = base.sample(2 * count, rng)
    flat = x.flatten(1).double() if x.device.type == "cpu" else x.flatten(1).cpu().double()
    if not bool(flat.isfinite().all()):
        raise ValueError(f"{type(base).__name__} draws numbers that are not finite")
    guide = _around(flat[: len(x) // 2])
    y = guide.sample(len(x) // 2, torch.Generator().manual_seed(1)).to(x.dtype)

    def above(points: Tensor) -> Tensor:
        """log f/g where it is a number, minus infinity outside the support of f."""
        shaped = points.view(-1, *x.shape[1:]).to(x.device)
        with torch.no_grad():
            parts = [base.value(part) for part in shaped.split(max(len(like), 256))]
            value = torch.cat(parts).cpu().double()
        found = value - guide.value(points.double())
        return found[~(found.isnan() | (found == math.inf))]

    forward, reverse = above(y), above(x[len(x) // 2 :].flatten(1).cpu())
    inside, reverse = forward[forward.isfinite()], reverse[reverse.isfinite()]
    if len(reverse) < 2 or len(forward) < 2:
        raise ValueError(
            f"the log-density of {type(base).__name__} is not finite near its own draws"
        )
    off, stderr, overlap = 0.0, 0.0, 0.0
    if len(inside) > 1:
        off, stderr = _bennett(forward, reverse)
        overlap = float(torch.sigmoid(forward - off).sum())
    if overlap < 50 or abs(off) < 5 * stderr + _OFF:
        low, high = -math.inf, float(reverse.mean())  # no bound below where f is zero
        low_se, high_se = 0.0, 5 * float(reverse.std()) / math.sqrt(len(reverse))
        if len(inside) == len(y):
            low, low_se = float(inside.mean()), 5 * float(inside.std()) / math.sqrt(len(y))
        if low - low_se < _OFF and high + high_se > -_OFF:
            return
        off = low if low > 0 else high
    raise ValueError(
        f"{type(base).__name__} is no normalised density of its own draws: over them it integrates to "
        f"exp({off:.2f}), and log Z would be off by so many nats; give a base whose value is the "
        "normalised log-density of what it samples, such as GaussianBase"
    )


def _around(x: Tensor) -> GaussianBase | _Apart:
    """A Gaussian about the bulk of some rows, shape (n, D): far tails are pulled in."""
    ranked = x.sort(0).values
    middle, n = ranked[len(x) // 2], len(x)
    spread = (ranked[3 * n // 4] - ranked[n // 4]).clamp(min=torch.finfo(x.dtype).tiny)
    near = middle + spread * ((x - middle) / spread).clamp(-3.0, 3.0)
    if near.shape[1] <= 256:
        return GaussianBase.fit(near)
    return _Apart(near.mean(0), near.std(0).clamp(min=torch.finfo(x.dtype).tiny))


class _Apart(NamedTuple):
    """Independent Gaussians, of which a covariance of many dimensions would be mostly zeros."""

    mean: Tensor
    std: Tensor

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Rows of shape (n, D)."""
        eps = torch.randn(n, len(self.mean), generator=rng, dtype=self.mean.dtype)
        return self.mean + self.std * eps

    def value(self, x: Tensor) -> Tensor:
        """The log-density of each row."""
        square = ((x - self.mean) / self.std).square() + math.log(2 * math.pi)
        return -(0.5 * square + self.std.log()).sum(1)


def _pilot(
    target: Target,
    base: Base,
    x: Tensor,
    kernel: Any,
    betas: Sequence[float] | None,
    ess_drop: float,
    max_rungs: int,
    rng: torch.Generator,
) -> tuple[list[float], list[Kernel]]:
    """The ladder and one frozen kernel a rung."""
    if betas is not None:
        wanted = [float(b) for b in betas]
        rising = all(a < b for a, b in itertools.pairwise(wanted))
        if len(wanted) < 2 or wanted[0] != 0.0 or wanted[-1] != 1.0 or not rising:
            raise ValueError(f"betas must rise from 0 to 1, got {wanted[:3]} ... {wanted[-1:]}")
    ladder, kernels = [0.0], [kernel]
    while ladder[-1] < 1.0:
        beta = (
            wanted[len(ladder)]
            if betas is not None
            else _next_beta(ladder[-1], target, base, x, ess_drop)
        )
        rung = GeometricPath(base, target, beta)
        kernel, state = warm_up(
            kernels[-1],
            kernels[-1].init(x, rung),
            rung,
            60 if len(ladder) == 1 else 30,
            adapt=True,
            rng=rng,
            tick=lambda _: None,
        )
        x = state.x
        ladder.append(beta)
        kernels.append(kernel)
        if len(ladder) > max_rungs:
            raise ValueError(
                f"the ladder reached {max_rungs} rungs at beta {beta:.2g}: the energy may be unbounded "
                "below, or the base too far from the target; confine the energy or fit the base"
            )
    return ladder, kernels


def _next_beta(beta: float, target: Target, base: Base, x: Tensor, ess_drop: float) -> float:
    """The largest next beta whose conditional ESS stays above ``1 - ess_drop``."""
    end = target.value(x)
    assert end is not None
    slope = end.double() - base.value(x).double()
    slope = slope[slope.isfinite()]
    if len(slope) < 2:
        raise ValueError("the target's log-density is not finite where the base puts its draws")

    def excess(step: float) -> float:
        w = step * slope
        log_ess = 2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0) - math.log(len(slope))
        return float(log_ess) - math.log1p(-ess_drop)

    left = 1.0 - beta
    if excess(left) >= 0:
        return 1.0
    step = float(brentq(excess, 0.0, left, xtol=1e-9))
    return min(1.0, beta + max(step, 1e-9))


def _forward(
    path: list[GeometricPath],
    kernels: list[Kernel],
    steps: int,
    num_chains: int,
    resample_below: float,
    rng: torch.Generator,
) -> tuple[Tensor, int, Tensor]:
    """Forward log-weights, the number of independent islands of resampled chains, and their ends."""
    base: Any = path[0].base
    counts = [steps] * (len(path) - 2) + [0]
    islands = min(8, num_chains // 2) if resample_below > 0 else 1
    found, ends = [], []
    for _ in range(islands):
        x = base.sample(num_chains // islands, rng)
        walked = anneal(
            x, path[1:], kernels[1:], counts, rng=rng, base=base, resample_below=resample_below
        )
        assert walked.log_weights is not None
        found.append(walked.log_weights)
        ends.append(walked.x)
    return torch.cat(found), islands, torch.cat(ends)


def _reverse(
    path: list[GeometricPath],
    kernels: list[Kernel],
    steps: int,
    samples: Tensor,
    rng: torch.Generator,
) -> Tensor:
    """Log-weights of chains that go down from samples of the target."""
    counts = [steps] * (len(path) - 2) + [0]
    x = samples.to(_run_dtype(path, samples))
    walked = anneal(x, path[-2::-1], kernels[-2::-1], counts, rng=rng, base=path[-1].target)
    assert walked.log_weights is not None
    return walked.log_weights


def _run_dtype(path: list[GeometricPath], samples: Tensor) -> torch.dtype:
    """The type the forward chains run in."""
    mean = getattr(path[0].base, "mean", samples)
    return mean.dtype if isinstance(mean, Tensor) else samples.dtype


def _log_mean(log_w: Tensor, islands: int) -> tuple[float, float]:
    """Log of the mean weight and its standard error by the delta method, over islands if several."""
    if islands > 1:
        log_w = torch.logsumexp(log_w.view(islands, -1), 1) - math.log(log_w.numel() // islands)
    n = len(log_w)
    mean = float(torch.logsumexp(log_w, 0)) - math.log(n)
    relative = (log_w - mean).exp()
    return mean, float(relative.std()) / math.sqrt(n)


def _bennett(forward: Tensor, reverse: Tensor) -> tuple[float, float]:
    """Bennett's acceptance ratio and its asymptotic standard error."""
    shift = math.log(len(forward) / len(reverse))

    def gap(c: float) -> float:
        return float(
            torch.sigmoid(forward - c - shift).sum() - torch.sigmoid(c - reverse + shift).sum()
        )

    both = torch.cat([forward, reverse])
    both = both[both.isfinite()]
    low, high = float(both.min()) - 50.0, float(both.max()) + 50.0
    c = float(brentq(gap, low, high, xtol=1e-10))
    variance = 0.0
    for terms in (torch.sigmoid(forward - c - shift), torch.sigmoid(c - reverse + shift)):
        variance += float(terms.var() / terms.mean() ** 2) / len(terms)
    return c, math.sqrt(variance)
