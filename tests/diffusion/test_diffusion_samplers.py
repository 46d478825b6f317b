"""Samplers: orders of convergence on a mixture's flow, laws, ladders, clipping."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.diffusion import (
    DDIM,
    SAMPLERS,
    Ancestral,
    DPMpp2M,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
    SDEHeun,
    UniPC,
    clip_denoised,
    ladder,
    named_sampler,
    sample,
)
from energyscape.diffusion.multistep import _weights
from energyscape.models import FunctionDenoiser
from energyscape.schedules import EDM

F64 = torch.float64
MIXTURE = GaussianMixture.isotropic(
    torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.0]]), [0.4, 0.5, 0.6], [0.3, 0.5, 0.2]
)
DENOISER = FunctionDenoiser(MIXTURE.denoise)


def _levels(n: int) -> torch.Tensor:
    return torch.logspace(math.log10(5), math.log10(0.2), n + 1, dtype=F64)


@pytest.fixture(scope="module")
def flow() -> tuple[torch.Tensor, torch.Tensor]:
    """Starting states and their ends under the flow, by a far finer grid."""
    rng = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(32, 2, generator=rng, dtype=F64)
    return x, sample(DENOISER, x, levels=_levels(1024), sampler=UniPC(3))


@pytest.mark.parametrize(
    "walk, order",
    [(Euler(), 1), (DDIM(0.0), 1), (Heun(), 2), (DPMpp2M(), 2), (UniPC(1), 2), (UniPC(2), 3)],
    ids=repr,
)
def test_order_of_convergence(walk, order, flow):
    """Halving the step divides the error by 2^order."""
    x, end = flow
    errors = [(sample(DENOISER, x, levels=_levels(n), sampler=walk) - end).norm() for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def _gaussian_spread(walk: Sampler, n: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Variance of the walk's end on N(0, 0.7^2), without drawing: its denoiser is linear, so the
    state is kept as its coefficients on the start and on each noise, which are orthonormal."""
    drawn = itertools.count(1)

    def basis(x: torch.Tensor, rng: object) -> torch.Tensor:
        z = torch.zeros_like(x)
        z[:, next(drawn)] = 1.0
        return z

    monkeypatch.setattr("energyscape.diffusion.samplers._noise", basis)
    start = torch.zeros(1, 3 * n + 4, dtype=F64)
    start[0, 0] = math.sqrt(0.7**2 + 25)
    gaussian = FunctionDenoiser(lambda x, sigma: x * 0.7**2 / (0.7**2 + float(sigma) ** 2))
    return float(sample(gaussian, start, levels=_levels(n), sampler=walk).square().sum())


@pytest.mark.parametrize(
    "walk, order",
    [
        (Ancestral(), 1),
        (DDIM(0.5), 1),
        (EulerMaruyama(), 1),
        (SDEHeun(churn=4.0, low=0.21, inflation=1.0), 2),
    ],
    ids=repr,
)
def test_weak_order_of_convergence(walk, order, monkeypatch):
    """With noise it is the law that converges: halving the step divides the error of the variance
    by 2^order. The last step, to 0, is the denoiser itself: in the exact value too, and no noise is
    added before it."""
    exact = (0.7**2 + 0.04) * (0.7**2 / (0.7**2 + 0.04)) ** 2
    errors = [abs(_gaussian_spread(walk, n, monkeypatch) - exact) for n in (128, 256)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_unipc_of_three_past_denoisers_has_order_four_once_begun():
    """Where the first steps, which know fewer, are cut short: two of (h^1.5)/2 in the first h."""
    rng = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(32, 2, generator=rng, dtype=F64)
    ends = []
    for n in (64, 128, 256, 1024):
        h = math.log(25) / n
        depth = torch.cat(
            [torch.tensor([0, 0.5, 1], dtype=F64) * h**1.5, h * torch.arange(1, n + 1)]
        )
        ends.append(sample(DENOISER, x, levels=5 * torch.exp(-depth), sampler=UniPC(3)))
    errors = [float((end - ends[-1]).norm()) for end in ends[:-1]]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.25)


def test_third_order_unipc_is_more_accurate_than_second(flow):
    x, end = flow
    e2, e3 = (
        (sample(DENOISER, x, levels=_levels(32), sampler=UniPC(p)) - end).norm() for p in (2, 3)
    )
    assert e3 < 0.2 * e2


def test_unipc_weights_integrate_polynomials():
    """The weights reproduce the exponential integrals of r, r^2, r^3, for small and large steps."""
    r = torch.linspace(0, 1, 20001, dtype=F64)
    for h in (1e-3, 0.3, 1.0, 1.0001, 4.0):
        nodes = [-1.3, -0.6, 1.0]
        weights = _weights(nodes, h)
        for power in (1, 2, 3):
            exact = float(torch.trapezoid(h * torch.exp(-(1 - r) * h) * r**power, r))
            got = sum(w * n ** (power - 1) for w, n in zip(weights, nodes, strict=True))
            assert got == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("walk", [DPMpp2M(), UniPC(2), Heun(), Euler()], ids=repr)
def test_constant_denoiser_is_integrated_exactly_by_all(walk):
    """For a point mass at c every ODE sampler arrives at c."""
    point = FunctionDenoiser(lambda x, sigma: torch.full_like(x, 0.3))
    x = torch.ones(2, 3, dtype=F64)
    assert torch.allclose(sample(point, x, levels=[3.0, 1.0, 0.1], sampler=walk), 0 * x + 0.3)


