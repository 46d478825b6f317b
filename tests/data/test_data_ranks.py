"""Numbers by their ranks: exact probabilities of spikes and whole numbers, densities elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from energyscape.data import TableCodec, codec_from_state, schema_from_array
from energyscape.data.blocks import NumberBlock, SignBlock, StepBlock
from energyscape.data.ranks import RankBlock, _gaps, clumped, islands, ranked, spikes, stepped


def log_normal(x: np.ndarray) -> np.ndarray:
    return -0.5 * x**2 - 0.5 * np.log(2 * np.pi)


def inflated(n: int = 3000, share: float = 0.3) -> np.ndarray:
    """Zeros among log-normal values."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < share, 0.0, np.exp(2 * rng.standard_normal(n)))


def whole(n: int = 2000) -> np.ndarray:
    """Whole numbers with a spike at 0, a far tail and gaps."""
    rng = np.random.default_rng(1)
    return np.where(rng.random(n) < 0.9, 0.0, np.round(np.exp(rng.normal(5, 1.5, n))))


def fitted(v: np.ndarray, cell: bool) -> RankBlock:
    return RankBlock.fit(v, cell, float(v.min()), float(v.max()))


@pytest.mark.parametrize("cell", [False, True])
def test_training_rows_become_standard_normal(cell: bool) -> None:
    """Kolmogorov-Smirnov distance below one knot's share and 1.63 / sqrt(n) of noise in the lumps
    (1 % of runs are above)."""
    v = whole() if cell else inflated()
    x = fitted(v, cell).encode(v, np.random.default_rng(7))[0][:, 0]
    u = np.sort(ndtr(x))
    assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 1 / 128 + 1.63 / np.sqrt(len(u))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-50, 50), st.integers(-(10**9), 10**9)), min_size=2, max_size=60
    ),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 2**31)),
)
def test_values_come_back(numbers: list[int], cell: bool, seed: int | None) -> None:
    v = np.array(numbers, dtype=np.float64)
    if v.min() == v.max():
        return
    block = fitted(v, cell)
    x, log_abs_det = block.encode(v, None if seed is None else np.random.default_rng(seed))
    assert np.isfinite(log_abs_det).all()
    back = block.decode(x)
    if cell:
        np.testing.assert_array_equal(back, v)
    else:
        np.testing.assert_allclose(back, v, atol=1e-7 * np.ptp(v))


def test_a_spike_has_a_probability_and_the_rest_a_density() -> None:
    """Under the standard normal they sum to 1, and the spike has its share of the rows, whatever
    noise is drawn."""
    v = inflated()
    block = fitted(v, False)
    grid = np.concatenate([-np.geomspace(1e6, 1e-9, 100_001), np.geomspace(1e-12, 1e9, 400_001)])
    x, log_abs_det = block.encode(grid, None)
    density = np.exp(log_normal(x[:, 0]) + log_abs_det)
    below, above = grid < 0, grid > 0
    rest = np.trapezoid(density[below], grid[below]) + np.trapezoid(density[above], grid[above])
    for seed in (None, 0):
        rng = None if seed is None else np.random.default_rng(seed)
        x, log_abs_det = block.encode(np.zeros(5), rng)
        lump = np.exp(log_normal(x[:, 0]) + log_abs_det)
        np.testing.assert_allclose(lump, (v == 0).mean(), atol=1e-3)
        assert rest + lump[0] == pytest.approx(1.0, abs=1e-3)


def test_whole_numbers_have_probabilities_that_sum_to_one() -> None:
    """Cell by cell from the map's own ends: P(v) = Phi(x at v + 1) - Phi(x at v), also where no row
    was, and the frequent value has its share."""
    v = whole()
    block = fitted(v, True)
    numbers = np.arange(-300.0, v.max() + 300)
    ends = RankBlock(block.knots, block.ranks, False, block.low, block.high)
    low, high = (ends.encode(numbers + k, None)[0][:, 0] for k in (0, 1))
    p = ndtr(high) - ndtr(low)
    assert p.sum() == pytest.approx(1.0, abs=1e-3)
    assert p[numbers == 0][0] == pytest.approx((v == 0).mean(), abs=1e-3)
    # E_q[p / q] over the cell's noise is that probability; exact for each draw where F is linear.
    x, log_abs_det = block.encode(np.zeros(4), np.random.default_rng(0))
    np.testing.assert_allclose(
        np.exp(log_normal(x[:, 0]) + log_abs_det), p[numbers == 0][0], rtol=1e-6
    )


