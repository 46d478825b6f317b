"""Modes: all of them, once each, with the curvature of the closed form."""

from __future__ import annotations

import pytest
import torch

from energyscape.densities import GaussianMixture, twenty_five_gaussians
from energyscape.mcmc import find_modes, simulated_annealing
from energyscape.targets import FunctionTarget, ScoreTarget


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_finds_every_peak_of_a_grid_once() -> None:
    p = twenty_five_gaussians()
    found = find_modes(p.at(0.0), p.sample(400, generator()))
    assert len(found.points) == 25
    assert torch.cdist(p.means, found.points).amin(1).max() < 1e-4
    assert int(found.counts.sum()) + found.lost == 400
    assert set(found.kinds) == {"peak"}


def test_curvature_is_that_of_the_gaussian() -> None:
    covariance = torch.tensor([[[2.0, 0.3], [0.3, 0.5]]])
    p = GaussianMixture([1.0], torch.tensor([[3.0, -1.0]]), covariance)
    found = find_modes(p.at(0.0), 5 * torch.randn(20, 2, generator=generator()).double())
    expected = torch.linalg.eigvalsh(-torch.linalg.inv(p.covariances[0]))
    assert torch.allclose(found.eigenvalues[0], expected, atol=1e-5)
    assert found.log_prob[0] == pytest.approx(float(p.log_prob(p.means)[0]))


def test_saddles_and_ridges_are_told_apart() -> None:
    """On the axis between two peaks ascent ends at the saddle; a ring has a flat direction."""
    p = GaussianMixture.isotropic(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 1.0)
    starts = torch.tensor([[0.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
    assert find_modes(p.at(0.0), starts).kinds == ["saddle"]
    ring = FunctionTarget(lambda x: -((x.norm(dim=1) - 2.0) ** 2))
    found = find_modes(ring, 2 * torch.randn(5, 2, generator=generator()).double())
    assert set(found.kinds) == {"ridge"}


def test_float32_and_pictures() -> None:
    target = FunctionTarget(lambda x: -((x - 1) ** 2).flatten(1).sum(1))
    found = find_modes(target, torch.randn(6, 1, 3, 3, generator=generator()))
    assert found.points.shape == (1, 1, 3, 3)
    assert torch.allclose(found.points, torch.ones(1, 1, 3, 3), atol=1e-3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="knows only its score"):
        find_modes(ScoreTarget(lambda x: -x), torch.zeros(2, 2))
    hole = FunctionTarget(lambda x: x.square().sum(1))
    with pytest.raises(ValueError, match="unbounded below"):
        find_modes(hole, torch.ones(2, 2), max_steps=50)


def test_a_ladder_that_heats_is_no_annealing() -> None:
    for betas in ((3.0, 1.0), (1.0, 1.0), (0.0, 1.0), ()):
        with pytest.raises(ValueError, match="positive and rise"):
            simulated_annealing(
                FunctionTarget(lambda x: -x.square().sum(1)),
                torch.zeros(2, 2),
                rng=generator(),
                betas=betas,
            )


def test_cooling_prefers_the_higher_peak() -> None:
    p = GaussianMixture.isotropic(torch.tensor([[-2.0], [2.0]]), [1.0, 1.0], [0.2, 0.8])
    x0 = torch.full((200, 1), -2.0, dtype=torch.float64)
    x = simulated_annealing(p.at(0.0), x0, rng=generator(), step_size=0.5)
    assert float((x > 0).double().mean()) > 0.7
    assert float((x.abs() - 2).abs().mean()) < 0.2
