"""The contract of every schedule, which new ones join through ``__all__``, and published numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from energyscape import schedules
from energyscape.schedules import (
    EDM,
    Cosine,
    Geometric,
    Ladder,
    LinearBeta,
    ScaledLinear,
    Schedule,
    Tabulated,
)

F64 = torch.float64
TABLE = [0.01, 0.02, 0.3, 0.35, 5.0]

# Members that cannot be built from their defaults, and second settings of those that can.
BUILT: dict[str, list[Schedule]] = {
    "LinearBeta": [LinearBeta(0.5, 4.0, start=0.1)],
    "ScaledLinear": [ScaledLinear(0.1, 20.0)],
    "Cosine": [Cosine(0.02, start=0.05, end=0.9)],
    "Geometric": [Geometric(0.5, 2.0)],
    "EDM": [EDM.for_data(3.0, rho=3.0)],
    "Tabulated": [Tabulated(TABLE), Tabulated(TABLE[::-1], variance_preserving=True)],
    "Ladder": [Ladder(TABLE), Ladder(torch.logspace(-2, 1, 10))],
}


def members() -> list[Schedule]:
    found: list[Schedule] = []
    for name in schedules.__all__:
        cls = getattr(schedules, name)
        if inspect.isabstract(cls):
            continue
        required = [
            p
            for p in list(inspect.signature(cls).parameters.values())
            if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        ]
        found += ([] if required else [cls()]) + BUILT.get(name, [])
        assert any(type(s) is cls for s in found), f"{name} needs an entry in BUILT"
    return found


each = pytest.mark.parametrize("schedule", members(), ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@each
def test_strictly_increasing_with_finite_logarithms_at_both_ends(schedule: Schedule) -> None:
    sigma = schedule.sigma(torch.linspace(0, 1, 5001, dtype=F64))
    assert sigma.dtype == F64
    assert bool((sigma.diff() > 0).all())
    assert bool(sigma.log().isfinite().all())
    assert (schedule.sigma_min, schedule.sigma_max) == (float(sigma[0]), float(sigma[-1]))


@each
def test_time_is_the_inverse_to_nine_digits(schedule: Schedule) -> None:
    """Both ways round; float32 times and single numbers are taken too."""
    t = torch.linspace(0, 1, 777, dtype=F64)
    torch.testing.assert_close(schedule.time(schedule.sigma(t)), t, rtol=0, atol=1e-9)
    sigma = torch.logspace(*np.log10([schedule.sigma_min, schedule.sigma_max]), 99, dtype=F64)
    sigma = sigma.clamp(schedule.sigma_min, schedule.sigma_max)
    back = schedule.sigma(schedule.time(sigma).clamp(0, 1))
    torch.testing.assert_close(back, sigma, rtol=1e-9, atol=0)
    single = schedule.sigma(torch.tensor(0.25))
    assert single.dtype == F64
    assert single.ndim == 0
    assert float(single) == pytest.approx(float(schedule.sigma(0.25)), rel=1e-12)


@each
def test_alpha_is_that_of_the_published_frame(schedule: Schedule) -> None:
    """alpha^2 (1 + sigma^2) = 1 for a variance-preserving process, alpha = 1 in the sigma frame."""
    t = torch.linspace(0, 1, 50, dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if schedule.variance_preserving:
        torch.testing.assert_close(alpha.square() * (1 + sigma.square()), torch.ones_like(t))
    else:
        assert bool((alpha == 1).all())


@each
def test_levels_decrease_from_the_largest_to_the_smallest(schedule: Schedule) -> None:
    for n in (2, 3, 10, 257):
        levels = schedule.levels(n)
        assert levels.shape == (n,)
        assert bool((levels.diff() < 0).all())
        assert float(levels[0]) == pytest.approx(schedule.sigma_max, rel=1e-12)
        assert float(levels[-1]) == pytest.approx(schedule.sigma_min, rel=1e-12)
    assert schedule.levels(1).tolist() == [schedule.sigma_max]


@each
def test_training_levels_lie_within_the_ends_and_repeat_with_the_seed(schedule: Schedule) -> None:
    drawn = schedule.sample(1000, generator())
    assert drawn.dtype == F64
    assert float(drawn.min()) >= schedule.sigma_min * (1 - 1e-12)
    assert float(drawn.max()) <= schedule.sigma_max * (1 + 1e-12)
    assert torch.equal(drawn, schedule.sample(1000, generator()))
    assert len(schedule.sample(1, generator())) == 1


@each
def test_stratified_levels_keep_the_mean_with_less_variance(schedule: Schedule) -> None:
    """Mean of log sigma over 400 batches of 32 against the quantile integral: within 5 standard errors
    (6e-7 each), and the variance between batches is below a tenth of independent draws'."""
    batches = torch.stack([schedule.sample(32, generator(s)).log() for s in range(400)])
    between = batches.mean(1)
    # One level from each of 100,000 cells: the mean of the law itself, to about 1e-5.
    fine = schedule.sample(100_000, generator(9)).log()
    error = between.std() / math.sqrt(len(between))
    assert abs(float(between.mean() - fine.mean())) < 5 * float(error) + 1e-4
    assert float(between.var()) < 0.1 * float(fine.var()) / 32


