"""The chain: published table values, Bayes' rule, respacing, parametrisations, ancestral steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from energyscape.densities import GaussianMixture
from energyscape.diffusion import (
    Chain,
    LearnedRange,
    MeanPrediction,
    TerminalSignalWarning,
    sample,
)
from energyscape.models import (
    EDMPreconditioning,
    EpsPreconditioning,
    FunctionDenoiser,
    PreconditionedDenoiser,
    ScorePreconditioning,
    VPreconditioning,
    X0Preconditioning,
    per_row,
)
from energyscape.schedules import Cosine, Tabulated

F64 = torch.float64
CHAINS = {
    "linear": Chain.linear(),
    "linear-50": Chain.linear(50),
    "cosine": Chain.cosine(),
    "scaled": Chain.scaled_linear(),
    "schedule": Chain.from_schedule(Cosine(), 100),
    "one": Chain.from_betas([0.5]),
}


def test_published_values():
    """abar_T = 4.0e-5 and sigma 0.01 to 157 (linear); 0.60 when the range is kept over 50 steps."""
    assert float(CHAINS["linear"].alphas_bar[-1]) == pytest.approx(4.04e-5, rel=0.01)
    assert float(CHAINS["linear"].sigmas[0]) == pytest.approx(0.01, rel=1e-3)
    assert float(CHAINS["linear"].sigmas[-1]) == pytest.approx(157.4, rel=1e-3)
    assert float(Chain.linear(50, rescale=False).alphas_bar[-1]) == pytest.approx(0.60, abs=0.005)
    assert float(Chain.linear(1000, 1e-4, 0.01).alphas_bar[-1]) == pytest.approx(0.0063, abs=2e-4)
    assert 1.5e4 < float(CHAINS["cosine"].sigmas[-1]) < 2.5e4
    assert float(CHAINS["cosine"].betas.max()) == 0.999


@pytest.mark.parametrize("name", CHAINS)
def test_posterior_is_bayes_rule(name):
    """Mean and variance of q(x_{i-1} | x_i, x_0) against the product of two Gaussians."""
    chain = CHAINS[name]
    x0 = torch.tensor([[0.7], [-1.1]], dtype=F64)
    x_t = torch.tensor([[0.2], [0.4]], dtype=F64)
    for i in sorted({*range(1, chain.num_steps, 7), chain.num_steps - 1} - {0}):
        abar, beta = float(chain.alphas_bar[i - 1]), float(chain.betas[i])
        precision = (1 - beta) / beta + 1 / (1 - abar)
        mean = (math.sqrt(1 - beta) / beta * x_t + math.sqrt(abar) / (1 - abar) * x0) / precision
        got, var = chain.posterior(x0, x_t, i)
        assert torch.allclose(got, mean, rtol=1e-8, atol=1e-10)
        assert float(var) == pytest.approx(1 / precision, rel=1e-8)
    assert float(chain.posterior_variances[0]) == 0
    assert torch.allclose(chain.posterior(x0, x_t, 0)[0], x0)


def test_posterior_by_brute_force():
    """The same by summing the joint density on a grid, with no algebra."""
    chain, i, x0, x_t = CHAINS["linear-50"], 20, 0.7, -0.4
    grid = torch.linspace(-6, 6, 24001, dtype=F64)
    abar, beta = chain.alphas_bar[i - 1], chain.betas[i]
    log_q = -((grid - abar.sqrt() * x0) ** 2) / (2 * (1 - abar))
    log_q = log_q - (x_t - (1 - beta).sqrt() * grid) ** 2 / (2 * beta)
    w = log_q.softmax(0)
    mean = float(w @ grid)
    got, var = chain.posterior(torch.tensor([[x0]], dtype=F64), torch.tensor([[x_t]], dtype=F64), i)
    assert float(got) == pytest.approx(mean, abs=1e-9)
    assert float(var) == pytest.approx(float(w @ (grid - mean) ** 2), rel=1e-8)


@pytest.mark.parametrize("name", CHAINS)
def test_stepping_equals_one_jump_in_law(name):
    """Composing the forward kernels gives the jump's factor on x_0 and its variance, exactly."""
    chain = CHAINS[name]
    factor, variance = 1.0, 0.0
    for i in range(chain.num_steps):
        beta = float(chain.betas[i])
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
        one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
        assert float(chain.noise(one, i, zero)) == pytest.approx(factor, rel=1e-10)
        assert float(chain.noise(zero, i, one)) == pytest.approx(math.sqrt(variance), rel=1e-10)
    assert float(chain.forward_step(one, 0, zero)) == pytest.approx(
        math.sqrt(1 - float(chain.betas[0]))
    )