def test_log_det_is_the_derivative_inside_and_beyond_the_range() -> None:
    v = inflated()
    block = fitted(v, False)
    at = np.array([-5.0, 0.3, 1.7, 20.0, 2 * v.max()])
    h = 1e-7 * np.abs(at)
    slope = (block.encode(at + h, None)[0] - block.encode(at - h, None)[0])[:, 0] / (2 * h)
    np.testing.assert_allclose(block.encode(at, None)[1], np.log(slope), rtol=1e-4)


def test_spikes_stand_out_and_rounding_makes_none() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=2000)
    assert len(spikes(smooth)) == 0
    assert len(spikes(np.round(smooth, 1))) == 0
    assert spikes(np.minimum(smooth, 1.0)).tolist() == [1.0]
    assert spikes(np.concatenate([smooth, np.zeros(60), np.full(80, 0.5)])).tolist() == [0.0, 0.5]
    assert not ranked(smooth, False)
    assert ranked(np.maximum(smooth, 0.0), False)
    assert ranked(rng.integers(0, 4, 300).astype(float), True)
    assert not ranked(rng.poisson(4000, 300).astype(float), True)


def test_clumps_stand_out_and_tails_do_not() -> None:
    """A tenth of the rows within a thousandth of the range is a clump, without any ties; smooth laws
    with tails of every weight, modes far apart, few rows and ties have none. Its density is that of
    a histogram."""
    rng = np.random.default_rng(0)
    clump = np.concatenate([rng.normal(size=1800), 1 + 0.001 * rng.uniform(-0.5, 0.5, 200)])
    assert clumped(clump)
    assert len(spikes(clump)) == 0
    assert ranked(clump, False)
    laws = [
        rng.normal(size=2000),
        rng.standard_cauchy(2000),
        rng.pareto(0.5, 2000),
        rng.random(300),
    ]
    laws += [np.exp(3 * rng.normal(size=2000)), rng.exponential(size=500)]
    laws += [np.concatenate([rng.normal(size=900), gap + rng.normal(size=900)]) for gap in (9, 90)]
    laws += [clump[::20], np.round(clump, 1), rng.integers(0, 40, 2000).astype(float)]
    assert not any(clumped(v) for v in laws)
    x, log_abs_det = fitted(clump, False).encode(np.array([1.0]), None)
    density = float(np.exp(log_normal(x[0, 0]) + log_abs_det[0]))
    assert density == pytest.approx(0.1 / 0.001, rel=0.3)


