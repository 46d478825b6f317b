"""log Z of a target of one or two dimensions by adaptive quadrature: no chains, no noise.

A box is cut into cells, each with the Gauss-Legendre rule of six nodes an axis, which is exact for
polynomials of degree 11. Cells are halved along every axis, all that need it in one batch, and what the
parts of a cell say differently from the cell is its error. Each round the fewest cells are halved that
leave less than the tolerance to the others.

A rule knows a density at its nodes alone. Where rows are known to lie (training rows, draws) cells are
halved some times whatever they say, and so are the neighbours of first cells that hold mass. What is
much narrower than a tenth of a first cell may be missed where no rows lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from energyscape.mcmc.kernel import check_target
from energyscape.targets import Target

__all__ = ["Integral", "quadrature"]

_NODES = 6
#: By how much at most a cell's error falls each time it is halved.
_TRUST = 100.0
_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class Integral:
    """An integral over a box, and how well it is known.

    Attributes
    ----------
    estimate : float
        log Z, nats.
    stderr : float
        Over Z, the sum of what halving changed the cells and of all that cells hold which were never
        halved. Smooth densities are well within; walls, which cross cells anywhere, may exceed it.
    points : int
        Evaluations of the target.
    border : float
        Share of Z in the outermost cells of the box; what lies outside is less where the density falls.
    centres, shares : Tensor
        Middle of each cell, shape (cells, dim), and its share of Z, shape (cells,).
    """

    estimate: float
    stderr: float
    points: int
    border: float
    centres: Tensor = field(repr=False)
    shares: Tensor = field(repr=False)

    @property
    def lower(self) -> float:
        """``estimate - stderr``."""
        return self.estimate - self.stderr

    @property
    def upper(self) -> float:
        """``estimate + stderr``."""
        return self.estimate + self.stderr


class _Rule:
    """Integrals of exp(value) over cells of one width, in logs."""

    def __init__(self, target: Target, x: Tensor) -> None:
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        dim = x[0].numel()
        axes = torch.meshgrid(*[torch.from_numpy(0.5 * nodes)] * dim, indexing="ij")
        self.nodes = torch.stack([a.flatten() for a in axes], 1)
        shares = torch.meshgrid(*[torch.from_numpy(0.5 * weights)] * dim, indexing="ij")
        self.log_weights = torch.stack(shares).prod(0).flatten().log()
        self.target, self.like, self.points = target, x, 0

    def __call__(self, centres: Tensor, width: float) -> Tensor:
        """Shape (cells,)."""
        parts = [self._some(c, width) for c in centres.split(max(1, _ROWS // len(self.nodes)))]
        return torch.cat(parts) + centres.shape[1] * math.log(width)

    def _some(self, centres: Tensor, width: float) -> Tensor:
        x = (centres[:, None] + width * self.nodes).flatten(0, 1)
        self.points += len(x)
        value = self.target.value(x.reshape(-1, *self.like.shape[1:]).to(self.like))
        if value is None:
            raise ValueError("log Z needs a log-density, and this target knows only its score")
        if value.isnan().any():
            raise ValueError("the log-density is not a number somewhere in the box")
        if (value == math.inf).any():
            raise ValueError("the log-density is infinite somewhere in the box")
        value = value.cpu().double().reshape(len(centres), -1)  # some devices have no double
        return (value + self.log_weights).logsumexp(1)


def quadrature(
    target: Target,
    rows: Tensor,
    half_width: float,
    *,
    rtol: float = 1e-4,
    cells: int | None = None,
    depth: int = 3,
    max_points: int = 4_000_000,
) -> Integral:
    """log of the integral of exp(value) over a box around the mean of some rows.

    Parameters
    ----------
    target : Target
        With a log-density.
    rows : Tensor of shape (n, 1) or (n, 2), or any shape of one or two numbers a row
        Where mass is known to lie; their type and device are what the target is asked with.
    half_width : float
        Of the box, along every axis.
    rtol : float
        Relative error of Z at which to stop.
    cells : int, optional
        Along each axis, to begin with; by default 1,024 in one dimension and 64 in two.
    depth : int
        How often cells that hold rows are halved, whatever they say.
    max_points : int
        Evaluations after which to stop with the error reached.

    Returns
    -------
    Integral

    Raises
    ------
    ValueError
        For rows of more than two numbers, a target that knows only its score, and one that is not a
        number or plus infinity somewhere, or minus infinity everywhere.

    References
    ----------
    Genz and Malik 1980 (adaptive cubature); here with a product rule, and many cells a round.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> p = eight_gaussians()
    >>> rows = p.sample(500, torch.Generator().manual_seed(0))
    >>> found = quadrature(p.at(0.0), rows, 12.0)
    >>> abs(found.estimate) < 1e-4, found.stderr < 1e-4
    (True, True)
    """
    check_target(target)
    dim = rows[0].numel()
    if dim > 2:
        raise ValueError(f"quadrature is for one or two dimensions, got rows of {dim} numbers")
    cells = cells if cells is not None else 1024 if dim == 1 else 64
    if not half_width > 0 or not 0 < rtol < 1 or cells < 1:
        raise ValueError(
            f"half_width and rtol must be positive, rtol below 1 and cells at least 1, got "
            f"{half_width}, {rtol}, {cells}"
        )
    rule, flat = _Rule(target, rows), rows.flatten(1).cpu().double()
    middle, width = flat.mean(0), 2 * half_width / cells
    ticks = (torch.arange(cells, dtype=torch.float64) - 0.5 * (cells - 1)) * width
    centres = torch.cartesian_prod(*[ticks] * dim).reshape(-1, dim) + middle
    outer = ((centres - middle).abs() > half_width - width).any(1)
    worth = rule(centres, width)
    if worth.max() == -math.inf:
        raise ValueError("the log-density is minus infinity everywhere that it was looked at")
    border = float((worth[outer].logsumexp(0) - worth.logsumexp(0)).exp())
    error = worth.clone()  # all of it, for cells whose parts have not spoken
    settled: list[tuple[Tensor, Tensor, Tensor]] = []
    halves = torch.cartesian_prod(*[torch.tensor([-0.25, 0.25], dtype=torch.float64)] * dim)
    halves = halves.reshape(-1, dim)
    level = 0
    while True:
        total = _total(settled, worth)
        split = _worst(error, total + math.log(0.5 * rtol))
        if not level:
            split = _and_neighbours(split, cells)
        if level < depth:
            split |= _holding(centres, width, flat)
        fits = rule.points + int(split.sum()) * len(halves) * len(rule.nodes) <= max_points
        if not split.any() or not fits:
            settled.append((centres, worth, error))
            break
        keep = ~split
        settled.append((centres[keep], worth[keep], error[keep]))
        before, doubt = worth[split], error[split]
        centres = (centres[split][:, None] + width * halves).flatten(0, 1)
        width, level = 0.5 * width, level + 1
        worth = rule(centres, width)
        parts = worth.reshape(len(before), -1)
        apart = _log_difference(before, parts.logsumexp(1))
        if level > 1:
            # That parts and whole agree may be chance where the whole did not agree with its own.
            apart = torch.maximum(apart, doubt - math.log(_TRUST))
        error = (apart - math.log(len(halves))).repeat_interleave(len(halves))
    everywhere, value, errors = (torch.cat(p) for p in zip(*settled, strict=True))
    log_z = value.logsumexp(0)
    return Integral(
        float(log_z),
        float((errors.logsumexp(0) - log_z).exp()),
        rule.points,
        border,
        everywhere,
        (value - log_z).exp(),
    )


def _total(settled: list[tuple[Tensor, Tensor, Tensor]], worth: Tensor) -> float:
    return float(torch.cat([*(w for _, w, _ in settled), worth]).logsumexp(0))


def _worst(error: Tensor, allowed: float) -> Tensor:
    """Which cells to halve: the fewest that leave errors below `allowed` to the rest, in logs."""
    order = error.argsort()
    over = error[order].logcumsumexp(0) > allowed
    split = torch.zeros(len(error), dtype=torch.bool)
    split[order] = over
    return split


def _and_neighbours(chosen: Tensor, cells: int) -> Tensor:
    """The chosen cells of the first grid and those that touch them."""
    dim = 1 if len(chosen) == cells else 2
    grid = chosen.reshape(1, 1, *[cells] * dim).float()
    pool = torch.nn.functional.max_pool1d if dim == 1 else torch.nn.functional.max_pool2d
    return pool(grid, 3, stride=1, padding=1).flatten() > 0


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log |exp(a) - exp(b)|."""
    top = torch.maximum(a, b)
    apart = (a - b).abs()
    return torch.where(top > -math.inf, top + torch.log(-torch.expm1(-apart)), top)


def _holding(centres: Tensor, width: float, rows: Tensor) -> Tensor:
    """Which cells hold a row."""
    origin = centres.amin(0) - 0.5 * width
    cell = ((centres - origin) / width).floor().long()
    of_rows = ((rows - origin) / width).floor().long()
    size = int(cell.max()) + 1
    inside = ((of_rows >= 0) & (of_rows < size)).all(1)
    strides = size ** torch.arange(centres.shape[1])
    return torch.isin((cell * strides).sum(1), (of_rows[inside] * strides).sum(1).unique())
