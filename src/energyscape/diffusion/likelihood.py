"""Log-density by the probability-flow ODE, the same for a row alone or in any batch.

In ``u = log sigma`` the flow is ``dx/du = x - D(x, sigma)`` with divergence ``dim - tr(dD/dx)``.
Data of scale s follow ``sqrt(sigma^2 + s^2)`` along it, so that growth is taken out exactly:

    y = x / sqrt(sigma^2 + s^2),      c = s^2 / (sigma^2 + s^2),
    dy/du = (c x - D) / sqrt(sigma^2 + s^2),
    log p_min(x) = log p_max(x_max) + dim/2 log[(sigma_max^2 + s^2) / (sigma_min^2 + s^2)]
                   + integral over u of  dim c - tr(dD/dx)

which is 2011.13456 eq. 39 in other coordinates. What remains is 0 for isotropic Gaussian data and
falls to 0 at both ends for any other. On a grid even in u the trapezoidal rule therefore converges
faster than any power of the step, and costs one trace a step, the expensive part; the path itself is
solved by fourth-order Runge-Kutta steps, which need no trace.

Path and sums are float64, on a fixed grid with the same probes for every row, so that a row's value
does not depend on its neighbours. So is the network, unless float32 is asked for, as families do:
rounding then moves a row of a table by some 1e-6 nats (1e-7 of its density far outside), a picture by
a hundredth of its standard error over the probes or less.
The value is log p at ``sigma_min``: the density blurred by that much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from energyscape.autodiff import draw_probes, unit_probes, vjp
from energyscape.models import Denoiser

__all__ = ["End", "LogDensity", "Solver", "in_float64", "log_density"]

Solver = Literal["rk4", "heun", "dopri5"]
End = Literal["noise"] | tuple[Tensor, Tensor]

_EXACT_DIMENSIONS = 32
_DEFAULT_PROBES = 8


class LogDensity(NamedTuple):
    """What `log_density` gives: values in nats and what they are.

    `value` and `stderr` have shape (batch,); `stderr` is over the probes and 0 for an exact trace.
    `kind` is "exact_ode" or "hutchinson_ode"; `solver` names method and steps; `sigma_min` is the
    level whose density this is.
    """

    value: Tensor
    stderr: Tensor
    kind: str
    solver: str
    sigma_min: float


class _Flow:
    """The scaled flow of one batch: slopes of y, and the integrand of the log-density."""

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        label: Tensor | None,
        probes: int,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.scale, self.label, self.probes = denoiser, scale, label, probes
        self.dtype = dtype
        self.rng = torch.Generator().manual_seed(seed)

    def denoised(self, x: Tensor, sigma: float) -> Tensor:
        """E[x_0 | x], by a network of the type asked for."""
        return self.denoiser(x.to(self.dtype), sigma, self.label).to(x.dtype)

    def growth(self, u: float) -> float:
        """sqrt(sigma^2 + s^2)."""
        return math.hypot(math.exp(u), self.scale)

    def slope(self, u: float, y: Tensor) -> Tensor:
        """dy/du."""
        root = self.growth(u)
        x = y * root
        with torch.no_grad():
            return ((self.scale / root) ** 2 * x - self.denoised(x, math.exp(u))) / root

    def draw(self, y: Tensor) -> Tensor:
        """One set of probes, the same for every row; all unit vectors for the exact trace."""
        if self.probes == 0:
            return unit_probes(y)
        v = draw_probes("rademacher", self.probes, y[:1].to("cpu"), self.rng)
        return v.to(y.device).expand(self.probes, *y.shape)

    def slope_and_trace(self, u: float, y: Tensor, vs: Tensor) -> tuple[Tensor, Tensor]:
        """dy/du and ``dim c - tr(dD/dx)``, one estimate per probe: (P, batch), P = 1 if exact."""
        root = self.growth(u)
        c = (self.scale / root) ** 2
        with torch.enable_grad():
            x = (y * root).detach().requires_grad_()
            x0_hat = self.denoised(x, math.exp(u))
            terms = torch.stack([(vjp(x0_hat, x, v) * v).flatten(1).sum(1) for v in vs])
        if self.probes == 0:
            terms = terms.sum(0, keepdim=True)
        dim = y[0].numel()
        return (c * x.detach() - x0_hat.detach()) / root, dim * c - terms


def _fixed(flow: _Flow, y: Tensor, ends: tuple[float, float], steps: int, solver: Solver) -> Tensor:
    """The path on a grid even in u; returns y at the end and the trapezoidal integral."""
    grid = torch.linspace(*ends, steps + 1, dtype=torch.float64).tolist()
    h = (ends[1] - ends[0]) / steps
    total = torch.zeros(max(flow.probes, 1), y.shape[0], dtype=y.dtype, device=y.device)
    for k, u in enumerate(grid):
        k1, trace = flow.slope_and_trace(u, y, flow.draw(y))
        total += (0.5 * h if k in (0, steps) else h) * trace
        if k == steps:
            break
        if solver == "heun":
            y = y + 0.5 * h * (k1 + flow.slope(u + h, y + h * k1))
            continue
        k2 = flow.slope(u + 0.5 * h, y + 0.5 * h * k1)
        k3 = flow.slope(u + 0.5 * h, y + 0.5 * h * k2)
        k4 = flow.slope(u + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return torch.cat([y.flatten(1).T, total])


def _adaptive(flow: _Flow, y: Tensor, ends: tuple[float, float], tolerance: float) -> Tensor:
    """The path and the integral together by an adaptive solver, with the probes held fixed."""
    from torchdiffeq import odeint

    vs = flow.draw(y)
    start = torch.zeros(max(flow.probes, 1), y.shape[0], dtype=y.dtype, device=y.device)

    def field(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return flow.slope_and_trace(float(u), state[0], vs)

    times = torch.tensor(ends, dtype=torch.float64, device=y.device)
    path, total = odeint(field, (y, start), times, rtol=tolerance, atol=tolerance, method="dopri5")
    return torch.cat([path[-1].flatten(1).T, total[-1]])


def log_density(
    denoiser: Denoiser,
    x: Tensor,
    *,
    sigma_min: float,
    sigma_max: float,
    steps: int = 64,
    probes: int | None = None,
    end: End = "noise",
    seed: int = 0,
    solver: Solver = "rk4",
    label: int | Tensor | None = None,
    scale: float | None = None,
    tolerance: float = 1e-6,
    batch_size: int = 4096,
    dtype: torch.dtype = torch.float64,
) -> LogDensity:
    """The log-density of each row at level `sigma_min`, in nats.

    Parameters
    ----------
    denoiser : Denoiser
        A model in another dtype is copied to float64; its parameters are not touched.
    x : Tensor of shape (batch, ...)
    sigma_min, sigma_max : float
        The ends of the path. `sigma_max` must lie far above the spread of the data.
    steps : int
        Of the fixed grid, even in log sigma; ignored by the adaptive solver.
    probes : int, optional
        0 for the exact trace, at least 2 for Hutchinson's estimate with Rademacher probes; by
        default exact up to 32 dimensions and 8 probes above.
    end : "noise" or (mean, covariance)
        The density at `sigma_max`: ``N(0, sigma_max^2 I)``, or ``N(mean, sigma_max^2 I +
        covariance)`` of the data, which is far closer. The mean has the shape of an event; the
        covariance is that shape (variances), a number, or (D, D).
    seed : int
        Of the probes. They are the same for every row and redrawn at every level.
    solver : {"rk4", "heun", "dopri5"}
        The adaptive "dopri5" chooses its steps for the batch as a whole: rows then depend on their
        neighbours within `tolerance`.
    label : int or Tensor of shape (batch,), optional
    scale : float, optional
        The data scale s of the coordinates; by default the root of `end`'s mean variance, or 1.
    tolerance : float
        Relative and absolute, of the adaptive solver.
    batch_size : int
        Rows worked on at once.
    dtype : torch.float64 or torch.float32
        Of the network's arithmetic; path and sums are float64 in either case.

    Returns
    -------
    LogDensity

    Raises
    ------
    ValueError
        For levels out of order, a single probe, or an end of the wrong shape.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.models import FunctionDenoiser
    >>> p = eight_gaussians()
    >>> x = p.sample(3, torch.Generator().manual_seed(0))
    >>> out = log_density(
    ...     FunctionDenoiser(p.denoise), x, sigma_min=1e-3, sigma_max=100.0,
    ...     end=(p.mean, p.covariance))
    >>> bool((out.value - p.log_prob(x)).abs().max() < 0.001), out.kind, out.solver
    (True, 'exact_ode', 'rk4, 64 steps')
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"a density takes a network in float64 or float32, not {dtype}")
    if solver not in get_args(Solver):
        raise ValueError(f"solver is one of {', '.join(get_args(Solver))}, not {solver!r}")
    dim = x[0].numel() if len(x) else math.prod(x.shape[1:])
    if probes is None:
        probes = 0 if dim <= _EXACT_DIMENSIONS else _DEFAULT_PROBES
    if probes < 0 or probes == 1:
        raise ValueError(
            f"probes must be 0 (exact trace) or at least 2, for a standard error; got {probes}"
        )
    x = x.detach().to(torch.float64)
    log_end, variance = _end_density(end, sigma_max, x)
    scale = math.sqrt(variance) if scale is None else scale
    denoiser = _in(dtype, denoiser)
    labels = None if label is None else torch.as_tensor(label, device=x.device).expand(len(x))
    ends = (math.log(sigma_min), math.log(sigma_max))
    values, errors = [], []
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)
        flow = _Flow(denoiser, scale, None if labels is None else labels[rows], probes, seed, dtype)
        y = x[rows] / flow.growth(ends[0])
        if solver == "dopri5":
            out = _adaptive(flow, y, ends, tolerance)
        else:
            out = _fixed(flow, y, ends, steps, solver)
        x_max = (out[:dim].T * flow.growth(ends[1])).reshape(y.shape)
        change = dim * math.log(flow.growth(ends[1]) / flow.growth(ends[0]))
        per_probe = log_end(x_max) + change + out[dim:]
        values.append(per_probe.mean(0))
        spread = per_probe.std(0) / math.sqrt(probes) if probes else torch.zeros_like(values[-1])
        errors.append(spread)
    empty = x.new_zeros(0)
    return LogDensity(
        torch.cat(values) if values else empty,
        torch.cat(errors) if errors else empty,
        "hutchinson_ode" if probes else "exact_ode",
        f"dopri5, tolerance {tolerance:g}" if solver == "dopri5" else f"{solver}, {steps} steps",
        sigma_min,
    )


