"""How chains walk on an energy of unknown roughness: step sizes drawn anew for every move.

A Metropolis kernel needs a step size that fits the narrowest part of the density, which is not known
before training and changes during it. Drawing h log-uniformly, independently of where the chain is,
gives a mixture of kernels each of which leaves p unchanged, so the mixture does too; a share of the
moves fits wherever a chain stands, and nothing is tuned. With ``d`` in {0, 1} and
``g = d (score(x) + score(x'))``,

    x'    = x + d h score(x) + sqrt(2 h) eps
    log a = log p(x') - log p(x) - sqrt(h/2) eps . g - (h/4) ||g||^2

is MALA's move for d = 1 and a random walk's for d = 0. In few dimensions some moves are wide random
walks, which cross between modes where a Langevin step never does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from energyscape.mcmc import (
    HMC,
    MALA,
    ULA,
    GaussianBase,
    GeometricPath,
    Info,
    Kernel,
    Pinned,
    State,
    anneal,
    run_chains,
)
from energyscape.mcmc.kernel import accept
from energyscape.mcmc.paths import Base
from energyscape.targets import Target

__all__ = ["JUMPS", "SAMPLERS", "ScatteredMALA", "settled", "walker"]

#: Names of the samplers of an energy.
SAMPLERS = ("ula", "mala", "hmc")

#: Up to so many dimensions a share of the moves of "mala" are wide random walks.
JUMPS = 8

_LEAPFROG = 5
_STEP_SIZES = {"ula": 1e-3, "mala": 0.05, "hmc": 0.05}


class ScatteredNoise(NamedTuple):
    """Standard normal noise, shape of x; an exponential, a step size and a drift per chain."""

    eps: Tensor
    exponential: Tensor
    step_size: Tensor
    drift: Tensor


@dataclass(frozen=True, eq=False)
class ScatteredMALA:
    """Langevin moves of random length with a Metropolis test, and wide random walks between them.

    Parameters
    ----------
    largest : float
        The largest h, in squared units of x; it is log-uniform over the `decades` below.
    decades : float
    jump_share : float
        Share of the moves that are random walks.
    reach : float
        The largest standard deviation of a random walk, in units of x; log-uniform over a factor 20.
    tells_jumps : bool
        False tells the acceptance of Langevin moves alone: a random walk counts 0, a Langevin move
        so much more that the mean over moves is theirs.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.mcmc import run_chains
    >>> rng = torch.Generator().manual_seed(0)
    >>> kernel = ScatteredMALA(0.1, jump_share=0.25, reach=4.0)
    >>> x0 = torch.zeros(64, 2) + torch.tensor([2.0, 0.0])
    >>> x = run_chains(kernel, eight_gaussians().at(0.0), x0, 300, rng=rng, keep="last").x
    >>> bool((x[:, 0] < 0).any())  # the far side of the circle was reached
    True
    """

    target_acceptance: ClassVar[None] = None
    traceable: ClassVar[bool] = True
    largest: float
    decades: float = 2.0
    jump_share: float = 0.0
    reach: float = 1.0
    tells_jumps: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.largest < math.inf and self.decades >= 0 and 0 < self.reach < math.inf):
            raise ValueError(
                "ScatteredMALA needs positive finite lengths and decades of 0 or more, got largest="
                f"{self.largest}, decades={self.decades}, reach={self.reach}"
            )
        if not 0 <= self.jump_share < 1:
            raise ValueError(f"jump_share must lie in [0, 1), got {self.jump_share}")

    def init(self, x: Tensor, target: Target) -> State:
        """The state at x, with its log-density and score."""
        return MALA(self.largest).init(x, target)

    def draw(self, num_steps: int, like: Tensor, rng: torch.Generator) -> ScatteredNoise:
        """The randomness of `num_steps` moves."""
        shape = (num_steps, len(like))
        eps, exponential = MALA(self.largest).draw(num_steps, like, rng)
        u, which, wide = torch.rand(3, *shape, generator=rng, dtype=like.dtype, device=like.device)
        step_size = self.largest * 10 ** (-self.decades * u)
        jump = which < self.jump_share
        std = self.reach * 20**-wide
        return ScatteredNoise(
            eps,
            exponential,
            torch.where(jump, 0.5 * std.square(), step_size),
            (~jump).to(like.dtype),
        )

    def step(self, state: State, target: Target, noise: ScatteredNoise) -> tuple[State, Info]:
        """One proposal of every chain and its test: one gradient."""
        x, score = state.x, state.score
        assert score is not None
        assert state.log_prob is not None
        shape = (-1, *(1,) * (x.ndim - 1))
        h, drift = noise.step_size.view(shape), noise.drift.view(shape)
        root = (2.0 * h).sqrt() * noise.eps
        proposal = x + drift * h * score + root
        log_prob, ahead = target.value_and_score(proposal)
        assert log_prob is not None
        g = drift * (score + ahead)
        log_ratio = log_prob - state.log_prob - (g * (0.5 * root + 0.25 * h * g)).flatten(1).sum(1)
        new = State(proposal, log_prob, ahead)
        moved, info = accept(state, new, log_ratio, noise.exponential, box=None)
        if self.tells_jumps:
            return moved, info
        assert info.acceptance is not None
        share = info.acceptance * noise.drift / (1.0 - self.jump_share)
        return moved, info._replace(acceptance=share)


def walker(name: str, scale: float, dim: int, step_size: float | None = None) -> Kernel:
    """The kernel called `name` for data of this scale.

    Parameters
    ----------
    name : {"ula", "mala", "hmc"}
    scale : float
        Standard deviation of a coordinate of the data.
    dim : int
    step_size : float, optional
        In units of the squared scale (of the scale for hmc).

    Raises
    ------
    ValueError
        For another name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; an energy is walked by {', '.join(SAMPLERS)}")
    size = _STEP_SIZES[name] if step_size is None else step_size
    if name == "ula":
        return ULA(size * scale**2)
    if name == "hmc":
        return HMC(size * scale, num_leapfrog=_LEAPFROG)
    jumps = 0.25 if dim <= JUMPS else 0.0
    return ScatteredMALA(size * scale**2, jump_share=jumps, reach=2.0 * scale)


