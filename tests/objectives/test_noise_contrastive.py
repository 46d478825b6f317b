"""Noise contrast finds the density with its constant."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture
from energyscape.models import Energy, ExponentialFamily, MixtureOfGaussians, NormalisedEnergy
from energyscape.objectives import (
    NoiseContrastive,
    RatioContrastive,
    fit_gaussian,
    fit_gaussian_mixture,
)

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("nu", [1, 5])
def test_it_recovers_a_normal_density_and_its_log_z(nu: int) -> None:
    """20,000 rows of N(0.5, 0.7^2), noise N(0, 1.5^2): mean, variance and log Z within 0.05, over 4
    standard errors of the noisier case (failure below 1e-3)."""
    mean, std = 0.5, 0.7
    x = mean + std * torch.randn(20_000, 1, generator=generator(1), dtype=F64)
    noise = GaussianMixture.isotropic(torch.zeros(1, 1), 1.5)
    model = NormalisedEnergy(ExponentialFamily.normal(0.0, 1.0)).double()
    objective = NoiseContrastive(noise, nu)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model, x, None, generator(2)).loss.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    theta = model.energy.theta.detach()  # type: ignore[union-attr, operator]
    variance = -0.5 / theta[1].item()
    assert variance == pytest.approx(std**2, abs=0.05)
    assert theta[0].item() * variance == pytest.approx(mean, abs=0.05)
    log_z = 0.5 * math.log(2 * math.pi * std**2) + mean**2 / (2 * std**2)
    assert model.log_z.item() == pytest.approx(log_z, abs=0.05)


def test_at_the_truth_the_gradient_vanishes_and_the_loss_is_the_divergence() -> None:
    """With noise equal to the data nothing can be told apart: loss 2 log 2 exactly, and the gradient
    in log Z has mean 0 (5 standard errors of 0.5/sqrt(n) each side, 1e-6)."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.0]]), 0.5)
    model = NormalisedEnergy(MixtureOfGaussians(p)).double()
    x = p.sample(10_000, generator(1))
    loss = NoiseContrastive(p)(model, x, None, generator(2)).loss
    torch.testing.assert_close(loss.detach(), torch.full_like(loss, 2 * math.log(2)).detach())
    narrow = GaussianMixture.isotropic(torch.tensor([[0.0]]), 1.5)
    loss = NoiseContrastive(narrow)(model, x, None, generator(3)).loss.mean()
    (grad,) = torch.autograd.grad(loss, model.log_z)
    assert abs(grad.item()) < 5 * math.sqrt(2) * 0.5 / 100


def test_level_ratios_have_the_true_energies_as_a_stationary_point() -> None:
    """E(x, s) = -log p_s + a(s): the slope in each constant is 0 at the truth, not beside it.

    60,000 rows; the noise is p blurred to the top level and widened, so nothing is degenerate.
    """
    p, levels = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.5]]), 0.4), [0.2, 0.6, 1.8]
    top = GaussianMixture.isotropic(torch.tensor([[0.0]]), 2.5)

    class Shifted(Energy):
        def __init__(self, shift: list[float]) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(shift, dtype=F64))

        def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
            level = torch.as_tensor(sigma, dtype=F64)
            which = (level[:, None] - torch.tensor(levels, dtype=F64)).abs().argmin(1)
            return p.energy(x, level) + self.shift[which]

    n = 60_000
    x, objective = p.sample(n, generator(1)), RatioContrastive(levels, top)
    model = Shifted([0.0, 0.0, 0.0])
    (grad,) = torch.autograd.grad(objective(model, x, None, generator(2)).loss.mean(), model.shift)
    # Each derivative is a mean of terms of size at most 3 * 2: standard error below 4/sqrt(n).
    assert float(grad.abs().max()) < 5 * 4 / math.sqrt(n)
    model = Shifted([0.5, 0.0, 0.0])
    (grad,) = torch.autograd.grad(objective(model, x, None, generator(2)).loss.mean(), model.shift)
    assert grad[0].item() > 0.1


def test_fitted_gaussian_has_the_moments_of_the_rows() -> None:
    x = torch.randn(50, 3, 2, generator=generator()) * 2 + 1
    flat = x.flatten(1).double()
    fitted = fit_gaussian(x, inflate=1.5)
    torch.testing.assert_close(fitted.mean, flat.mean(0))
    torch.testing.assert_close(
        fitted.covariance, 2.25 * torch.cov(flat.T, correction=0), rtol=1e-3, atol=1e-4
    )
    constant = torch.cat([torch.randn(9, 1, generator=generator()), torch.ones(9, 1)], dim=1)
    assert bool(fit_gaussian(constant).log_prob(constant).isfinite().all())


def test_expectation_maximisation_raises_the_likelihood() -> None:
    """More steps, never a lower likelihood beyond the covariance floor, and above one Gaussian's."""
    p = GaussianMixture.isotropic(torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]]), 0.7)
    x = p.sample(600, generator(1))
    values = [
        fit_gaussian_mixture(x, 3, generator(2), steps=k).log_prob(x).mean().item()
        for k in (1, 3, 10, 40)
    ]
    assert all(b >= a - 1e-4 for a, b in itertools.pairwise(values))
    assert values[-1] > fit_gaussian(x).log_prob(x).mean().item() + 0.5
    assert values[-1] == pytest.approx(p.log_prob(x).mean().item(), abs=0.05)


def test_pictures_of_any_shape_and_bad_settings() -> None:
    x = torch.randn(12, 1, 2, 2, generator=generator())
    energy = ExponentialFamily.normal()
    out = NoiseContrastive(fit_gaussian(x), nu=3)(energy, x, None, generator())
    assert out.loss.shape == (12,)
    assert out.loss.dtype == torch.float32
    with pytest.raises(ValueError, match="nu"):
        NoiseContrastive(fit_gaussian(x), nu=0)
    with pytest.raises(ValueError, match="NetworkEnergy"):
        NoiseContrastive(fit_gaussian(x)).init(nn.Linear(2, 1), x, generator())
    with pytest.raises(ValueError, match="increase"):
        RatioContrastive([1.0, 0.5], fit_gaussian(x))
    with pytest.raises(ValueError, match="at least 2 rows"):
        fit_gaussian(x[:1])
    with pytest.raises(ValueError, match="1 to 12 components"):
        fit_gaussian_mixture(x, 13, generator())
