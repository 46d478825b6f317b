"""Ratios from the top of a ladder of noise down to the data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.families.ladder import LadderEnergy, ladder
from energyscape.families.networks import ratio_network
from energyscape.objectives import RatioContrastive, fit_gaussian
from energyscape.training import TrainConfig, train

LEVELS = [0.1, 1.0, 10.0]


class TrueRatios(nn.Module):
    """``r_k = (log p_k - log p_{k+1}) + (g_k - g_{k+1})``, and against the Gaussian at the top."""

    def __init__(self, p: GaussianMixture) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.p.mean, self.p.covariance.diagonal()
        gaps = [
            self.p.log_prob(x, s)
            + (
                0.5 * ((x - mean).square() / (variance + s**2)).sum(1)
                + 0.5 * (2 * math.pi * (variance + s**2)).log().sum()
            )
            for s in LEVELS
        ]
        return torch.stack([gaps[0] - gaps[1], gaps[1] - gaps[2], gaps[2]], 1)


def test_true_ratios_add_up_to_the_density_at_every_level() -> None:
    """With exact ratios the energies are ``-log p_sigma``, constants included."""
    p = eight_gaussians()
    energy = LadderEnergy(TrueRatios(p), LEVELS, p.mean, p.covariance.diagonal())
    x = p.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(energy(x), -p.log_prob(x, LEVELS[0]))
    for level in LEVELS:
        torch.testing.assert_close(energy(x, level), -p.log_prob(x, level))
    each = torch.tensor(LEVELS).repeat(17)[:50]
    expected = torch.stack([-p.log_prob(x, s) for s in LEVELS], 1)
    rows = torch.arange(50)
    torch.testing.assert_close(energy(x, each), expected[rows, rows % 3])


@pytest.mark.parametrize("shape", [(2,), (20,), (1, 4, 4)])
def test_neighbours_differ_by_one_output(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dim = math.prod(shape)
    network = ratio_network({"width": 8, "blocks": None}, shape, 3)
    energy = LadderEnergy(network, LEVELS, torch.zeros(dim), torch.ones(dim))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    variance = [1 + s**2 for s in LEVELS]
    square = x.flatten(1).square().sum(1)
    gaussian = [0.5 * square / v + 0.5 * dim * math.log(2 * math.pi * v) for v in variance]
    gap = energy(x, LEVELS[1]) - energy(x, LEVELS[0])
    torch.testing.assert_close(gap, gaussian[1] - gaussian[0] + network(x)[:, 0])


def test_levels_come_closer_in_more_dimensions() -> None:
    """Geometric, end to end, with neighbours at most two deviations apart until 32 levels."""
    for dim in (1, 2, 10, 60):
        levels = torch.tensor(ladder(0.02, 4.0, dim), dtype=torch.float64)
        steps = levels.log().diff()
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))
        assert levels[0] == pytest.approx(0.02)
        assert levels[-1] == pytest.approx(4.0)
        assert math.sqrt(2 * dim) * float(steps[0]) <= 2.0
    assert len(ladder(0.02, 4.0, 10_000)) == 32


def test_ratios_learn_eight_gaussians() -> None:
    """200 steps leave less than a fifth of the divergence that the Gaussian fit leaves."""
    p, rng = eight_gaussians(), torch.Generator().manual_seed(0)
    x, fresh = p.sample(4000, rng), p.sample(2000, rng)
    mean, variance = x.mean(0), x.var(0)
    levels = ladder(0.03, 6.0, 2)
    top = fit_gaussian(x + levels[-1] * torch.randn(x.shape, generator=rng, dtype=x.dtype))
    torch.manual_seed(0)
    network = ratio_network({"width": 48, "blocks": None}, (2,), len(levels))
    energy = LadderEnergy(network, levels, mean, variance)
    config = TrainConfig(max_steps=200, batch_size=256, learning_rate=0.01, ema_decay=0.98)
    energy = train(energy, RatioContrastive(levels, top), x.float(), config=config).model.double()
    axis = torch.linspace(-6, 6, 240, dtype=torch.float64)
    with torch.no_grad():
        value = energy(torch.cartesian_prod(axis, axis))
        log_z = float(torch.logsumexp(-value, 0)) + 2 * math.log(12 / 239)
        left = float((p.log_prob(fresh) + energy(fresh) + log_z).mean())
    gaussian = float((p.log_prob(fresh) - fit_gaussian(x).log_prob(fresh)).mean())
    assert left < gaussian / 5
    # Ratios carry the constant: nothing was normalised by hand.
    assert abs(log_z) < 0.2
