"""Every kernel leaves its target unchanged, rejects what is not finite, and minds its own chain.

Statistical tests start in equilibrium, so that every later draw of a correct kernel is an exact draw
(but for hot copies of parallel tempering, which start with the cold ones unless a test says otherwise);
Kolmogorov-Smirnov tests at level 1e-4 each, fewer than 60 in all: total false-failure rate below 0.6 %.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import energyscape.mcmc as mcmc
from energyscape.densities import GaussianMixture
from energyscape.families.walks import ScatteredMALA
from energyscape.mcmc import (
    HMC,
    MALA,
    ULA,
    IntegerWalk,
    Kernel,
    ParallelTempering,
    Pinned,
    RandomWalk,
)
from energyscape.mcmc.metropolis import draw_exponential
from energyscape.models import BoxEnergy, ExponentialFamily, FunctionEnergy
from energyscape.targets import FunctionTarget, ScoreTarget

ADJUSTED = {
    "RandomWalk": RandomWalk(0.7),
    "MALA": MALA(0.35),
    "HMC": HMC(0.35, 4),
    "HMC jittered": HMC(0.35, trajectory_length=1.5),
    "HMC with mass": HMC(0.3, 4, inverse_mass=torch.tensor([4.0, 0.5])),
    "ParallelTempering": ParallelTempering(MALA(0.35), (1.0, 0.5, 0.2)),
    "ScatteredMALA": ScatteredMALA(0.5, decades=1.0, jump_share=0.25, reach=2.0),
}
MASK = torch.tensor([True, False])
ALL: dict[str, Kernel] = {
    **ADJUSTED,
    "ULA": ULA(0.1),
    "Pinned": Pinned(MALA(0.35), MASK, torch.zeros(2)),
}


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.5]])
    covariances = torch.tensor([[[1.0, 0.6], [0.6, 1.0]], [[0.5, 0.0], [0.0, 1.5]]])
    return GaussianMixture([0.3, 0.7], means, covariances)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_step(kernel: Kernel, target: object, x: Tensor, seed: int = 0) -> tuple[object, object]:
    """The state and info after one step from x."""
    noise = kernel.draw(1, x, generator(seed))
    first = mcmc.compilation.split_noise(noise)[0]
    return kernel.step(kernel.init(x, target), target, first)  # type: ignore[arg-type]


def test_every_public_kernel_is_tested_here() -> None:
    kinds = {type(k).__name__ for k in ALL.values()} | {"IntegerWalk"}
    public = {
        name
        for name in mcmc.__all__
        if isinstance(getattr(mcmc, name), type)
        and hasattr(getattr(mcmc, name), "step")
        and name != "Kernel"
    }
    assert public == kinds - {"ScatteredMALA"}  # the families' own
    assert all(isinstance(k, Kernel) for k in ALL.values())


@pytest.mark.parametrize("name", ADJUSTED)
def test_leaves_the_target_unchanged(name: str) -> None:
    p = mixture()
    x0 = p.sample(4000, generator(1))
    x = mcmc.run_chains(ADJUSTED[name], p.at(0.0), x0, 25, rng=generator(2), keep="last").x
    assert (x != x0).any(1).double().mean() > 0.9
    exact = p.sample(20_000, generator(3))
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):
        v = torch.tensor(direction, dtype=torch.float64)
        assert stats.ks_2samp((x @ v).numpy(), (exact @ v).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", [name for name in ADJUSTED if name != "ScatteredMALA"])
def test_box_is_part_of_the_target(name: str) -> None:
    target = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    kernel = ADJUSTED[name]
    box = (0.0, 1.5)
    if isinstance(kernel, ParallelTempering):
        kernel = replace(kernel, kernel=replace(kernel.kernel, box=box))
    else:
        kernel = replace(kernel, box=box)  # type: ignore[type-var]
    exact = stats.truncnorm(0.0, 1.5)
    x0 = torch.from_numpy(exact.rvs((3000, 2), random_state=np.random.default_rng(0)))
    x = mcmc.run_chains(kernel, target, x0, 20, rng=generator(), keep="last").x
    assert ((x >= 0) & (x <= 1.5)).all()
    assert stats.kstest(x[:, 0].numpy(), exact.cdf).pvalue > 1e-4


@pytest.mark.parametrize("kernel", [RandomWalk(0.9), MALA(0.5), HMC(0.4, 4)])
def test_pinned_kernels_leave_the_conditional_unchanged(kernel: Kernel) -> None:
    """From exact draws of x_1 given x_0, a value a chain; its law is a mixture in closed form."""
    p, n = mixture(), 4000
    known = torch.cat([torch.full((n // 2,), -1.0), torch.full((n // 2,), 0.5)]).double()
    rows = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    cdfs = {}
    for value in (-1.0, 0.5):
        line = torch.stack([torch.full_like(rows, value), rows], 1)
        density = p.log_prob(line).exp().cumsum(0)
        cdfs[value] = density / density[-1]
    u = torch.rand(n, generator=generator(4), dtype=torch.float64)
    free = [np.interp(u[known == v].numpy(), cdf.numpy(), rows.numpy()) for v, cdf in cdfs.items()]
    x0 = torch.stack([known, torch.from_numpy(np.concatenate(free))], 1)
    held = Pinned(kernel, MASK, x0 * MASK)
    x = mcmc.run_chains(held, p.at(0.0), x0, 12, rng=generator(5), keep="last").x
    assert bool((x[:, 0] == known).all())
    assert (x[:, 1] != x0[:, 1]).double().mean() > 0.9
    for value, cdf in cdfs.items():
        found = np.interp(x[known == value][:, 1].numpy(), rows.numpy(), cdf.numpy())
        assert stats.kstest(found, "uniform").pvalue > 1e-4


def test_kernels_of_another_noise_are_not_pinned() -> None:
    held = Pinned(ParallelTempering(MALA(0.35), (1.0, 0.5)), MASK, torch.zeros(2))
    with pytest.raises(ValueError, match="ParallelTempering.*cannot hold coordinates"):
        held.draw(1, torch.zeros(3, 2), generator())


def test_ula_reflects_at_its_box() -> None:
    flat = ScoreTarget(torch.zeros_like)
    x0 = torch.rand(4000, 1, generator=generator(), dtype=torch.float64) * 3 - 1
    kernel = ULA(2.0, box=(-1.0, 2.0))
    x = mcmc.run_chains(kernel, flat, x0, 10, rng=generator(1), keep="last").x
    assert stats.kstest(x[:, 0].numpy(), stats.uniform(-1, 3).cdf).pvalue > 1e-4


def test_ula_reflects_at_the_walls_of_its_target() -> None:
    """A flat energy in a box stays uniform, without a word to the kernel; tempered and mixed too."""
    flat = BoxEnergy(FunctionEnergy(lambda x: 0 * x.sum(1)), -1.0, 2.0).at(None)
    x0 = torch.rand(4000, 1, generator=generator(), dtype=torch.float64) * 3 - 1
    for target in (flat, mcmc.Tempered(flat, 0.5)):
        x = mcmc.run_chains(ULA(2.0), target, x0, 10, rng=generator(1), keep="last").x
        assert stats.kstest(x[:, 0].numpy(), stats.uniform(-1, 3).cdf).pvalue > 1e-4
    x = mcmc.run_chains(ULA(2.0, box=(0.0, 9.0)), flat, x0, 10, rng=generator(1), keep="last").x
    assert 0 <= float(x.min()) <= float(x.max()) <= 2


@pytest.mark.parametrize("kernel", [RandomWalk(0.7), MALA(0.25), HMC(0.2, 4)])
def test_tested_kernels_leave_the_density_in_a_box_energy_unchanged(kernel: Kernel) -> None:
    """Normals of two widths cut off by the energy itself: the kernel is told of no walls."""
    low, high, std = torch.tensor([-0.4, -2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 1.0])
    normal = FunctionEnergy(lambda x: 0.5 * (x / std).square().sum(1))
    laws = [stats.truncnorm(a / s, b / s, scale=s) for a, b, s in zip(low, high, std, strict=True)]
    rng = np.random.default_rng(0)
    x0 = torch.from_numpy(np.stack([law.rvs(10_000, random_state=rng) for law in laws], 1))
    target = BoxEnergy(normal, low, high).at(None)
    run = mcmc.run_chains(kernel, target, x0, 20, rng=generator(6), keep="last")
    assert bool(((run.x >= low) & (run.x <= high)).all())
    assert (run.x != x0).any(1).double().mean() > 0.9
    for j, law in enumerate(laws):
        assert stats.kstest(run.x[:, j].numpy(), law.cdf).pvalue > 1e-4


def test_a_box_may_have_one_wall() -> None:
    """Positive halves of a normal: |x| of small steps, reflected at 0, from either side."""
    points = torch.tensor([[-0.5], [0.25], [7.0]], dtype=torch.float64)
    for box, expected in (
        ((0.0, math.inf), points.abs()),
        ((-math.inf, 0.0), -points.abs()),
        ((-math.inf, math.inf), points),
    ):
        assert torch.equal(mcmc.kernel.reflect(points, box), expected)
    h = 0.02
    std = (1 / (1 - h / 2)) ** 0.5
    x0 = (std * torch.randn(4000, 1, generator=generator(), dtype=torch.float64)).abs()
    kernel = ULA(h, box=(0.0, math.inf))
    x = mcmc.run_chains(kernel, ScoreTarget(lambda x: -x), x0, 20, rng=generator(1), keep="last").x
    assert stats.kstest(x[:, 0].numpy() / std, stats.halfnorm.cdf).pvalue > 1e-4


@pytest.mark.parametrize("h", [0.2, 0.8])
def test_ula_bias_is_the_predicted_one(h: float) -> None:
    # Started at its own stationary law N(0, 1/(1 - h/2)) the chain stays there; in exact arithmetic
    # one step maps variance v to (1-h)^2 v + 2h, whose fixed point this is.
    normal = ScoreTarget(lambda x: -x)
    std = (1 / (1 - h / 2)) ** 0.5
    x0 = std * torch.randn(20_000, 1, generator=generator(), dtype=torch.float64)
    x = mcmc.run_chains(ULA(h), normal, x0, 15, rng=generator(1), keep="last").x
    assert stats.kstest(x[:, 0].numpy() / std, stats.norm.cdf).pvalue > 1e-4
    assert stats.kstest(x[:, 0].numpy(), stats.norm.cdf).pvalue < 1e-4 or h < 0.5


@pytest.mark.parametrize("h", [0.1, 0.5, 1.7])
def test_the_bias_of_ula_is_the_fixed_point_of_one_step(h: float) -> None:
    """A step is affine in (x, eps), read off: (1 - h)^2 v + 2 h = v at v = 1/(1 - h/2)."""
    normal, kernel = ScoreTarget(lambda x: -x), ULA(h)
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    noise = mcmc.compilation.split_noise(kernel.draw(1, x, generator()))[0]
    eps = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    state, _ = kernel.step(kernel.init(x, normal), normal, noise._replace(eps=eps))
    shift, slope, scale = state.x[:, 0].tolist()
    assert shift == 0
    v = 1 / (1 - h / 2)
    assert slope**2 * v + scale**2 == pytest.approx(v, rel=1e-14)


def test_copies_in_equilibrium_leave_every_temperature_unchanged() -> None:
    """Copies of a normal started from p^beta, normals of variance 1/beta, after moves and exchanges."""
    kernel = ParallelTempering(MALA(0.35), (1.0, 0.5, 0.2))
    target, n = FunctionTarget(lambda x: -0.5 * x.square().sum(1)), 5000
    std = torch.tensor(kernel.betas, dtype=torch.float64).rsqrt().repeat_interleave(n)[:, None]
    x = std * torch.randn(3 * n, 1, generator=generator(1), dtype=torch.float64)
    state = kernel.init(x[:n], target)
    betas = std[:, 0] ** -2
    state = state._replace(inner=kernel.kernel.init(x, mcmc.Tempered(target, betas)))
    noise = mcmc.compilation.split_noise(kernel.draw(15, x[:n], generator(2)))
    for each in noise:
        state, _ = kernel.step(state, target, each)
    assert (state.inner.x != x).double().mean() > 0.9
    for part, sd in zip(state.inner.x.view(3, n), std.view(3, n)[:, 0].tolist(), strict=True):
        assert stats.kstest(part.numpy() / sd, stats.norm.cdf).pvalue > 1e-4


def test_a_scattered_chain_outside_the_support_comes_in() -> None:
    """From log p = -inf any finite point is accepted: there is no score to follow, jumps need none."""
    target = FunctionTarget(lambda x: torch.where(x[:, 0] > 0, -x.square().sum(1), -math.inf))
    x0 = torch.full((50, 1), -0.5, dtype=torch.float64)
    x0[0] = 0.5
    kernel = ScatteredMALA(0.1, jump_share=0.5, reach=4.0)
    x = mcmc.run_chains(kernel, target, x0, 200, rng=generator(), keep="last").x
    assert (x > 0).all()


def test_temperature_scales_the_stationary_variance() -> None:
    normal = ScoreTarget(lambda x: -x)
    std = (0.25 / (1 - 0.05)) ** 0.5
    x0 = std * torch.randn(20_000, 1, generator=generator(), dtype=torch.float64)
    kernel = ULA(0.1, temperature=0.25)
    x = mcmc.run_chains(kernel, normal, x0, 30, rng=generator(1), keep="last").x
    assert stats.kstest(x[:, 0].numpy() / std, stats.norm.cdf).pvalue > 1e-4


def test_mala_ratio_is_the_ratio_of_densities() -> None:
    """The simplified acceptance equals p(x') q(x | x') / p(x) q(x' | x) written out."""
    p, h = mixture(), 0.4
    target = p.at(0.0)
    x = p.sample(200, generator(1))
    kernel = MALA(h)
    noise = kernel.draw(1, x, generator(2))
    eps = noise.eps[0]
    y = x + h * p.score(x) + math.sqrt(2 * h) * eps

    def log_q(to: Tensor, at: Tensor) -> Tensor:
        return -(to - at - h * p.score(at)).square().sum(1) / (4 * h)

    expected = p.log_prob(y) - p.log_prob(x) + log_q(x, y) - log_q(y, x)
    _, info = one_step(kernel, target, x, seed=2)
    assert torch.allclose(info.acceptance, expected.clamp(max=0).exp(), atol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernel", [MALA(0.6), HMC(0.7, 1), HMC(0.5, 3)])
def test_detailed_balance_on_a_grid(kernel: MALA | HMC) -> None:
    """p(x) K(x -> y) = p(y) K(y -> x): fluxes between bumps, by quadrature over x and the noise."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.2]]), [0.7, 1.0], [0.4, 0.6])
    grid = torch.linspace(-6, 7, 391, dtype=torch.float64)
    noise_grid = torch.linspace(-6, 6, 301, dtype=torch.float64)
    x, eps = torch.cartesian_prod(grid, noise_grid).unbind(1)
    x, eps = x[:, None], eps[:, None]
    mass = (p.log_prob(x) - 0.5 * eps[:, 0].square()).softmax(0)
    template = mcmc.compilation.split_noise(kernel.draw(1, x[:1], generator()))[0]
    # An infinite exponential accepts every proposal; how likely it was to be accepted is in the info.
    noise = template._replace(eps=eps, exponential=torch.full_like(mass, math.inf))
    moved, info = kernel.step(kernel.init(x, p.at(0.0)), p.at(0.0), noise)
    centres = torch.linspace(-3, 3, 13, dtype=torch.float64)
    here = (-4 * (x - centres).square()).exp()
    there = (-4 * (moved.x - centres).square()).exp()
    flux = here.T @ ((mass * info.acceptance)[:, None] * there)
    assert flux.max() > 0.01
    assert (flux - flux.T).abs().max() < 1e-4 * flux.max()
    # The check has teeth: without the acceptance the bias of the proposal shows.
    free = here.T @ (mass[:, None] * there)
    assert (free - free.T).abs().max() > 1e-3 * free.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_of_the_acceptance_test(dtype: torch.dtype) -> None:
    """Unit exponentials, finite: an infinite one would accept a move to anywhere."""
    drawn = draw_exponential(400, torch.zeros(100, 2, dtype=dtype), generator())
    assert drawn.shape == (400, 100)
    assert drawn.dtype == dtype
    assert bool((drawn >= 0).all() and drawn.isfinite().all())
    assert stats.kstest(drawn.flatten().numpy(), "expon").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1].flatten(), drawn[1:].flatten())[0, 1]) < 0.02


def test_integer_walk_reproduces_a_poisson() -> None:
    rate = 4.0
    poisson = ExponentialFamily.poisson(rate).at(None)
    x0 = torch.from_numpy(np.random.default_rng(0).poisson(rate, (5000, 2)).astype(float))
    for kernel in (IntegerWalk(), IntegerWalk(3)):
        x = mcmc.run_chains(kernel, poisson, x0, 60, rng=generator(), keep="last").x
        assert bool((x == x.round()).all())
        counts = np.bincount(x[:, 0].int().numpy(), minlength=12)
        expected = stats.poisson.pmf(np.arange(11), rate)
        observed = np.append(counts[:11], counts[11:].sum())
        wanted = 5000 * np.append(expected, 1 - expected.sum())
        assert stats.chisquare(observed, wanted).pvalue > 1e-4
    with pytest.raises(ValueError, match="whole numbers"):
        IntegerWalk().init(x0 + 0.5, poisson)


@pytest.mark.parametrize("name", ALL)
def test_a_proposal_that_is_not_finite_is_a_rejection(name: str) -> None:
    """Wherever a chain leaves the unit ball the target breaks; it must stay where it was."""
    for bad in (math.nan, math.inf):

        def log_prob(x: Tensor, bad: float = bad) -> Tensor:
            return torch.where(x.square().sum(1) < 1e-6, -x.square().sum(1), bad)

        x = torch.zeros(8, 2, dtype=torch.float64)
        if name == "ULA":
            target: object = ScoreTarget(lambda x, bad=bad: torch.full_like(x, bad))
        else:
            target = FunctionTarget(log_prob)
        state, info = one_step(ALL[name], target, x)
        assert torch.equal(state.x, x)  # type: ignore[attr-defined]
        assert bool(info.diverged.all())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::energyscape.mcmc.ChainWarning")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_bad_chain_never_touches_its_neighbours(name: str, dtype: torch.dtype) -> None:
    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(1) - 0.1 * x.pow(4).sum(1)

    target = FunctionTarget(log_prob)
    good = torch.randn(7, 2, generator=generator(), dtype=dtype)
    bad = good.clone()
    bad[3] = math.nan
    runs = [
        mcmc.run_chains(ALL[name], target, x0, 12, rng=generator(5)).draws for x0 in (good, bad)
    ]
    assert runs[0].dtype == dtype
    kept = torch.tensor([0, 1, 2, 4, 5, 6])
    assert torch.equal(runs[0][:, kept], runs[1][:, kept])
    assert runs[1][:, 3].isnan().any(-1).all()


@pytest.mark.parametrize("name", ADJUSTED)
def test_rejections_repeat_the_state_and_caches_are_those_of_x(name: str) -> None:
    p = mixture()
    kernel = ADJUSTED[name]
    chains = mcmc.run_chains(kernel, p.at(0.0), p.sample(50, generator()), 10, rng=generator(1))
    assert chains.log_prob is not None
    flat = chains.draws.flatten(0, 1)
    assert torch.allclose(chains.log_prob.flatten(), p.log_prob(flat), atol=1e-9)
    state = getattr(chains.state, "inner", chains.state)
    if state.score is not None and not isinstance(kernel, ParallelTempering):
        assert torch.allclose(state.score, p.score(state.x), atol=1e-9)


@pytest.mark.parametrize("name", ADJUSTED)
def test_a_score_alone_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="knows only its score"):
        ALL[name].init(torch.zeros(2, 2), ScoreTarget(lambda x: -x))


@pytest.mark.parametrize("kind", [RandomWalk, MALA, ULA, HMC])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf, torch.tensor([0.1, 0.0])])
def test_step_sizes_are_positive(kind: type, size: object) -> None:
    with pytest.raises(ValueError, match="step_size must be positive"):
        kind(size)


def test_other_bad_settings_are_refused() -> None:
    normal = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    with pytest.raises(ValueError, match="low < high"):
        MALA(0.1, box=(1.0, 0.0))
    with pytest.raises(ValueError, match="shape \\(chains"):
        MALA(0.1).init(torch.zeros(3), normal)
    with pytest.raises(ValueError, match=r"one (value|log-density) a (row|chain)"):
        MALA(0.1).init(torch.zeros(3, 2), FunctionTarget(lambda x: -x.square()))
    with pytest.raises(ValueError, match="start the chains inside"):
        RandomWalk(0.1).init(torch.full((2, 2), math.nan), normal)
    with pytest.raises(ValueError, match="temperature"):
        ULA(0.1, temperature=-1.0)
    with pytest.raises(ValueError, match="fall from 1"):
        ParallelTempering(MALA(0.1), (0.5, 1.0))


def test_mala_takes_one_gradient_a_step_and_hmc_its_leapfrogs() -> None:
    calls = 0

    class Counting:
        def value(self, x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(1)

        def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return self.value(x), -x

    for kernel, wanted in ((MALA(0.1), 21), (HMC(0.1, 3), 61), (ULA(0.1), 20)):
        calls = 0
        mcmc.run_chains(kernel, Counting(), torch.zeros(2, 2), 20, rng=generator())
        assert calls == wanted


def test_parallel_tempering_finds_the_weights_that_langevin_cannot() -> None:
    p = GaussianMixture.isotropic(torch.tensor([[-6.0], [6.0]]), 1.0, [0.25, 0.75])
    x0 = torch.full((400, 1), -6.0, dtype=torch.float64)
    kernel = ParallelTempering(MALA(0.5), mcmc.tempering.geometric_betas(40.0, 5))
    x = mcmc.run_chains(kernel, p.at(0.0), x0, 250, warmup=30, rng=generator(), keep="last").x
    share = float((x > 0).double().mean())
    assert abs(share - 0.75) < 0.1  # 4.6 standard errors of independent chains
    alone = mcmc.run_chains(MALA(0.5), p.at(0.0), x0, 300, rng=generator(), keep="last").x
    assert float((alone > 0).double().mean()) < 0.05
