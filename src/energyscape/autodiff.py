"""The two derivatives everything else is made of: a score and a divergence.

``score = grad_x log p`` of a log-density, and ``div f = tr(df/dx)`` of a field, both by
vector-Jacobian products (VJPs). With probes ``v``, ``E[v v'] = I``,

    tr(J) = E[ v' J v ]          (Hutchinson),

each probe costs one VJP of one forward pass; the exact trace takes D of them, with v running over
the unit vectors. Probes with other second moments are biased, so `probes` offers only three laws
that have it: Rademacher, Gaussian, and the sphere of radius sqrt(D).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "ProbeLaw",
    "divergence",
    "draw_probes",
    "probe_products",
    "slices",
    "unit_probes",
    "value_and_grad",
    "vjp",
]

_SHIFTS = torch.arange(8, dtype=torch.uint8)

ProbeLaw = Literal["rademacher", "gaussian", "sphere"]


def value_and_grad(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    create_graph: bool = False,
    factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """A per-row function and its gradient, times a factor.

    Parameters
    ----------
    function : callable
        Maps (batch, ...) to (batch,), each row on its own.
    x : Tensor of shape (batch, ...)
    create_graph : bool
        Keep the graph so that the gradient can itself be differentiated (training losses only).
    factor : float
        On the gradient, free of cost: -1 makes an energy's gradient its score.

    Returns
    -------
    value : Tensor of shape (batch,)
    grad : Tensor, shape of x

    Raises
    ------
    ValueError
        If the function does not give one value a row.

    Examples
    --------
    >>> import torch
    >>> value_and_grad(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]]))
    (tensor([5.]), tensor([[2., 4.]]))
    """
    with torch.enable_grad():
        if not (create_graph and x.requires_grad):
            x = x.detach().requires_grad_()
        value = function(x)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"expected one value a row, shape {tuple(x.shape[:1])}, got {tuple(value.shape)}: "
                "sum over all but the first dimension, and never over the batch"
            )
        cotangent = torch.full_like(value, factor, requires_grad=False)
        (grad,) = torch.autograd.grad(value, x, cotangent, create_graph=create_graph)
    return (value, grad) if create_graph else (value.detach(), grad)


def vjp(output: Tensor, x: Tensor, v: Tensor, *, create_graph: bool = False) -> Tensor:
    """The vector-Jacobian product ``v' d(output)/dx`` of each row, shape of x; the graph is kept."""
    (product,) = torch.autograd.grad(
        output, x, grad_outputs=v, create_graph=create_graph, retain_graph=True
    )
    return product


def probe_products(output: Tensor, x: Tensor, v: Tensor, *, create_graph: bool = False) -> Tensor:
    """``v' d(output)/dx`` for several probes of one forward pass, in one batch.

    Parameters
    ----------
    output : Tensor, shape of x
        Computed from x, which requires its gradient.
    x : Tensor of shape (batch, ...)
    v : Tensor of shape (P, batch, ...)
    create_graph : bool
        Keep the graph for a training loss.

    Returns
    -------
    Tensor of shape (P, batch, ...)
        Zero where the output does not depend on x, as the score of a linear energy.
    """
    if not output.requires_grad:
        return torch.zeros_like(v)
    one = len(v) == 1
    (product,) = torch.autograd.grad(
        output,
        x,
        grad_outputs=v[0] if one else v,
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=not one,
    )
    if product is None:
        return torch.zeros_like(v)
    return product[None] if one else product


def slices(output: Tensor, x: Tensor, v: Tensor, *, create_graph: bool = False) -> Tensor:
    """``v' (d(output)/dx) v`` for each probe and row, shape (P, batch); see `probe_products`.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 2, requires_grad=True)
    >>> slices(x * torch.tensor([1.0, 2.0]), x, torch.ones(1, 1, 2))
    tensor([[3.]])
    """
    v = v.to(output.dtype)
    product = probe_products(output, x, v, create_graph=create_graph)
    return (product * v).flatten(2).sum(2)


