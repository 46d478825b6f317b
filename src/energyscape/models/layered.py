"""The energy and score of a plain perceptron by its own chain rule, without autograd's bookkeeping.

For layers ``a_k = W_k h_{k-1} + b_k, h_k = phi(a_k)`` with a last linear one to a single number E,

    g_K = -w,    g_{k-1} = W_k' (phi'(a_k) * g_k),    score = g_0,

the very products that autograd takes, in the same order, but with no graph to record and to walk. A
Markov chain asks for nothing else, thousands of times. Large batches are worked through in parts whose
activations stay in the processor's cache.

A network may first lift its rows to features z(x) of little cost, and walk the layers from there: it
says so by a method ``lift(x)`` (`Lifted`) and has the layers as ``layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.products import Linear, linear, matmul

__all__ = ["Lifted", "energy_and_score_by_layers", "lifted", "plain_layers", "rows_at_once"]

#: Numbers in the widest activation of one part for each core: half a megabyte in float32, so that a few
#: of them lie in its caches.
_PART = 1 << 17
#: Numbers from which an activation of one exponential and a few products beats two of torch's own
#: operators with one each.
_MANY = 1 << 13
#: Columns below which a matrix product is padded to as many.
_FEW_COLUMNS = 16

#: What multiplies by a layer's weights and does nothing more.
_PRODUCTS = (nn.Linear.forward, Linear.forward)

_aten: Any = torch.ops.aten


class _Activation(NamedTuple):
    """phi and its derivative as operators, each with an `out` form that needs no new memory."""

    forward: Any
    backward: Any
    settings: Callable[[Any], tuple[Any, ...]] = lambda phi: ()
    named: Callable[[Any], dict[str, Any]] = lambda phi: {}
    from_output: bool = False  # whether the derivative is taken from phi(a) instead of a

    def apply(self, phi: nn.Module, a: Tensor, out: Tensor | None) -> Tensor:
        """phi(a)."""
        if out is None:
            return cast(Tensor, self.forward.default(a, *self.settings(phi), **self.named(phi)))
        return cast(Tensor, self.forward.out(a, *self.settings(phi), **self.named(phi), out=out))

    def pull(self, phi: nn.Module, g: Tensor, *, saved: Tensor, in_place: bool) -> Tensor:
        """phi'(a) g, in the place of what was saved where that is allowed."""
        before = (phi.alpha, 1.0, 1.0, False) if isinstance(phi, nn.ELU) else ()
        after = () if isinstance(phi, nn.ELU) else self.settings(phi)
        args, named = (g, *before, saved, *after), self.named(phi)
        if in_place:
            return cast(Tensor, self.backward.grad_input(*args, **named, grad_input=saved))
        return cast(Tensor, self.backward.default(*args, **named))


_SMOOTH: dict[type[nn.Module], _Activation] = {
    nn.SiLU: _Activation(_aten.silu, _aten.silu_backward),
    nn.Tanh: _Activation(_aten.tanh, _aten.tanh_backward, from_output=True),
    nn.Softplus: _Activation(
        _aten.softplus, _aten.softplus_backward, lambda phi: (phi.beta, phi.threshold)
    ),
    nn.ELU: _Activation(_aten.elu, _aten.elu_backward, lambda phi: (phi.alpha,)),
    nn.GELU: _Activation(
        _aten.gelu, _aten.gelu_backward, named=lambda phi: {"approximate": phi.approximate}
    ),
}


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def plain_layers(network: nn.Module) -> list[Any] | None:
    """Linear layers and smooth activations in turn, ending in one number; None for anything else.

    Layers are known by their exact type, or (a reparametrised weight) by the linear layer's own
    `forward`; one that somebody hooked into is left to autograd. Other networks that are such a
    sequence say so by a method `plain_layers`.
    """
    if _hooked(network):
        return None
    if type(network) is nn.Sequential:
        sequence: nn.Sequential | None = network
    else:
        told = getattr(network, "plain_layers", None)
        sequence = told() if callable(told) else None
    if sequence is None or _hooked(sequence):
        return None
    layers: list[Any] = list(sequence)
    if len(layers) % 2 == 0:
        return None
    for i, layer in enumerate(layers):
        if i % 2:
            known = type(layer) in _SMOOTH
        else:
            known = isinstance(layer, nn.Linear) and type(layer).forward in _PRODUCTS
        if not known or _hooked(layer):
            return None
    return layers if layers[-1].out_features == 1 else None