def test_less_than_a_rows_share_lies_in_the_gap_between_clumps() -> None:
    """Nothing is drawn where a scale has nothing, be there few rows or many; smooth laws have the knots
    that they had."""
    rng = np.random.default_rng(1)
    for n in (300, 3000):
        v = np.where(rng.random(n) < 0.1, 0.001 * rng.normal(size=n), 10 + 10 * rng.random(n))
        block = fitted(v, False)
        drawn = block.decode(rng.normal(size=(20_000, 1)))
        assert ((drawn > 0.1) & (drawn < 9.5)).mean() < 1 / n
        for smooth in (rng.normal(size=n), rng.standard_cauchy(n), np.exp(3 * rng.normal(size=n))):
            assert len(_gaps(np.sort(smooth), np.arange(0, n, n // 30))) == 0


@pytest.mark.parametrize("unit", [1, 86_400])
def test_days_of_seasons_are_islands_and_nothing_lies_between(unit: int) -> None:
    """In days, and in seconds, of so many values that knots are thinned: of what a standard normal
    decodes to, less than a row's share lies where no rows are, for each of the two stretches."""
    rng = np.random.default_rng(0)
    season = rng.integers(0, 3, 600)
    v = np.floor(unit * (365 * season + 30 * rng.random(600)))
    assert islands(v)
    assert ranked(v, cell=True)
    assert not ranked(v, cell=False)
    block = RankBlock.fit(v, True, 0.0, float(v.max()))
    drawn = block.decode(rng.standard_normal((20_000, 1)))
    inside = (drawn % (365 * unit)) < 30 * unit
    assert (~inside).mean() < 2 / 600
    shares = np.bincount((drawn // (365 * unit)).astype(int), minlength=3) / 20_000
    assert shares == pytest.approx(np.bincount(season) / 600, abs=0.02)


@pytest.mark.parametrize(
    ("unit", "period", "open_", "periods", "n"),
    [
        (1, 365, 60, 10, 1000),
        (1, 365, 180, 10, 1000),
        (1, 365, 30, 30, 2000),
        (3600, 24, 8, 100, 6000),
        (3600, 24, 8, 500, 20_000),
    ],
)
def test_many_seasons_are_islands(unit: int, period: int, open_: int, periods: int, n: int) -> None:
    """Ten and thirty years of them, and the hours of a hundred working days in seconds, though none of
    their gaps is a fifth of the range: three rows in a hundred at most are drawn outside, and a smooth
    law over all of the range would draw a half and more."""
    rng = np.random.default_rng(0)
    v = np.floor(unit * (period * rng.integers(0, periods, n) + open_ * rng.random(n)))
    assert islands(v)
    block = RankBlock.fit(v, True, 0.0, float(v.max()))
    drawn = block.decode(rng.standard_normal((20_000, 1)))
    assert (drawn % (period * unit) >= open_ * unit).mean() < 0.03


def test_many_seasons_of_a_continuous_law_are_islands_and_a_few_modes_are_not() -> None:
    """Moments in fractions of a second within working hours: no row is drawn at night, each day's share
    is its own, and what is encoded comes back. Three modes stay smooth."""
    rng = np.random.default_rng(0)
    v = 24.0 * rng.integers(0, 60, 3000) + 8 * rng.beta(2, 2, 3000)
    assert ranked(v, cell=False)
    block = fitted(v, False)
    drawn = block.decode(rng.standard_normal((20_000, 1)))
    assert (drawn % 24 > 8).mean() < 1e-3
    shares = np.bincount((drawn // 24).astype(int), minlength=60) / 20_000
    assert shares == pytest.approx(np.bincount((v // 24).astype(int)) / 3000, abs=0.006)
    assert (np.diff(block.knots) >= 0).all()
    assert (np.diff(block.ranks) > 0).all()
    assert block.decode(block.encode(v, rng)[0]) == pytest.approx(v, abs=1e-6)
    assert not ranked(100.0 * rng.integers(0, 3, 3000) + rng.normal(size=3000), cell=False)


def test_ranks_rise_over_a_spike_beside_a_stretch_and_a_value_alone_between_two() -> None:
    """Zeros, then nothing up to 100; and one value, often, with nothing on either side."""
    rng = np.random.default_rng(0)
    for v in (
        np.r_[np.zeros(500), 100 + 200 * rng.random(500)],
        np.r_[rng.random(300), np.full(30, 5.0), 9 + rng.random(300)],
    ):
        block = fitted(v, False)
        assert (np.diff(block.ranks) > 0).all()
        x, log_abs_det = block.encode(v, rng)
        assert block.decode(x) == pytest.approx(v, abs=1e-6)
        assert np.isfinite(log_abs_det).all()
        drawn = block.decode(rng.standard_normal((20_000, 1)))
        for value in np.unique(v[np.isin(v, [0.0, 5.0])]):
            assert (drawn == value).mean() == pytest.approx((v == value).mean(), abs=0.02)


@pytest.mark.parametrize("n", [100, 1000, 20_000])
def test_what_has_no_empty_stretches(n: int) -> None:
    """Heavy tails, counts, weekdays, rounded sums and two modes that meet."""
    rng = np.random.default_rng(2)
    days = rng.integers(0, 3650, 2 * n)
    for v in (
        rng.pareto(0.5, n), rng.pareto(1.0, n), np.exp(rng.normal(8, 2, n)), rng.standard_cauchy(n),
        rng.poisson(3, n), rng.integers(0, 10**6, n), days[days % 7 < 5][:n],
        30 * rng.integers(0, 120, n),
        np.where(rng.random(n) < 0.9, 1000 * rng.integers(1, 60, n), rng.integers(1000, 60_000, n)),
        1000 * (rng.normal(size=n) + 6 * (rng.random(n) < 0.5)),
    ):  # fmt: skip
        assert not islands(np.round(np.minimum(1000 * v, 1e15)))


def test_what_is_no_island() -> None:
    """One wild row, a long tail, even days, and a gap that is no fifth of the range."""
    rng = np.random.default_rng(1)
    days = rng.integers(0, 1000, 500).astype(float)
    for v in (
        np.append(days, 1e6),
        np.floor(np.exp(3 * rng.normal(size=500))),
        days,
        np.concatenate([days, days + 1150]),
        np.full(500, 3.0),
        np.arange(5.0),
    ):
        assert not islands(v)
    assert not islands(np.array([np.nan, 1.0]))


def test_the_codec_takes_ranks_where_they_are_due_and_keeps_them() -> None:
    rng = np.random.default_rng(0)
    data = np.column_stack([rng.normal(size=500), inflated(500), np.round(rng.normal(size=500), 1)])
    data[::9, 1] = np.nan
    codec = TableCodec(schema_from_array(data)).fit(data)
    assert [type(block) for block in codec.blocks] == [NumberBlock, RankBlock, NumberBlock]
    counts = np.column_stack([whole(500), rng.integers(1, 5, 500), rng.poisson(400, 500)]).astype(
        int
    )
    several = TableCodec(schema_from_array(counts)).fit(counts)
    assert [type(block) for block in several.blocks] == [RankBlock, StepBlock, NumberBlock]
    np.testing.assert_array_equal(several.decode(several.encode(counts, rng).x), counts)
    same = codec_from_state(*several.state())
    np.testing.assert_array_equal(same.encode(counts).x, several.encode(counts).x)
    again = codec_from_state(*codec.state())
    for seed in (None, 0):
        noise = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
        a, b = codec.encode(data, noise[0]), again.encode(data, noise[1])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.log_abs_det, b.log_abs_det)
    np.testing.assert_allclose(again.decode(a.x), data, atol=1e-9)


def test_signs_have_unit_variance_unless_too_rare() -> None:
    rng = np.random.default_rng(0)
    for share in (0.5, 0.1, 0.03):
        codes = (rng.random(20_000) < share).astype(np.int64)
        block = SignBlock.fit(codes)
        x = block.encode(codes, None)[0]
        assert abs(x.mean()) < 1e-9
        assert x.std() == pytest.approx(1.0)
        np.testing.assert_array_equal(block.decode(block.encode(codes, rng)[0]), codes)
    assert SignBlock.fit(np.ones(9, dtype=np.int64)).scale == 4.0
    assert SignBlock.fit(np.full(3, -2)) == SignBlock()


def test_few_steps_have_exact_probabilities() -> None:
    """Under the matching mixture of its noise a value has its weight, noise drawn or not; beyond the
    range seen values go on in steps."""
    v = np.array([1.0, 1.0, 2.0, 4.0] * 10)
    block = StepBlock.fit(v, 1.0, 4.0)
    weights = {1.0: 0.5, 2.0: 0.3, 3.0: 0.05, 4.0: 0.15}
    noise = 0.075 / block.std
    for rng in (None, np.random.default_rng(0)):
        for value, weight in weights.items():
            x, log_abs_det = block.encode(np.array([value]), rng)
            centres = [(k - block.mean) / block.std for k in weights]
            p = sum(
                w * np.exp(log_normal((x[0, 0] - c) / noise)) / noise
                for w, c in zip(weights.values(), centres, strict=True)
            )
            assert np.log(p) + log_abs_det[0] == pytest.approx(np.log(weight), abs=1e-9)
    x = block.encode(np.array([1.0, 9.0]), None)[0]
    assert x[1, 0] - x[0, 0] == pytest.approx(8 / block.std)
    assert block.decode(x).tolist() == [1.0, 4.0]
    assert stepped(v)
    assert not stepped(np.arange(30.0))
