"""Score and slices of its derivative for a plain perceptron, with the gradient by hand.

For layers ``a_k = W_k h_{k-1} + b_k, h_k = phi(a_k)`` that end in a linear one to a single number E,
with ``g_K = -w, d_k = phi'(a_k) g_k, g_{k-1} = W_k' d_k`` going back and, along a probe v,
``t_0 = v, u_k = W_k t_{k-1}, t_k = phi'(a_k) u_k`` going forward,

    score            s = g_0
    slice     v'(ds/dx)v = sum_k < phi''(a_k) g_k, u_k^2 > ,

since all curvature of E comes from the activations. One forward and one backward pass serve all probes,
and a probe takes one more forward pass: half of the matrix products that differentiating the score by
autograd takes. The gradient of any function of both is walked back through these three passes below; it
can be taken once. Where layers M stand on features, ``E(x) = M(z(x))`` and ``t = (dz/dx) v``,

    grad E = (dz/dx)' grad M,    v' E'' v = t' M'' t + sum_f (grad M)_f v' z_f'' v ,

the passes through M give a gradient of z and t too, and what is around them is left to autograd; but
for a score alone, whose gradient the features know how to take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from energyscape.models.layered import Lifted, lifted, plain_layers
from energyscape.products import crossed, linear, matmul

__all__ = ["score_and_slices_by_layers"]


class _Derivatives(NamedTuple):
    """phi, ``phi'``, ``phi''`` and, which slices alone need, ``phi'''``."""

    value: Tensor
    first: Tensor
    second: Tensor
    third: Tensor | None


def _silu(phi: nn.Module, a: Tensor, sliced: bool) -> _Derivatives:
    s = torch.sigmoid(a)
    h = a * s
    third = None
    if sliced:
        q, tilt = torch.addcmul(s, s, s, value=-1), torch.rsub(s, 1, alpha=2)
        third = q * torch.addcmul(tilt * (a * tilt + 3), a, q, value=-2)
    bent = torch.lerp(h, 2 - h, s)  # the second derivative is (1 - s) times 2 s + h (1 - 2 s)
    return _Derivatives(
        h, torch.lerp(s, s.new_ones(()), h), torch.addcmul(bent, s, bent, value=-1), third
    )


def _tanh(phi: nn.Module, a: Tensor, sliced: bool) -> _Derivatives:
    h = torch.tanh(a)
    square = h.square()
    first = 1 - square
    return _Derivatives(h, first, -2 * h * first, first * (6 * square - 2))


def _softplus(phi: nn.Module, a: Tensor, sliced: bool) -> _Derivatives:
    beta, threshold = float(cast(Any, phi).beta), float(cast(Any, phi).threshold)
    z = beta * a
    s = torch.sigmoid(z).masked_fill(z > threshold, 1.0)  # the operator is linear from there on
    q = s * (1 - s)
    return _Derivatives(phi(a), s, beta * q, beta**2 * q * (1 - 2 * s))


def _elu(phi: nn.Module, a: Tensor, sliced: bool) -> _Derivatives:
    bent = float(cast(Any, phi).alpha) * a.clamp(max=0).exp()
    flat = a > 0
    second = bent.masked_fill(flat, 0.0)
    return _Derivatives(phi(a), bent.masked_fill(flat, 1.0), second, second)


def _gelu(phi: nn.Module, a: Tensor, sliced: bool) -> _Derivatives:
    density = torch.exp(-0.5 * a.square()) / math.sqrt(2 * math.pi)
    first = 0.5 * (1 + torch.erf(a / math.sqrt(2))) + a * density
    return _Derivatives(phi(a), first, density * (2 - a.square()), density * a * (a.square() - 4))


_KNOWN: dict[type[nn.Module], Callable[[nn.Module, Tensor, bool], _Derivatives]] = {
    nn.SiLU: _silu,
    nn.Tanh: _tanh,
    nn.Softplus: _softplus,
    nn.ELU: _elu,
    nn.GELU: _gelu,
}


def score_and_slices_by_layers(
    network: nn.Module, x: Tensor, v: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The score of an energy network and ``v'(ds/dx)v``, or None where that is left to autograd.

    Parameters
    ----------
    network : Module
        As in `energy_and_score_by_layers`.
    x : Tensor of shape (batch, ...)
        Rows, which get no gradient.
    v : Tensor of shape (P, batch, ...), optional
        Probes, which get none either; without them there is no slice.

    Returns
    -------
    score : Tensor, shape of x
    slices : Tensor of shape (P, batch)
        Both carry the gradient with respect to the network's parameters, which can be taken once.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> x, v = torch.zeros(3, 2), torch.ones(5, 3, 2)
    >>> score, slices = score_and_slices_by_layers(net, x, v)
    >>> score.shape, slices.shape
    (torch.Size([3, 2]), torch.Size([5, 3]))
    """
    if torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return None
    if v is None:
        with torch.no_grad():
            raised = lifted(network, x.detach())
        score = None if raised is None else _score_above(*raised)
        if score is not None:
            return score.view(x.shape), score.new_empty(0, len(x))
    raised = lifted(network, x.detach())
    if raised is not None:
        return _above(*raised, x, v)
    layers = plain_layers(network)
    return None if layers is None else _through(network, layers, x.detach(), v)


