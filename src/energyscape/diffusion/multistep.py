"""Multistep ODE samplers: more order from the denoisers already evaluated.

With ``lambda = -log sigma`` the probability flow is semi-linear, and its solution over a step of
length ``h = log(s/t)`` is exact in the linear part (2206.00927 prop. 3.1, data prediction of
2211.01095 eq. 8):

    x_t = (t/s) x_s + t * integral over lambda of e^lambda D(x_lambda, lambda)

so only D is approximated, by a polynomial in lambda through past evaluations. The factor alpha_t
of a variance-preserving frame cancels: these are the published solvers in every frame. The last
step, to 0 (h infinite), is ``x_0 = D``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from energyscape.diffusion.samplers import Denoise, Progress, _steps

__all__ = ["DPMpp2M", "UniPC"]


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M), order 2 with one evaluation a step (2211.01095 algorithm 2)."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        previous: Tensor | None = None
        h_previous = 0.0
        for _, s, t in _steps(levels, progress):
            x0_hat = denoise(x, s)
            if t == 0:
                x = x0_hat
                continue
            h = math.log(s / t)
            estimate = x0_hat
            if previous is not None:
                estimate = torch.lerp(x0_hat, previous, -0.5 * h / h_previous)
            x = torch.lerp(estimate, x, t / s)
            previous, h_previous = x0_hat, h
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level."""
        return num_levels


@dataclass(frozen=True)
class UniPC:
    """A unified predictor-corrector, order p + 1 with one evaluation a step (2302.04867).

    The predictor UniP-p (algorithm 2) uses p past denoisers; the denoiser evaluated at its result
    serves the corrector UniC-p (algorithm 1) and the next step. All coefficients are solved for,
    without the paper's shortcut 1/2, so a D of degree p - 1 in lambda is integrated exactly and the
    paper's free function B(h) drops out.

    Parameters
    ----------
    order : int
        p, 1 to 3. The first steps have fewer past denoisers, so that order 4 is seen where they are
        short, and order 3 on an even grid.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC's order is 1, 2 or 3, got {self.order}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Sequence[float],
        rng: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """From `x` at ``levels[0]`` to x_0."""
        past: deque[tuple[float, Tensor]] = deque(maxlen=self.order)
        past.appendleft((levels[0], denoise(x, levels[0])))
        for _, s, t in _steps(levels, progress):
            newest = past[0][1]
            if t == 0:
                x = newest
                continue
            h = math.log(s / t)
            nodes = [math.log(s / level) / h for level, _ in list(past)[1:]]
            slopes = [(d - newest) / r for r, (_, d) in zip(nodes, list(past)[1:], strict=True)]
            base = torch.lerp(newest, x, t / s)
            predicted = base
            for weight, slope in zip(_weights(nodes, h), slopes, strict=True):
                predicted = predicted + weight * slope
            ahead = denoise(predicted, t)
            x = base
            for weight, slope in zip(
                _weights([*nodes, 1.0], h), [*slopes, ahead - newest], strict=True
            ):
                x = x + weight * slope
            past.appendleft((t, ahead))
        return x

    def evaluations(self, num_levels: int) -> int:
        """One a level."""
        return num_levels


def _weights(nodes: Sequence[float], h: float) -> list[float]:
    """Weights of the divided differences at relative `nodes` (2302.04867 theorem 3.1).

    They make ``sum_m w_m r_m^k = psi_k`` for k = 0 .. q-1, where a D of ``D_0 + r^(k+1)`` at the
    relative place r adds ``integral over r in [0, 1] of h e^(-(1-r) h) r^(k+1)`` to x_t; the
    integrals follow by parts: ``psi_k = 1 - (k+1)/h psi_(k-1)``, with ``psi_-1 = 1 - e^(-h)``.
    """
    if not nodes:
        return []
    if h > 1:
        integrals = []
        previous = -math.expm1(-h)
        for k in range(len(nodes)):
            previous = 1 - (k + 1) / h * previous
            integrals.append(previous)
    else:
        # By parts upwards loses digits as h falls; the series of the exponential does not:
        # psi_k = e^-h sum_j h^(j+1) / (j! (j + k + 2)).
        integrals = [
            math.exp(-h) * sum(h ** (j + 1) / (math.factorial(j) * (j + k + 2)) for j in range(18))
            for k in range(len(nodes))
        ]
    table = torch.tensor(nodes, dtype=torch.float64)
    powers = torch.stack([table**k for k in range(len(nodes))])
    return torch.linalg.solve(powers, torch.tensor(integrals, dtype=torch.float64)).tolist()