class Lifted(Protocol):
    """Features of rows, and how derivatives pass through them; rows are flat."""

    @property
    def features(self) -> Tensor:
        """z of shape (batch, F)."""
        ...

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What the features are made with, which is learned."""
        ...

    def parameter_gradients(self, f: Tensor, g: Tensor, v: Tensor) -> Sequence[Tensor]:
        """Of ``f . z + g . (dz/dx) v`` summed over rows, with respect to the parameters.

        f and g are of shape (batch, F), v of shape (batch, D).
        """
        ...

    def pull(self, g: Tensor) -> Tensor:
        """``(dz/dx)' g``: a gradient with respect to z, (batch, F), as one with respect to x."""
        ...

    def push(self, v: Tensor) -> Tensor:
        """``(dz/dx) v`` of directions v of shape (P, batch, D), shape (P, batch, F)."""
        ...

    def bend(self, g: Tensor, v: Tensor) -> Tensor:
        """``sum_f g_f v' (d^2 z_f / dx^2) v``, shape (P, batch)."""
        ...


def lifted(network: nn.Module, x: Tensor) -> tuple[nn.Module, Lifted] | None:
    """The layers above a network's features of the rows x, and those; None if it has none."""
    if not _lifts(network):
        return None
    lift = cast(Callable[[Tensor], Lifted], network.lift)
    return cast(nn.Module, network.layers), lift(x.flatten(1))


def _lifts(network: nn.Module) -> bool:
    return hasattr(type(network), "lift") and not _hooked(network)