def draw_probes(
    law: ProbeLaw, num_probes: int, like: Tensor, rng: torch.Generator | None
) -> Tensor:
    """Random probes with ``E[v v'] = I``, shape (num_probes, *like.shape).

    Parameters
    ----------
    law : {"rademacher", "gaussian", "sphere"}
        Signs; standard normal; uniform on the sphere of radius sqrt(D).
    num_probes : int
    like : Tensor of shape (batch, ...)
        Gives shape, dtype and device.
    rng : torch.Generator

    Raises
    ------
    ValueError
        For any other law: a unit sphere, say, has ``E[v v'] = I/D``, which changes the minimiser of
        variance-reduced sliced score matching.

    Examples
    --------
    >>> import torch
    >>> v = draw_probes("sphere", 1, torch.zeros(3, 4), torch.Generator().manual_seed(0))
    >>> v.square().sum(-1)
    tensor([[4., 4., 4.]])
    """
    if law not in get_args(ProbeLaw):
        raise ValueError(
            f"probes must have E[vv'] = I; choose one of {', '.join(get_args(ProbeLaw))}, "
            f"not {law!r}"
        )
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    shape = (num_probes, *like.shape)
    if law == "rademacher":
        # Eight signs a random byte: drawing them one by one would cost as much as a small network.
        count = math.prod(shape)
        byte = torch.empty(-(-count // 8), 1, dtype=torch.uint8, device=like.device)
        bits = (byte.random_(0, 256, generator=rng) >> _SHIFTS.to(like.device)) & 1
        return bits.flatten()[:count].reshape(shape).to(like.dtype).mul_(2).sub_(1)
    v = torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device)
    if law == "sphere":
        flat = v.reshape(num_probes, like.shape[0], -1)
        radius = math.sqrt(flat.shape[-1])
        v = (radius * flat / flat.norm(dim=-1, keepdim=True)).reshape(shape)
    return v


def unit_probes(like: Tensor) -> Tensor:
    """All unit vectors, shape (D, *like.shape): summing over them gives the exact trace."""
    flat = math.prod(like.shape[1:])
    eye = torch.eye(flat, dtype=like.dtype, device=like.device)
    return eye.reshape(flat, 1, *like.shape[1:]).expand(flat, *like.shape)


def divergence(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    probes: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """A vector field and its divergence, exact or by Hutchinson's estimator.

    Parameters
    ----------
    field : callable
        Maps (batch, ...) to the same shape, each row on its own.
    x : Tensor of shape (batch, ...)
    probes : Tensor of shape (P, batch, ...), optional
        With probes the estimate is the mean of ``v' J v`` over them; without, the exact trace by D
        vector-Jacobian products.
    create_graph : bool
        Keep the graph for a training loss.

    Returns
    -------
    value : Tensor, shape of x
    divergence : Tensor of shape (batch,)

    Raises
    ------
    ValueError
        If the field's value or the probes have another shape than x.

    Examples
    --------
    >>> import torch
    >>> divergence(lambda x: x * torch.tensor([1.0, 2.0]), torch.zeros(1, 2))[1]
    tensor([3.])
    """
    with torch.enable_grad():
        if not (create_graph and x.requires_grad):
            x = x.detach().requires_grad_()
        value = field(x)
        if value.shape != x.shape:
            raise ValueError(
                f"a field has the shape of its point, {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        vs = unit_probes(x) if probes is None else probes
        if vs.shape[1:] != x.shape:
            raise ValueError(
                f"probes must have shape (P, {', '.join(map(str, x.shape))}), got {tuple(vs.shape)}"
            )
        total = torch.zeros(x.shape[0], dtype=value.dtype, device=value.device)
        for v in vs:
            total = total + (vjp(value, x, v, create_graph=create_graph) * v).flatten(1).sum(1)
        if probes is not None:
            total = total / len(probes)
    return (value, total) if create_graph else (value.detach(), total.detach())
