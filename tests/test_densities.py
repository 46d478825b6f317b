"""The oracle itself: against autograd, scipy, numerical integration and brute force, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from energyscape.densities import GaussianMixture, eight_gaussians, twenty_five_gaussians
from energyscape.targets import Target

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(k: int = 3, d: int = 2, seed: int = 1) -> GaussianMixture:
    """A mixture with full, different covariances and unequal weights."""
    rng = generator(seed)
    root = torch.randn(k, d, d, generator=rng, dtype=F64)
    covariances = root @ root.transpose(1, 2) / d + 0.1 * torch.eye(d, dtype=F64)
    means = 2 * torch.randn(k, d, generator=rng, dtype=F64)
    return GaussianMixture(torch.arange(1.0, k + 1), means, covariances)


def scipy_density(p: GaussianMixture, x: Tensor, sigma: float) -> np.ndarray:
    """The blurred density by scipy, component by component."""
    eye = sigma**2 * np.eye(p.dim)
    parts = [
        w * stats.multivariate_normal(m, s + eye).pdf(x.numpy())
        for w, m, s in zip(p.weights.tolist(), p.means.numpy(), p.covariances.numpy(), strict=True)
    ]
    return np.sum(parts, axis=0)


def grid(half: float, n: int) -> tuple[Tensor, float]:
    axis = torch.linspace(-half, half, n, dtype=F64)
    return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 4.0])
def test_log_prob_is_scipys(d: int, sigma: float) -> None:
    p = correlated(3, d)
    x = 2 * torch.randn(20, d, generator=generator(), dtype=F64)
    expected = np.log(scipy_density(p, x, sigma))
    np.testing.assert_allclose(p.log_prob(x, sigma).numpy(), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p.energy(x, sigma), -p.log_prob(x, sigma))
    torch.testing.assert_close(p.blurred(sigma).log_prob(x), p.log_prob(x, sigma))


@pytest.mark.parametrize("sigma", [0.0, 0.7, 20.0])
def test_score_is_the_gradient_of_log_prob(sigma: float) -> None:
    """By autograd, and the Hessian (gradient of the score) is symmetric: the score is a gradient."""
    p = correlated()
    x = (2 * torch.randn(12, 2, generator=generator(), dtype=F64)).requires_grad_()
    (gradient,) = torch.autograd.grad(p.log_prob(x, sigma).sum(), x)
    value, score = p.value_and_score(x, sigma)
    torch.testing.assert_close(score, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(value, p.log_prob(x, sigma))
    torch.testing.assert_close(p.score(x, sigma), score)
    hessian = torch.autograd.functional.jacobian(lambda z: p.score(z[None], sigma)[0], x[0])
    torch.testing.assert_close(hessian, hessian.T)


def test_the_denoiser_is_tweedies_at_every_level() -> None:
    p = correlated()
    x = 3 * torch.randn(9, 2, generator=generator(), dtype=F64)
    for sigma in (1e-3, 0.1, 1.0, 50.0):
        tweedie = x + sigma**2 * p.score(x, sigma)
        torch.testing.assert_close(p.denoise(x, sigma), tweedie, rtol=1e-9, atol=1e-9)
    # The ends: nothing to remove, and nothing left to see but the mean.
    torch.testing.assert_close(p.denoise(x, 0.0), x)
    torch.testing.assert_close(p.denoise(x, 1e7), p.mean.expand_as(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0])
def test_the_density_integrates_to_one_with_the_stated_moments(sigma: float) -> None:
    """On a grid the trapezoidal rule is exact to rounding for such smooth, decaying integrands."""
    p = eight_gaussians(std=0.4)
    points, cell = grid(16.0, 401)
    mass = p.log_prob(points, sigma).exp() * cell
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-10)
    torch.testing.assert_close(mass @ points, p.mean, rtol=0, atol=1e-10)
    second = torch.einsum("n,ni,nj->ij", mass, points, points)
    expected = p.covariance + sigma**2 * torch.eye(2, dtype=F64)
    torch.testing.assert_close(second - torch.outer(p.mean, p.mean), expected)


def test_the_posterior_mean_and_the_blur_are_integrals_over_the_clean_point() -> None:
    """E[x_0 | x] = int x_0 p(x_0) N(x; x_0, s^2 I) dx_0 / p_s(x), both sides by a 2-D grid."""
    p, sigma = correlated(), 0.8
    x0, cell = grid(14.0, 701)
    clean = p.log_prob(x0).exp() * cell
    for x in 2 * torch.randn(4, 2, generator=generator(), dtype=F64):
        noise = torch.exp(-0.5 * ((x - x0) / sigma).square().sum(1)) / (2 * math.pi * sigma**2)
        joint = clean * noise
        assert float(joint.sum().log()) == pytest.approx(
            float(p.log_prob(x[None], sigma)), abs=1e-9
        )
        torch.testing.assert_close((joint @ x0) / joint.sum(), p.denoise(x[None], sigma)[0])


def test_a_point_mass_has_a_density_once_blurred() -> None:
    """Quadrature by scipy in one dimension; at level 0 it is refused by name."""
    p = GaussianMixture([0.3, 0.7], torch.tensor([[-1.0], [2.0]]), torch.zeros(2, 1, 1))
    total, _ = integrate.quad(lambda v: float(p.log_prob(torch.tensor([[v]]), 0.5).exp()), -6, 7)
    assert total == pytest.approx(1.0, abs=1e-7)
    near = p.denoise(torch.tensor([[-1.2], [2.2]]), 0.05)
    torch.testing.assert_close(near, torch.tensor([[-1.0], [2.0]], dtype=F64))
    with pytest.raises(ValueError, match=r"singular.*sigma > 0"):
        p.log_prob(torch.zeros(1, 1))


def test_a_level_a_row_is_the_same_as_row_by_row() -> None:
    p, sigma = correlated(), torch.tensor([0.0, 0.1, 1.0, 30.0], dtype=F64)
    x = 3 * torch.randn(4, 2, generator=generator(), dtype=F64)
    faces: list[Callable[[Tensor, float | Tensor], Tensor]] = [
        p.log_prob,
        p.score,
        p.denoise,
        p.responsibilities,
    ]
    for face in faces:
        rows = [face(x[i : i + 1], float(sigma[i]))[0] for i in range(4)]
        torch.testing.assert_close(face(x, sigma), torch.stack(rows), rtol=1e-12, atol=1e-12)


def test_far_from_everything_nothing_overflows() -> None:
    """At 1e6 the density underflows; log-density, score and responsibilities do not."""
    p, x = eight_gaussians(), torch.tensor([[1e6, 3.0]], dtype=F64)
    value, score = p.value_and_score(x)
    assert bool(value.isfinite().all())
    assert bool(score.isfinite().all())
    assert float(p.responsibilities(x).sum()) == pytest.approx(1.0)


def test_responsibilities_are_bayes_rule() -> None:
    p, sigma = correlated(), 0.6
    x = torch.randn(5, 2, generator=generator(), dtype=F64)
    eye = sigma**2 * torch.eye(2, dtype=F64)
    parts = torch.stack(
        [
            w * torch.distributions.MultivariateNormal(m, s + eye).log_prob(x).exp()
            for w, m, s in zip(p.weights, p.means, p.covariances, strict=True)
        ],
        dim=1,
    )
    torch.testing.assert_close(p.responsibilities(x, sigma), parts / parts.sum(1, keepdim=True))


def test_marginals_are_integrals_and_conditionals_are_ratios() -> None:
    """p(a) by a line of points in b; p(b | a) = p(a, b)/p(a); in 4-D through all splits."""
    p = correlated()
    line = torch.linspace(-25, 25, 4001, dtype=F64)
    for kept in (0, 1):
        a = torch.tensor([0.3, -2.0], dtype=F64)
        points = torch.empty(2, len(line), 2, dtype=F64)
        points[:, :, kept], points[:, :, 1 - kept] = a[:, None], line
        density = p.log_prob(points.reshape(-1, 2)).exp().reshape(2, -1)
        integral = density.sum(1) * (line[1] - line[0])
        torch.testing.assert_close(p.marginal([kept]).log_prob(a[:, None]).exp(), integral)
    q = correlated(3, 4, seed=2)
    x = torch.randn(4, generator=generator(), dtype=F64)
    for size in (1, 2, 3):
        for known in itertools.combinations(range(4), size):
            free = [i for i in range(4) if i not in known]
            ratio = q.log_prob(x[None]) - q.marginal(known).log_prob(x[None, list(known)])
            given = q.conditional(known, x[list(known)])
            torch.testing.assert_close(given.log_prob(x[None, free]), ratio)


def test_order_of_coordinates_is_kept() -> None:
    p, x = correlated(2, 3), torch.randn(3, 3, generator=generator(), dtype=F64)
    swapped = p.marginal([2, 0])
    torch.testing.assert_close(
        swapped.log_prob(x[:, [2, 0]]), p.marginal([0, 2]).log_prob(x[:, [0, 2]])
    )
    a = p.conditional([2, 0], x[0, [2, 0]])
    b = p.conditional([0, 2], x[0, [0, 2]])
    torch.testing.assert_close(a.log_prob(x[:, [1]]), b.log_prob(x[:, [1]]))


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_draws_have_the_moments_and_the_marginal_of_the_density(sigma: float) -> None:
    """40,000 draws. Mean and covariance within 5 standard errors (7 numbers: false failures 4e-6),
    Kolmogorov-Smirnov of a projection against the exact distribution function at p > 1e-5."""
    p, n = correlated(), 40_000
    x = p.sample(n, generator(3), sigma)
    cov = p.covariance + sigma**2 * torch.eye(2, dtype=F64)
    assert bool(((x.mean(0) - p.mean).abs() < 5 * (cov.diagonal() / n).sqrt()).all())
    products = torch.einsum("ni,nj->nij", x - p.mean, x - p.mean)
    assert bool(((products.mean(0) - cov).abs() < 5 * products.std(0) / math.sqrt(n)).all())

    def cdf(v: np.ndarray) -> np.ndarray:
        scale = (p.covariances[:, 0, 0] + sigma**2).sqrt().numpy()
        z = (np.asarray(v)[..., None] - p.means[:, 0].numpy()) / scale
        return stats.norm.cdf(z) @ p.weights.numpy()

    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-5
    again = p.sample(n, generator(3), sigma)
    assert torch.equal(x, again)


def test_named_mixtures_and_targets() -> None:
    for p, k in ((eight_gaussians(), 8), (twenty_five_gaussians(), 25)):
        assert p.means.shape == (k, 2)
        torch.testing.assert_close(p.mean, torch.zeros(2, dtype=F64))
        target = p.at(0.5)
        assert isinstance(target, Target)
        x = torch.randn(3, 2, generator=generator(), dtype=F64)
        value, score = target.value_and_score(x)
        torch.testing.assert_close(value, p.log_prob(x, 0.5))
        torch.testing.assert_close(target.value(x), value)
        torch.testing.assert_close(score, p.score(x, 0.5))
    torch.testing.assert_close(
        eight_gaussians(3.0).means.norm(dim=1), torch.full((8,), 3.0).double()
    )


def test_the_published_toy_of_score_matching() -> None:
    """1/5 N((-5,-5), I) + 4/5 N((5,5), I) (1907.05600 section 3.2.2): weights, not scores, differ.

    Between the modes, where the data are rare, the score says nothing of the weights: near either
    mode it is that of this mode alone."""
    modes = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    p = GaussianMixture.isotropic(modes, 1.0, [0.2, 0.8])
    q = GaussianMixture.isotropic(modes, 1.0, [0.8, 0.2])
    near = modes.double() + 0.5
    torch.testing.assert_close(p.score(near), q.score(near), rtol=0, atol=1e-12)
    assert float((p.log_prob(near) - q.log_prob(near)).abs().min()) == pytest.approx(math.log(4))
    # At a level of the size of the gap the weights show.
    assert float((p.score(near, 10.0) - q.score(near, 10.0)).abs().min()) > 0.01


MIX = correlated()
EYE = torch.eye(2)[None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianMixture([1.0], torch.zeros(2), EYE), r"means must have shape \(K, D\)"),
        (lambda: GaussianMixture.isotropic(torch.zeros(2), 1.0), r"means must have shape \(K, D\)"),
        (lambda: GaussianMixture([1.0, 1.0], torch.zeros(1, 2), EYE), r"weights \(1,\)"),
        (lambda: GaussianMixture([0.0], torch.zeros(1, 2), EYE), "positive"),
        (lambda: GaussianMixture([math.nan], torch.zeros(1, 2), EYE), "positive"),
        (lambda: GaussianMixture([1.0], torch.zeros(1, 2), -EYE), "semi-definite"),
        (lambda: GaussianMixture([1.0], torch.zeros(1, 2), EYE * math.nan), "finite and symmetric"),
        (
            lambda: GaussianMixture(
                [1.0], torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1]]])
            ),
            "symmetric",
        ),
        (lambda: MIX.log_prob(torch.zeros(3)), r"shape \(batch, 2\), got \(3,\)"),
        (lambda: MIX.score(torch.zeros(3, 4)), r"shape \(batch, 2\), got \(3, 4\)"),
        (lambda: MIX.log_prob(torch.zeros(3, 2), torch.ones(3, 1)), r"one per row, shape \(3,\)"),
        (lambda: MIX.denoise(torch.zeros(3, 2), torch.ones(2)), r"one per row, shape \(3,\)"),
        (lambda: MIX.score(torch.zeros(3, 2), -1.0), "not be negative"),
        (lambda: MIX.score(torch.zeros(3, 2), math.nan), "not be negative"),
        (lambda: MIX.marginal([]), "different coordinates from 0 to 1"),
        (lambda: MIX.marginal([0, 0]), "different coordinates"),
        (lambda: MIX.conditional([-1], torch.zeros(1)), r"from 0 to 1, got \[-1\]"),
        (lambda: MIX.conditional([0, 1], torch.zeros(2)), "at least one coordinate free"),
        (lambda: MIX.conditional([0], torch.zeros(2)), "one value each"),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
