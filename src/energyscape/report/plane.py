"""The landscape over a plane: an energy directly, a denoiser by integrating its score.

On a grid with spacing h the potential phi of a field s satisfies, along each edge between neighbours
a and b, ``phi_b - phi_a = h (s_a + s_b)/2`` up to order h^2. There are two edges a node, so phi is
the weighted least-squares solution, a sparse linear system. Edges of steep slope, far from the data,
count less: weights are ``1/(1 + slope^2)``. What remains says how far the field is from a gradient.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.special import logsumexp
from torch import Tensor

from energyscape.models import Denoiser, Energy, ScoreField
from energyscape.report import clouds
from energyscape.report.sections import Item, Section
from energyscape.report.subject import Subject, affordable

__all__ = ["Plane", "Potential", "integrate", "landscape", "plane_of"]

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


class Plane(NamedTuple):
    """``centre + a u + b v``: where it lies among the encoded rows, and what its axes are called."""

    centre: np.ndarray
    axes: np.ndarray
    names: list[str]
    where: str

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """Rows projected on the plane, shape (n, 2)."""
        return (rows.reshape(len(rows), -1) - self.centre) @ self.axes.T


def plane_of(subject: Subject) -> Plane | None:
    """The plane of the data where they lie in one, else that of their two principal directions."""
    flat = subject.data_x.reshape(len(subject.data_x), -1).astype(np.float64)
    if flat.shape[1] < 2:
        return None
    if subject.data_x.shape[1:] == (2,):
        names = (subject.names * 2)[:2]
        return Plane(np.zeros(2), np.eye(2), [f"{name}, as encoded" for name in names], "")
    centre = flat.mean(0)
    directions = np.linalg.svd(flat - centre, full_matrices=False)[2][:2]
    if len(directions) < 2:
        return None
    where = (
        " The plane lies through the mean of held-out rows along their two principal directions, in "
        "units as encoded: a cut through the density, not its projection."
    )
    return Plane(centre, directions, ["first principal direction", "second"], where)


def landscape(
    subject: Subject, modes: np.ndarray | None = None, *, seconds: float = 3.0
) -> Section | None:
    """The learned log-density and its gradient over a plane; None for data of one dimension.

    Parameters
    ----------
    subject : Subject
    modes : array of shape (K, ...), optional
        Marked where the plane holds them, that is in two dimensions.
    seconds : float
        Finer or coarser, so that about this much time is taken.
    """
    model, chart = subject.estimator.model_, plane_of(subject)
    if chart is None or not isinstance(model, Energy | Denoiser | ScoreField):
        return None
    points = chart.coordinates(subject.data_x)
    low, high = points.min(0), points.max(0)
    if not bool((high > low).all()):
        return None
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def over(side: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        x, y = (np.linspace(low[i], high[i], side) for i in (0, 1))
        nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        rows = (chart.centre + nodes @ chart.axes).reshape(-1, *subject.data_x.shape[1:])
        return x, y, torch.as_tensor(rows, dtype=torch.float32).to(device)

    def look(rows: Tensor, sigma: Any) -> Tensor:
        with torch.no_grad():
            parts = [
                -model(part)
                if isinstance(model, Energy)
                else model.score(part, sigma).flatten(1) @ torch.as_tensor(chart.axes.T).to(part)
                for part in rows.split(1024)
            ]
        return torch.cat(parts).cpu().double()

    few = over(16)[2]
    single = isinstance(model, ScoreField)
    count = affordable(
        lambda n: look(few[:n], None if single else 1.0), len(few), _SIDE**2, seconds
    )
    x, y, rows = over(max(24, math.isqrt(count)))
    step_x, step_y = float(x[1] - x[0]), float(y[1] - y[0])
    if isinstance(model, Energy):
        value = look(rows, 0.0).numpy().reshape(len(y), len(x))
        said = "Minus the energy"
    else:
        sigma = None
        if not single:
            sigma = max(float(min(subject.estimator.levels_)), 1.2 * max(step_x, step_y))
        field = look(rows, sigma).numpy().reshape(len(y), len(x), 2)
        value, left_over = integrate(field, step_x, step_y)
        at = "" if sigma is None else f" at noise level {sigma:.2g}"
        said = f"Integrated from the model's score{at}, of which {left_over:.1%} is no gradient"
    value = value - logsumexp(value) - np.log(step_x * step_y)
    alt = "Learned log-density over a plane, with arrows along its gradient"
    caption = (
        f"{said}; shifted so that the density integrates to one over the picture. Arrows follow "
        f"the gradient. Everything more than 10 nats below the top is equally dark.{chart.where}"
    )
    marks = None
    if modes is not None and not chart.where:
        marks = chart.coordinates(modes)
        caption += " Crosses are the modes found."
    markup = clouds.landscape(x, y, value, chart.names, alt, marks=marks)
    return Section("The landscape", "", [Item(markup, caption)], [])
