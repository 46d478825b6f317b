"""Each measure of synthetic tables against its closed form: one law, a shifted law, leaked rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.stats

from energyscape import fidelity
from energyscape.fidelity import (
    Space,
    closest_record_share,
    column_shapes,
    columns_of,
    copies,
    coverage,
    expected_coverage,
    fidelity_table,
    pair_trends,
    train_on_drawn,
)


def normal(seed: int, n: int, rho: float = 0.0, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Two numbers of correlation rho."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n))
    return {"x": x + shift, "y": rho * x + np.sqrt(1 - rho**2) * y}


def test_column_shapes_choose_the_distance_by_type_and_see_blanks() -> None:
    real = {
        "number": np.array([1.0, 2.0, 3.0, 4.0]),
        "blank": np.array([1.0, np.nan, 1.0, np.nan]),
        "name": np.array(["a", "b", None, "a"], dtype=object),
        "flag": np.array([True, False, True, True]),
    }
    drawn = {
        "number": np.array([1, 2, 3, 4]),
        "blank": np.array([1.0, 1.0, 1.0, 1.0]),
        "name": np.array(["a", "b", "b", None], dtype=object),
        "flag": np.array([False, False, True, True]),
    }
    shapes = column_shapes(real, drawn)
    assert list(shapes) == list(real)
    assert shapes == {
        "number": 0.0,
        "blank": 0.5,
        "name": pytest.approx(1 / 3),
        "flag": pytest.approx(0.25),
    }
    with pytest.raises(ValueError, match="lack column 'flag'"):
        column_shapes(real, {k: v for k, v in drawn.items() if k != "flag"})


def test_shape_of_a_shifted_normal_has_its_closed_form() -> None:
    """sup |F - G| of normals a distance m apart is 2 Phi(m/2) - 1; within 0.02 at 20,000 rows, where
    the sampling error of either is below 0.0136 with probability 0.999 (Dvoretzky-Kiefer-Wolfowitz)."""
    a, b = normal(1, 20_000), normal(2, 20_000, shift=0.5)
    shapes = column_shapes(a, b)
    assert shapes["x"] == pytest.approx(2 * scipy.stats.norm.cdf(0.25) - 1, abs=0.02)
    assert shapes["y"] < 0.03


def test_rank_correlation_of_normals_has_its_closed_form() -> None:
    """Spearman's r of a Gaussian is (6/pi) asin(rho/2); standard error below 0.008 at 20,000 rows."""
    found = pair_trends(normal(1, 20_000, rho=0.8), normal(2, 20_000, rho=-0.2))
    expected = 6 / np.pi * (np.arcsin(0.4) + np.arcsin(0.1)) / 2
    assert found["x", "y"] == pytest.approx(expected, abs=0.02)


def test_pairs_of_labels_and_mixed_pairs_by_hand() -> None:
    c = np.array(["a", "a", "b", "b"] * 25)
    x = np.array([0.0, 0.0, 1.0, 1.0] * 25)
    real = {"c": c, "d": c, "x": x}
    drawn = {"c": c, "d": np.roll(c, 1), "x": np.roll(x, 1)}
    found = pair_trends(real, drawn)
    # Of (a, a), (b, b) at 1/2 each, half has moved to (a, b) and (b, a).
    assert found["c", "d"] == pytest.approx(0.5)
    assert found["c", "x"] == pytest.approx(0.5)
    assert found["d", "x"] == pytest.approx(0.0)


def test_blanks_that_come_together_are_a_trend() -> None:
    c = np.array(["a", None] * 50, dtype=object)
    x = np.array([1.0, np.nan] * 50)
    assert pair_trends({"c": c, "x": x}, {"c": c, "x": x[::-1]})["c", "x"] == pytest.approx(1.0)