@each
def test_times_and_levels_outside_are_refused(schedule: Schedule) -> None:
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"time must lie in \[0, 1\]"):
            schedule.sigma(bad)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            schedule.time(bad)
    with pytest.raises(ValueError, match="at least 1 level"):
        schedule.levels(0)


def chain(betas: np.ndarray) -> np.ndarray:
    """abar of a discrete chain: the running product of 1 - beta."""
    return np.cumprod(1 - betas)


def test_the_linear_chain_ends_where_published() -> None:
    """abar_T = 4.0e-5, sigma from 0.01 to 157; other ranges that circulate are not white noise."""
    abar = chain(np.linspace(1e-4, 0.02, 1000))
    sigma = np.sqrt((1 - abar) / abar)
    assert abar[-1] == pytest.approx(4.0e-5, rel=0.02)
    assert sigma[[0, -1]] == pytest.approx([0.0100005, 157.4], rel=1e-3)
    assert np.log(sigma[[0, -1]]) == pytest.approx([-4.61, 5.06], abs=0.005)
    assert chain(np.linspace(1e-4, 0.02, 50))[-1] == pytest.approx(0.60, abs=0.005)
    assert chain(np.linspace(1e-4, 0.01, 1000))[-1] == pytest.approx(0.0063, rel=0.02)
    ladder = Ladder(sigma, variance_preserving=True)
    np.testing.assert_allclose(ladder.levels(1000).numpy(), sigma[::-1], rtol=1e-12)
    t = torch.linspace(0, 1, 1000, dtype=F64)
    np.testing.assert_allclose(ladder.alpha(t).square().numpy(), abar, rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (LinearBeta(), lambda n: np.linspace(0.1, 20, n) / n),
        (ScaledLinear(), lambda n: np.linspace(np.sqrt(0.85), np.sqrt(12), n) ** 2 / n),
    ],
)
def test_beta_schedules_are_the_limit_of_their_chains(
    schedule: Schedule, betas: Callable[[int], np.ndarray]
) -> None:
    """-log abar = sum of beta + beta^2/2 + ...: the chain's log sigma at the end comes closer by ten
    when the steps are ten times as many."""
    gaps = []
    for n in (1000, 10_000, 100_000):
        abar = chain(betas(n))[-1]
        gaps.append(abs(0.5 * math.log((1 - abar) / abar) - math.log(schedule.sigma_max)))
    assert gaps[0] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


def test_beta_is_the_slope_of_minus_log_abar() -> None:
    """d/dt log(1 + sigma^2) = beta(t), linear or with a linear root (2011.13456 eq. 32)."""
    for schedule, root in ((LinearBeta(0.1, 20, start=1e-3), 1.0), (ScaledLinear(), 0.5)):
        low, high = (0.1, 20.0) if root == 1.0 else (0.85, 12.0)
        t = torch.linspace(0.05, 0.95, 7, dtype=F64).requires_grad_()
        (slope,) = torch.autograd.grad(schedule.sigma(t).square().log1p().sum(), t)
        s = 1e-3 + (1 - 1e-3) * t.detach()
        beta = (low**root + (high**root - low**root) * s) ** (1 / root)
        torch.testing.assert_close(slope / (1 - 1e-3), beta)


