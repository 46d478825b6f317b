"""The bound: telescoping, a Gaussian's closed form, the decoder's masses, sampled steps, losses."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import nn

from energyscape.diffusion import (
    BoundLoss,
    Chain,
    HybridLoss,
    LearnedRange,
    MeanPrediction,
    SimpleLoss,
    bound_by_step,
    path_log_ratio,
    variational_bound,
)
from energyscape.diffusion.bound import (
    discretised_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    step_probabilities,
    terminal_kl,
    transition_kl,
)
from energyscape.diffusion.chain import Reverse
from energyscape.models import (
    EpsPreconditioning,
    FunctionDenoiser,
    PreconditionedDenoiser,
    per_row,
)

F64 = torch.float64
STD = 0.7


def _gaussian(std: float = STD) -> FunctionDenoiser:
    """The exact denoiser of N(0, std^2 I)."""
    return FunctionDenoiser(lambda x, s: x * std**2 / (std**2 + per_row(s, x) ** 2))


def _gap(chain: Chain, std: float) -> float:
    """E[bound] - entropy for Gaussian data, its exact denoiser and the large variance, one dimension.

    The reverse of a Gaussian chain is Gaussian with variance ``beta_i m_{i-1} / m_i`` for marginal
    variances m, and the model has its mean, so each step adds KL = (r - 1 - log r)/2 with r the
    ratio of the variances; the end adds KL(N(0, m_T) || N(0, 1)).
    """
    m = chain.alphas_bar * std**2 + 1 - chain.alphas_bar
    before = torch.cat([torch.tensor([std**2], dtype=F64), m[:-1]])
    ratio = chain.betas * before / m / chain.betas
    steps = 0.5 * (ratio - 1 - ratio.log()).sum()
    return float(steps + 0.5 * (m[-1] - 1 - m[-1].log()))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("decoder", ["gaussian", "discretised"])
def test_path_ratio_telescopes(variance, decoder):
    """Forward kernels and posteriors give the same path log-ratio, path by path."""
    chain = Chain.linear(60)
    rng = torch.Generator().manual_seed(0)
    x0 = STD * torch.randn(20, 3, generator=rng, dtype=F64)
    a, b = path_log_ratio(chain, _gaussian(), x0, rng, variance=variance, decoder=decoder)
    assert torch.allclose(a, b, atol=1e-9)


def test_bound_is_the_mean_path_ratio():
    """Both estimate one number; they agree at 4.5 standard errors (false failures: 1e-5)."""
    chain, n = Chain.linear(40), 3000
    rng = torch.Generator().manual_seed(1)
    x0 = torch.full((n, 2), 0.5, dtype=F64)
    paths = path_log_ratio(chain, _gaussian(), x0, rng)[0]
    bound = variational_bound(chain, _gaussian(), x0, rng).value
    error = math.sqrt(float(paths.var() + bound.var()) / n)
    assert abs(float(paths.mean() - bound.mean())) < 4.5 * error


@pytest.mark.parametrize("steps", [50, 200])
def test_bound_of_a_gaussian_is_its_entropy_plus_the_known_gap(steps):
    """At 4.5 standard errors of 4,000 rows (false failures: 1e-5 each)."""
    chain = Chain.linear(steps)
    rng = torch.Generator().manual_seed(2)
    x0 = STD * torch.randn(4000, 1, generator=rng, dtype=F64)
    bound = variational_bound(chain, _gaussian(), x0, rng, variance="fixed_large").value
    minus_log_p = 0.5 * (x0[:, 0] / STD) ** 2 + 0.5 * math.log(2 * math.pi * STD**2)
    difference = bound - minus_log_p
    error = float(difference.std()) / math.sqrt(4000)
    assert abs(float(difference.mean()) - _gap(chain, STD)) < 4.5 * error


def test_a_few_steps_stand_for_all_without_bias():
    """The terms of a Gaussian's exact denoiser have a closed mean; 12 steps, drawn 300 times, give
    their sum at 4.5 standard errors (false failures: 1e-5), and all of them are one each."""
    chain, std = Chain.linear(200), 1.0
    rng = torch.Generator().manual_seed(5)
    x0 = std * torch.randn(3000, 1, generator=rng, dtype=F64)
    every = bound_by_step(chain, _gaussian(std), x0, rng, most=199)
    assert every.steps.tolist() == list(range(1, 200))
    assert every.counts.tolist() == [1] * 199
    # Under the posterior's variance v a term is a^2 E(x_0 - x0_hat)^2 / 2v, the posterior's variance.
    missed = chain.sigmas**2 / (1 + chain.sigmas**2)
    closed = (chain.posterior_x0**2 * missed / (2 * chain.posterior_variances))[1:]
    error = every.per_step.std(0) / math.sqrt(3000)
    assert bool(((every.per_step.mean(0) - closed).abs() < 5 * error).all())
    sums = []
    for _ in range(300):
        few = bound_by_step(chain, _gaussian(std), x0[:10], rng, most=12)
        assert int(few.counts.sum()) == 199
        assert len(few.steps) <= 12
        sums.append(float(few.transitions.mean()))
    drawn = torch.tensor(sums, dtype=F64)
    # The ten rows are fixed, so their own expectation is: shrunk noise and shrunk rows apart.
    shrunk = (x0[:10].square().mean() * (chain.sigmas**2 / (1 + chain.sigmas**2)) ** 2)[None]
    noise = (1 / (1 + chain.sigmas**2)) ** 2 * chain.sigmas**2
    own = (chain.posterior_x0**2 * (shrunk + noise) / (2 * chain.posterior_variances))[0, 1:]
    assert abs(float(drawn.mean() - own.sum())) < 4.5 * float(drawn.std()) / math.sqrt(300)
    with pytest.raises(ValueError, match="at least 1"):
        bound_by_step(chain, _gaussian(), x0, rng, most=0)


def test_the_last_steps_of_a_cosine_chain_are_not_missed():
    """An error d of the noise that is the same at every step costs (sigma_i^2/sigma_{i-1}^2 - 1) d^2/2
    at step i: nearly all of it at the last one, where beta is 0.999."""
    chain, d = Chain.cosine(), 0.1
    wrong = FunctionDenoiser(lambda x, sigma: torch.zeros_like(x) + d * per_row(sigma, x))
    s2 = chain.sigmas.square()
    closed = 0.5 * d**2 * (s2[1:] / s2[:-1] - 1)
    x0, rng = torch.zeros(50, 1, dtype=F64), torch.Generator().manual_seed(0)
    every = bound_by_step(chain, wrong, x0, rng, most=999)
    torch.testing.assert_close(every.per_step[0], closed, rtol=1e-8, atol=0.0)
    assert float(closed[-1]) > 0.9 * float(closed.sum())
    for most, within in ((5, 0.2), (20, 0.05), (120, 0.02)):
        few = bound_by_step(chain, wrong, x0, rng, most=most).transitions
        assert float(few.mean()) == pytest.approx(float(closed.sum()), rel=within)
    drawn = variational_bound(chain, wrong, x0, rng, num_steps=50).transitions
    error = float(drawn.std()) / math.sqrt(50)
    assert error < 0.1 * float(closed.sum())
    assert abs(float(drawn.mean() - closed.sum())) < 4 * error  # false failure: 1e-4


def test_a_clip_that_holds_the_rows_only_lowers_the_terms():
    """Term by term and with the same noise, since each estimate comes nearer to the row."""
    chain = Chain.cosine(60)
    wild = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2) + 3 * torch.sin(5 * x))
    x0 = 2 * torch.rand(20, 4, generator=torch.Generator().manual_seed(1), dtype=F64) - 1

    def both(clip):
        rng = torch.Generator().manual_seed(2)
        return variational_bound(chain, wild, x0, rng, clip=clip)

    free, held = both(None), both(1.0)
    assert bool((held.per_step <= free.per_step).all())
    assert bool((held.decoder <= free.decoder).all())
    assert float(held.value.mean()) < 0.5 * float(free.value.mean())
    rng = torch.Generator().manual_seed(3)
    forward, telescoped = path_log_ratio(chain, wild, x0, rng, clip=1.0)
    torch.testing.assert_close(forward, telescoped)


def test_the_gap_shrinks_with_more_steps():
    gaps = [_gap(Chain.linear(n), STD) for n in (50, 100, 200, 400, 800)]
    assert all(a > 1.5 * b > 0 for a, b in itertools.pairwise(gaps))


def test_standard_errors_cover_the_spread_of_repeats():
    """Over 200 repeats on one row: the stated error is at least the real one (within 15 %) and
    not above twice it, for all steps and for sampled ones, whose means agree at 4.5 errors."""
    chain = Chain.linear(50)
    rng = torch.Generator().manual_seed(3)
    x0 = torch.full((200, 4), 0.4, dtype=F64)
    full = variational_bound(chain, _gaussian(), x0, rng)
    some = variational_bound(chain, _gaussian(), x0, rng, num_steps=40)
    for b in (full, some):
        stated = float(b.stderr.square().mean().sqrt())
        assert 0.85 < stated / float(b.value.std()) < 2.0
    error = math.sqrt(float(full.value.var() + some.value.var()) / 200)
    assert abs(float(full.value.mean() - some.value.mean())) < 4.5 * error
    assert full.per_step is not None
    assert full.per_step.shape == (200, 49)
    assert some.per_step is None
    total = full.terminal + full.transitions + full.decoder
    assert torch.allclose(total, full.value)
    assert torch.allclose(full.bits_per_dim(4), full.value / (4 * math.log(2)))


def test_terminal_term_and_step_proposal():
    """L_T against its integral on a grid; the proposal is a distribution over N - 1 steps."""
    chain = Chain.linear(25, 1e-4, 0.01)
    grid = torch.linspace(-12, 12, 20001, dtype=F64)
    q = torch.distributions.Normal(
        chain.alphas_bar[-1].sqrt() * 0.8, (1 - chain.alphas_bar[-1]).sqrt()
    )
    p = torch.distributions.Normal(torch.tensor(0.0, dtype=F64), torch.tensor(1.0, dtype=F64))
    log_q = q.log_prob(grid)
    exact = torch.trapezoid(log_q.exp() * (log_q - p.log_prob(grid)), grid)
    assert float(terminal_kl(chain, torch.tensor([[0.8]], dtype=F64))) == pytest.approx(
        float(exact)
    )
    proposal = step_probabilities(chain)
    assert proposal.shape == (24,)
    assert float(proposal.sum()) == pytest.approx(1.0)


def test_transition_is_zero_for_the_true_posterior():
    """With D = x_0 and the posterior's own variance there is nothing left to pay."""
    x0 = torch.full((5, 2), 0.3, dtype=F64)
    known = FunctionDenoiser(lambda x, sigma: 0 * x + 0.3)
    eps = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    kl = transition_kl(Chain.linear(), known, x0, 400, eps)
    assert kl.abs().max() < 1e-12


