"""Two-sample and detection measures against scipy, scikit-learn, POT and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from energyscape import metrics
from energyscape.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    correlation_difference,
    energy_distance,
    frechet_distance,
    kolmogorov_smirnov,
    mean_with_error,
    neighbour_ratio,
    sliced_wasserstein,
    total_variation,
    two_sample_accuracy,
)

values = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=20)


def normal(seed: int, *shape: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, size=shape)


def test_classifier_cannot_tell_two_samples_of_one_law() -> None:
    """Within four standard errors of one half (false failure below 1e-4)."""
    rng = np.random.default_rng(0)
    same = two_sample_accuracy(normal(1, 150, 3), normal(2, 150, 3), rng, repeats=2, num_trees=30)
    assert abs(same.value - 0.5) < 4 * same.stderr
    assert 0.02 < same.stderr < 0.06


def test_classifier_tells_two_laws_and_is_reproducible() -> None:
    a, b = normal(1, 80, 2), normal(2, 120, 2, shift=4.0)
    runs = [
        two_sample_accuracy(a, b, np.random.default_rng(5), repeats=1, num_trees=20)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].value > 0.97


def test_neighbour_ratio_is_one_for_fresh_rows_and_zero_for_copies() -> None:
    train, test, fresh = normal(1, 500, 4), normal(2, 400, 4), normal(3, 400, 4)
    ratio = neighbour_ratio(train, test, fresh)
    assert abs(ratio.value - 1.0) < 4 * ratio.stderr  # false failure below 1e-4
    assert neighbour_ratio(train, test, train[:50]).value == 0.0
    assert neighbour_ratio(train, test, fresh + 10.0).value > 5.0


def test_nearest_distances_equal_brute_force() -> None:
    train, test, drawn = normal(1, 40, 3), normal(2, 300, 3), normal(3, 30, 3)
    nearest = [
        np.linalg.norm(x[:, None] - train[None], axis=2).min(axis=1).mean() for x in (drawn, test)
    ]
    assert neighbour_ratio(train, test, drawn).value == pytest.approx(nearest[0] / nearest[1])


@given(values, values)
def test_kolmogorov_smirnov_equals_brute_force(a: list[float], b: list[float]) -> None:
    gaps = [
        abs(sum(v <= at for v in a) / len(a) - sum(v <= at for v in b) / len(b)) for at in (*a, *b)
    ]
    assert kolmogorov_smirnov(a, b) == pytest.approx(max(gaps))


@given(values, values)
def test_total_variation_equals_brute_force(a: list[float], b: list[float]) -> None:
    expected = 0.5 * sum(abs(a.count(v) / len(a) - b.count(v) / len(b)) for v in {*a, *b})
    assert total_variation(a, b) == pytest.approx(expected)


def test_correlation_difference_by_hand() -> None:
    x = normal(1, 50, 3)
    y = x.copy()
    y[:, 0] *= -1
    pairs = np.corrcoef(x, rowvar=False)
    expected = (2 * abs(pairs[0, 1]) + 2 * abs(pairs[0, 2])) / 3
    assert correlation_difference(x, y) == pytest.approx(expected)
    assert correlation_difference(x, x * 7 + 1) == pytest.approx(0.0, abs=1e-12)
    assert correlation_difference(x[:, :1], x[:, :1]) == 0.0
    # a constant whose standard deviation is not 0 by rounding, and columns of tiny numbers
    still = np.column_stack([x, np.full(len(x), 0.1)])
    assert correlation_difference(still, still) == 0.0
    assert correlation_difference(x, x * 1e-200) == pytest.approx(0.0, abs=1e-12)


def test_frechet_distance_equals_the_formula_with_sqrtm() -> None:
    mix = normal(9, 4, 4)
    a, b = normal(1, 60, 4) @ mix, normal(2, 90, 4, shift=1.0)
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


@given(values, values)
@settings(max_examples=30)
def test_energy_distance_equals_scipy_on_the_line(a: list[float], b: list[float]) -> None:
    assert energy_distance(a, b) == pytest.approx(scipy.stats.energy_distance(a, b), abs=1e-7)


def test_energy_distance_equals_brute_force_in_the_plane() -> None:
    a, b = normal(1, 600, 2), normal(2, 30, 2, shift=0.5)
    mean = [np.linalg.norm(x[:, None] - y, axis=2).mean() for x, y in ((a, b), (a, a), (b, b))]
    expected = math.sqrt(2 * mean[0] - mean[1] - mean[2])
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(30, 30), (30, 47), (1, 12)])
def test_sliced_wasserstein_on_the_line_is_exact(sizes: tuple[int, int]) -> None:
    """The quantile integral against a linear programme that knows nothing of sorting."""
    a, b = normal(1, sizes[0], 1), normal(2, sizes[1], 1, shift=1.0)
    n, m = sizes
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    plan = scipy.optimize.linprog(
        ((a - b.T) ** 2).ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
    )
    result = sliced_wasserstein(a, b, np.random.default_rng(0), num_directions=3)
    assert result.value == pytest.approx(math.sqrt(plan.fun), rel=1e-8)
    assert result.stderr == pytest.approx(0.0, abs=1e-12)


def test_sliced_wasserstein_of_a_shift_has_its_closed_form() -> None:
    """Moved by v in D dimensions: sqrt(|v|^2 / D); four standard errors."""
    x, v = normal(1, 50, 5), np.array([3.0, 0.0, 0.0, 0.0, 4.0])
    result = sliced_wasserstein(x, x + v, np.random.default_rng(0), num_directions=2000)
    assert abs(result.value - math.sqrt(25 / 5)) < 4 * result.stderr


labelled = st.lists(
    st.tuples(st.booleans(), st.integers(-3, 3).map(float)), min_size=2, max_size=30
).filter(lambda rows: 0 < sum(label for label, _ in rows) < len(rows))


@given(labelled)
def test_detection_measures_equal_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    labels, scores = map(np.array, zip(*rows, strict=True))
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    oracle = average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(oracle)


def test_bootstrap_interval_covers_the_true_auroc() -> None:
    """Shift 1 of unit normals: AUROC = Phi(1 / sqrt 2). Of 60 intervals at 95 %, at least 50
    cover it (fewer with probability about 1e-3 for exact coverage)."""
    truth = scipy.stats.norm.cdf(1 / math.sqrt(2))
    labels = np.repeat([0, 1], 80)
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = np.concatenate([rng.normal(size=80), rng.normal(1.0, 1.0, size=80)])
        interval = bootstrap_interval(auroc, labels, scores, rng, resamples=100)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= truth <= interval.high
    assert covered >= 50


def test_mean_with_error() -> None:
    x = normal(1, 40)
    estimate = mean_with_error(x)
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.stderr == pytest.approx(scipy.stats.sem(x))
    assert math.isnan(mean_with_error([1.0]).stderr)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: energy_distance(np.zeros((2, 2)), np.zeros((2, 3))), "same columns"),
        (lambda: frechet_distance([[0.0]], [[1.0]]), "at least 2"),
        (lambda: kolmogorov_smirnov([0.0, math.inf], [1.0]), "row 1"),
        (lambda: auroc([0, 0], [1.0, 2.0]), "both usual"),
        (lambda: auroc([0, 1], [1.0]), "one score per label"),
        (lambda: average_precision([0, 1], [1.0, math.nan]), "NaN"),
        (lambda: neighbour_ratio([[0.0]], [[0.0]], [[1.0]]), "held out"),
        (lambda: total_variation([], [1]), "at least one value"),
        (lambda: mean_with_error([[1.0, 2.0]]), "one per row"),
    ],
)
def test_errors_say_what_was_given(call, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_public_names_exist_and_are_sorted() -> None:
    assert list(metrics.__all__) == sorted(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_precision_and_recall_by_the_definition() -> None:
    """Pair by pair; half of the modes lost costs recall, half of the rows astray precision."""
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (30, 2)), rng.normal(50, 1, (30, 2))])
    for drawn in (real[:30] + 0.01, np.concatenate([real, real + 500]), real + 500, real[::2]):
        found = [share.value for share in metrics.precision_recall(real, drawn, neighbours=2)]
        expected = []
        for rows, others in ((drawn, real), (real, drawn)):
            reach = [sorted(np.linalg.norm(o - others, axis=1))[2] for o in others]
            inside = [
                any(np.linalg.norm(row - o) <= r for o, r in zip(others, reach, strict=True))
                for row in rows
            ]
            expected.append(np.mean(inside))
        assert found == expected
    with pytest.raises(ValueError, match="neighbours must be 1 or more"):
        metrics.precision_recall(real, real, neighbours=0)
    with pytest.raises(ValueError, match="at least 4"):
        metrics.precision_recall(real, real[:3])
