"""Energies made of energies are energies, and closed forms are what they say (grid and scipy)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from energyscape.autodiff import value_and_grad
from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.models import (
    BoxEnergy,
    ClassEnergy,
    ConfinedEnergy,
    DoubleWell,
    Energy,
    ExponentialFamily,
    FunctionEnergy,
    Funnel,
    MixtureEnergy,
    MixtureOfGaussians,
    NegatedEnergy,
    NormalisedEnergy,
    Rings,
    ScoreField,
)
from energyscape.nn import MLP, ResidualMLP

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(mean: float = 0.0) -> Energy:
    return FunctionEnergy(lambda x: 0.5 * (x - mean).square().sum(1))


def grid(half: float, n: int = 801) -> tuple[Tensor, float]:
    axis = torch.linspace(-half, half, n, dtype=F64)
    return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)


ENERGIES = {
    "mixture": MixtureEnergy([normal(-1.0), normal(2.0)], [0.3, 0.7]),
    "box": BoxEnergy(normal(), -5.0, 5.0),
    "negated": NegatedEnergy(normal(), -5.0, 5.0),
    "normalised": NormalisedEnergy(normal(), 1.0).double(),
    "gaussians": MixtureOfGaussians(eight_gaussians()),
    "double well": DoubleWell(3.0, 0.2),
    "funnel": Funnel(),
    "rings": Rings([1.0, 2.0], 0.3),
    "normal family": ExponentialFamily.normal(0.3, 1.2).double(),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_every_energy_has_one_value_a_row_and_the_gradient_of_its_value(name: str) -> None:
    energy = ENERGIES[name]
    x = torch.randn(6, 2, generator=generator(), dtype=F64)
    value, score = energy.energy_and_score(x)
    assert value.shape == (6,)
    h = 1e-5
    for d in range(2):
        shift = torch.zeros(2, dtype=F64)
        shift[d] = h
        slope = (energy(x + shift) - energy(x - shift)).detach() / (2 * h)
        torch.testing.assert_close(score[:, d], -slope, rtol=1e-6, atol=1e-6)
    one = torch.cat([energy(row[None]) for row in x]).detach()
    torch.testing.assert_close(one, value.detach())
    target = energy.at(None)
    torch.testing.assert_close(target.value_and_score(x)[0], -value)
    twice = (2.0 * energy).score(x) - (energy + energy).score(x)
    assert float(twice.abs().max()) < 1e-9


def test_mixture_is_the_sum_of_unnormalised_densities() -> None:
    """Against numpy; and far away, where every exp(-E) is zero, it stays finite."""
    energy, x = ENERGIES["mixture"], torch.linspace(-4, 6, 9, dtype=F64)[:, None]
    parts = 0.3 * np.exp(-0.5 * (x.numpy() + 1) ** 2) + 0.7 * np.exp(-0.5 * (x.numpy() - 2) ** 2)
    np.testing.assert_allclose(energy(x).numpy(), -np.log(parts[:, 0]), rtol=1e-12)
    far = torch.tensor([[1e3]], dtype=F64)
    assert bool(energy(far).isfinite().all())
    assert energy.log_ratio(x, x).abs().max() == 0
    with pytest.raises(ValueError, match="one positive weight per energy"):
        MixtureEnergy([normal()], [0.5, 0.5])
    with pytest.raises(ValueError, match="one positive weight per energy"):
        MixtureEnergy([])


def test_a_box_is_infinite_outside_with_a_score_free_of_nan() -> None:
    roots = FunctionEnergy(lambda x: -x.log().sum(1))
    box = BoxEnergy(roots, 0.5, torch.tensor([1.0, 2.0]))
    x = torch.tensor([[0.7, 1.5], [-1.0, 1.0], [0.7, 3.0]], dtype=F64)
    energy, score = box.energy_and_score(x)
    assert energy.isinf().tolist() == [False, True, True]
    torch.testing.assert_close(score[0], 1 / x[0])
    assert not bool(score.isnan().any())
    assert box.inside(torch.tensor([[0.5, 2.0]])).item()
    with pytest.raises(ValueError, match="lower < upper"):
        BoxEnergy(normal(), 1.0, 1.0)


def test_walls_are_handed_on_by_the_algebra() -> None:
    """Sums intersect boxes, mixtures enclose them; unadjusted Langevin reads them off the target."""
    left, right = BoxEnergy(normal(), -1.0, 2.0), BoxEnergy(normal(), 0.0, math.inf)
    wide = BoxEnergy(BoxEnergy(normal(), 0.0, 5.0), -3.0, 4.0)
    for energy, expected in (
        (left + right + normal(), (0.0, 2.0)),
        (3.0 * left, (-1.0, 2.0)),
        (ConfinedEnergy(NormalisedEnergy(left), 2.0), (-1.0, 2.0)),
        (MixtureEnergy([left, right]), (-1.0, math.inf)),
        (wide, (0.0, 4.0)),
    ):
        assert energy.box is not None
        assert tuple(float(b) for b in energy.box) == expected
    assert MixtureEnergy([left, normal()]).box is None
    assert (normal() + normal()).box is None
    # At a wall the score is the whole slope from inside.
    at_walls = torch.tensor([[-1.0], [2.0]], dtype=F64)
    torch.testing.assert_close(left.score(at_walls), -at_walls)


def test_operators_are_the_algebra_or_say_what_is() -> None:
    x = torch.tensor([[1.0]], dtype=F64)
    assert (normal() / 4.0)(x).item() == 0.125
    assert sum([normal(), normal()])(x).item() == 1.0  # type: ignore[operator]
    with pytest.raises(ValueError, match="NegatedEnergy"):
        -normal()
    with pytest.raises(ValueError, match="positive factor"):
        normal() / 0.0
    with pytest.raises(TypeError, match="unsupported operand"):
        normal() * normal()  # type: ignore[operator]


def test_negation_is_guarded() -> None:
    x = torch.tensor([[1.0], [9.0]], dtype=F64)
    negated = NegatedEnergy(normal(), -2.0, 2.0)
    assert negated(x).tolist() == [-0.5, math.inf]
    with pytest.raises(ValueError, match="finite box"):
        NegatedEnergy(normal(), -math.inf, 2.0)
    with pytest.raises(ValueError, match="positive factor"):
        -1.0 * normal()


def test_products_of_gaussians_are_gaussians() -> None:
    """N(-1, 1) N(2, 1) is proportional to N(1/2, 1/2): energies differ by a constant."""
    x = torch.linspace(-3, 3, 7, dtype=F64)[:, None]
    product = normal(-1.0) + normal(2.0)
    expected = (x[:, 0] - 0.5).square()
    difference = product(x) - expected
    torch.testing.assert_close(difference, difference[0].expand(7))


def test_gaussian_energies_are_normalised_at_every_level() -> None:
    energy, (points, cell) = MixtureOfGaussians(eight_gaussians()), grid(14.0, 401)
    for sigma in (0.3, 1.0, 2.0):
        total = float((-energy(points, sigma)).exp().sum() * cell)
        assert total == pytest.approx(1.0, abs=1e-6)
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    value, grad = value_and_grad(lambda z: energy(z, 0.5), x)
    torch.testing.assert_close(energy.energy_and_score(x, 0.5), (value, -grad))
    p = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    assert MixtureOfGaussians(p)(torch.zeros(1, 2)).dtype == torch.float32


def test_the_funnel_is_normalised_and_its_draws_have_its_moments() -> None:
    """Grid integral in 2-D at scale 1; mean energy over 40,000 draws in 3-D is the entropy,
    D/2 (1 + log 2 pi) + log(scale), within 5 standard errors (6e-7)."""
    funnel, (points, cell) = Funnel(1.0), grid(9.0, 1201)
    assert float((-funnel(points)).exp().sum() * cell) == pytest.approx(1.0, abs=2e-2)
    funnel = Funnel(3.0)
    x = funnel.sample(40_000, 3, generator())
    energy = funnel(x)
    entropy = 1.5 * (1 + math.log(2 * math.pi)) + math.log(3.0)
    # The mean of (rest)v/2 is 0; its spread joins that of the chi-squares.
    assert abs(energy.mean().item() - entropy) < 5 * energy.std().item() / 200


def test_rings_and_wells_have_their_minima_where_stated() -> None:
    rings = Rings([1.0, 3.0], 0.1)
    on, off = rings(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), rings(torch.tensor([[2.0, 0.0]]))
    assert float(on.abs().max()) < 1e-6
    assert off.item() > 40
    assert bool(rings.score(torch.zeros(1, 2)).isfinite().all())
    well = DoubleWell(5.0)
    assert well(torch.tensor([[0.0], [1.0], [-1.0]])).tolist() == [5.0, 0.0, 0.0]
    for bad in (lambda: Rings([]), lambda: DoubleWell(-1.0), lambda: Funnel(0.0)):
        with pytest.raises(ValueError, match="positive"):
            bad()
    with pytest.raises(ValueError, match="sigma = 0"):
        well(torch.zeros(1, 1), 1.0)


def test_exponential_families_are_scipys_up_to_log_z() -> None:
    rate, x = 3.5, torch.arange(12, dtype=F64)[:, None]
    poisson = ExponentialFamily.poisson(rate).double()
    expected = stats.poisson.logpmf(x[:, 0].numpy(), rate)
    np.testing.assert_allclose(-poisson(x).detach().numpy() - rate, expected, rtol=1e-6)
    assert poisson(torch.tensor([[-1.0], [0.5]], dtype=F64)).detach().isinf().all()
    gamma = ExponentialFamily.gamma(2.5, 1.5).double()
    y = torch.tensor([[0.3], [1.0], [4.0]], dtype=F64)
    ratio = stats.gamma.logpdf(y[:, 0].numpy(), 2.5, scale=1 / 1.5) + gamma(y).detach().numpy()
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert gamma(torch.tensor([[-1.0]], dtype=F64)).detach().isinf().all()
    gauss = ExponentialFamily.normal(0.4, 1.3).double()
    ratio = stats.norm.logpdf(y[:, 0].numpy(), 0.4, 1.3) + gauss(y).detach().numpy()
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    for bad in (
        lambda: ExponentialFamily.poisson(0.0),
        lambda: ExponentialFamily.normal(0.0, -1.0),
        lambda: ExponentialFamily.gamma(1.0, 0.0),
    ):
        with pytest.raises(ValueError, match="positive"):
            bad()


def test_an_energy_given_its_class_is_that_classes_energy() -> None:
    torch.manual_seed(0)
    net = ResidualMLP((2,), width=8, blocks=1, scalar=True, noise=False, num_labels=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    energy, x = ClassEnergy(net), torch.randn(4, 2, generator=generator())
    label = torch.tensor([0, 1, 2, -1])
    together = energy.given(label)(x)
    for i in range(4):
        torch.testing.assert_close(energy.given(int(label[i]))(x[i : i + 1])[0], together[i])
    torch.testing.assert_close(energy(x)[3], together[3])
    assert together[:3].unique().numel() == 3


def test_a_field_refuses_another_shape_and_divides_by_its_level() -> None:
    with pytest.raises(ValueError, match="shape of x"):
        ScoreField(MLP((2,), width=4, scalar=True))(torch.zeros(3, 2))
    net = MLP((2,), width=4, noise=True)
    x, sigma = torch.randn(3, 2, generator=generator()), torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(
        ScoreField(net).score(x, sigma) * sigma[:, None], net(x, sigma.log())
    )
    assert ScoreField(MLP((2,), width=4)).at().value_and_score(x)[0] is None
