"""The landscape over a plane: an energy directly, a denoiser by integrating its score.

On a grid with spacing h the potential phi of a field s satisfies, along each edge between neighbours
a and b, ``phi_b - phi_a = h (s_a + s_b)/2`` up to order h^2. There are two edges a node, so phi is
the weighted least-squares solution, a sparse linear system. Edges of steep slope, far from the data,
count less: weights are ``1/(1 + slope^2)``. What remains says how far the field is from a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.special import logsumexp

from energyscape.models import Denoiser, Energy
from energyscape.report import plots
from energyscape.report.sections import Item, Section
from energyscape.report.subject import Subject

__all__ = ["Potential", "integrate", "landscape"]

_SIDE = 72


class Potential(NamedTuple):
    """A potential on a grid, shape (rows, columns), and the share of the field it leaves over."""

    value: np.ndarray
    left_over: float


def integrate(field: np.ndarray, step_x: float, step_y: float) -> Potential:
    """The potential whose gradient is nearest to a field.

    Parameters
    ----------
    field : array of shape (rows, columns, 2)
        Components along x (columns) and y (rows).
    step_x, step_y : float
        Spacing of the grid.

    Returns
    -------
    Potential
        Its mean is 0; `left_over` is the root of the weighted share of squared slope not explained.

    Examples
    --------
    >>> y, x = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 31), indexing="ij")
    >>> found = integrate(np.stack([-x, -2 * y], axis=-1), 2 / 30, 2 / 20)
    >>> truth = -0.5 * x**2 - y**2
    >>> bool(np.abs(found.value - truth + truth.mean()).max() < 1e-9), found.left_over < 1e-9
    (True, True)
    """
    rows, columns = field.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    along_x = 0.5 * (field[:, 1:, 0] + field[:, :-1, 0])
    along_y = 0.5 * (field[1:, :, 1] + field[:-1, :, 1])
    start = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    end = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    slope = np.concatenate([along_x.ravel(), along_y.ravel()])
    step = np.concatenate([np.full(along_x.size, step_x), np.full(along_y.size, step_y)])
    weight = 1 / (1 + slope**2) / step**2
    edges = np.arange(len(slope))
    ones = np.ones(len(slope))
    shape = (len(slope), rows * columns)
    difference = sparse.csr_matrix((ones, (edges, end)), shape) - sparse.csr_matrix(
        (ones, (edges, start)), shape
    )
    normal = difference.T @ difference.multiply(weight[:, None])
    # One node is pinned, as a potential is known up to a constant.
    pin = sparse.csr_matrix(([normal.diagonal().mean()], ([0], [0])), normal.shape)
    phi = spsolve(sparse.csc_matrix(normal + pin), difference.T @ (weight * step * slope))
    rest = (
        (difference @ phi - step * slope) ** 2 @ weight / max((step * slope) ** 2 @ weight, 1e-300)
    )
    return Potential((phi - phi.mean()).reshape(rows, columns), float(np.sqrt(rest)))


def landscape(subject: Subject) -> Section | None:
    """The learned log-density and its gradient over the plane; None unless rows are points of one."""
    if subject.data_x.shape[1:] != (2,):
        return None
    model = subject.estimator.model_
    points = subject.data_x
    low, high = points.min(0), points.max(0)
    margin = 0.15 * (high - low)
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], _SIDE) for i in (0, 1))
    grid = torch.as_tensor(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), dtype=torch.float32)
    grid = grid.to(next((p.device for p in model.parameters()), grid.device))
    step_x, step_y = float(x[1] - x[0]), float(y[1] - y[0])
    if isinstance(model, Energy):
        with torch.no_grad():
            value = -model(grid).cpu().double().numpy().reshape(_SIDE, _SIDE)
        said = "Minus the energy"
    elif isinstance(model, Denoiser):
        sigma = max(float(min(subject.estimator.levels_)), 1.2 * max(step_x, step_y))
        with torch.no_grad():
            score = model.score(grid, sigma).cpu().double().numpy()
        value, left_over = integrate(score.reshape(_SIDE, _SIDE, 2), step_x, step_y)
        said = (
            f"Integrated from the model's score at noise level {sigma:.2g}, "
            f"of which {left_over:.1%} is no gradient"
        )
    else:
        return None
    value = value - logsumexp(value) - np.log(step_x * step_y)
    names = [f"{name}, as encoded" for name in subject.names[:2]]
    alt = "Learned log-density over the plane of the two columns, with arrows along its gradient"
    caption = (
        f"{said}; shifted so that the density integrates to one over the picture. Arrows follow "
        "the gradient. Everything more than 10 nats below the top is equally dark."
    )
    return Section(
        "The landscape", "", [Item(plots.landscape(x, y, value, names, alt), caption)], []
    )
