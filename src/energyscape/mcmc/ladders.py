"""The ladder of levels of annealed Langevin dynamics: how high, how dense, in which steps.

The published rules (2006.09011) read everything off the data: the largest level is the largest
distance in it, so that a chain can go from any row to any other; the ratio of neighbouring levels
follows from the dimension, so that typical shells overlap; the step from the ratio, so that the
variance entering a level has become the level's own when it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtr
from torch import Tensor

__all__ = ["largest_pairwise_distance", "ncsnv2_ratio", "ncsnv2_step_size"]


def ncsnv2_ratio(dim: int, overlap: float = 0.5) -> float:
    """The ratio gamma of neighbouring levels at which their typical shells overlap.

    Solves ``Phi(s (g-1) + 3g) - Phi(s (g-1) - 3g) = overlap`` with ``s = sqrt(2 dim)``.

    References
    ----------
    Song and Ermon, 2006.09011 technique 2.

    Examples
    --------
    >>> round(ncsnv2_ratio(3072), 3)
    1.04
    """
    if dim < 1 or not 0 < overlap < 0.99:
        raise ValueError(f"dim must be at least 1 and 0 < overlap < 0.99, got {dim}, {overlap}")
    s = math.sqrt(2 * dim)

    def gap(g: float) -> float:
        return float(ndtr(s * (g - 1) + 3 * g) - ndtr(s * (g - 1) - 3 * g)) - overlap

    top = 2.0
    while gap(top) > 0:
        top *= 2
        if top > 1e6:
            raise ValueError(
                f"in {dim} dimension(s) shells overlap by more than {overlap} at any ratio: choose "
                "the number of levels yourself"
            )
    return float(brentq(gap, 1.0, top, xtol=1e-12))


def ncsnv2_step_size(levels: Sequence[float] | Tensor, steps_per_level: int) -> float:
    """The step eps that carries the variance best from each level to the next.

    After T steps at a level entered with the variance of the one before, the variance over that of
    the level is, with ``e = eps / sigma_L^2``, ``a = (1-e)^(2T)`` and gamma the ratio of levels, ::

        a gamma^2 + (1 - a) 2 / (2 - e),

    a mean of two numbers above 1: the eps returned brings it closest to 1. For update
    ``x + h s + sqrt(2 h) z`` with ``h_i = eps sigma_i^2 / sigma_L^2``.

    Parameters
    ----------
    levels : sequence of float
        Falling, in data units.
    steps_per_level : int
        T.

    References
    ----------
    Song and Ermon, 2006.09011 technique 4 and equation 7.

    Examples
    --------
    The published setting for CIFAR-10 is 6.2e-6.

    >>> import torch
    >>> levels = torch.logspace(1.69897, -2, 232, dtype=torch.float64)
    >>> print(f"{ncsnv2_step_size(levels, 5):.1e}")
    6.2e-06
    """
    sigmas = [float(s) for s in levels]
    if len(sigmas) == 1:
        return 0.1 * sigmas[0] ** 2
    if steps_per_level < 1 or not sigmas[0] > sigmas[-1] > 0:
        raise ValueError("levels must fall and steps_per_level be at least 1")
    gamma = (sigmas[0] / sigmas[-1]) ** (1 / (len(sigmas) - 1))

    def ratio(log_e: float) -> float:
        e = math.exp(log_e)
        a = (1 - e) ** (2 * steps_per_level)
        return a * gamma**2 + (1 - a) * 2 / (2 - e)

    grid = [math.log(1e-6) * (1 - i / 400) for i in range(1, 400)]
    best = min(range(len(grid)), key=lambda i: ratio(grid[i]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(ratio, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return math.exp(float(found.x)) * sigmas[-1] ** 2


def largest_pairwise_distance(x: Tensor) -> float:
    """The largest Euclidean distance between two rows: the first noise level.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        The cost grows with n squared; some thousand rows of the data are enough.

    References
    ----------
    Song and Ermon, 2006.09011 technique 1.

    Examples
    --------
    >>> import torch
    >>> largest_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]]))
    5.0
    """
    if x.ndim < 2 or x.shape[0] < 2:
        raise ValueError(f"a distance takes two rows or more, got shape {tuple(x.shape)}")
    flat = x.detach().flatten(1)
    return max(float(torch.cdist(block, flat).max()) for block in flat.split(1024))