def test_correlations_over_rows_that_have_both_equal_scipy() -> None:
    table, other = normal(1, 200, rho=0.6), normal(2, 200)
    table["x"][::7] = np.nan
    table["y"][::5] = np.nan
    both = ~np.isnan(table["x"]) & ~np.isnan(table["y"])
    # Ranks are taken within a column, so the oracle ranks there as well.
    ranks = [scipy.stats.rankdata(table[k], nan_policy="omit")[both] for k in "xy"]
    expected = np.corrcoef(*ranks)[0, 1] - scipy.stats.spearmanr(other["x"], other["y"]).statistic
    assert pair_trends(table, other)["x", "y"] == pytest.approx(abs(expected) / 2)


@pytest.mark.parametrize("sizes", [(400, 400), (400, 100)])
def test_coverage_of_one_law_has_its_closed_form(sizes: tuple[int, int]) -> None:
    """The mean of 20 draws within four of its standard errors."""
    rng = np.random.default_rng(0)
    found = [
        coverage(rng.normal(size=(sizes[0], 2)), rng.normal(size=(sizes[1], 2))) for _ in range(20)
    ]
    error = np.std(found, ddof=1) / np.sqrt(20)
    assert abs(np.mean(found) - expected_coverage(*sizes)) < 4 * error


def test_coverage_misses_a_mode() -> None:
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(300, 2)) + 20 * (np.arange(300) % 3)[:, None]
    assert coverage(modes, modes[np.arange(300) % 3 < 2] + 0.01) == pytest.approx(2 / 3, abs=0.01)


def test_leaked_rows_are_found() -> None:
    """Of fresh rows half are closer to the training table (four standard errors); of a sample that
    holds a fraction q of copies, q + (1 - q)/2; copies are counted exactly."""
    rng = np.random.default_rng(0)
    train, test, fresh = (normal(seed, 400) for seed in (1, 2, 3))
    leaked = {k: np.concatenate([train[k][:200], fresh[k][:200]]) for k in train}
    space = Space.of(train)
    same = closest_record_share(space(train), space(test), space(fresh), rng)
    assert abs(same.value - 0.5) < 4 * same.stderr
    assert 0.02 < same.stderr < 0.03
    some = closest_record_share(space(train), space(test), space(leaked), rng)
    assert abs(some.value - 0.75) < 4 * same.stderr
    assert copies(train, leaked) == 0.5
    assert copies(train, fresh) == 0.0


def test_distances_by_hand() -> None:
    reference = {
        "x": np.array([0.0, 1.0, 2.0, np.nan]),
        "c": np.array(["a", "b", None, "a"], object),
    }
    space = Space.of(reference)
    rows = {"x": np.array([0.0, 2.0, np.nan]), "c": np.array(["a", "new", None], dtype=object)}
    x = space(rows)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    assert squares[0, 1] == pytest.approx((2 / 3) ** 2 + 0.5)
    assert squares[0, 2] == pytest.approx((1 / 6 - 1 / 2) ** 2 + 1 + 1)


