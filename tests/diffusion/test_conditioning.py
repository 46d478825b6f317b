"""Conditioning and guidance: exact for Gaussians, biased by a measured amount for mixtures."""

from __future__ import annotations

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.diffusion import Conditioned, Guided, sample, twisted_sample
from energyscape.models import Denoiser, FunctionDenoiser, PreconditionedDenoiser, X0Preconditioning
from energyscape.nn import ResidualMLP
from energyscape.schedules import EDM

F64 = torch.float64
MIXTURE = GaussianMixture(
    [0.3, 0.7],
    torch.tensor([[-1.0, -1.5], [1.0, 1.5]]),
    torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.2]]]),
)
FIRST = torch.tensor([True, False])


def _gaussian(dim: int, seed: int = 0) -> GaussianMixture:
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(1, dim, dim, generator=rng, dtype=F64)
    cov = a @ a.transpose(1, 2) / dim + 0.05 * torch.eye(dim, dtype=F64)
    return GaussianMixture([1.0], torch.randn(1, dim, generator=rng, dtype=F64), cov)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0, 50.0])
def test_exact_for_gaussians_with_a_mask_per_row(sigma):
    """The conditional denoiser is that of the closed-form conditional, level by level."""
    p = _gaussian(4)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    values = torch.tensor(
        [[0.3, torch.nan, -0.2, torch.nan], [0.1, 0.5, 0.2, torch.nan]], dtype=F64
    )
    mask = ~values.isnan()
    got = Conditioned(FunctionDenoiser(p.denoise), mask, values)(x, sigma)
    for row in range(2):
        known = mask[row].nonzero().flatten().tolist()
        free = (~mask[row]).nonzero().flatten().tolist()
        exact = p.conditional(known, values[row, known]).denoise(x[row : row + 1, free], sigma)
        # dD/dx times sigma^2 loses sigma^2 times rounding.
        assert torch.allclose(got[row, free], exact[0], atol=1e-8 + 1e-9 * sigma**2)
        assert torch.equal(got[row, known], values[row, known])


def test_conjugate_gradients_agree_with_the_dense_solve(monkeypatch):
    p = _gaussian(6)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    mask = torch.tensor([True, False, True, True, False, False])
    given = Conditioned(FunctionDenoiser(p.denoise), mask, 0 * x + 0.2, noise=0.1, iterations=6)
    dense = given(x, 0.7)
    monkeypatch.setattr("energyscape.diffusion.conditioning._DENSE_COORDINATES", 1)
    assert torch.allclose(given(x, 0.7), dense, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0])
def test_a_covariance_stands_in_for_derivatives_of_gaussians(sigma):
    """With the data's own covariance and zero mean the two agree, evidence too, per-row masks."""
    p = _gaussian(4)
    p = GaussianMixture([1.0], torch.zeros(1, 4), p.covariances)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]) > 0
    denoiser = FunctionDenoiser(p.denoise)
    exact = Conditioned(denoiser, mask, 0.3 * x).moments(x, sigma)
    got = Conditioned(denoiser, mask, 0.3 * x, covariance=p.covariance).moments(x, sigma)
    for a, b in zip(exact, got, strict=True):
        assert torch.allclose(a, b, atol=1e-7 + 1e-9 * sigma**2)
    with pytest.raises(ValueError, match="one sigma"):
        Conditioned(denoiser, mask, x, covariance=p.covariance)(x, torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="covariance of shape"):
        Conditioned(denoiser, mask, x, covariance=torch.eye(3))


def test_samples_given_a_value_have_the_conditional_moments():
    """Gaussian data, 2,000 draws: 5 standard errors and the ladder's 0.01."""
    p = _gaussian(3, seed=2)
    c = p.conditional([0], torch.tensor([0.5]))
    given = Conditioned(
        FunctionDenoiser(p.denoise), torch.tensor([True, False, False]), torch.tensor([0.5, 0, 0])
    )
    rng = torch.Generator().manual_seed(0)
    x = sample(given, (2000, 3), schedule=EDM(), steps=24, rng=rng, dtype=F64)
    assert torch.equal(x[:, 0], torch.full((2000,), 0.5, dtype=F64))
    spread = c.covariance.diagonal().sqrt()
    assert ((x[:, 1:].mean(0) - c.mean).abs() < 5 * spread / 2000**0.5 + 0.01).all()
    assert ((x[:, 1:].std(0) / spread - 1).abs() < 5 / 4000**0.5 + 0.02).all()


