"""The energy face: differences are ratios, sums are products, and a preconditioned energy is EDM's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from energyscape.autodiff import value_and_grad
from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.families.networks import WaveMLP
from energyscape.models import (
    ConfinedEnergy,
    EDMPreconditioning,
    Energy,
    EnergyDenoiser,
    FunctionEnergy,
    MixtureOfGaussians,
    NetworkEnergy,
    PreconditionedEnergy,
    ScaledEnergy,
    SumEnergy,
    layered,
)
from energyscape.models.layered import energy_and_score_by_layers
from energyscape.nn import MLP

F64 = torch.float64
SD = 1.3
LEVELS = torch.tensor([0.01, 0.3, 2.0, 80.0], dtype=F64)


def points(n: int = 4, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(*, noise: bool, scalar: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MLP((2,), width=8, depth=2, noise=noise, scalar=scalar).double()


def gaussian(mean: tuple[float, float], variance: float) -> Energy:
    p = GaussianMixture.isotropic(torch.tensor([mean]), math.sqrt(variance))
    return MixtureOfGaussians(p)


def test_score_is_minus_the_gradient_and_differences_are_ratios() -> None:
    p = eight_gaussians()
    energy = FunctionEnergy(lambda x: -p.log_prob(x) + 17.0)  # the constant is free
    a, b = points(), points(seed=1)
    torch.testing.assert_close(energy.score(a), p.score(a))
    torch.testing.assert_close(energy.log_ratio(a, b), p.log_prob(a) - p.log_prob(b))
    torch.testing.assert_close(energy.log_ratio(a, b), -energy.log_ratio(b, a))
    leveled = MixtureOfGaussians(p)
    ratio = p.log_prob(a, LEVELS) - p.log_prob(b, LEVELS)
    torch.testing.assert_close(leveled.log_ratio(a, b, LEVELS), ratio)


def test_a_product_of_experts_and_a_temperature_are_gaussians_again() -> None:
    """N(m, v) N(n, w) ~ N((m w + n v)/(v + w), v w/(v + w)); N(m, v)^f ~ N(m, v/f): by scores, which
    determine a density."""
    x, (v, w, f) = points(), (0.5, 2.0, 0.25)
    product = gaussian((1.0, -1.0), v) + gaussian((-2.0, 3.0), w)
    mean = ((1.0 * w - 2.0 * v) / (v + w), (-1.0 * w + 3.0 * v) / (v + w))
    torch.testing.assert_close(product.score(x), gaussian(mean, v * w / (v + w)).score(x))
    hot = f * gaussian((1.0, -1.0), v)
    torch.testing.assert_close(hot.score(x), gaussian((1.0, -1.0), v / f).score(x))
    torch.testing.assert_close((gaussian((0.0, 0.0), v) * f)(x), f * gaussian((0.0, 0.0), v)(x))


def test_algebra_passes_levels_and_parameters_on() -> None:
    """Sums and scalings are linear in the energies at every level, associative, and modules whose
    parameters are those of their parts."""
    one = PreconditionedEnergy(network(noise=True), SD)
    two, x = MixtureOfGaussians(eight_gaussians()), points()
    total = one + 0.5 * two + two
    torch.testing.assert_close(total(x, LEVELS), one(x, LEVELS) + 1.5 * two(x, LEVELS))
    torch.testing.assert_close(total.score(x, LEVELS), (two + (one + 0.5 * two)).score(x, LEVELS))
    torch.testing.assert_close(SumEnergy(one, two)(x, 0.3), (one + two)(x, 0.3))
    assert {id(p) for p in total.parameters()} == {id(p) for p in one.parameters()}


def test_a_score_with_its_graph_trains_and_one_without_has_none() -> None:
    energy, x = NetworkEnergy(network(noise=False)), points()
    value, score = energy.energy_and_score(x, create_graph=True)
    score.square().sum().backward()
    grads = [p.grad for p in energy.parameters() if p.grad is not None]
    assert any(float(g.abs().max()) > 0 for g in grads)
    assert value.requires_grad
    assert not energy.score(x).requires_grad
    target = energy.at()
    assert not any(t is None or t.requires_grad for t in target.value_and_score(x))


def test_a_confined_energy_is_the_product_with_a_wide_gaussian() -> None:
    x, centre = points(), torch.tensor([0.1, -0.3], dtype=F64)
    flat = FunctionEnergy(lambda z: 0 * z.sum(1))
    confined = ConfinedEnergy(flat, 5.0, centre)
    expected = gaussian((0.1, -0.3), 25.0)
    torch.testing.assert_close(confined.score(x), expected.score(x), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(
        confined.log_ratio(x, -x), expected.log_ratio(x, -x), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        ConfinedEnergy(flat, 5.0, 0.1)(x), (x - 0.1).square().sum(1) / 50, rtol=1e-12, atol=0
    )
    pictures = x.reshape(2, 1, 2, 2)
    assert ConfinedEnergy(FunctionEnergy(lambda z: z.flatten(1).sum(1)), 1.0)(pictures).shape == (
        2,
    )


def test_a_preconditioned_energys_denoiser_is_edms_with_a_gradient_for_a_network() -> None:
    """D = c_skip x + c_out grad f(c_in x, c_noise), at every level."""
    f, x = network(noise=True), points()
    energy = PreconditionedEnergy(f, SD)
    c = EDMPreconditioning(SD).coefficients(LEVELS[:, None])
    _, grad = value_and_grad(lambda z: f(z, c.c_noise[:, 0]), c.c_in * x)
    found = EnergyDenoiser(energy)(x, LEVELS)
    torch.testing.assert_close(found, c.c_skip * x + c.c_out * grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        energy.score(x, 0.3), (EnergyDenoiser(energy)(x, 0.3) - x) / 0.3**2, rtol=1e-9, atol=1e-9
    )


def test_without_a_network_a_preconditioned_energy_is_the_blurred_gaussian() -> None:
    """f = 0 leaves N(0, (sd^2 + sigma^2) I), best where only the scale is known."""

    class Nothing(nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
            return 0 * z.sum(1)

    x = points()
    energy = PreconditionedEnergy(Nothing(), SD)
    p = GaussianMixture.isotropic(torch.zeros(1, 2), SD)
    torch.testing.assert_close(energy.score(x, LEVELS), p.score(x, LEVELS))


def test_a_network_energy_sees_the_logarithm_of_its_level() -> None:
    f, x = network(noise=True), points()
    torch.testing.assert_close(NetworkEnergy(f)(x, LEVELS), f(x, LEVELS.log()))
    torch.testing.assert_close(NetworkEnergy(f)(x, 0.3), f(x, torch.full((4,), 0.3).double().log()))
    column = NetworkEnergy(nn.Linear(2, 1).double())
    assert column(x).shape == (4,)


FLAT = FunctionEnergy(lambda x: x.sum(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: FunctionEnergy(lambda z: z.sum())(x),
            r"one value a row, shape \(4,\).*got \(\)",
        ),
        (lambda x: FunctionEnergy(lambda z: z)(x), r"one value a row.*got \(4, 2\)"),
        (lambda x: NetworkEnergy(nn.Linear(2, 3).double())(x), r"one value a row.*got \(4, 3\)"),
        (
            lambda x: PreconditionedEnergy(network(noise=True, scalar=False), SD)(x, 1.0),
            "one value",
        ),
        (lambda x: PreconditionedEnergy(network(noise=True), SD)(x), "needs its level"),
        (lambda x: PreconditionedEnergy(network(noise=True), 0.0), "sigma_data must be positive"),
        (lambda x: FLAT(x, 1.0), "takes no sigma"),
        (lambda x: ScaledEnergy(FLAT, 0.0), "positive factor"),
        (lambda x: FLAT * -1.0, "positive factor"),
        (lambda x: FLAT * math.inf, "positive factor"),
        (lambda x: FLAT * math.nan, "positive factor"),
        (lambda x: SumEnergy(), "at least one"),
        (lambda x: ConfinedEnergy(FLAT, 0.0), "confining scale must be positive"),
        (lambda x: NetworkEnergy(network(noise=True))(x, torch.ones(3)), r"one per row \(4\)"),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(points())


def plain(activation: nn.Module, depth: int = 2) -> nn.Sequential:
    """A perceptron from 2 numbers to 1, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        hidden = [nn.Linear(2, 9), activation]
        for _ in range(depth - 1):
            hidden += [nn.Linear(9, 9), activation]
        return nn.Sequential(*hidden, nn.Linear(9, 1)).double()


