"""Energies against closed forms and brute force; views, tail laws, ensemble by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import kstest

from energyscape.detectors import (
    EmpiricalDetector,
    TableRows,
    TailLaw,
    View,
    empirical_energies,
    nearest_distances,
    surroundings,
)


def numbers(values: np.ndarray) -> TableRows:
    return TableRows(values, np.zeros((len(values), 0), dtype=np.int64))


def brute_energy(x, rows, sigma):
    d = ((x[:, None] - rows[None]) ** 2).sum(-1)
    width = 0.5 * x.shape[1] * np.log(2 * np.pi * sigma**2)
    return width + np.log(len(rows)) - logsumexp(-d / (2 * sigma**2), axis=1)


def test_energy_is_minus_the_log_of_the_blurred_density():
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(7, 3)), rng.normal(size=(50, 3))
    levels = [0.01, 0.3, 4.0]
    found = empirical_energies(x, rows, levels)
    for j, sigma in enumerate(levels):
        assert np.allclose(found[:, j], brute_energy(x, rows, sigma), rtol=1e-10)


def test_energy_integrates_to_one():
    rows = np.array([[-1.0], [0.5], [2.0]])
    grid = np.linspace(-12, 12, 20_001)[:, None]
    density = np.exp(-empirical_energies(grid, rows, [0.4])[:, 0])
    assert abs(np.trapezoid(density, grid[:, 0]) - 1) < 1e-10


def test_its_score_is_the_minimiser_of_denoising():
    """sigma^2 grad log p is the posterior mean of the rows minus x (Tweedie)."""
    rng = np.random.default_rng(1)
    rows, x, sigma, h = rng.normal(size=(20, 2)), rng.normal(size=(1, 2)), 0.7, 1e-5
    weights = np.exp(-((x - rows) ** 2).sum(1) / (2 * sigma**2))
    posterior = weights @ rows / weights.sum()
    steps = np.concatenate([x + h * np.eye(2), x - h * np.eye(2)])
    energy = empirical_energies(steps, rows, [sigma])[:, 0]
    gradient = (energy[:2] - energy[2:]) / (2 * h)
    assert np.allclose(x[0] - sigma**2 * gradient, posterior, atol=1e-8)


def test_small_levels_tend_to_the_nearest_row():
    rng = np.random.default_rng(2)
    x, rows = rng.normal(size=(9, 4)), rng.normal(size=(30, 4))
    energy = surroundings(x, rows, 1e-3, 1).energy
    assert np.allclose(np.sqrt(2e-6 * (energy - np.log(30))), nearest_distances(x, rows)[:, 0])


def test_own_rows_are_left_out_as_if_they_were_not_there():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(12, 2))
    own = np.arange(12)
    energies = empirical_energies(rows, rows, [0.5], own=own)
    near = surroundings(rows, rows, 0.5, 3, own=own)
    for i in range(12):
        rest = np.delete(rows, i, axis=0)
        alone = surroundings(rows[i : i + 1], rest, 0.5, 3)
        assert np.allclose(energies[i], empirical_energies(rows[i : i + 1], rest, [0.5]))
        assert np.allclose(near.energy[i], alone.energy)
        assert np.allclose(near.reach[i], alone.reach)
        assert np.allclose(rows[near.nearest[i]], rest[alone.nearest[0]])


def test_a_group_that_vouches_for_itself_is_suspected_all_the_same():
    """Sixty rows of 660, far out and close together: few are among the strangest 66 by their
    neighbours, most among the most suspect 66; and suspicion equals its definition, slowly."""
    rng = np.random.default_rng(0)
    rows = numbers(np.concatenate([rng.normal(size=(600, 3)), rng.normal(8, 0.1, size=(60, 3))]))
    every = np.arange(660)
    detector = EmpiricalDetector.fit(rows)
    suspect = detector.suspicion(rows, every)
    assert (np.argsort(detector.own_scores)[-66:] >= 600).sum() < 25
    assert (np.argsort(suspect)[-66:] >= 600).sum() > 35
    some = np.sort(rng.permutation(660)[:300])
    rest = np.setdiff1d(every, some)
    part = EmpiricalDetector.fit(rows.take(some))
    slow = np.concatenate([part.own_scores, part.score(rows.take(rest))])
    for view in part.views:
        points = view.transform(rows)
        d = np.sort(np.linalg.norm(points[:, None] - points[None, some], axis=-1), axis=1)
        law = TailLaw.fit(d[some, 60])  # the nearest of all is the row itself
        slow += 0.5 * law.surprise(np.concatenate([d[some, 60], d[rest, 59]]))
    found = part.suspicion(rows, some)
    assert np.allclose(found[np.concatenate([some, rest])], slow, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: empirical_energies(x, x, [0.0]), "positive"),
        (lambda x: empirical_energies(x, x[:, :1], [1.0]), "one width"),
        (lambda x: empirical_energies(x, x[:0], [1.0]), "nothing to compare"),
        (lambda x: empirical_energies(x, x, [1.0], own=np.arange(1)), "own positions"),
        (lambda x: nearest_distances(x, x, 5), "between 1 and the 4"),
        (lambda x: surroundings(x, x, 1.0, 4, own=np.arange(4)), "between 0 and the 3"),
        (lambda x: View.fit(numbers(x[:0])), "at least one row"),
        (lambda x: EmpiricalDetector.fit(numbers(x[:1])), "at least 2"),
        (lambda x: TailLaw.fit(np.array([np.inf])), "finite"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.arange(8.0).reshape(4, 2))


def test_flags_names_and_two_valued_numbers_are_all_root_two_apart():
    flag = np.array([0.0] * 19 + [1.0])
    codes = (flag == 1).astype(np.int64)[:, None]
    for rows in (numbers(5 + 3 * flag[:, None]), TableRows(np.zeros((20, 0)), codes)):
        points = View.fit(rows).transform(rows)
        assert np.isclose(np.linalg.norm(points[0] - points[-1]), np.sqrt(2))


def test_what_was_never_seen_is_root_two_away_and_more():
    rng = np.random.default_rng(4)
    values = np.column_stack([rng.normal(size=50), np.full(50, 7.0)])
    rows = TableRows(values, rng.integers(0, 2, size=(50, 1)))
    view = View.fit(rows)
    base = view.transform(rows.take(np.array([0])))[0]

    def moved(column, value):
        new = TableRows(rows.numbers[:1].copy(), rows.codes[:1].copy())
        (new.numbers if column < 2 else new.codes)[0, column % 2] = value
        return np.linalg.norm(view.transform(new)[0] - base)

    assert np.isclose(moved(1, 8.0), np.sqrt(2))  # a constant that changed
    assert np.isclose(moved(1, np.nan), np.sqrt(2))  # a blank where there was none
    assert np.isclose(moved(2, -1), np.sqrt(2))  # a name never seen
    assert np.isclose(moved(2, 1 - rows.codes[0, 0]), np.sqrt(2))  # another known name


def test_the_ranked_view_spreads_heavy_tails_and_leaves_light_ones():
    rng = np.random.default_rng(5)
    values = np.column_stack([np.exp(3 * rng.normal(size=400)), rng.uniform(size=400)])
    rows = numbers(values)
    plain, ranked = View.fit(rows).transform(rows), View.fit(rows, ranked=True).transform(rows)
    assert np.array_equal(plain[:, 1], ranked[:, 1])
    assert kstest(ranked[:, 0] / ranked[:, 0].std(), "norm").statistic < 0.01
    # Order is kept, beyond the range too.
    beyond = numbers(np.column_stack([values[:, 0].max() * np.arange(1, 6), np.zeros(5)]))
    assert (np.diff(View.fit(rows, ranked=True).transform(beyond)[:, 0]) > 0).all()


def test_surprise_is_increasing_and_exponential_for_ordinary_rows():
    """KS over 2,000 draws: 0.05 has a false-failure rate below 1e-4 for a law from 2,000 others."""
    rng = np.random.default_rng(6)
    law = TailLaw.fit(rng.gamma(3.0, size=2000))
    surprise = law.surprise(rng.gamma(3.0, size=2000))
    assert kstest(surprise, "expon").statistic < 0.05
    assert (np.diff(law.surprise(np.linspace(0, 60, 500))) >= 0).all()


def test_surprise_of_tied_scores_stays_finite_and_in_order():
    law = TailLaw.fit(np.zeros(10))
    assert np.isclose(law.surprise(np.zeros(1))[0], -np.log(5.5 / 11))  # ties count half
    assert (np.diff(law.surprise(np.array([-1.0, 0.0, 1.0, 2.0]))) > 0).all()


def test_duplicates_and_restored_detectors():
    rng = np.random.default_rng(7)
    rows = numbers(np.repeat(rng.normal(size=(20, 2)), 15, axis=0))
    detector = EmpiricalDetector.fit(rows)
    new = numbers(rng.normal(size=(10, 2)))
    assert np.isfinite(detector.score(new)).all()
    again = EmpiricalDetector.restore(rows, detector.reach, detector.own)
    assert np.array_equal(again.score(new), detector.score(new))


def test_each_member_sees_what_it_is_for():
    """A row between two clusters, and one outside a tight cluster beside a wide one."""
    rng = np.random.default_rng(8)
    tight, wide = 0.05 * rng.normal(size=(200, 2)), 6 + rng.normal(size=(200, 2))
    detector = EmpiricalDetector.fit(numbers(np.concatenate([tight, wide])))
    members = detector.members(numbers(np.array([[0.0, 0.0], [0.6, 0.0], [3.0, 3.0]])))
    surprise = np.stack(
        [law.surprise(m) for law, m in zip(detector.laws, members.T, strict=True)], 1
    )
    assert (surprise[0] < 2).all()
    assert surprise[1, 2] > 3  # contrast
    assert surprise[2, 0] > 3  # energy
