"""Drift: false alarms at the stated rate where there is none, and the column that moved."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, ks_2samp

import energyscape
from energyscape import AnomalyDetector
from energyscape.detection import drift_test
from energyscape.detectors import TableRows, column_shifts, holm


def table(n: int, rng: np.random.Generator) -> TableRows:
    """Numbers with tails, ties and blanks; names with common, rare and very rare levels."""
    numbers = np.stack([rng.normal(size=n), rng.exponential(size=n), rng.poisson(1.0, n)], axis=1)
    numbers[rng.random(n) < 0.2, 1] = np.nan
    codes = np.stack([rng.integers(3, size=n), rng.geometric(0.3, size=n)], axis=1)
    return TableRows(numbers, codes)


@pytest.mark.parametrize("stranger", [False, True])
def test_p_values_of_scores_are_uniform_without_drift(stranger):
    """600 pairs of samples of 40 and 31 (exact law): P(p <= a) is at most a, and not far below.

    The law of the statistic is discrete, so that 0.8 a is asked for from below; each bound fails by
    chance less than once in 10,000.
    """
    rng = np.random.default_rng(0)
    p = np.array(
        [
            drift_test(rng.normal(size=40), rng.normal(size=31), stranger=stranger).p_value
            for _ in range(600)
        ]
    )
    for a in (0.05, 0.2, 0.5):
        assert (p <= a).sum() <= binom.isf(1e-4, 600, a)
        assert (p <= a).sum() >= binom.ppf(1e-4, 600, 0.8 * a)


def test_the_one_sided_test_equals_scipy_and_sees_stranger_rows_only():
    rng = np.random.default_rng(1)
    low, high = rng.normal(size=80), rng.normal(size=70) + 0.5
    found = drift_test(low, high, stranger=True)
    slow = ks_2samp(high, low, alternative="less", method="exact")
    assert found.statistic == pytest.approx(slow.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(slow.pvalue, rel=1e-9)
    assert found.p_value < 0.01
    assert drift_test(high, low, stranger=True).p_value > 0.5
    many = drift_test(np.repeat(low, 10), np.repeat(high, 10), stranger=True)
    size = 800 * 700 / 1500
    assert many.p_value == pytest.approx(np.exp(-2 * size * many.statistic**2))


def test_no_column_is_named_in_tables_without_drift():
    """At most 5 % of 400 pairs of tables name a column at 0.05 (bound failed once in 10,000)."""
    rng = np.random.default_rng(2)
    least = [
        min(shift.p_value for shift in column_shifts(table(150, rng), table(120, rng)))
        for _ in range(400)
    ]
    assert sum(p <= 0.05 for p in least) <= binom.isf(1e-4, 400, 0.05)


@pytest.mark.parametrize("column", range(5))
def test_a_shift_planted_in_one_column_is_found_there(column):
    """In 40 pairs of 300 rows: the column nearly always, the others at their rate."""
    rng = np.random.default_rng(3)
    found = np.zeros(5)
    for _ in range(40):
        new = table(300, rng)
        if column == 1:
            new.numbers[rng.random(300) < 0.25, 1] = np.nan  # blanks 40 % instead of 20 %
        elif column < 3:
            new.numbers[:, column] += 0.6 if column == 0 else 1.0
        else:
            swap = rng.random(300) < 0.3
            new.codes[swap, column - 3] = 1 if column == 3 else -1
        found += [shift.p_value <= 0.01 for shift in column_shifts(table(300, rng), new)]
    assert found[column] >= 36
    assert np.delete(found, column).sum() <= 3


def test_holm_equals_its_definition():
    p = np.random.default_rng(4).random(7) / 5
    order = np.argsort(p)
    by_hand = [max((7 - j) * p[order[j]] for j in range(i + 1)) for i in range(7)]
    assert np.allclose(holm(p)[order], np.minimum(by_hand, 1.0))


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_a_detector_raises_no_alarm_without_drift_and_names_the_column_that_moved(calibration):
    """40 fits: alarms at 0.1 are within their rate (failed once in 1,000); then a moved column."""
    rng = np.random.default_rng(5)
    alarms = 0
    for i in range(40):
        x = rng.normal(size=(260, 3))
        detector = AnomalyDetector(calibration=calibration, random_state=i).fit(x[:130])
        alarms += detector.drift(x[130:]).scores.p_value <= 0.1
    assert alarms <= binom.isf(1e-3, 40, 0.1)
    found = detector.drift(rng.normal(size=(130, 3)) + np.array([0.0, 3.0, 0.0]))
    assert found.scores.p_value < 0.01
    assert [moved.column for moved in found.moved()] == ["x1"]


def test_changes_are_told_in_words_and_survive_saving(tmp_path):
    rng = np.random.default_rng(6)

    def people(n: int, dogs: float, age: float) -> pl.DataFrame:
        pet = np.where(rng.random(n) < dogs, "dog", "cat")
        return pl.DataFrame({"pet": pet, "age": rng.normal(age, 5, n).round()})

    detector = AnomalyDetector(trim=0.05, random_state=0).fit(people(400, 0.3, 40))
    assert len(detector.sample_) == 400
    assert len(detector.reference_) == 380
    detector.save(tmp_path / "run")
    new = people(300, 0.9, 48)
    found = energyscape.load(tmp_path / "run").drift(new)
    assert found == detector.drift(new)
    words = {moved.column: moved.change for moved in found.moved()}
    assert words["age"] == "median 40 before, 48 now"
    assert words["pet"].startswith(("dog ", "cat "))
    assert not detector.drift(people(300, 0.3, 40)).moved()