@pytest.mark.parametrize(
    "activation",
    [nn.SiLU(), nn.Tanh(), nn.Softplus(beta=2.0), nn.ELU(0.7), nn.GELU(), nn.GELU("tanh")],
)
def test_a_perceptrons_own_chain_rule_is_autograds(
    activation: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and score of every activation, in one part and in many, alone and inside sums, scalings
    and confinements, are those of autograd."""
    net, x = plain(activation), points(50)
    energy = NetworkEnergy(net)
    for composed in (
        energy,
        2.5 * ConfinedEnergy(energy, 1.7, torch.tensor([0.3, -1.0])) + gaussian((1.0, 0.0), 2.0),
    ):
        value, grad = value_and_grad(composed, x)
        for numbers in (1 << 18, 64):
            monkeypatch.setattr(layered, "_PART", numbers)
            found, score = composed.energy_and_score(x)
            torch.testing.assert_close(found, value)
            torch.testing.assert_close(score, -grad)
            assert not found.requires_grad
            assert not score.requires_grad
    assert energy_and_score_by_layers(net, x) is not None


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 20])
@pytest.mark.parametrize("numbers", [1 << 18, 1 << 12])
def test_large_batches_of_a_perceptron_are_autograds(
    columns: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster ways of many rows: one exponential a SiLU, a padded product, parts in one memory."""
    monkeypatch.setattr(layered, "_PART", numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Linear(columns, 40, bias=False), nn.SiLU(), nn.Linear(40, 30), nn.SiLU(),
            nn.Linear(30, 24), nn.Softplus(), nn.Linear(24, 1),
        ).double()  # fmt: skip
    x = 20 * torch.randn(700, columns, generator=torch.Generator().manual_seed(0), dtype=F64)
    value, grad = value_and_grad(lambda z: net(z).squeeze(1), x)
    found, score = NetworkEnergy(net).energy_and_score(x)
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(score, -grad)
    assert float(grad.abs().max()) > 0.01


@pytest.mark.parametrize("rows", [255, 256, 3000])
def test_narrow_layers_and_wide_features_fit_the_memory_of_parts(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers narrower than a padded product, and waves that are more than any layer has units."""
    monkeypatch.setattr(layered, "_PART", 1 << 12)
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for net in (plain(nn.SiLU()), WaveMLP((2,), width=9, scalar=True).double()):
        value, grad = value_and_grad(lambda z, net=net: net(z).reshape(-1), x)
        found, score = NetworkEnergy(net).energy_and_score(x)
        torch.testing.assert_close(found, value)
        torch.testing.assert_close(score, -grad)
        assert score.is_contiguous()


def test_only_plain_perceptrons_leave_autograd() -> None:
    """Anything that is not exactly a sequence of known layers is differentiated as it is."""
    x = points(6)
    hooked = plain(nn.SiLU())
    hooked[0].register_forward_hook(lambda module, args, out: 2 * out)

    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    odd = nn.Sequential(Twice(2, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    deep = nn.Sequential(plain(nn.SiLU()), nn.Softplus(), nn.Linear(1, 1).double())
    for net in (hooked, odd, deep, network(noise=False, scalar=False)):
        assert energy_and_score_by_layers(net, x) is None
    for net in (hooked, odd, deep):
        _, grad = value_and_grad(lambda z, net=net: net(z).squeeze(1), x)
        torch.testing.assert_close(NetworkEnergy(net).score(x), -grad)

    class Tilted(NetworkEnergy):
        def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
            return super().forward(x, sigma) + x.sum(1)

    net = plain(nn.SiLU())
    torch.testing.assert_close(Tilted(net).score(x), NetworkEnergy(net).score(x) - 1)
    normed = nn.Sequential(*(spectral_norm(m) if i % 2 == 0 else m for i, m in enumerate(net)))
    _, grad = value_and_grad(lambda z: normed.eval()(z).squeeze(1), x)
    torch.testing.assert_close(NetworkEnergy(normed).score(x), -grad)
    assert energy_and_score_by_layers(normed, x) is not None


def test_a_flattening_perceptron_gives_scores_in_the_shape_of_its_rows() -> None:
    net = MLP((1, 2, 3), width=8, scalar=True).double()
    x = torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    value, grad = value_and_grad(net, x)
    found = energy_and_score_by_layers(net, x)
    assert found is not None
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], -grad)


def test_how_many_rows_at_once_is_known_of_networks_alone() -> None:
    """Of a sum only if of every part, in a moment however deep it is nested, and by asking nothing of a
    parametrised weight; a function may hold something for each row."""
    net = NetworkEnergy(plain(nn.SiLU()))
    x = points(3)
    rows = net.rows_at_once(x)
    assert rows is not None
    assert (2.0 * ConfinedEnergy(net, 1.0)).rows_at_once(x) == rows
    deep = net
    for _ in range(40):
        deep = deep + net
    assert deep.rows_at_once(x) == rows
    assert (deep + gaussian((0.0, 0.0), 1.0)).rows_at_once(x) is None
    assert FunctionEnergy(lambda z: z.sum(1)).rows_at_once(x) is None

    class OfEachChain(NetworkEnergy):
        """A user's own, with something for each row."""

    assert OfEachChain(net.network).rows_at_once(x) is None
    normed = nn.Sequential(spectral_norm(nn.Linear(2, 4)), nn.SiLU(), nn.Linear(4, 1)).train()
    before = [b.clone() for b in normed.buffers()]
    NetworkEnergy(normed).rows_at_once(x)
    assert all(torch.equal(a, b) for a, b in zip(before, normed.buffers(), strict=True))