def test_a_decoder_can_be_a_function():
    """One that gives the Gaussian's values gives the same bound, in both forms of it."""
    chain = Chain.linear(40)
    x0 = torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2)
    for form in (variational_bound, bound_by_step):
        named, given = (
            form(chain, _gaussian(), x0, torch.Generator().manual_seed(0), decoder=decoder)
            for decoder in ("gaussian", gaussian_log_prob)
        )
        torch.testing.assert_close(named.decoder, given.decoder, rtol=0, atol=0)


def test_discretised_decoder_adds_up_and_survives_far_tails():
    """Masses of all 256 bins add to 1 for wide, narrow and off-centre kernels; tails stay finite."""
    grid = torch.linspace(-1, 1, 256, dtype=F64)[:, None]
    for mean, std in ((0.0, 0.5), (0.9, 0.05), (-3.0, 0.4), (0.2, 1e-3)):
        p = Reverse(torch.full((256, 1), mean, dtype=F64), torch.tensor(2 * math.log(std)))
        assert float(discretised_log_prob(grid, p).exp().sum()) == pytest.approx(1.0, abs=1e-6)
    far = Reverse(torch.full((2, 1), 0.0, dtype=F64), torch.tensor(2 * math.log(1e-3)))
    log_mass = discretised_log_prob(torch.tensor([[0.5], [-0.5]], dtype=F64), far)
    assert bool(log_mass.isfinite().all())
    assert float(log_mass[0]) == pytest.approx(float(log_mass[1]), rel=1e-6)