def test_respaced_chain_has_the_levels_and_betas_of_the_full_one():
    chain = CHAINS["linear"]
    indices = [0, 3, 500, 999]
    short = chain.respaced(indices)
    assert torch.allclose(short.sigmas, chain.sigmas[indices], rtol=1e-12)
    ratio = chain.alphas_bar[indices][1:] / chain.alphas_bar[indices][:-1]
    assert torch.allclose(short.betas[1:], 1 - ratio, rtol=1e-10)
    assert torch.allclose(chain.respaced(1000).betas, chain.betas, rtol=1e-10)
    for bad in (0, 1001):
        with pytest.raises(ValueError, match=f"can be respaced to 1 to 1000, not {bad}"):
            chain.respaced(bad)
    for bad in ([3, 3], [5, 1000], []):
        with pytest.raises(ValueError, match="indices must rise strictly|at least one"):
            chain.respaced(bad)


@pytest.mark.parametrize("make", [Chain.linear, Chain.scaled_linear, Chain.cosine])
@pytest.mark.parametrize("steps", [0, -3])
def test_a_chain_has_steps(make, steps):
    with pytest.raises(ValueError, match=f"at least one step, got {steps}"):
        make(steps)


@pytest.mark.parametrize(
    "betas", [[0.0, 0.1], [0.1, 1.0], [-0.1], [math.nan], [], [[0.1]]], ids=str
)
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="beta"):
        Chain.from_betas(betas)


def test_bad_levels_and_short_linear_chains_are_refused():
    for levels in ([1.0, 3.0, 2.0], [0.0, 1.0], [1.0, math.inf], []):
        with pytest.raises(ValueError, match="monotone"):
            Chain.from_levels(levels)
    with pytest.raises(ValueError, match="more steps"):
        Chain.linear(10)
    levels = [0.1, 1.0, 30.0]
    assert torch.allclose(Chain.from_levels(levels[::-1]).sigmas, torch.tensor(levels, dtype=F64))
    assert Chain.from_schedule(Tabulated(levels), 3).num_steps == 3


class _Perfect(nn.Module):
    """A network that knows x_0 and answers what its preconditioning asks for."""

    def __init__(self, x0, preconditioning):
        super().__init__()
        self.x0, self.preconditioning = x0, preconditioning

    def forward(self, x_in, c_noise, label=None):
        scale = 4.0 if isinstance(self.preconditioning, EDMPreconditioning) else 1.0
        sigma = (scale * c_noise).exp().reshape(-1, 1)
        c = self.preconditioning.coefficients(sigma)
        return (self.x0 - c.c_skip * (x_in / c.c_in)) / c.c_out


@pytest.mark.parametrize(
    "preconditioning",
    [
        EpsPreconditioning(),
        X0Preconditioning(),
        VPreconditioning(),
        ScorePreconditioning(),
        EDMPreconditioning(0.5),
    ],
    ids=lambda p: type(p).__name__,
)
def test_perfect_networks_give_the_posterior_mean(preconditioning):
    """Every parametrisation recovers x_0, so its reverse mean is the posterior's.

    The tolerance is machine precision times the condition number: the subtraction at level sigma
    loses a factor sigma.
    """
    chain = CHAINS["linear"]
    rng = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=rng, dtype=F64)
    denoiser = PreconditionedDenoiser(_Perfect(x0, preconditioning), preconditioning)
    for i in (0, 1, 500, 999):
        x_t = chain.noise(x0, i, eps)
        x0_hat = denoiser(chain.to_sigma_frame(x_t, i), float(chain.sigmas[i]))
        condition = 1 + float(chain.sigmas[i])
        assert (x0_hat - x0).abs().max() < 1e-14 * condition * 10
        mean = chain.reverse(denoiser, x_t, i).mean
        assert (mean - chain.posterior(x0, x_t, i)[0]).abs().max() < 1e-13 * condition


def test_mean_prediction_and_its_condition_number():
    """A perfect mean gives x_0 back to 1/a_i times rounding: 327 at 500 and 7,791 at 999."""
    chain = CHAINS["linear"]
    assert 1 / float(chain.posterior_x0[500]) == pytest.approx(327, rel=0.005)
    assert 1 / float(chain.posterior_x0[999]) == pytest.approx(7791, rel=0.005)
    rng = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=rng, dtype=F64)
    x_t = chain.noise(x0, 500, eps)
    mean = chain.posterior(x0, x_t, 500)[0]
    model = MeanPrediction(_Fixed(mean))
    assert torch.equal(chain.reverse(model, x_t, 500).mean, mean)
    assert (chain.x0_from_mean(mean, x_t, 500) - x0).abs().max() < 327 * 1e-14
    clipped = chain.reverse(model, x_t, 500, clip=1e9).mean
    assert torch.allclose(clipped, mean)


class _Fixed(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, c_noise, label=None):
        return self.value