def gradients_per_move(name: str) -> int:
    """Gradients that one move of the sampler costs."""
    return _LEAPFROG if name == "hmc" else 1


def settled(
    target: Target, base: Base, kernel: Kernel, n: int, moves: int, rng: torch.Generator
) -> Tensor:
    """Draws of a target by sequential Monte Carlo from a base, shape (n, ...).

    Chains go up the geometric path in even steps of beta squared, are resampled by their weights on
    every rung, and end with as many moves on the target alone. Weights left over at the top would be
    lost, and a few strays from the base's tails, from where no move is accepted, spoil every mean of
    ``1/p``: on a trained energy of two moons 3 of 6 runs ended with an upper bound on log Z below the
    lower one when half of the weights had to be lost first, and none of 6 now.
    """
    rungs = max(2, min(20, moves // 5))
    betas = [(i / rungs) ** 2 for i in range(1, rungs + 1)]
    path = [GeometricPath(base, target, beta) for beta in betas]
    each = [max(1, moves // (2 * rungs))] * (rungs - 1) + [max(1, moves // 2)]
    x = base.sample(n, rng)
    return anneal(x, path, kernel, each, rng=rng, base=base, resample_below=1.0).x


def settled_given(
    target: Target,
    base: GaussianBase,
    kernel: Kernel,
    values: Tensor,
    known: Tensor,
    particles: int,
    moves: int,
    rng: torch.Generator,
) -> Tensor:
    """One draw a row of a target given some of its coordinates, shape of values.

    The walk of `settled` on the slice through each row's known coordinates: particles start from the
    base given them and carry importance weights, by which one of each row is chosen at the end. Exact
    as particles grow, and as moves do.

    Parameters
    ----------
    values : Tensor of shape (n, ...)
        What stands in unknown coordinates is ignored.
    known : bool Tensor, shape of values
    """
    rungs = max(2, min(20, moves // 5))
    path = [GeometricPath(base, target, (i / rungs) ** 2) for i in range(1, rungs + 1)]
    each = [max(1, moves // (2 * rungs))] * (rungs - 1) + [max(1, moves // 2)]
    start = torch.empty_like(values).repeat_interleave(particles, 0)
    rows = torch.arange(len(values), device=values.device).repeat_interleave(particles)
    masks, group = torch.unique(known.flatten(1), dim=0, return_inverse=True)
    for i, mask in enumerate(masks):
        chosen = group[rows] == i
        start[chosen] = base.sample_given(values[rows[chosen]], mask.reshape(values.shape[1:]), rng)
    held = Pinned(kernel, known[rows], values[rows])
    walked = anneal(start, path, held, each, rng=rng, base=base)
    assert walked.log_weights is not None
    share = walked.log_weights.reshape(-1, particles).softmax(1)
    one = torch.multinomial(share, 1, generator=rng)[:, 0]
    return walked.x.reshape(-1, particles, *values.shape[1:])[torch.arange(len(one)), one]


def warmed(
    name: str, kernel: Kernel, target: Target, x: Tensor, moves: int, rng: torch.Generator
) -> Kernel:
    """The kernel with its step size tuned on the target where that is how it works (hmc)."""
    if name != "hmc":
        return kernel
    tuned: Kernel = run_chains(
        kernel, target, x, 1, warmup=max(moves, 1), rng=rng, keep="last"
    ).kernel
    return tuned
