"""log Z is trusted only where mass far from the data would have been found: closed forms in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.families.log_z import broad_base, normalised
from energyscape.families.walks import settled, walker
from energyscape.mcmc import MixtureBase

TRUTH = 2.5


class Shifted:
    """A mixture whose log Z is `TRUTH`."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture

    def value(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x) + TRUTH

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, score = self.mixture.value_and_score(x)
        return value + TRUTH, score


def planted(dim: int, share: float) -> tuple[GaussianMixture, GaussianMixture]:
    """Data of two round components, and a model that adds a broad one where no row lies."""
    means = torch.zeros(3, dim, dtype=torch.float64)
    means[1, 0], means[2, -1] = 3.0, 12.0
    covariances = torch.eye(dim, dtype=torch.float64).repeat(3, 1, 1)
    covariances[2] *= 1.5**2
    data = GaussianMixture([0.6, 0.4], means[:2], covariances[:2])
    weights = [0.6 * (1 - share), 0.4 * (1 - share), share]
    return data, GaussianMixture(weights, means, covariances) if share else data


def verdict(dim: int, share: float, seed: int = 0):
    """Of draws that know the data's part of the model alone, as chains from the data do."""
    rng = torch.Generator().manual_seed(seed)
    data, model = planted(dim, share)
    return normalised(Shifted(model), data.sample(1000, rng), data.sample(1000, rng), rng)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_grid_in_the_plane_sees_all_mass_and_says_what_the_draws_do_not_show(share):
    found = verdict(2, share)
    assert found.kind == "quadrature"
    assert found.trusted
    assert abs(found.found.estimate - TRUTH) < 1e-5
    # A hundredth of the draws lies outside the ellipse that holds the others.
    assert found.reason.startswith("about 26 % of the model's mass lies far" if share else "")
    assert bool(found.reason) == bool(share)


def test_mass_beyond_the_grid_is_left_to_the_chains():
    """A model a hundred times as wide as the rows reaches the border of the box."""
    rng = torch.Generator().manual_seed(0)
    data, _ = planted(2, 0.0)
    wide = GaussianMixture([1.0], torch.zeros(1, 2).double(), 2e4 * torch.eye(2).double()[None])
    found = normalised(Shifted(wide), data.sample(500, rng), wide.sample(500, rng), rng)
    assert found.kind == "ais"
    assert abs(found.found.estimate - TRUTH) < 4 * found.found.stderr


@pytest.mark.parametrize("dim", [3, 8])
def test_a_model_of_the_data_alone_is_trusted(dim):
    found = verdict(dim, 0.0)
    assert found.trusted, found.reason
    assert abs(found.found.estimate - TRUTH) < 4 * found.found.stderr


@pytest.mark.parametrize("dim", [3, 4, 8])
def test_a_quarter_of_the_mass_where_no_row_lies_is_not_overlooked(dim):
    """Draws from the data's part bound log Z by log 0.75 too low; that is refused, and said."""
    found = verdict(dim, 0.25)
    assert found.found.upper < TRUTH
    assert not found.trusted
    assert "far outside the data" in found.reason


def test_walks_from_the_broad_base_find_it_and_count_it():
    """With draws that know it log Z is right, and trusted: nothing is missing then."""
    rng = torch.Generator().manual_seed(1)
    data, model = planted(3, 0.25)
    rows, target = data.sample(1000, rng), Shifted(model)
    kernel = walker("mala", float(rows.var(0).mean().sqrt()), 3)
    draws = settled(target, broad_base(rows), kernel, 2000, 200, rng)
    share = float((draws[:, 2] > 6).double().mean())
    assert abs(share - 0.25) < 0.15  # four deviations of the share over seeds
    found = normalised(target, rows, draws, rng)
    assert found.trusted, found.reason
    assert abs(found.found.estimate - TRUTH) < 0.06


def test_a_base_of_two_parts_has_the_mixtures_density_and_score():
    rng = torch.Generator().manual_seed(0)
    base = broad_base(torch.randn(500, 2, generator=rng, dtype=torch.float64))
    assert isinstance(base, MixtureBase)
    means = torch.stack([part.mean for part in base.bases])
    oracle = GaussianMixture(
        base.weights, means, torch.stack([part.covariance for part in base.bases])
    )
    x = 3 * torch.randn(50, 2, generator=rng, dtype=torch.float64)
    value, score = base.value_and_score(x)
    assert torch.allclose(value, oracle.log_prob(x), rtol=1e-12)
    assert torch.allclose(score, oracle.score(x), rtol=1e-9)
    assert torch.allclose(base.value(x), value)
    draws = base.sample(4000, rng)
    expected = float(oracle.covariance.trace())
    assert abs(float(draws.var(0).sum()) / expected - 1) < 0.15
    with pytest.raises(ValueError, match="one positive weight a base"):
        MixtureBase(base.bases, [1.0])


def test_a_few_strays_among_the_draws_do_not_spoil_the_bound():
    """Four draws of 1,000 where no move is accepted, 18 nats up: the bound stays one, and close."""
    rng = torch.Generator().manual_seed(2)
    data, _ = planted(3, 0.0)
    draws = data.sample(1000, rng)
    draws[:4] = torch.tensor([[1.5, 0.0, 6.5]], dtype=torch.float64)
    found = normalised(Shifted(data), data.sample(1000, rng), draws, rng)
    assert found.trusted, found.reason
    assert TRUTH < found.found.upper < TRUTH + 0.25
