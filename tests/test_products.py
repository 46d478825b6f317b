"""Products by oneDNN: the numbers and every derivative are those of torch's own operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape import products
from energyscape.models import NetworkEnergy
from energyscape.nn import MLP
from energyscape.products import Linear, crossed, linear, matmul

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The way by oneDNN on any machine that has it; a list of the products that went it."""
    seen: list[tuple[int, ...]] = []
    product = products._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((*x.shape, weight.shape[0]))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "_AHEAD", True)
    monkeypatch.setattr(products, "_product", watched)
    return seen


def parts(rows: int = 600, columns: int = 128, out: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=rng) for s in ((rows, columns), (out, columns), (out,)))  # type: ignore[return-value]


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """oneDNN as a user's `torch.backends.mkldnn.flags` leaves it, which warns where there is no GPU."""
    torch._C._set_mkldnn_enabled(on)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


def near(a: Tensor, b: Tensor) -> bool:
    """Equal to float32's rounding of sums over hundreds of terms."""
    return bool((a - b).abs().max() <= 2e-5 * b.abs().max())


@needs_onednn
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("lead", [(600,), (5, 120)])
def test_value_and_two_derivatives_are_those_of_torch(
    taken: list[tuple[int, ...]], biased: bool, lead: tuple[int, ...]
) -> None:
    x, weight, bias = parts()

    def found(product: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        z, w, b = (t.to(dtype).requires_grad_() for t in (x, weight, bias))
        y = product(z.view(*lead, -1), w, b if biased else None)
        asked = (z, w, b) if biased else (z, w)
        first = torch.autograd.grad(y.square().sum(), asked, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), asked)  # type: ignore[arg-type]
        return [y, *first, *second]

    ours, exact = found(linear, torch.float32), found(F.linear, torch.float64)
    assert len(taken) >= 6  # the product, both its gradients, and theirs
    for a, b in zip(ours, exact, strict=True):
        assert near(a.double(), b)


@needs_onednn
def test_matrices_turned_either_way(taken: list[tuple[int, ...]]) -> None:
    x, weight, _ = parts()
    assert near(matmul(x, weight.t()), x @ weight.t())
    y = x @ weight.t()
    assert near(matmul(y, weight), y @ weight)
    assert near(crossed(y, x), y.t() @ x)
    onto = torch.ones(160, 128)
    assert crossed(y, x, onto=onto) is onto
    assert near(onto, y.t() @ x + 1)
    assert len(taken) == 4


@needs_onednn
@pytest.mark.parametrize(
    "laid",
    [
        lambda x: x,
        lambda x: x.t().contiguous().t(),
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
        lambda x: x.repeat_interleave(2, 0)[::2],
        lambda x: F.pad(x, (3, 1))[..., 3:-1],
        lambda x: x[:1].expand(x.shape),
        lambda x: x[..., :1].expand(x.shape),
    ],
)
def test_operands_may_lie_in_memory_as_they_like(
    taken: list[tuple[int, ...]], laid: Callable[[Tensor], Tensor]
) -> None:
    x, weight, bias = parts()
    for a, w, b in ((laid(x), weight, bias), (x, laid(weight), bias), (x, weight, laid(bias))):
        assert near(linear(a, w, b), F.linear(a, w, b))
    assert near(matmul(laid(x), weight.t()), laid(x) @ weight.t())
    assert len(taken) == 4


@needs_onednn
def test_what_is_given_no_gradient_takes_none(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = parts()
    with torch.no_grad():
        assert not linear(x, weight.requires_grad_(), bias).requires_grad
    y = linear(x, weight, bias)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert weight.grad is not None
    assert len(taken) == 3  # twice the product, once the weight's gradient


@needs_onednn
@pytest.mark.parametrize("kind", ["float64", "few rows", "few columns", "switched off", "autocast"])
def test_others_are_torchs_to_the_last_bit(taken: list[tuple[int, ...]], kind: str) -> None:
    x, weight, bias = parts()
    if kind == "float64":
        x, weight, bias = x.double(), weight.double(), bias.double()
    elif kind == "few rows":
        x = x[:20]
    elif kind == "few columns":
        x, weight = torch.randn(100_000, 8), torch.randn(160, 8)
    with (
        switched(kind != "switched off"),
        torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"),
    ):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
        assert torch.equal(matmul(x, weight.t()), torch.mm(x, weight.t()))
    assert not taken


@needs_onednn
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script:DeprecationWarning"
)  # torch's own decompositions
def test_transforms_and_forward_mode_see_torchs_operator(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = parts()
    many = torch.stack([x, 2 * x])
    assert torch.equal(
        torch.func.vmap(lambda z: linear(z, weight, bias))(many),
        torch.func.vmap(lambda z: F.linear(z, weight, bias))(many),
    )
    value, slope = torch.func.jvp(lambda z: linear(z, weight, bias), (x,), (x,))
    assert near(slope, value - bias)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        there = torch.autograd.forward_ad.unpack_dual(linear(dual, weight, bias))
        assert there.tangent is not None
        assert near(there.tangent, value - bias)
    assert not taken


@needs_onednn
def test_a_compiled_graph_takes_it_where_nothing_is_learned(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = parts()
    held: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        held.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(linear, backend=backend, fullgraph=True, dynamic=False)
    with torch.no_grad():
        assert near(run(x, weight, bias), F.linear(x, weight, bias))
    own = torch.ops.energyscape.linear
    assert held.count(own) + held.count(own.default) == 1
    weight.requires_grad_()
    run(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert near(weight.grad, torch.ones(160, 1) @ x.sum(0, keepdim=True))
    assert held.count(own) + held.count(own.default) == 1
    layer = Linear(128, 160)
    many = torch.compile(torch.func.vmap(layer), backend="eager")
    with torch.no_grad():
        assert near(many(torch.stack([x, 2 * x]))[1], F.linear(2 * x, layer.weight, layer.bias))


@needs_onednn
def test_a_network_gives_the_same_energy_score_and_loss(taken: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    net = MLP((20,), width=128, depth=3, scalar=True)
    assert sum(type(layer) is Linear for layer in net.layers) == 4
    x, energy = torch.randn(700, 20), NetworkEnergy(net)

    def found() -> list[Tensor]:
        net.zero_grad()
        value, score = energy.energy_and_score(x)
        v = torch.ones(1, *x.shape)
        learned, slices = energy.score_and_slices(x, v, create_graph=True)
        (learned.square().sum() + slices.sum()).backward()  # type: ignore[no-untyped-call]
        grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        return [value, score, learned, slices, *grads]

    ours = found()
    assert taken
    with switched(False):
        torchs = found()
    for a, b in zip(ours, torchs, strict=True):
        assert near(a, b)


def test_machines_without_the_gain_keep_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products._ahead()
    layer = Linear(3, 2)
    assert isinstance(layer, nn.Linear)
    assert torch.equal(
        layer(torch.ones(1, 3)), F.linear(torch.ones(1, 3), layer.weight, layer.bias)
    )