def test_bias_on_a_mixture_and_its_removal():
    """A bimodal conditional, 600 draws: moment matching misplaces up to 0.2 of the mass (it is
    0.12 to 0.15 here), twisted sampling at most 5 standard errors and 0.05 for the chain's steps."""
    denoiser = FunctionDenoiser(MIXTURE.denoise)
    rng = torch.Generator().manual_seed(0)
    conditional = MIXTURE.conditional([0], torch.tensor([0.5]))
    exact = float((conditional.sample(100_000, rng) > 0).double().mean())
    values = torch.tensor([[0.5, 0.0]], dtype=F64).expand(600, 2)
    plain = sample(
        Conditioned(denoiser, FIRST, values), (600, 2), schedule=EDM(), steps=24, rng=rng, dtype=F64
    )
    bias = abs(float((plain[:, 1] > 0).double().mean()) - exact)
    assert 0.05 < bias < 0.2
    twisted = twisted_sample(
        denoiser, FIRST, values, particles=8, schedule=EDM(), steps=48, rng=rng
    )
    assert abs(float((twisted[:, 1] > 0).double().mean()) - exact) < 5 * 0.009 + 0.05
    assert torch.equal(twisted[:, 0], values[:, 0])
    seen: list[int] = []
    cheap = twisted_sample(
        denoiser, FIRST, values, particles=32, covariance=MIXTURE.covariance, schedule=EDM(0.01, 10),
        steps=48, rng=rng, start=(MIXTURE.mean, MIXTURE.covariance.diagonal()),
        progress=lambda done, total: seen.append(total - done),
    )  # fmt: skip
    assert abs(float((cheap[:, 1] > 0).double().mean()) - exact) < 5 * 0.009 + 0.05
    assert seen == list(range(46, -1, -1))


def test_rows_do_not_touch_each_other():
    denoiser = FunctionDenoiser(MIXTURE.denoise)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    values = torch.tensor([[0.1, 0.0], [0.5, 0.0], [-2.0, 0.0]], dtype=F64)
    mask = FIRST.expand(3, 2)
    together = Conditioned(denoiser, mask, values)(x, 1.0)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = Conditioned(denoiser, mask[rows], values[rows])(x[rows], 1.0)
        assert torch.allclose(alone, together[rows], atol=1e-12)


def test_nothing_known_changes_nothing_and_all_known_returns_it():
    denoiser = FunctionDenoiser(MIXTURE.denoise)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    none = Conditioned(denoiser, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=F64))
    assert torch.allclose(none(x, 1.0), denoiser(x, 1.0))
    every = Conditioned(denoiser, torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=F64))
    assert torch.equal(every(x, 1.0), torch.ones_like(x))


def test_bad_conditions_are_named():
    denoiser = FunctionDenoiser(MIXTURE.denoise)
    ok = torch.zeros(2)
    cases = [
        (torch.zeros(2), ok, "boolean"),
        (torch.zeros(3, dtype=torch.bool), ok, "shape"),
        (FIRST, torch.tensor([torch.nan, 0.0]), "not finite"),
    ]
    for mask, values, message in cases:
        with pytest.raises(ValueError, match=message):
            Conditioned(denoiser, mask, values)
    with pytest.raises(ValueError, match="noise"):
        Conditioned(denoiser, FIRST, ok, noise=-1.0)
    with pytest.raises(ValueError, match="rows"):
        Conditioned(denoiser, FIRST.expand(2, 2), torch.zeros(2, 2))(torch.zeros(3, 2), 1.0)
    rng = torch.Generator()
    wide = torch.zeros(1, 65)  # all of them known
    with pytest.raises(ValueError, match="64"):
        twisted_sample(denoiser, wide == 0, wide, schedule=EDM(), steps=4, rng=rng)


class _TwoClasses(Denoiser):
    """Exact denoisers of two Gaussians, and of their mixture without a label."""

    def forward(self, x, sigma, label=None):
        out = MIXTURE.denoise(x, sigma)
        for k in (0, 1):
            part = GaussianMixture(
                [1.0], MIXTURE.means[k : k + 1], MIXTURE.covariances[k : k + 1]
            ).denoise(x, sigma)
            if label is not None:
                out = torch.where((label == k)[:, None], part, out)
        return out


