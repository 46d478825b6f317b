"""A reference tilted by an energy: value, score and draws of the mixture, classes and files."""

from __future__ import annotations

import math

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.models import (
    ClassEnergy,
    ConfinedEnergy,
    FunctionEnergy,
    NetworkEnergy,
    TiltedEnergy,
)
from energyscape.nn import MLP, ResidualMLP
from energyscape.objectives import NoiseContrastive


def mixture(dim: int = 4) -> GaussianMixture:
    rng = torch.Generator().manual_seed(0)
    a, means = (torch.randn(3, dim, k, generator=rng, dtype=torch.float64) for k in (dim, 1))
    covariances = a @ a.mT + torch.eye(dim, dtype=torch.float64)
    return GaussianMixture([0.2, 0.3, 0.5], means[:, :, 0], covariances)


def nothing(x: torch.Tensor) -> torch.Tensor:
    return 0 * x.flatten(1)[:, 0]


def test_without_a_tilt_it_is_the_mixture():
    q = mixture()
    energy = TiltedEnergy(FunctionEnergy(nothing), q)
    x = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, score = energy.energy_and_score(x)
    torch.testing.assert_close(value, -q.log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score, q.score(x), rtol=1e-11, atol=1e-12)
    again = energy.energy_and_score(x, create_graph=True)[1]
    torch.testing.assert_close(again, score, rtol=1e-11, atol=1e-12)
    pictures = TiltedEnergy(FunctionEnergy(nothing), q)
    torch.testing.assert_close(pictures(x.view(6, 1, 2, 2)), value)


def test_draws_of_the_reference_have_its_moments():
    """40,000 draws, within five standard errors: fewer than one failure in 10,000 seeds."""
    q, x = mixture(), torch.zeros(1, 2, 2, dtype=torch.float64)
    energy = TiltedEnergy(FunctionEnergy(nothing), q)
    draws = energy.sample_reference(40_000, x, torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 2, 2)
    flat = draws.flatten(1)
    spread = q.covariance.diagonal().sqrt()
    assert bool(((flat.mean(0) - q.mean).abs() < 5 * spread / 200).all())
    scale = spread[:, None] * spread
    assert bool(((torch.cov(flat.T) - q.covariance).abs() < 5 * 2 * scale / 200).all())
    # Draws come in no order: neighbours share a component as often as chance has it.
    near = q.responsibilities(flat).argmax(1)
    shares = torch.bincount(near, minlength=3) / len(near)
    same = float((near[1:] == near[:-1]).double().mean())
    assert abs(same - float(shares.square().sum())) < 5 * 0.5 / 200


def test_far_from_the_data_the_energy_rises():
    """The network grows as a line at most, the reference as a parabola."""
    torch.manual_seed(0)
    energy = TiltedEnergy(NetworkEnergy(MLP((4,), width=16, scalar=True)), mixture())
    ray = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    heights = torch.stack([energy(r * ray) for r in (30.0, 60.0, 120.0)]).detach()
    assert bool((heights[1:] > 3 * heights[:-1]).all())


def test_no_tilt_is_chance_and_noise_without_a_reference_is_refused():
    x, rng = torch.zeros(8, 4), torch.Generator().manual_seed(0)
    for nu in (1, 3):
        objective = NoiseContrastive(None, nu=nu)
        energy = TiltedEnergy(FunctionEnergy(nothing), mixture())
        objective.init(energy, x, rng)
        expected = math.log(1 + nu) + nu * math.log((1 + nu) / nu)
        loss = objective(energy, x, None, rng).loss
        torch.testing.assert_close(loss, torch.full((8,), expected))
    with pytest.raises(ValueError, match="no reference"):
        NoiseContrastive(None).init(ConfinedEnergy(FunctionEnergy(nothing), 1.0), x, rng)


def test_classes_tilt_one_reference_and_a_file_brings_it_back():
    torch.manual_seed(0)
    net = ResidualMLP((4,), width=8, blocks=1, scalar=True, noise=False, num_labels=2)
    energy = TiltedEnergy(ClassEnergy(net), mixture())
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, label = torch.randn(6, 4), torch.arange(6) % 2
    given = energy.given(label)
    expected = ClassEnergy(net)(x, label=label) - mixture().log_prob(x).float()
    torch.testing.assert_close(given(x), expected)
    other = TiltedEnergy(
        ClassEnergy(net),
        GaussianMixture([1.0] * 3, torch.zeros(3, 4), torch.eye(4).repeat(3, 1, 1)),
    )
    other.load_state_dict(energy.state_dict())
    assert torch.equal(other.given(label)(x), given(x))
    flat = GaussianMixture([1.0], torch.zeros(1, 2), torch.diag(torch.tensor([1.0, 0.0]))[None])
    with pytest.raises(ValueError, match="full rank"):
        TiltedEnergy(FunctionEnergy(nothing), flat)
