"""The walk down a ladder: weights with the right mean, levels in order, published settings."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ndtr

from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.mcmc import (
    MALA,
    ULA,
    anneal,
    annealed_langevin,
    largest_pairwise_distance,
    ncsnv2_ratio,
    ncsnv2_step_size,
    run_chains,
)
from energyscape.models import FunctionDenoiser, MixtureOfGaussians
from energyscape.targets import FunctionTarget, ScoreTarget


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_toy() -> None:
    """Langevin keeps the weights it started with, annealed Langevin finds nearly the right ones.

    1907.05600 section 3.2.2: 1/5 and 4/5. With the exact score the walk ends at 0.217 in expectation;
    1,500 chains have a standard error of 0.011, the bound is 4.5 of them. The paper's
    step of 0.1 is 0.05 here.
    """
    p = GaussianMixture.isotropic(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, [0.2, 0.8])
    levels = torch.logspace(math.log10(20.0), 0.0, 10, dtype=torch.float64).tolist()
    levels[-1] = 1.0
    x0 = 16 * torch.rand(1500, 2, generator=generator(), dtype=torch.float64) - 8
    plain = run_chains(ULA(0.05), p.at(0.0), x0[:1000], 150, rng=generator(1), keep="last").x
    assert abs(float((plain[:, 0] < 0).double().mean()) - 0.5) < 0.08
    annealed = annealed_langevin(
        lambda s: p.at(math.sqrt(max(s * s - 1.0, 0.0))),
        levels,
        x0,
        rng=generator(2),
        step_size=0.05,
        steps_per_level=100,
        adjusted=False,
        denoise=False,
    ).x
    assert abs(float((annealed[:, 0] < 0).double().mean()) - 0.217) < 0.05


def test_steps_follow_the_levels_from_largest_to_smallest() -> None:
    """On a flat target the variance gained at each level is 2 T eps sigma_i^2 / sigma_L^2."""
    x = {}
    levels = [4.0, 2.0, 1.0]
    annealed_langevin(
        lambda s: ScoreTarget(torch.zeros_like),
        levels,
        torch.zeros(20_000, 1),
        rng=generator(),
        step_size=0.01,
        steps_per_level=10,
        on_level=lambda i, at: x.update({i: float(at.var())}),
    )
    gained = [x[0], x[1] - x[0], x[2] - x[1]]
    for sigma, gain in zip(levels, gained, strict=True):
        assert gain == pytest.approx(2 * 10 * 0.01 * sigma**2, rel=0.12)


def test_steps_are_tested_where_there_is_a_density() -> None:
    """On N(0, 1) at one level of steps h = 0.8 ULA settles at variance 1/(1 - h/2) = 1.67, tested
    steps at 1; 20,000 chains, bounds 5 standard errors. A score alone is never tested."""
    n, energies = 20_000, FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    x0 = torch.randn(n, 1, generator=generator(), dtype=torch.float64)
    found = {}
    for name, target, adjusted in (
        ("tested", energies, None),
        ("asked not to", energies, False),
        ("score", ScoreTarget(lambda x: -x), None),
    ):
        walked = annealed_langevin(
            lambda s, t=target: t, [1.0], x0, rng=generator(1), step_size=0.8,
            steps_per_level=25, denoise=False, adjusted=adjusted,
        )  # fmt: skip
        found[name] = float(walked.x.var())
        assert (walked.levels[0].acceptance is not None) == (name == "tested")
    assert abs(found["tested"] - 1) < 5 * math.sqrt(2 / n)
    for name in ("asked not to", "score"):
        assert abs(found[name] - 1 / 0.6) < 5 / 0.6 * math.sqrt(2 / n)
    for bad in ({"adjusted": True}, {"adjusted": True, "temperature": 0.5}):
        target = ScoreTarget(lambda x: -x) if "temperature" not in bad else energies
        with pytest.raises(ValueError, match="log-density|temperature 1"):
            annealed_langevin(lambda s, t=target: t, [1.0], x0, rng=generator(), **bad)


def test_a_noise_conditional_energy_is_walked_with_tests_and_known_coordinates() -> None:
    """A correlated Gaussian's own energy at every level: the conditional mean 1.2 and variance 0.36
    are met (1,500 chains, 5 standard errors and the blur of the last level)."""
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.0]]])
    energy = MixtureOfGaussians(GaussianMixture([1.0], torch.zeros(1, 2), covariance))
    levels = torch.logspace(0.5, -1.3, 12, dtype=torch.float64)
    x0 = 3 * torch.randn(1500, 2, generator=generator(), dtype=torch.float64)
    walked = annealed_langevin(
        energy.at, levels, x0, rng=generator(1), step_size=0.3 * float(levels[-1]) ** 2,
        steps_per_level=40, known=(torch.tensor([True, False]), torch.tensor([1.5, 0.0])),
    )  # fmt: skip
    free = walked.x[:, 1]
    assert bool((walked.x[:, 0] == 1.5).all())
    assert all(level.acceptance is not None for level in walked.levels)
    assert abs(float(free.mean()) - 1.2) < 5 * 0.6 / math.sqrt(1500)
    assert abs(float(free.var()) - 0.36) < 0.08


def test_the_last_step_is_the_posterior_mean() -> None:
    p, levels = eight_gaussians(), [3.0, 1.0, 0.3]
    x0 = 3 * torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    noisy, clean = (
        annealed_langevin(p.at, levels, x0, rng=generator(1), steps_per_level=5, denoise=d).x
        for d in (False, True)
    )
    assert torch.allclose(clean, p.denoise(noisy, 0.3))


def test_known_coordinates_are_painted_around() -> None:
    """Given x_0 the other coordinate nears its conditional mean, 1.2, as the levels get more steps.

    The levels below the conditional spread move too little to mend what those above left: a mean of
    1.09 after 100 steps a level, 1.02 after 20.
    """
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.0]]])
    p = GaussianMixture([1.0], torch.zeros(1, 2), covariance)
    mask, values = torch.tensor([True, False]), torch.tensor([1.5, 0.0])
    levels = torch.logspace(1, -2, 20, dtype=torch.float64)
    x0 = 10 * torch.randn(1500, 2, generator=generator(), dtype=torch.float64)
    error = {}
    for steps in (5, 60):
        x = annealed_langevin(
            p.at, levels, x0, rng=generator(1), steps_per_level=steps, known=(mask, values)
        ).x
        assert bool((x[:, 0] == 1.5).all())
        error[steps] = abs(float(x[:, 1].mean()) - 1.2)
    assert error[60] < 0.2 < error[5]


def test_a_mixture_is_painted_around_with_modes_that_lag() -> None:
    """The exact denoiser of two modes, x_0 = 0.3 known, against the closed-form conditional.

    Within a mode the walk ends in the conditional's law. Between modes it is biased: high levels see
    little of a known coordinate that is noised to their level, low ones are not crossed, so that the
    weight (0.826 of the upper mode) starts from that without the coordinate (0.70) and nears the
    truth as levels get more steps: 0.66 with 10, 0.74 with 40, 0.80 with 160 (1,500 chains).
    """
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.2]]])
    p = GaussianMixture([0.3, 0.7], torch.tensor([[-0.5, -1.5], [0.5, 1.5]]), covariances)
    model = FunctionDenoiser(p.denoise)
    mask, values = torch.tensor([True, False]), torch.tensor([0.3, 0.0], dtype=torch.float64)
    law = p.conditional([0], values[:1])
    want = law.sample(100_000, generator(9))[:, 0]
    true_weight, n = float((want > 0).double().mean()), 600
    levels = torch.logspace(0.78, -1.5, 18, dtype=torch.float64)
    x0 = 6 * torch.randn(n, 2, generator=generator(), dtype=torch.float64)
    weight = {}
    for steps in (10, 100):
        x = annealed_langevin(
            model.at, levels, x0, rng=generator(1), steps_per_level=steps,
            step_size=0.1 * float(levels[-1]) ** 2, known=(mask, values),
        ).x  # fmt: skip
        assert bool((x[:, 0] == 0.3).all())
        free = x[:, 1]
        weight[steps] = float((free > 0).double().mean())
    for side in (1, -1):
        drawn, true = free[side * free > 0], want[side * want > 0]
        assert abs(float(drawn.mean() - true.mean())) < 5 * float(true.std()) / len(drawn) ** 0.5
        assert abs(float(drawn.std() / true.std()) - 1) < 5 / (2 * len(drawn)) ** 0.5
    assert weight[10] < 0.72
    assert 0.70 < weight[100] < true_weight
    assert true_weight - weight[100] < 0.1


@pytest.mark.parametrize("resample_below", [0.0, 0.9])
def test_weights_estimate_the_ratio_of_constants(resample_below: float) -> None:
    """From a wide normalised Gaussian to 3 exp(-x^2/2 ...): the log of the mean weight is log 3."""
    p = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    base = p.at(2.0)

    class Tripled:
        def value(self, x: torch.Tensor) -> torch.Tensor:
            return p.log_prob(x) + math.log(3.0)

        def value_and_score(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.value(x), p.score(x)

    x0 = p.sample(2000, generator(), sigma=2.0)
    rungs = [p.at(1.4), p.at(1.0), p.at(0.6), Tripled()]
    walked = anneal(
        x0, rungs, MALA(0.8), 3, rng=generator(1), base=base, resample_below=resample_below
    )
    assert walked.log_weights is not None
    estimate = float(torch.logsumexp(walked.log_weights, 0)) - math.log(2000)
    assert abs(estimate - math.log(3.0)) < 0.12
    assert all(level.ess is not None and 0 < level.ess <= 1 for level in walked.levels)


def test_published_ladder_rules() -> None:
    # 2006.09011 appendix B: CIFAR-10, 232 levels from 50 to 0.01, T = 5: eps = 6.2e-6.
    levels = torch.logspace(math.log10(50.0), -2, 232, dtype=torch.float64)
    assert ncsnv2_step_size(levels, 5) == pytest.approx(6.2e-6, rel=0.01)
    for dim in (1, 8, 64, 3072):
        if dim == 1:
            continue
        g, s = ncsnv2_ratio(dim), math.sqrt(2 * dim)
        assert ndtr(s * (g - 1) + 3 * g) - ndtr(s * (g - 1) - 3 * g) == pytest.approx(0.5)
    # The published 232 levels have ratio 1.038 in 3,072 dimensions.
    assert ncsnv2_ratio(3072) == pytest.approx(5000 ** (1 / 231), rel=5e-3)
    x = torch.randn(50, 3, generator=generator())
    assert largest_pairwise_distance(x) == pytest.approx(float(torch.cdist(x, x).max()), rel=1e-4)


def test_bad_ladders_are_refused() -> None:
    p, x0 = eight_gaussians(), torch.zeros(2, 2)
    for levels in ([1.0, 2.0], [1.0, 0.0], [], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="levels must fall"):
            annealed_langevin(p.at, levels, x0, rng=generator())
    with pytest.raises(ValueError, match="one kernel"):
        anneal(x0, [p.at(0.0)], [ULA(0.1), ULA(0.1)], 3, rng=generator())
    with pytest.raises(ValueError, match="log-density"):
        anneal(x0, [p.at(0.0)], ULA(0.1), 3, rng=generator(), base=ScoreTarget(lambda x: -x))