def test_variances():
    """Small is v_i with v_1 in the first place, large beta_i; a learned range lies between."""
    chain = CHAINS["linear"]
    x = torch.zeros(2, 3, dtype=F64)
    denoiser = FunctionDenoiser(lambda x, sigma: 0 * x)
    small = chain.reverse(denoiser, x, 0).log_var
    assert float(small.exp()) == pytest.approx(float(chain.posterior_variances[1]))
    large = chain.reverse(denoiser, x, 7, variance="fixed_large").log_var
    assert float(large.exp()) == pytest.approx(float(chain.betas[7]))
    for r, kind in ((1.0, "fixed_large"), (-1.0, "fixed_small")):
        model = LearnedRange(denoiser, _Fixed(torch.full_like(x, r)))
        steps = torch.tensor([0, 40])
        learned = chain.reverse(model, x, steps).log_var
        fixed = chain.reverse(model, x, steps, variance=kind).log_var
        assert torch.allclose(learned, fixed.expand(x.shape))
    with pytest.raises(ValueError, match="LearnedRange"):
        chain.reverse(denoiser, x, 0, variance="learned_range")
    with pytest.raises(ValueError, match="wrap the network"):
        chain.reverse(nn.Identity(), x, 0)


def test_steps_by_row_equal_steps_one_at_a_time():
    chain = CHAINS["cosine"]
    denoiser = FunctionDenoiser(lambda x, s: x / (1 + per_row(s, x) ** 2))
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    steps = [0, 10, 999]
    together = chain.reverse(denoiser, x, torch.tensor(steps)).mean
    for row, i in enumerate(steps):
        alone = chain.reverse(denoiser, x[row : row + 1], i).mean
        assert torch.allclose(together[row], alone[0], rtol=1e-12)


def test_ddim_with_all_noise_is_the_ancestral_chain():
    """The same noise gives the same samples: eta = 1 in the sigma frame and fixed-small in DDPM's."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.3)
    denoiser = FunctionDenoiser(p.denoise)
    chain = Chain.linear().respaced(40)
    x_t = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    a = chain.ancestral(denoiser, x_t, torch.Generator().manual_seed(2))
    b = sample(
        denoiser,
        chain.to_sigma_frame(x_t, chain.num_steps - 1),
        sampler="ancestral",
        levels=chain.sigmas.flip(0),
        rng=torch.Generator().manual_seed(2),
    )
    assert torch.allclose(a, b, atol=1e-10)


def test_terminal_signal_is_told_and_warned_of():
    """L_T of unit data per dimension, and a warning exactly where N(0, I) is the wrong start."""
    rng = torch.Generator().manual_seed(0)
    denoiser = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))
    short = Chain.linear(25, 1e-4, 5e-3, rescale=False)
    abar = float(short.alphas_bar[-1])
    x = torch.tensor([[1.0, -1.0]])
    assert short.terminal_bits(x) == pytest.approx(-0.5 * math.log2(1 - abar))
    with pytest.warns(TerminalSignalWarning, match="bits/dim"):
        short.ancestral(denoiser, (2, 1), rng)
    CHAINS["linear"].check_terminal()
    CHAINS["cosine"].check_terminal()


def test_a_network_runs_in_its_own_dtype():
    """A float32 network under a float64 chain: called in float32, the posterior in float64."""
    net = nn.Linear(2, 2)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, c_noise, label=None):
            assert x.dtype == torch.float32
            return self.net(x)

    denoiser = PreconditionedDenoiser(Wrapped(), EpsPreconditioning())
    x = torch.zeros(2, 2, dtype=F64)
    out = CHAINS["linear"].reverse(denoiser, x, torch.tensor([1, 2]))
    assert out.mean.dtype == F64


def test_one_linear_step_is_refused():
    """A line from beta_start to beta_end needs two points; one step would take the first alone."""
    for kind in (Chain.linear, Chain.scaled_linear):
        with pytest.raises(ValueError, match="need 2 steps"):
            kind(1)
    assert Chain.cosine(1).num_steps == 1


def test_the_warning_of_signal_names_the_caller():
    chain = Chain.linear(50, rescale=False)
    normal = FunctionDenoiser(lambda x, s: x / (1 + per_row(s, x).square()))
    with pytest.warns(TerminalSignalWarning) as told:
        chain.ancestral(normal, (1, 1), torch.Generator().manual_seed(0))
    with pytest.warns(TerminalSignalWarning) as directly:
        chain.check_terminal()
    assert told[0].filename == directly[0].filename == __file__
    assert not chain.ends_in_noise
    assert Chain.linear().ends_in_noise


def test_respacing_takes_integers_of_any_kind():
    numpy = pytest.importorskip("numpy")
    assert Chain.linear(100).respaced(numpy.int64(5)).num_steps == 5
    assert Chain.linear(100).respaced(torch.tensor([3, 99])).num_steps == 2
