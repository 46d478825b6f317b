"""Laws of chains on a line by quadrature, where sampling would leave an error of its own.

The field between two equal blobs at ``-a`` and ``+a`` depends on the coordinate u along their axis
alone, so a Langevin chain in the plane is one on the line as far as its mode goes, and its law is
carried forward by a matrix,

    p(u') = sum_u N(u'; u + h s(u), 2h) p(u) du,

on a grid with half the noise's deviation between nodes, where the sum is exact to many digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import interp1d
from scipy.special import expit

__all__ = ["annealed_weight", "triangular"]


def triangular(u: np.ndarray, half_width: float) -> np.ndarray:
    """Density of ``(x + y)/sqrt 2`` for x and y uniform on ``[-half_width, half_width]``."""
    reach = np.sqrt(2) * half_width
    return np.maximum(reach - np.abs(u), 0.0) / reach**2


def annealed_weight(
    levels: Sequence[float],
    steps_per_level: int,
    step_size: float,
    *,
    weight: float = 0.2,
    centre: float = 50**0.5,
    start: float = 8.0,
) -> float:
    """Expected share of annealed Langevin chains that end nearer to the mode at ``-centre``.

    Parameters
    ----------
    levels : sequence of float
        The blobs' standard deviations, largest first; one level is plain Langevin.
    steps_per_level : int
    step_size : float
        eps of ``h_i = eps sigma_i^2 / sigma_L^2``, the step of ``x + h s + sqrt(2h) z``.
    weight : float
        True weight of the mode at ``-centre``.
    centre : float
        Half the distance between the modes.
    start : float
        Chains start uniform on ``[-start, start]^2``.

    Returns
    -------
    float

    Examples
    --------
    >>> levels = np.geomspace(20, 1, 10)
    >>> round(annealed_weight(levels, 100, 0.05), 3)
    0.218
    """
    u = np.linspace(-np.sqrt(2) * start, np.sqrt(2) * start, 2001)
    p = triangular(u, start)
    for sigma in levels:
        h = step_size * (sigma / levels[-1]) ** 2
        reach = centre + 7 * sigma
        count = 2 * int(np.ceil(reach / (0.5 * np.sqrt(2 * h)))) + 1
        nodes = np.linspace(-reach, reach, count)
        p = _kernel(u, nodes, sigma, h, weight, centre).T @ p * (u[1] - u[0])
        u = nodes
        kernel = _kernel(u, u, sigma, h, weight, centre).T * (u[1] - u[0])
        for _ in range(steps_per_level - 1):
            p = kernel @ p
        p = p / np.trapezoid(p, u)
    fine = np.linspace(u[0], 0.0, 4001)
    return float(np.trapezoid(interp1d(u, p, kind="cubic")(fine), fine))


def _kernel(
    u: np.ndarray, to: np.ndarray, sigma: float, h: float, weight: float, centre: float
) -> np.ndarray:
    """Density of one Langevin step from each u (rows) at each node of `to` (columns)."""
    right = expit(2 * centre * u / sigma**2 + np.log((1 - weight) / weight))
    mean = u + h * (centre * (2 * right - 1) - u) / sigma**2
    return np.exp(-((to[None] - mean[:, None]) ** 2) / (4 * h)) / np.sqrt(4 * np.pi * h)
