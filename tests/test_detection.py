"""Conformal p-values, false-discovery control, thresholds and drift against slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ks_2samp, mannwhitneyu

from energyscape import detection
from energyscape.detection import (
    adjusted_p_values,
    benjamini_hochberg,
    conformal_p_values,
    drift_test,
    driving_columns,
    rows_needed_to_flag,
    smallest_p_value,
    threshold,
)

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(scores, scores)
def test_p_values_equal_the_count_by_hand(calibration: list[float], new: list[float]) -> None:
    by_hand = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in new]
    assert conformal_p_values(calibration, new).tolist() == by_hand
    assert min(by_hand) >= smallest_p_value(len(calibration))


def test_p_values_are_valid_for_exchangeable_rows() -> None:
    """P(p <= a) <= a. 20,000 sets of 19 + 1 scores; a fair rate of 0.1 exceeds the bound of five
    standard errors with probability 3e-7."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(20_000, 20))
    p = np.array([conformal_p_values(row[:-1], row[-1:])[0] for row in draws])
    for level in (0.05, 0.1, 0.5):
        error = math.sqrt(level * (1 - level) / len(p))
        assert abs(np.mean(p <= level + 1e-12) - level) < 5 * error


@given(p_values)
def test_adjusted_p_values_equal_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(adjusted_p_values(p), false_discovery_control(p), rtol=1e-12)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=25), st.sampled_from([0.05, 0.1, 0.3]))
def test_benjamini_hochberg_equals_brute_force(ranks: list[int], q: float) -> None:
    p = np.array(ranks) / 20
    largest = max(
        (k for k in range(1, len(p) + 1) if np.sort(p)[k - 1] <= q * k / len(p) + 1e-12), default=0
    )
    expected = p <= np.sort(p)[largest - 1] if largest else np.zeros(len(p), dtype=bool)
    assert benjamini_hochberg(p, q).tolist() == expected.tolist()


def test_false_discovery_rate_is_kept_with_shared_calibration_rows() -> None:
    """400 batches of 90 usual and 10 strange rows; the mean false-discovery proportion stays
    below q plus four standard errors (false failure below 4e-5)."""
    rng = np.random.default_rng(1)
    proportions, found = [], []
    for _ in range(400):
        calibration = rng.normal(size=200)
        new = np.concatenate([rng.normal(size=90), rng.normal(4.0, 1.0, size=10)])
        flagged = benjamini_hochberg(conformal_p_values(calibration, new), 0.2)
        proportions.append(flagged[:90].sum() / max(1, flagged.sum()))
        found.append(flagged[90:].mean())
    error = np.std(proportions) / math.sqrt(len(proportions))
    assert np.mean(proportions) < 0.2 + 4 * error
    assert np.mean(found) > 0.7


@given(scores, scores, st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9]))
def test_exceeding_the_threshold_is_a_small_p_value(
    calibration: list[float], new: list[float], rate: float
) -> None:
    flagged = np.asarray(new) > threshold(calibration, rate)
    assert flagged.tolist() == (conformal_p_values(calibration, new) <= rate + 1e-12).tolist()


def test_threshold_is_infinite_when_the_rate_is_out_of_reach() -> None:
    assert threshold(np.arange(9.0), 0.1) == 8.0
    assert math.isinf(threshold(np.arange(8.0), 0.1))


@given(st.integers(1, 60), st.integers(1, 200), st.sampled_from([0.05, 0.1, 0.5]))
@settings(max_examples=50)
def test_rows_needed_to_flag_is_the_first_count_that_works(n: int, m: int, q: float) -> None:
    def any_flagged(k: int) -> bool:
        p = np.ones(m)
        p[:k] = smallest_p_value(n)
        return bool(benjamini_hochberg(p, q).any())

    needed = rows_needed_to_flag(n, m, q)
    first = next((k for k in range(1, m + 1) if any_flagged(k)), None)
    assert needed > m if first is None else needed == first


def test_drift_matches_scipy_and_sees_a_shift() -> None:
    rng = np.random.default_rng(2)
    reference, same, moved = rng.normal(size=300), rng.normal(size=200), rng.normal(1.0, 1.0, 200)
    usual = drift_test(reference, same)
    assert usual.p_value > 1e-3  # fails falsely once in a thousand seeds
    assert usual.p_value == pytest.approx(ks_2samp(same, reference).pvalue)
    drift = drift_test(reference, moved)
    assert drift.p_value < 1e-6
    oracle = mannwhitneyu(moved, reference).statistic / (len(moved) * len(reference))
    assert drift.shift == pytest.approx(oracle, abs=1e-12)


def test_drift_of_long_samples_approaches_the_exact_law() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=501), rng.normal(0.1, 1.0, size=400)
    exact = ks_2samp(b, a, method="exact").pvalue
    assert drift_test(a, b).p_value == pytest.approx(exact, rel=0.1)


def test_drift_of_tied_scores_is_no_error_and_no_drift() -> None:
    drift = drift_test([0.0] * 7, [0.0] * 6 + [1.0])
    assert drift.p_value > 0.5
    assert drift.shift == pytest.approx(0.5 + 0.5 / 7)


def test_driving_columns_ignore_what_makes_a_row_usual() -> None:
    shares = np.array([[0.0, 5.0, 5.0, -3.0], [1.0, 0.05, 0.0, 0.0]])
    rows = driving_columns(["a", "b", "c", "d"], shares, count=2)
    assert rows == [[("b", 0.5), ("c", 0.5)], [("a", pytest.approx(1 / 1.05))]]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: conformal_p_values([], [1.0]), "calibration scores are empty"),
        (lambda: conformal_p_values([1.0], [math.nan]), "row 0"),
        (lambda: conformal_p_values([[1.0]], [1.0]), "shape"),
        (lambda: benjamini_hochberg([0.1], 0.0), "strictly between 0 and 1"),
        (lambda: adjusted_p_values([1.5]), "between 0 and 1"),
        (lambda: smallest_p_value(0), "calibration rows"),
        (lambda: threshold([1.0], 1.0), "false-alarm rate"),
        (lambda: driving_columns(["a"], [[1.0, 2.0]]), "shape"),
    ],
)
def test_errors_say_what_was_given(call, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_public_names_exist_and_are_sorted() -> None:
    assert list(detection.__all__) == sorted(detection.__all__)
    assert all(hasattr(detection, name) for name in detection.__all__)
