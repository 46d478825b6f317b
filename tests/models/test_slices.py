"""Scores and slices of perceptrons by hand: the numbers and the gradients of autograd."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from energyscape.families import networks
from energyscape.families.networks import WaveMLP
from energyscape.models import ConfinedEnergy, Energy, NetworkEnergy
from energyscape.models.slices import score_and_slices_by_layers
from energyscape.nn import MLP, ResidualMLP
from energyscape.objectives import DenoisingScoreMatching, ExactScoreMatching, SlicedScoreMatching

ACTIVATIONS = [nn.SiLU(), nn.Tanh(), nn.Softplus(beta=1.5), nn.ELU(0.7), nn.GELU()]


class _Autograd(Energy):
    """The same energy, unknown to the short cuts."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        return self.energy(x, sigma)


def _sequence(activation: nn.Module, bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [nn.Linear(3, 7, bias=bias), nn.Linear(7, 5, bias=bias), nn.Linear(5, 6)]
    layers = [part for linear in sizes for part in (linear, activation)]
    return nn.Sequential(*layers, nn.Linear(6, 1)).double()


def _gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_values_and_gradients_are_those_of_autograd(activation: nn.Module, bias: bool) -> None:
    network = _sequence(activation, bias)
    rng = torch.Generator().manual_seed(1)
    shape = {"generator": rng, "dtype": torch.float64}
    x, v = 2 * torch.randn(9, 3, **shape), torch.randn(4, 9, 3, **shape)
    weights = torch.randn(9, 3, **shape), torch.randn(4, 9, **shape)

    def scalar(score: Tensor, slices: Tensor) -> Tensor:
        return (weights[0] * score.square() + score).sum() + (weights[1] * slices).sum()

    found = score_and_slices_by_layers(network, x, v)
    assert found is not None
    expected = _Autograd(NetworkEnergy(network)).score_and_slices(x, v, create_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    mine, theirs = (_gradients(scalar(*pair), network) for pair in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("objective", [None, ExactScoreMatching(), DenoisingScoreMatching(0.3)])
def test_layers_on_waves_are_those_of_autograd(objective) -> None:  # type: ignore[no-untyped-def]
    """Also the waves' own frequencies and phases get their gradient."""
    torch.manual_seed(0)
    energy = NetworkEnergy(WaveMLP((3,), width=5, scalar=True)).double()
    assert score_and_slices_by_layers(energy.network, torch.zeros(2, 3).double()) is not None
    x, v = torch.randn(7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    out = []
    for model in (energy, _Autograd(energy)):
        if objective is None:
            score, along = model.score_and_slices(x, v, create_graph=True)
            loss = torch.cat([(score**3).sum(1), (along * v.sum(2)).sum(0)])
        else:
            loss = objective(model, x, None, torch.Generator().manual_seed(2)).loss
        gradients = _gradients(loss.sum(), energy)
        assert all(bool((g != 0).any()) for g in gradients[:-1])
        out.append((loss, gradients))
    torch.testing.assert_close(*out, rtol=1e-11, atol=1e-12)
    mine, theirs = energy.energy_and_score(x), _Autograd(energy).energy_and_score(x)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_a_wave_changed_before_its_gradient_is_noticed() -> None:
    energy = NetworkEnergy(WaveMLP((3,), width=5, scalar=True))
    score = energy.score(torch.ones(2, 3), create_graph=True)
    with torch.no_grad():
        energy.network.frequency.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        score.sum().backward()


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_waves_made_of_another_parameter_get_their_gradient() -> None:
    torch.manual_seed(0)
    energy = NetworkEnergy(WaveMLP((3,), width=5, scalar=True)).double()
    parametrize.register_parametrization(energy.network, "frequency", _Doubled())
    _same_scores(energy)


def test_a_linear_energy_of_waves_has_its_gradient() -> None:
    torch.manual_seed(0)
    _same_scores(NetworkEnergy(WaveMLP((3,), width=5, depth=0, scalar=True)).double())


def _same_scores(energy: NetworkEnergy) -> None:
    x = torch.randn(7, 3, dtype=torch.float64)
    out = []
    for model in (energy, _Autograd(energy)):
        score = model.score(x, create_graph=True)
        out.append((score, _gradients((score**3).sum(), energy)))
    torch.testing.assert_close(*out, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "objective",
    [
        SlicedScoreMatching(),
        SlicedScoreMatching(3, "gaussian", variance_reduced=False),
        DenoisingScoreMatching(0.3, antithetic=True),
    ],
    ids=lambda o: type(o).__name__,
)
def test_losses_of_pictures_confined_are_those_of_autograd(objective) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network = MLP((1, 2, 3), width=8, scalar=True)
    energy = ConfinedEnergy(NetworkEnergy(network), 2.0, torch.full((1, 2, 3), 0.5)).double()
    x = torch.randn(5, 1, 2, 3, dtype=torch.float64)
    out = []
    for model in (energy, _Autograd(energy)):
        loss = objective(model, x, None, torch.Generator().manual_seed(2)).loss
        out.append((loss, _gradients(loss.sum(), energy)))
        with torch.no_grad():
            again = objective(model, x, None, torch.Generator().manual_seed(2)).loss
        assert not again.requires_grad
        torch.testing.assert_close(again, loss.detach())
    torch.testing.assert_close(*out, rtol=1e-11, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences() -> None:
    network = _sequence(nn.SiLU(), bias=True)
    x, v = torch.randn(2, 3, dtype=torch.float64), torch.ones(2, 2, 3, dtype=torch.float64)
    names = [name for name, _ in network.named_parameters()]

    def outputs(*values: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            for name, value in zip(names, values, strict=True):
                network.get_parameter(name).copy_(value)
        found = score_and_slices_by_layers(network, x, v)
        assert found is not None
        return found

    # Central differences of every parameter against the gradient of a random contrast.
    values = [p.detach().clone() for p in network.parameters()]
    a, b = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)

    def contrast(values: list[Tensor]) -> Tensor:
        score, slices = outputs(*values)
        return (a * score).sum() + (b * slices).sum()

    gradient = _gradients(contrast(values), network)
    for i in range(len(values)):
        move = torch.zeros_like(values[i])
        move.view(-1)[0] = 1e-5
        ahead, behind = ([*values[:i], values[i] + s * move, *values[i + 1 :]] for s in (1, -1))
        slope = (contrast(ahead) - contrast(behind)).detach() / 2e-5
        torch.testing.assert_close(gradient[i].view(-1)[0], slope, rtol=1e-7, atol=1e-8)


def test_what_it_does_not_know_is_left_to_autograd() -> None:
    x = torch.zeros(2, 3)
    assert score_and_slices_by_layers(nn.Sequential(nn.Linear(3, 1)), x) is not None
    for network in (
        ResidualMLP((3,), width=4, blocks=1, scalar=True, noise=False),
        nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh"), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)),
    ):
        assert score_and_slices_by_layers(network, x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert score_and_slices_by_layers(_sequence(nn.SiLU(), True), x) is None


def test_waves_and_their_slopes_share_derivatives() -> None:
    """Gradients of both orders, by differences, and the same numbers without a graph."""
    make = torch.Generator().manual_seed(0)
    x, frequency, phase = (
        torch.randn(shape, generator=make, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 2), (3, 2), (3,))
    )
    angle = x @ frequency.T + phase
    expected = torch.cat([x, angle.sin()], 1), angle.cos()
    torch.testing.assert_close(networks._Features.apply(x, frequency, phase), expected)
    torch.testing.assert_close(networks._features(x, frequency, phase), expected)
    assert torch.autograd.gradcheck(networks._Features.apply, (x, frequency, phase))
    assert torch.autograd.gradgradcheck(networks._Features.apply, (x, frequency, phase))


def _by_hand(node):  # type: ignore[no-untyped-def]
    """The nearest node of a graph whose gradient is written by hand."""
    while not isinstance(node, torch.autograd.function.BackwardCFunction):
        node = next(before for before, _ in node.next_functions if before is not None)
    return node


def test_what_a_gradient_needs_is_let_go_with_its_score() -> None:
    """No output is kept by its own graph: memory must not wait for the collector of cycles."""
    x, probes = torch.zeros(4, 3), torch.ones(2, 4, 3)
    gc.collect()
    gc.disable()
    try:
        for net in (MLP((3,), width=8, scalar=True), WaveMLP((3,), width=8, scalar=True)):
            for given in (None, probes):
                found = score_and_slices_by_layers(net, x, given)
                assert found is not None
                node = weakref.ref(_by_hand(found[0].grad_fn))
                (found[0].sum() + found[1].sum()).backward()
                del found
                assert node() is None
    finally:
        gc.enable()