def test_cosine_is_the_papers_and_its_chain_ends_near_2e4() -> None:
    """abar(t) of 2102.09672 eq. 17; the clip beta <= 0.999 belongs to the N-step chain."""
    t = torch.linspace(0, 1, 11, dtype=F64)
    cosine = Cosine()
    s = (1e-3 + (0.999 - 1e-3) * t).numpy()

    def squared(v: np.ndarray) -> np.ndarray:
        return np.cos((v + 0.008) / 1.008 * np.pi / 2) ** 2

    expected = squared(s) / squared(np.zeros(1))
    np.testing.assert_allclose(cosine.alpha(t).square().numpy(), expected, rtol=1e-11)
    steps = np.arange(1001) / 1000
    betas = np.minimum(1 - squared(steps[1:]) / squared(steps[:-1]), 0.999)
    end = chain(betas)[-1]
    assert math.sqrt((1 - end) / end) == pytest.approx(2e4, rel=0.05)


def test_edm_levels_are_those_of_equation_five() -> None:
    """sigma_i = (smax^(1/rho) + i/(N-1) (smin^(1/rho) - smax^(1/rho)))^rho, N = 18, rho = 7."""
    n, i = 18, np.arange(18)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    expected = (high + i / (n - 1) * (low - high)) ** 7
    np.testing.assert_allclose(EDM().levels(n).numpy(), expected, rtol=1e-12)


def test_edm_trains_at_log_normal_levels_shifted_with_the_data() -> None:
    """One level in each of 20,000 cells: quantiles are those of N(-1.2, 1.2^2), whose tails beyond the
    ends hold 1e-5; for data twice as wide the same, times two."""
    drawn = EDM().sample(20_000, generator()).log().sort().values
    at = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    expected = -1.2 + 1.2 * torch.special.ndtri(at)
    torch.testing.assert_close(drawn[(at * 20_000).long()], expected, rtol=0, atol=2e-3)
    wide = EDM.for_data(1.0)
    assert wide.log_mean == pytest.approx(-1.2 + math.log(2))
    torch.testing.assert_close(
        wide.sample(50, generator()), 2 * EDM().sample(50, generator()), rtol=1e-9, atol=0
    )


def test_geometric_levels_keep_their_ratio() -> None:
    levels = Geometric(0.01, 1.0).levels(10)
    torch.testing.assert_close(levels[1:] / levels[:-1], torch.full((9,), 0.01 ** (1 / 9)).double())


def test_a_ladder_draws_its_own_levels_equally_often() -> None:
    drawn = Ladder(TABLE).sample(500, generator())
    values, counts = drawn.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor(TABLE, dtype=F64))
    assert counts.tolist() == [100] * 5


def test_a_table_passes_through_its_levels_and_takes_a_function() -> None:
    table = Tabulated(TABLE)
    torch.testing.assert_close(
        table.levels(5), torch.tensor(TABLE[::-1], dtype=F64), rtol=1e-12, atol=0
    )
    assert float(table.sigma(0.125)) == pytest.approx(math.sqrt(0.01 * 0.02))
    own = Tabulated.from_function(lambda t: torch.exp(3 * t - 1))
    t = torch.rand(20, generator=generator(), dtype=F64)
    torch.testing.assert_close(own.sigma(t), torch.exp(3 * t - 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearBeta(2.0, 1.0), "LinearBeta needs 0 < smallest < largest"),
        (lambda: LinearBeta(start=1.0), "LinearBeta's time needs"),
        (lambda: ScaledLinear(0.0, 1.0), "ScaledLinear needs"),
        (lambda: LinearBeta(0.1, 2000.0), "largest level is infinite"),
        (lambda: ScaledLinear(850.0, 12000.0), "largest level is infinite"),
        (lambda: Cosine(0.0), "offset > 0"),
        (lambda: Cosine(end=1.0), "end < 1"),
        (lambda: Cosine(start=0.9, end=0.1), "Cosine's time needs"),
        (lambda: Geometric(1.0, math.inf), "Geometric needs"),
        (lambda: EDM(rho=0.0), "rho > 0"),
        (lambda: EDM(log_mean=40.0), "standard deviations outside"),
        (lambda: EDM.for_data(0.0), "sigma_data must be positive"),
        (lambda: EDM.for_data(-1.0), "sigma_data must be positive"),
        (lambda: Tabulated([1.0]), "at least two levels"),
        (lambda: Tabulated([]), "at least two levels"),
        (lambda: Tabulated([1.0, 1.0, 2.0]), "strictly monotone"),
        (lambda: Tabulated([1.0, 3.0, 2.0]), "strictly monotone"),
        (lambda: Tabulated([0.0, 1.0]), "positive"),
        (lambda: Ladder([1.0, math.nan]), "finite"),
    ],
)
def test_bad_settings_are_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