def test_the_bound_of_few_grey_levels_is_never_below_their_entropy():
    """Pictures of one pixel, black or white by a coin: the exact denoiser's bound lies above log 2 by
    the gap of 400 steps, and the bins are those asked for (with 256 it would be far above)."""
    coin = FunctionDenoiser(lambda x, s: torch.tanh(x / per_row(s, x).square()))
    rng = torch.Generator().manual_seed(0)
    x0 = torch.tensor([[-1.0], [1.0]], dtype=F64).repeat(300, 1)
    chain = Chain.linear(400)
    two = functools.partial(discretised_log_prob, bins=2)
    b = variational_bound(chain, coin, x0, rng, decoder=two)
    error = float(b.stderr.square().mean().sqrt()) / math.sqrt(600)
    assert -4.5 * error < float(b.value.mean()) - math.log(2) < 0.02 + 4.5 * error
    with pytest.raises(ValueError, match="2 bins"):
        discretised_log_prob(x0, Reverse(x0, torch.tensor(0.0)), bins=1)


class _Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=F64))

    def forward(self, x, c_noise, label=None):
        return self.value + 0 * x


def _losses(chain: Chain) -> dict[str, object]:
    return {
        "simple": SimpleLoss(chain),
        "bound": BoundLoss(chain),
        "large": BoundLoss(chain, variance="fixed_large"),
        "importance": BoundLoss(chain, importance=True),
        "hybrid": HybridLoss(chain),
    }


