"""One energy at every level: its loss, its chains from noise, its steps, and pictures by default."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import energyscape
from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.families import EBM
from energyscape.families.levels import EnergyDenoising, LevelEnergy, down_to, level_walker
from energyscape.families.typical import LEVELS, Typical
from energyscape.mcmc import HMC, ULA, run_chains
from energyscape.models import Energy, FunctionDenoiser
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.schedules import EDM


class Blurred(Energy):
    """Minus the log-density of a mixture at a level, in closed form."""

    def __init__(self, p: GaussianMixture) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """E(x, sigma), shape (batch,)."""
        return -self.p.log_prob(x, 0.0 if sigma is None else sigma)


def test_the_loss_of_an_energy_is_that_of_its_denoiser():
    """Tweedie: the denoiser of -log p_sigma is the posterior mean, whose loss is least."""
    p, rng = eight_gaussians(), torch.Generator().manual_seed(0)
    x = p.sample(64, rng)
    loss = DenoisingLoss(EDM.for_data(1.0), edm_weight(1.0))
    seeds = [torch.Generator().manual_seed(1) for _ in range(3)]
    ours = EnergyDenoising(loss)(Blurred(p), x, None, seeds[0]).loss
    exact = loss(FunctionDenoiser(p.denoise), x, None, seeds[1]).loss
    torch.testing.assert_close(ours.detach(), exact)
    wrong = EnergyDenoising(loss)(Blurred(p) * 1.2, x, None, seeds[2]).loss
    assert float(wrong.detach().mean()) > float(ours.detach().mean())


def test_noise_comes_down_to_the_blurred_density():
    """With exact energies both coordinates follow p_sigma; false-failure rate about 2e-4."""
    p, rng = eight_gaussians(), torch.Generator().manual_seed(0)
    law = EDM.for_data(1.5, sigma_min=0.01, sigma_max=5.0)
    start = law.sigma_max * torch.randn(1500, 2, generator=rng, dtype=torch.float64)
    x = down_to(0.2, Blurred(p), start, law, rng)
    real = p.sample(1500, rng, sigma=0.2)
    for j in range(2):
        assert stats.ks_2samp(x[:, j].numpy(), real[:, j].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("dim", [1, 64, 784])
def test_steps_fit_the_noise_that_fills_the_space(dim):
    """On N(0, sigma^2 I) most moves are taken, few are wasted, and the law stays as it is."""
    sigma = 0.05
    energy = Blurred(GaussianMixture.isotropic(torch.zeros(1, dim), sigma)).at(0.0)
    rng = torch.Generator().manual_seed(0)
    x = sigma * torch.randn(400, dim, generator=rng)
    walk = run_chains(level_walker("mala", sigma, dim), energy, x, 20, rng=rng, keep="last")
    assert 0.5 < float(walk.info.acceptance.mean()) < 0.95
    moved = float((walk.x - x).square().mean()) / sigma**2
    assert moved > 0.5  # 2 for independent draws
    # The mean of 400 dim squares has a relative deviation of sqrt(2/(400 dim)): five of them.
    spread = float(walk.x.square().mean()) / sigma**2
    assert abs(spread - 1) < 5 * math.sqrt(2 / (400 * dim))


def test_every_sampler_has_a_step_for_its_level():
    ula, hmc = level_walker("ula", 0.1, 8), level_walker("hmc", 0.1, 8)
    assert isinstance(ula, ULA)
    assert isinstance(hmc, HMC)
    with pytest.raises(ValueError, match="unknown sampler 'gibbs'"):
        level_walker("gibbs", 0.1, 8)


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, EBM]:
    """Stripes on black, 6 x 6 in 9 grey levels, and a model with default settings but few steps."""
    rng = np.random.default_rng(0)
    x = np.zeros((60, 6, 6), dtype=np.uint8)
    x[np.arange(60), rng.integers(0, 6, 60)] = 8
    settings = {"max_steps": 40, "batch_size": 32, "width": 16, "blocks": 1}
    return x, EBM(**settings, normalise=False, random_state=0).fit(x)


def test_pictures_are_learned_at_every_level_by_default(pictures):
    """The density is that at the first level; samples are shown without its noise."""
    x, model = pictures
    assert isinstance(model.model_, LevelEnergy)
    assert model.model_.sigma == pytest.approx(0.1 * model.facts_["scale"])
    drawn = model.sample(5, steps=3)
    assert drawn.shape[:3] == (5, 6, 6)
    assert drawn.dtype == np.uint8
    assert model.anomaly_score(8 - x).mean() > model.anomaly_score(x).mean()
    assert model.from_noise(4, torch.Generator().manual_seed(0)).shape == (4, 1, 6, 6)
    # What is drawn carries the level's noise, and one step of the denoiser takes it away.
    noisy = model.encode(x).float() + model.model_.sigma * torch.randn(
        (60, 1, 6, 6), generator=torch.Generator().manual_seed(0)
    )
    clean = model.encode(x).float()
    assert (model._finish(noisy) - clean).square().mean() < (noisy - clean).square().mean()


def test_the_energies_of_all_levels_together_say_how_strange_a_row_is(pictures):
    """The score is the distance of a row's energies to those of training rows."""
    x, model = pictures
    with torch.no_grad():
        alone = model._double()(model.encode(x[:1]), 0.2 * model.facts_["scale"])
    energies = model._energies(model._double(), model.encode(x[:1]))
    assert energies.shape == (1, len(LEVELS))
    assert energies[0, 2] == pytest.approx(float(alone))
    parts = [model.calibration_[f"typical_{part}"] for part in Typical._fields]
    assert model.anomaly_score(x[:1])[0] == pytest.approx(float(Typical(*parts).distance(energies)))


def test_energies_too_low_are_as_strange_as_energies_too_high():
    """The squared distance has the mean K on ordinary rows, and two sides."""
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    rows = 100 + torch.randn(4000, 6, generator=rng, dtype=torch.float64) @ mix
    ordinary = Typical.fit(rows)
    assert float(ordinary.distance(rows).mean()) == pytest.approx(6, rel=0.05)
    away = 3 * mix.sum(0)
    far = ordinary.distance(torch.stack([100 + away, 100 - away]))
    assert float(far.min()) > 40
    assert float(far[0]) == pytest.approx(float(far[1]), rel=0.05)


def test_a_model_of_levels_comes_back_from_its_folder(pictures, tmp_path):
    x, model = pictures
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(again.anomaly_score(x[:5]), model.anomaly_score(x[:5]))
    assert np.array_equal(again.sample(3, steps=2), model.sample(3, steps=2))


def test_chains_from_noise_need_levels():
    model = EBM(max_steps=3, width=8, normalise=False, random_state=0)
    model.fit(np.random.default_rng(0).normal(size=(50, 2)))
    assert not isinstance(model.model_, LevelEnergy)
    with pytest.raises(ValueError, match="objective='levels'"):
        model.from_noise(2, torch.Generator())