def _above(
    network: nn.Module, z: Lifted, x: Tensor, v: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Both for a network of features of the rows."""
    layers = plain_layers(network)
    flat = None if v is None else v.detach().flatten(2)
    tangents = None if flat is None else z.push(flat)
    found = None if layers is None else _through(network, layers, z.features, tangents)
    if found is None:
        return None
    score, along = found
    if flat is not None:
        along = along + z.bend(score, flat)
    return z.pull(score).view(x.shape), along


def _through(
    network: nn.Module, layers: list[Any], x: Tensor, v: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Both for a plain perceptron."""
    if not _known(layers):
        return None
    if x.ndim != 2 and type(network) is nn.Sequential:
        return None
    flat = x.flatten(1)
    probes = flat.new_empty(0, *flat.shape) if v is None else v.flatten(2)
    score, slices = _Slices.apply(flat, probes, *_of(layers))
    return score.view(x.shape), slices


def _score_above(network: nn.Module, z: Lifted) -> Tensor | None:
    """The score of flat rows, its gradient passing the features by hand; None where that cannot be.

    That is where a parameter of the features is made of others, and without a layer that bends.
    """
    layers = plain_layers(network)
    if layers is None or len(layers) == 1 or not _known(layers):
        return None
    if not all(isinstance(p, nn.Parameter) for p in z.parameters):
        return None
    return cast(Tensor, _Raised.apply(z, *_of(layers), *z.parameters))


def _known(layers: list[Any]) -> bool:
    return not any(isinstance(p, nn.GELU) and p.approximate != "none" for p in layers[1::2])


def _of(layers: list[Any]) -> list[Any]:
    """Activations, and what the layers consist of: all weights, all biases but the last."""
    weights = [layer.weight for layer in layers[::2]]
    return [layers[1::2], *weights, *(layer.bias for layer in layers[:-1:2])]


class _Kept(NamedTuple):
    """What the gradient needs of the three passes; `backs` are the g_k, `falls` the d_k (both from
    k = 1), `curves` phi''(a_k) g_k.

    No output may be among them: it would hold itself alive by way of its graph.
    """

    hidden: list[Tensor]
    bends: list[_Derivatives]
    backs: list[Tensor]
    falls: list[Tensor]
    curves: list[Tensor]
    tangents: list[Tensor]
    along: list[Tensor]


def _there(
    x: Tensor, v: Tensor, activations: Sequence[nn.Module], parameters: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, _Kept]:
    """The score, the slices, and what their gradient needs."""
    count = len(activations)
    weights = cast(list[Tensor], list(parameters[: count + 1]))
    biases = parameters[count + 1 :]
    hidden, bends = [x], []
    for phi, w, bias in zip(activations, weights, biases, strict=False):
        a = linear(hidden[-1], w, bias)
        bends.append(_KNOWN[type(phi)](phi, a, len(v) > 0))
        hidden.append(bends[-1].value)
    g = (-weights[-1]).expand(len(x), -1)
    backs, falls = [], []
    for w, bend in zip(weights[-2::-1], bends[::-1], strict=True):
        backs.append(g)
        falls.append(bend.first * g)
        g = matmul(falls[-1], w)
    backs.reverse()
    falls.reverse()
    curves = [bend.second * back for bend, back in zip(bends, backs, strict=True)]
    tangents, along = [v], []
    slices = x.new_zeros(v.shape[:2])
    for k in range(count if len(v) else 0):
        u = linear(tangents[-1], weights[k])
        along.append(u)
        slices += u.square().mul_(curves[k]).sum(2)
        if k + 1 < count:
            tangents.append(bends[k].first * u)
    return g.contiguous(), slices, _Kept(hidden, bends, backs, falls, curves, tangents, along)


def _back(
    weights: Sequence[Tensor],
    biases: Sequence[bool],
    kept: _Kept,
    grad_score: Tensor,
    grad_slices: Tensor | None,
    rows: bool,
    probes: bool,
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """Gradients of the rows, of the probes (each if asked) and of the parameters."""
    count = len(weights) - 1
    each = None if grad_slices is None else grad_slices[..., None]
    out: list[Tensor] = []  # the gradients of the weights
    inner: list[Tensor] = []  # what reaches each a_k
    # Up through the backward pass, with what the slices send to g and a.
    g_bar = grad_score
    for k in range(count):
        bend, curve = kept.bends[k], kept.curves[k]
        out.append(crossed(kept.falls[k], g_bar))
        d_bar = linear(g_bar, weights[k])
        a_bar, g_bar = curve * d_bar, d_bar.mul_(bend.first)
        if each is not None:
            weighed = kept.along[k].square().mul_(each).sum(0)
            g_bar.addcmul_(bend.second, weighed)
            a_bar.addcmul_(weighed.mul_(cast(Tensor, bend.third)), kept.backs[k])
        inner.append(a_bar)
    out.append(-g_bar.sum(0, keepdim=True))
    # Down through the tangents and the forward pass.
    t_bar: Tensor | None = None
    h_bar: Tensor | None = None
    bias_grads: list[Tensor | None] = [None] * count
    for k in range(count - 1, -1, -1):
        bend, a_bar = kept.bends[k], inner[k]
        if each is not None:
            u = kept.along[k]
            u_bar = (u * each).mul_(2 * kept.curves[k])
            if t_bar is not None:
                u_bar.addcmul_(bend.first, t_bar)
                a_bar.addcmul_(bend.second, t_bar.mul_(u).sum(0))
            crossed(u_bar.flatten(0, 1), kept.tangents[k].flatten(0, 1), onto=out[k])
            if k or probes:
                t_bar = linear(u_bar, weights[k].t())
        if h_bar is not None:
            a_bar.addcmul_(bend.first, h_bar)
        crossed(a_bar, kept.hidden[k], onto=out[k])
        if biases[k]:
            bias_grads[k] = a_bar.sum(0)
        if k or rows:
            h_bar = matmul(a_bar, weights[k])
    return h_bar, t_bar, [*out, *bias_grads]


class _Slices(torch.autograd.Function):
    """(rows, probes; weights and biases) to the score and the slices."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, activations: Sequence[nn.Module], *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        score, slices, ctx.kept = _there(x, v, activations, parameters)
        # Neither inputs nor outputs, and never differentiated again: they may live on the context.
        ctx.has_bias = [bias is not None for bias in parameters[len(activations) + 1 :]]
        ctx.save_for_backward(*parameters[: len(activations) + 1])
        return score, slices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_score: Tensor, grad_slices: Tensor) -> Any:
        sliced = grad_slices if ctx.kept.along else None
        rows, probes = ctx.needs_input_grad[:2]
        x, v, out = _back(
            ctx.saved_tensors, ctx.has_bias, ctx.kept, grad_score, sliced, rows, probes
        )
        return (x if rows else None, v if probes else None, None, *out)


class _Raised(torch.autograd.Function):
    """(features; weights and biases of the layers above, own parameters) to the score of the rows."""

    @staticmethod
    def forward(
        ctx: Any, z: Lifted, activations: Sequence[nn.Module], *parameters: Tensor | None
    ) -> Tensor:
        count, own = len(activations), len(z.parameters)
        layers = parameters[: len(parameters) - own]
        g, _, ctx.kept = _there(z.features, z.features.new_empty(0), activations, layers)
        ctx.has_bias = [bias is not None for bias in layers[count + 1 :]]
        ctx.z, ctx.g = z, g
        # The features' own are with z; kept here too, a change of them in between is noticed.
        ctx.save_for_backward(*parameters[: count + 1], *z.parameters)
        return z.pull(g)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_score: Tensor) -> Any:
        z = cast(Lifted, ctx.z)
        # What a pull does to g, a push does to its gradient: they are transposes.
        up = z.push(grad_score[None])[0]
        weights = ctx.saved_tensors[: len(ctx.has_bias) + 1]
        features, _, out = _back(weights, ctx.has_bias, ctx.kept, up, None, True, False)
        own = z.parameter_gradients(cast(Tensor, features), ctx.g, grad_score)
        return (None, None, *out, *own)
