"""Evidence against a row, in closed form on a Gaussian."""

from __future__ import annotations

import pytest
import torch

from energyscape.densities import eight_gaussians
from energyscape.families.evidence import denoising_errors, energies, score_norms
from energyscape.models import FunctionDenoiser, MixtureOfGaussians

GAUSSIAN = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))


def test_denoising_errors_of_a_gaussian():
    """(sigma^2 eps^2 + sigma^4 x^2) / (sigma (1 + sigma^2))^2 for probes in pairs of +-eps."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    levels, rng = [0.5, 2.0], torch.Generator().manual_seed(3)
    eps = torch.randn((2, 3, 1), generator=rng, dtype=torch.float64)
    found = denoising_errors(GAUSSIAN, x, levels, probes=6, seed=3)
    for i, s in enumerate(levels):
        noise = eps[i].square().mean()
        exact = (s**2 * noise + s**4 * x.square()) / (s * (1 + s**2)) ** 2
        assert torch.allclose(found[i], exact, rtol=1e-12)


def test_score_norms_of_both_faces_agree():
    mixture = eight_gaussians()
    x = torch.randn((5, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_energy = score_norms(MixtureOfGaussians(mixture), x, [0.3, 1.0])
    by_denoiser = score_norms(FunctionDenoiser(mixture.denoise), x, [0.3, 1.0])
    assert torch.allclose(by_energy, by_denoiser, rtol=1e-9)
    assert by_energy.shape == (5, 2)


def test_energies_are_the_mixtures():
    mixture = eight_gaussians()
    x = torch.randn((5, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = energies(MixtureOfGaussians(mixture), x, [0.3, 1.0])
    assert torch.allclose(found[:, 1], mixture.energy(x, 1.0))
    assert energies(MixtureOfGaussians(mixture), x).shape == (5, 1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="in pairs"):
        denoising_errors(GAUSSIAN, torch.zeros(1, 1), [1.0], probes=3)
    with pytest.raises(ValueError, match="positive"):
        score_norms(GAUSSIAN, torch.zeros(1, 1), [0.0])
