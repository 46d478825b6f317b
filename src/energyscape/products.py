"""Products with a layer's weights, by whichever of the processor's two libraries is the faster.

Torch on the CPU carries two libraries for a matrix product and always takes MKL. On processors with
AVX-512 that are not Intel's, MKL stays at the older instructions, and oneDNN, which torch keeps for
convolutions, is up to 2.3 times as fast (`LOG.md`, 2026-11-29). `linear` takes it there, for products
large enough to pay for its longer call; everywhere else it is torch's own.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

__all__ = ["Linear", "crossed", "linear", "matmul"]

#: Multiplications from which oneDNN's longer call is paid for, and columns below which it is slow.
_LEAST, _FEWEST = 1 << 21, 16
#: The same where both matrices must be turned first.
_LEAST_CROSSED, _FEWEST_CROSSED = 1 << 23, 128


def _ahead() -> bool:
    """Whether oneDNN is the faster library: a fact of the machine and never a timing, so that two runs
    on it give the same numbers."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    told = Path("/proc/cpuinfo")
    processor = told.read_text() if told.exists() else platform.processor()
    return "GenuineIntel" not in processor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_AHEAD = _ahead()


def _pays(x: Tensor, weight: Tensor, summed: int | None = None) -> bool:
    """Whether a product, which sums over so many, is one of those that oneDNN does faster."""
    summed = x.shape[-1] if summed is None else summed
    if not _AHEAD or x.numel() * weight.numel() < _LEAST * summed:  # most products: told at once
        return False
    return (
        weight.ndim == 2
        and min(weight.shape) >= _FEWEST
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
    )


_PLAIN = (Tensor, nn.Parameter)


def _watched() -> bool:
    """Whether oneDNN is switched off, or a transform, forward-mode differentiation or autocast must see
    torch's own operator."""
    return bool(
        not torch.backends.mkldnn.enabled
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # its strides would not be looked at
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


def _torch_own(x: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor | None) -> Tensor:
    if room is None:
        return F.linear(x, weight, bias)
    if bias is None:
        return torch.mm(x, weight.t(), out=room)
    return torch.addmm(bias, x, weight.t(), out=room)


# A compiled graph takes the product as one operator of ours: torch's compiler accepts oneDNN's only for
# weights that never change.
_library = torch.library.Library("energyscape", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("linear", _product, "CPU")


@torch.library.register_fake("energyscape::linear")
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products too; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight) if by_x else None,
            crossed(grad, x) if by_weight else None,
            grad.sum(0) if by_bias else None,
        )


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, room: Tensor | None = None
) -> Tensor:
    """``x W' + b``, as `torch.nn.functional.linear` gives it but for the last bits.

    Parameters
    ----------
    x : Tensor of shape (..., columns)
    weight : Tensor of shape (out, columns)
    bias : Tensor of shape (out,), optional
    room : Tensor of shape (..., out), optional
        Memory that the result may take, where no gradient is asked for.

    Returns
    -------
    Tensor of shape (..., out)

    Examples
    --------
    >>> import torch
    >>> linear(torch.ones(2, 3), torch.ones(4, 3)).shape
    torch.Size([2, 4])
    """
    if not _pays(x, weight):
        return _torch_own(x, weight, bias, room)
    if x.ndim != 2:
        rows = _taken(x.reshape(-1, x.shape[-1]), weight, bias, None)
        return rows.view(*x.shape[:-1], weight.shape[0])
    return _taken(x, weight, bias, room)


def _taken(x: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor | None) -> Tensor:
    """A product that pays, as far as somebody does not wait for torch's."""
    graph = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    if torch.compiler.is_compiling():
        if graph:
            return F.linear(x, weight, bias)
        return cast(Tensor, torch.ops.energyscape.linear(x, weight, bias))
    if _watched():
        return _torch_own(x, weight, bias, room)
    return cast(Tensor, _Linear.apply(x, weight, bias)) if graph else _product(x, weight, bias)


def matmul(x: Tensor, y: Tensor, *, room: Tensor | None = None) -> Tensor:
    """``x y`` of two matrices.

    Parameters
    ----------
    x : Tensor of shape (rows, inner)
    y : Tensor of shape (inner, columns)
    room : Tensor of shape (rows, columns), optional
        As in `linear`.

    Returns
    -------
    Tensor of shape (rows, columns)
    """
    if _pays(x, y, x.shape[1]):
        return _taken(x, y.t(), None, room)
    return torch.mm(x, y) if room is None else torch.mm(x, y, out=room)


def crossed(x: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
    """``x' y`` of two matrices of as many rows, as the gradient of a weight is.

    Parameters
    ----------
    x, y : Tensor of shapes (rows, out) and (rows, columns)
    onto : Tensor of shape (out, columns), optional
        What it is added to, in place.

    Returns
    -------
    Tensor of shape (out, columns)
    """
    out, columns = x.shape[1], y.shape[1]
    if (
        min(out, columns) >= _FEWEST_CROSSED
        and y.numel() * out >= _LEAST_CROSSED
        and _pays(x, y, y.shape[0])
    ):
        found = _taken(x.t(), y.t(), None, None)
        return found if onto is None else onto.add_(found)
    return torch.mm(x.t(), y) if onto is None else onto.addmm_(x.t(), y)


class Linear(nn.Linear):
    """`torch.nn.Linear` with its product by `linear`.

    Examples
    --------
    >>> import torch
    >>> Linear(3, 4)(torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x W' + b`` of shape (..., out)."""
        if torch.compiler.is_compiling():  # somebody else's graph, of which nothing is known here
            return F.linear(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)