def test_ddim_equals_euler_and_ancestral_at_its_ends():
    x = torch.ones(4, 2, dtype=F64)
    euler, ddim0 = (sample(DENOISER, x, levels=_levels(7), sampler=s) for s in (Euler(), DDIM(0.0)))
    assert torch.equal(euler, ddim0)
    a, b = (
        sample(DENOISER, x, levels=_levels(7), sampler=s, rng=torch.Generator().manual_seed(1))
        for s in (DDIM(1.0), Ancestral())
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "walk",
    [Ancestral(), DDIM(0.5), EulerMaruyama(), SDEHeun(), PredictorCorrector(), Heun(), UniPC()],
    ids=repr,
)
def test_samples_have_the_moments_of_the_mixture(walk):
    """Mean and covariance of 4,000 draws, at 5 standard errors plus the step's bias of 0.02."""
    rng = torch.Generator().manual_seed(2)
    x = sample(DENOISER, (4000, 2), sampler=walk, schedule=EDM(), steps=80, rng=rng, dtype=F64)
    assert (x.mean(0) - MIXTURE.mean).abs().max() < 5 / math.sqrt(4000) + 0.02
    assert (x.T.cov() - MIXTURE.covariance).abs().max() < 5 * 1.2 / math.sqrt(4000) + 0.02


def test_sde_heun_without_churn_is_heun():
    x = torch.ones(3, 2, dtype=F64)
    a = sample(DENOISER, x, levels=_levels(6), sampler=SDEHeun(churn=0.0))
    assert torch.equal(a, sample(DENOISER, x, levels=_levels(6), sampler="heun"))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_counts_its_evaluations_and_reports(name):
    """A contract: any event shape, dtype kept, evaluations as stated, progress to the end."""
    calls = 0

    def counted(x: torch.Tensor, sigma: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * x

    seen: list[tuple[int, int]] = []
    out = sample(
        FunctionDenoiser(counted),
        (2, 3, 4, 4),
        sampler=name,
        levels=[4.0, 2.0, 1.0],
        rng=torch.Generator().manual_seed(0),
        dtype=torch.float32,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert out.shape == (2, 3, 4, 4)
    assert out.dtype == torch.float32
    assert bool(out.isfinite().all())
    assert calls == SAMPLERS[name]().evaluations(3)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_samples_are_reproducible_and_need_a_generator():
    draws = [
        sample(DENOISER, (3, 2), levels=[5.0, 1.0], rng=torch.Generator().manual_seed(3), dtype=F64)
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    with pytest.raises(ValueError, match="rng"):
        sample(DENOISER, (3, 2), levels=[5.0, 1.0])
    with pytest.raises(ValueError, match="rng"):
        sample(DENOISER, torch.ones(1, 2), levels=[5.0, 1.0], sampler="ancestral")


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, 1.0], [], [0.0], [math.inf, 1.0], [1.0, -1.0]])
def test_ladders_that_do_not_fall_are_refused(bad):
    with pytest.raises(ValueError, match="level"):
        ladder(bad)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="either"):
        ladder()
    with pytest.raises(ValueError, match="not both"):
        ladder([1.0], EDM(), 3)
    with pytest.raises(ValueError, match="unknown sampler 'henu'"):
        sample(DENOISER, (1, 2), sampler="henu", levels=[1.0])
    for make, named in (
        (lambda: DDIM(1.5), "eta"),
        (lambda: UniPC(4), "order is 1, 2 or 3"),
        (lambda: PredictorCorrector(snr=0.0), "snr"),
    ):
        with pytest.raises(ValueError, match=named):
            make()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("ddim", DDIM()),
        ("ddim:eta=0.5", DDIM(eta=0.5)),
        ("unipc:order=3", UniPC(3)),
        ("sde_heun: churn=20, inflation=1.01", SDEHeun(churn=20.0, inflation=1.01)),
        ("pc:corrector_steps=2,snr=0.1", PredictorCorrector(snr=0.1, corrector_steps=2)),
    ],
)
def test_samplers_by_name_with_settings(text, made):
    found = named_sampler(text)
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("henu", "unknown sampler 'henu'; choose one of ancestral"),
        ("ddim:order=2", "no setting 'order'; its settings are eta=0"),
        ("heun:eta=1", "its settings are none"),
        ("ddim:eta", "eta='' is not a number"),
        ("unipc:order=2.5", "order='2.5' is not a whole number"),
        ("ddim:eta=2", "eta is the share"),
        ("ddim:eta=nan", "eta is the share"),
    ],
)
def test_settings_that_there_are_not(text, said):
    with pytest.raises(ValueError, match=said):
        named_sampler(text)


def test_clipping():
    """A range, and dynamic thresholding: rows within [-1, 1] stay, others are rescaled to it."""
    x = torch.tensor([[-3.0, 0.5], [0.2, 0.4]], dtype=F64)
    assert clip_denoised(x, (0.0, 1.0)).tolist() == [[0.0, 0.5], [0.2, 0.4]]
    dynamic = clip_denoised(x, "dynamic")
    assert torch.equal(dynamic[1], x[1])
    assert float(dynamic[0].abs().max()) == pytest.approx(1.0)
    end = sample(FunctionDenoiser(lambda x, s: 9 + 0 * x), x, levels=[2.0, 1.0], clip=1.0)
    assert torch.allclose(end, torch.ones_like(end))
    with pytest.raises(ValueError, match="low < high"):
        clip_denoised(x, (1.0, 0.0))


@pytest.mark.parametrize("wrong", [{"churn": math.nan}, {"low": 2.0, "high": 1.0}, {"churn": -1.0}])
def test_noise_that_would_never_be_added_is_refused(wrong):
    with pytest.raises(ValueError, match="churn|low to high"):
        SDEHeun(**wrong)


def test_dynamic_clipping_of_no_rows():
    assert clip_denoised(torch.zeros(0, 3), "dynamic").shape == (0, 3)