@pytest.mark.parametrize("name", ["simple", "bound", "large", "importance", "hybrid"])
def test_losses_give_one_value_a_row_and_a_gradient(name):
    chain = Chain.linear(50)
    loss = _losses(chain)[name]
    model = LearnedRange(_gaussian(), _Constant(0.3))
    rng = torch.Generator().manual_seed(0)
    x = STD * torch.randn(64, 3, generator=rng, dtype=F64)
    out = loss(model, x, loss.init(model, x, rng), rng)
    assert out.loss.shape == (64,)
    assert bool(out.loss.isfinite().all())
    if name in ("bound", "hybrid", "importance"):
        out.loss.mean().backward()
        assert float(model.range_network.value.grad.abs()) > 0


def test_bound_loss_has_the_bounds_mean():
    """Its mean over rows and steps is (bound - L_T)/dim, with and without importance sampling; at
    4.5 standard errors (false failures: 1e-5)."""
    chain = Chain.linear(30)
    rng = torch.Generator().manual_seed(5)
    x = torch.full((6000, 2), 0.5, dtype=F64)
    b = variational_bound(chain, _gaussian(), x, rng)
    target = (b.value - b.terminal) / 2
    aux = None
    for importance in (False, True):
        loss = BoundLoss(chain, importance=importance)
        aux = loss.init(_gaussian(), x, rng)
        for _ in range(2):  # the second call has a full record to draw from
            out = loss(_gaussian(), x, aux, rng)
            aux = out.aux
        error = math.sqrt(float(out.loss.var() + target.var()) / 6000)
        assert abs(float(out.loss.mean() - target.mean())) < 4.5 * error
    assert int(aux["seen"].sum()) == 12000


def test_the_exact_denoiser_minimises_the_simple_loss():
    """Of shrinkage denoisers the data's own scale has the smallest loss, on shared noise."""
    chain = Chain.linear(100)
    x = STD * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=F64)

    def value(std: float) -> float:
        rng = torch.Generator().manual_seed(1)
        return float(SimpleLoss(chain)(_gaussian(std), x, None, rng).loss.mean())

    assert value(STD) < min(value(0.5), value(0.95))