def test_training_on_drawn_rows_loses_what_they_lack() -> None:
    """The label is the sign of x, the number twice x: learned from real rows, not from rows whose
    columns are independent, where the label's accuracy is one half and nothing is explained."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=900)
    whole = {"x": x, "up": np.where(x > 0, "yes", "no"), "twice": 2 * x}
    real, test = ({k: v[i] for k, v in whole.items()} for i in (slice(0, 500), slice(500, 900)))
    apart = {k: rng.permutation(v) for k, v in real.items()}
    found = train_on_drawn(real, test, apart, rng, targets=["up", "twice"], num_trees=20)
    assert found["up"][1] > 0.98
    assert found["twice"][1] > 0.97
    # Binomial error 0.025 on 400 rows, and forests of noise differ: five of them.
    assert abs(found["up"][0] - 0.5) < 0.125
    assert found["twice"][0] < 0.1


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, fidelity.Finding]]:
    """The table of measures of samples of the law, of another law, and of copies."""
    train, test = normal(1, 300, rho=0.7), normal(2, 300, rho=0.7)
    samples = {
        "same": normal(3, 300, rho=0.7),
        "other": normal(4, 300, shift=1.0),
        "copied": {k: v[::-1] for k, v in train.items()},
    }
    return {
        name: {
            f.name: f
            for f in fidelity_table(
                test, drawn, np.random.default_rng(0), train=train, num_trees=15, repeats=1
            )
        }
        for name, drawn in samples.items()
    }


def test_every_measure_has_an_interval_around_it(found) -> None:  # type: ignore[no-untyped-def]
    names = [
        *("column_shapes", "pair_trends", "two_sample_accuracy", "train_on_drawn", "coverage"),
        *("neighbour_ratio", "closer_to_training", "copies", "column x", "column y"),
    ]
    for measures in found.values():
        assert list(measures) == names
        for one in measures.values():
            assert one.low <= one.value <= one.high, one
            assert np.isfinite(one.real), one


def test_samples_of_the_law_are_as_good_as_real_rows(found) -> None:  # type: ignore[no-untyped-def]
    """Each within its interval, doubled, of what real rows reach: about four standard errors."""
    for name, one in found["same"].items():
        if name != "copies":
            assert abs(one.value - one.real) <= 2 * max(one.high - one.value, 0.02), one


def test_another_law_and_copies_are_told(found) -> None:  # type: ignore[no-untyped-def]
    other, copied = found["other"], found["copied"]
    assert other["column x"].low > other["column x"].real + 0.1
    assert other["pair_trends"].low > other["pair_trends"].real + 0.1
    # The best any classifier can do is above Phi(1/2) = 0.69, of x alone.
    assert other["two_sample_accuracy"].low > 0.6
    assert other["train_on_drawn"].high < other["train_on_drawn"].real
    assert other["coverage"].high < other["coverage"].real
    assert copied["copies"].value == 1.0
    assert copied["copies"].real == 0.0
    assert copied["neighbour_ratio"].high < 0.01
    assert copied["closer_to_training"].low == 1.0


def test_the_interval_of_shapes_covers() -> None:
    """Of 40 intervals at 95 % for the shape of a shifted normal at least 32 hold the true distance
    plus the little that finite samples add (probability of fewer below 1e-3 if they cover as said)."""
    truth = 2 * scipy.stats.norm.cdf(0.5) - 1
    covered = 0
    for seed in range(40):
        a, b = normal(2 * seed, 200), normal(2 * seed + 1, 200, shift=1.0)
        rng = np.random.default_rng(seed)
        one = fidelity.summary._shapes({"x": a["x"]}, {"x": b["x"]}, None, rng)[1]
        covered += one.low <= truth + 0.02 and one.high >= truth
    assert covered >= 32


def test_frames_become_columns() -> None:
    from energyscape.data import infer_schema

    frame = pl.DataFrame(
        {"n": [1, None, 3], "c": ["a", "b", "a"], "d": ["2020-01-01", "2020-01-03", None]}
    )
    made = columns_of(frame, infer_schema(frame))
    assert made["n"][0] == 0.0 or made["n"][0] == 1.0
    assert np.isnan(made["n"][1])
    assert made["c"].tolist() == ["a", "b", "a"]
    assert made["d"][1] - made["d"][0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: pair_trends({"x": [1.0]}, {"y": [1.0]}), "lacks column 'x'"),
        (lambda: pair_trends({"x": [1.0]}, {"x": ["a"]}), "numbers in one table and labels"),
        (lambda: pair_trends({}, {}), "at least one column"),
        (lambda: pair_trends({"x": [1.0], "y": []}, {"x": [1.0], "y": [1.0]}), "rows"),
        (lambda: coverage(np.zeros((5, 1)), np.zeros((5, 1))), "more than 5"),
        (
            lambda: fidelity_table(normal(0, 5), normal(0, 9), np.random.default_rng(0)),
            "at least 6",
        ),
        (
            lambda: train_on_drawn(
                normal(0, 9), normal(0, 9), normal(0, 9), np.random.default_rng(0), targets=["z"]
            ),
            "no column 'z'",
        ),
    ],
)
def test_errors_say_what_was_given(call, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_public_names_exist_once() -> None:
    assert len(fidelity.__all__) == len(set(fidelity.__all__))
    assert all(hasattr(fidelity, name) for name in fidelity.__all__)