def test_guidance_weights():
    """0 is the free denoiser, 1 the conditional one, between and beyond on their line."""
    model = _TwoClasses()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    label = torch.tensor([0, 1, 1, 0])
    free, conditional = model(x, 1.0), model(x, 1.0, label)
    for w in (0.0, 1.0, 2.5):
        expected = free + w * (conditional - free)
        assert torch.allclose(Guided(model, label, w)(x, 1.0), expected)
    outside = Guided(model, label, 4.0, interval=(2.0, 9.0))
    assert torch.allclose(outside(x, 1.0), conditional)
    mixed = outside(x, torch.tensor([1.0, 3.0, 1.0, 3.0], dtype=F64))
    assert torch.allclose(mixed[0], conditional[0])
    ones = sample(Guided(model, 1, 1.0), (200, 2), schedule=EDM(), steps=18,
                  rng=torch.Generator().manual_seed(0), dtype=F64)  # fmt: skip
    # 200 draws of the second class: 5 standard errors of 0.63 / sqrt(200)
    assert (ones.mean(0) - MIXTURE.means[1]).abs().max() < 0.23


def test_guidance_without_labels_is_refused():
    network = ResidualMLP((2,), width=8, blocks=1)
    model = PreconditionedDenoiser(network, X0Preconditioning())
    with pytest.raises(ValueError, match="label"):
        Guided(model, 0, 2.0)(torch.zeros(1, 2), 1.0)
    for label, weight in ((-1, 2.0), (0, -1.0), (0, float("nan"))):
        with pytest.raises(ValueError, match="label" if label < 0 else "weight"):
            Guided(_TwoClasses(), label, weight)


def test_one_event_of_several_axes_with_a_covariance():
    """Known values of a single picture, without an axis of rows, as for a mask of one row."""
    p = _gaussian(12)
    plain = FunctionDenoiser(lambda x, s: p.denoise(x.flatten(1), s).reshape(x.shape))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 2, 2, generator=rng, dtype=F64)
    values = torch.randn(3, 2, 2, generator=rng, dtype=F64)
    mask = torch.rand(3, 2, 2, generator=rng) < 0.5
    cov = p.covariance
    one = Conditioned(plain, mask, values, covariance=cov)(x, 0.7)
    rows = Conditioned(plain, mask, values.expand(5, 3, 2, 2), covariance=cov)(x, 0.7)
    assert torch.equal(one, rows)
    for none in (values, values.expand(0, 3, 2, 2)):
        given = Conditioned(plain, mask, none, covariance=cov)
        assert given(x[:0], 0.7).shape == (0, 3, 2, 2)
    with pytest.raises(ValueError, match="12 dimensions, events have 4"):
        Conditioned(FunctionDenoiser(lambda x, s: x), mask, values, covariance=cov)(x[:3, 0], 0.7)


def test_noise_on_known_values_keeps_float64():
    """By derivatives and by the covariance of a Gaussian, to the last digits."""
    p = _gaussian(4)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    mask, values = torch.tensor([True, False, True, False]), torch.ones(4, dtype=F64)
    plain = FunctionDenoiser(p.denoise)
    by_derivatives = Conditioned(plain, mask, values, noise=0.3)(x, 0.5)
    by_covariance = Conditioned(plain, mask, values, noise=0.3, covariance=p.covariance)(x, 0.5)
    assert torch.allclose(by_derivatives, by_covariance, rtol=0, atol=1e-12)


def test_states_in_float64_with_a_network_in_float32():
    net = PreconditionedDenoiser(
        ResidualMLP((2,), width=8, blocks=1, noise=True), X0Preconditioning()
    )
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, generator=rng, dtype=F64)
    x = sample(net, start, levels=[1.0, 0.1], rng=rng)
    assert x.dtype == F64
    assert sample(net, (3, 2), levels=[1.0, 0.1], rng=rng, dtype=F64).dtype == F64
    given = Conditioned(net, FIRST, torch.zeros(2, dtype=F64))(start, 0.5)
    assert given.dtype == F64
    known = torch.zeros(3, 2, dtype=F64)
    drawn = twisted_sample(net, FIRST, known, particles=2, levels=[1.0, 0.5, 0.1], rng=rng)
    assert drawn.dtype == F64