def test_simple_loss_of_a_predicted_mean_and_refusals():
    chain = Chain.linear(50)
    x = torch.zeros(8, 2, dtype=F64)
    rng = torch.Generator().manual_seed(0)
    out = SimpleLoss(chain)(MeanPrediction(_Constant(1.0)), x, None, rng)
    assert bool((out.loss > 0).all())
    with pytest.raises(ValueError, match="LearnedRange"):
        HybridLoss(chain)(_gaussian(), x, None, rng)
    with pytest.raises(ValueError, match="Denoiser"):
        SimpleLoss(chain)(nn.Identity(), x, None, rng)
    with pytest.raises(ValueError, match="decoder"):
        variational_bound(chain, _gaussian(), x, rng, decoder="poisson")
    with pytest.raises(ValueError, match="standard error"):
        variational_bound(chain, _gaussian(), x, rng, num_steps=1)


@pytest.mark.parametrize("given", [[1.0] * 20, [1.0] * 60, [0.0] + [1.0] * 28, [math.nan] * 29])
def test_probabilities_that_leave_a_step_out_are_refused(given):
    """A step that is never drawn is missing from the sum, which is then no bound."""
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="29 transitions need as many probabilities, all positive"):
        variational_bound(
            Chain.cosine(30),
            FunctionDenoiser(lambda x, s: x / (1 + per_row(s, x).square())),
            torch.ones(2, 2, dtype=F64),
            rng,
            num_steps=4,
            probabilities=torch.tensor(given),
        )


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_the_standard_error_of_short_chains_is_not_below_the_spread(steps):
    """The only transition of two steps has no neighbour to be compared with: it is drawn again."""
    rng = torch.Generator().manual_seed(0)
    off = FunctionDenoiser(lambda x, s: 0.5 * x / (1 + per_row(s, x).square()))
    x0 = torch.full((4000, 2), 0.8, dtype=F64)
    found = variational_bound(Chain.cosine(steps), off, x0, rng)
    error = float(found.stderr.square().mean().sqrt())
    assert float(found.value.std()) < 1.05 * error
    assert found.per_step is not None
    assert found.per_step.shape == (4000, steps - 1)


def test_the_bound_of_no_rows():
    rng = torch.Generator().manual_seed(0)
    normal = FunctionDenoiser(lambda x, s: x / (1 + per_row(s, x).square()))
    for count in (None, 3):
        found = variational_bound(Chain.linear(30), normal, torch.zeros(0, 2), rng, num_steps=count)
        assert found.value.shape == found.stderr.shape == (0,)


def test_the_hybrid_loss_evaluates_its_network_once():
    """The bound trains the variance alone: its mean is the estimate that the simple loss has made."""
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, c_noise, label=None):
            calls.append(len(x))
            return self.scale * x

    denoiser = PreconditionedDenoiser(Counting(), EpsPreconditioning())
    model = LearnedRange(denoiser, _Constant(0.0))
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    chain = Chain.linear(30)
    loss = HybridLoss(chain)(model, x, None, torch.Generator().manual_seed(1))
    assert calls == [8]
    rng = torch.Generator().manual_seed(1)
    u, order = torch.rand(8, generator=rng, dtype=F64), torch.randperm(8, generator=rng)
    i = ((order + u) / 8 * 30).long().clamp(max=29)
    x_t = chain.noise(x, i, torch.randn(x.shape, generator=rng))
    reverse = chain.reverse(model, x_t, i)
    mean, var = chain.posterior(x, x_t, i)
    kl = gaussian_kl(mean, torch.where(i[:, None] == 0, 1.0, var).log(), reverse)
    bound = torch.where(i == 0, -gaussian_log_prob(x, reverse), kl) / 2
    simple = loss.loss - 1e-3 * 30 * bound
    assert torch.allclose(simple.mean(), loss.metrics["simple"], atol=1e-5)