def energy_and_score_by_layers(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The network's number and minus its gradient, or None where that is left to autograd.

    Parameters
    ----------
    network : Module
        A `Sequential` of linear layers and smooth activations in turn, or one that flattens its rows
        for such a sequence and gives it by ``plain_layers()``, or lifts them for it.
    x : Tensor of shape (batch, ...)

    Returns
    -------
    energy : Tensor of shape (batch,)
    score : Tensor, shape of x

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> energy, score = energy_and_score_by_layers(net, torch.zeros(3, 2))
    >>> energy.shape, score.shape
    (torch.Size([3]), torch.Size([3, 2]))
    >>> energy_and_score_by_layers(torch.nn.Linear(2, 2), torch.zeros(3, 2)) is None
    True
    """
    if torch.is_autocast_enabled(x.device.type):
        return None
    with torch.no_grad():
        raised = lifted(network, x)
        if raised is not None:
            found = energy_and_score_by_layers(raised[0], raised[1].features)
            return None if found is None else (found[0], raised[1].pull(found[1]).view(x.shape))
    layers = plain_layers(network)
    if layers is None:
        return None
    if x.ndim != 2:
        if type(network) is nn.Sequential:
            return None  # it acts on the last dimension alone, and has something to say about that
        energy, score = _by_parts(layers, x.flatten(1))
        return energy, score.view(x.shape)
    return _by_parts(layers, x)


def rows_at_once(network: nn.Module, x: Tensor) -> int | None:
    """How many rows like those of x pass through a plain perceptron within the caches.

    None for other networks, and on other devices than the CPU.
    """
    if x.device.type != "cpu":
        return None
    layers = plain_layers(cast(nn.Module, network.layers) if _lifts(network) else network)
    return None if layers is None else _rows_at_once(layers)


def _rows_at_once(layers: list[Any]) -> int:
    # By their stated sizes: to ask a parametrised weight is to work it out.
    widest = max(layer.out_features for layer in layers[::2])
    return max(1, _PART * torch.get_num_threads() // widest)


def _by_parts(layers: list[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Large batches in parts that stay in the cache, all in the memory of the first."""
    with torch.no_grad():
        weights = [layer.weight for layer in layers[::2]]
        last = _wide(weights[0], x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return _walk(layers, weights, last, x)
        count = -(-x.shape[0] // _rows_at_once(layers))
        if count <= 1:
            return _walk(layers, weights, last, x)
        parts = x.chunk(count)
        rows = len(parts[0])
        widest = max(len(w) for w in weights)
        # One block of memory: the allocator keeps a single large one from call to call, where many
        # go back to the system each time and come again page by page.
        sizes = [rows * len(w) for w in weights[:-1]]
        sizes += [rows * widest, rows * max(widest, last.shape[1])]
        room = x.new_empty(sum(sizes)).split(sizes)
        energy, score = x.new_empty(len(x)), torch.empty_like(x)
        at = 0
        for part in parts:
            end = at + len(part)
            energy[at:end], score[at:end] = _walk(layers, weights, last, part, room)
            at = end
        return energy, score


def _wide(weight: Tensor, x: Tensor) -> Tensor:
    """The first layer's weight with columns of zeros, where a product with it is then faster.

    A gradient of many rows times a matrix of a few columns takes up to three times as long as times
    one of 16 on processors with AVX2 (`LOG.md`, 2026-11-28).
    """
    missing = _FEW_COLUMNS - weight.shape[1]
    pays = missing > 0 and x.shape[0] >= 256 and x.device.type == "cpu"
    return F.pad(weight, (0, missing)) if pays else weight


def _walk(
    layers: list[Any],
    weights: list[Tensor],
    last: Tensor,
    x: Tensor,
    room: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Forwards through the layers and back.

    `last` is the weight of the first layer, the last one on the way back (`_wide`); `room` is flat
    memory for each layer's pre-activation and, in the last two, for what passes between layers: the
    very last holds the features too, which may be wider than any layer.
    """
    rows = x.shape[0]

    def place(i: int, w: Tensor, dim: int = 0) -> Tensor | None:
        if room is None:
            return None
        return room[i][: rows * w.shape[dim]].view(rows, w.shape[dim])

    pulls: list[Callable[[Tensor], Tensor]] = []
    h = x
    for i, phi in enumerate(layers[1::2]):
        w, bias = weights[i], layers[2 * i].bias
        a = linear(h, w, bias, room=place(i, w))
        if type(phi) is nn.SiLU and _pays(a):
            h, slope = _silu(a, place(-1, w), place(-2, w), in_place=room is not None)
            pulls.append(partial(_scaled, slope=slope, in_place=room is not None))
            continue
        known = _SMOOTH[type(phi)]
        between = None if room is None else a if known.from_output else place(-1, w)
        h = known.apply(phi, a, between)
        kept = h if known.from_output else a
        pulls.append(partial(known.pull, phi, saved=kept, in_place=room is not None))
    energy = F.linear(h, weights[-1], layers[-1].bias).squeeze(1)
    g = (-weights[-1]).expand(rows, -1)
    for i in range(len(pulls) - 1, -1, -1):
        w = weights[i] if i else last
        g = matmul(pulls[i](g), w, room=place(-1, w, 1))
    return energy, g if last is weights[0] else g[:, : x.shape[1]].contiguous()


def _silu(
    a: Tensor, out: Tensor | None, spare: Tensor | None, in_place: bool
) -> tuple[Tensor, Tensor]:
    """``a s(a)`` and its derivative ``s + a s (1 - s)``, s the sigmoid, by a single exponential.

    The derivative takes the place of a where that is allowed.
    """
    s = torch.sigmoid(a, out=spare)
    h = torch.mul(a, s, out=out)
    return h, torch.lerp(s, s.new_ones(()), h, out=a if in_place else None)


def _pays(a: Tensor) -> bool:
    """Whether one exponential and a few products are the faster SiLU, and as exact."""
    exact = a.dtype in (torch.float32, torch.float64)
    return exact and (a.numel() >= _MANY or torch.compiler.is_compiling())


def _scaled(g: Tensor, slope: Tensor, in_place: bool) -> Tensor:
    """A gradient behind an activation as one before it, in the slope's memory where allowed."""
    return torch.mul(g, slope, out=slope) if in_place else g * slope