def in_float64(denoiser: Denoiser) -> Denoiser:
    """The denoiser in evaluation mode and float64: itself if it has no parameters, else a copy."""
    return _in(torch.float64, denoiser)


def _in(dtype: torch.dtype, denoiser: Denoiser) -> Denoiser:
    own = next(denoiser.parameters(), None)
    if own is None or (own.dtype == dtype and not denoiser.training and not own.requires_grad):
        return denoiser
    return copy.deepcopy(denoiser).to(dtype).eval().requires_grad_(False)


def _end_density(end: End, sigma_max: float, x: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """The log-density at sigma_max, and the mean variance of the data it assumes."""
    dim = math.prod(x.shape[1:])
    if isinstance(end, str):
        if end != "noise":
            raise ValueError(f"end is 'noise' or (mean, covariance), not {end!r}")
        mean, covariance = x.new_zeros(dim), x.new_zeros(dim)
    else:
        mean, covariance = (torch.as_tensor(part).to(x) for part in end)
    data_variance = 1.0 if isinstance(end, str) else 0.0
    if covariance.ndim == 2 and covariance.shape == (dim, dim):
        values, vectors = torch.linalg.eigh(covariance)
    elif covariance.numel() in (1, dim):
        values, vectors = covariance.flatten().expand(dim), None
    else:
        raise ValueError(
            f"the covariance at the end must hold 1, {dim} or {dim} x {dim} numbers, got shape "
            f"{tuple(covariance.shape)}"
        )
    if mean.numel() not in (1, dim):
        raise ValueError(f"the mean at the end must hold {dim} numbers, got {mean.numel()}")
    centre = mean.flatten().expand(dim)
    variance = values + sigma_max**2
    constant = -0.5 * float(variance.log().sum() + dim * math.log(2 * math.pi))

    def log_end(state: Tensor) -> Tensor:
        offset = state.flatten(1) - centre
        if vectors is not None:
            offset = offset @ vectors
        return constant - 0.5 * (offset.square() / variance).sum(1)

    return log_end, data_variance or max(float(values.mean()), 1e-12)
