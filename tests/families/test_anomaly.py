"""The detector's contract: scikit-learn's, the stated error rates, and what it keeps on disk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import energyscape
from energyscape import AnomalyDetector
from energyscape.data import DataError
from energyscape.families import SettingError, reference
from energyscape.families.explaining import Blame, Explanation

REASONS = {
    "check_dataframe_column_names_consistency": (
        "columns in another order are put in order by their names instead of refused"
    ),
}


@parametrize_with_checks(
    [AnomalyDetector(random_state=0), AnomalyDetector(calibration="split", random_state=0)],
    expected_failed_checks=lambda estimator: REASONS,
)
@pytest.mark.filterwarnings("ignore:.*calibration rows cannot give")
def test_check_estimator(estimator, check):
    """Every check of scikit-learn passes, but for the one named above with its reason."""
    check(estimator)


def blobs(n: int, seed: int, dim: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0] * dim, [4.0] * dim])
    return centres[rng.integers(2, size=n)] + rng.normal(size=(n, dim))


def far(n: int, seed: int, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-4, 8, size=(n, dim)) * [1, -1, 1]


@pytest.mark.parametrize("calibration", ["cross", "split"])
def test_p_values_of_ordinary_rows_are_super_uniform(calibration):
    """Over 40 tables, P(p <= a) is at most a plus three standard errors of 40 x 100 rows' mean."""
    p = np.concatenate(
        [
            AnomalyDetector(calibration=calibration, random_state=i)
            .fit(blobs(120, i))
            .p_values(blobs(100, 1000 + i))
            for i in range(40)
        ]
    )
    for a in (0.05, 0.1, 0.25, 0.5):
        # P-values of one table share its calibration rows (30 or 120): that is the larger error.
        error = np.sqrt(a * (1 - a) * (1 / (40 * 30) + 1 / len(p)))
        assert (p <= a).mean() <= a + 3 * error


def test_strange_rows_are_found_and_the_smallest_p_value_is_told():
    detector = AnomalyDetector(random_state=0).fit(blobs(400, 0))
    assert detector.calibrated_by_ == "cross"
    assert detector.smallest_p_value == 1 / 401
    ordinary, strange = blobs(200, 1), far(50, 2)
    scores = detector.anomaly_score(np.concatenate([ordinary, strange]))
    assert roc_auc_score(np.arange(250) >= 200, scores) > 0.95
    flagged = detector.flag(np.concatenate([ordinary, strange]), fdr=0.1)
    assert flagged[200:].mean() > 0.4
    assert flagged[:200].mean() < 0.05
    proba = detector.predict_proba(strange)
    assert np.allclose(proba.sum(1), 1)
    assert np.array_equal(proba[:, 0], detector.p_values(strange))


def test_predict_agrees_with_the_p_value_at_the_stated_rate():
    detector = AnomalyDetector(false_alarm_rate=0.1, random_state=0).fit(blobs(200, 0))
    rows = np.concatenate([blobs(100, 1), far(50, 2)])
    assert np.array_equal(detector.predict(rows) == -1, detector.p_values(rows) <= 0.1)
    assert detector.threshold(0.1) == -detector.offset_
    assert detector.threshold(1e-4) == np.inf


def test_a_rate_that_cannot_be_had_is_said():
    with pytest.warns(
        UserWarning, match="50 calibration rows cannot give a false-alarm rate of 0.01"
    ):
        detector = AnomalyDetector(false_alarm_rate=0.01, random_state=0).fit(blobs(50, 0))
    assert len(detector.notes_) == 1
    assert detector.predict(np.full((1, 3), 50.0))[0] == -1


def test_a_rows_score_is_its_own():
    """Alone or in a batch the same, up to the order of sums."""
    detector = AnomalyDetector(random_state=0).fit(blobs(200, 0))
    rows = blobs(30, 1)
    alone = np.concatenate([detector.anomaly_score(row[None]) for row in rows])
    assert np.allclose(alone, detector.anomaly_score(rows), rtol=1e-9)


def test_units_and_order_of_columns_do_not_matter():
    X, rows = blobs(200, 0), blobs(50, 1)
    plain = AnomalyDetector(random_state=0).fit(X).anomaly_score(rows)
    turn, scale = [2, 0, 1], np.array([1e-3, 7.0, 1e4])
    other = AnomalyDetector(random_state=0).fit((X * scale - 5)[:, turn])
    assert np.allclose(plain, other.anomaly_score((rows * scale - 5)[:, turn]), rtol=1e-6)


def test_trimming_helps_where_training_rows_hold_anomalies():
    X = np.concatenate([blobs(400, 0), far(20, 3)[:, ::-1] * 0.3 + 7])
    test = np.concatenate([blobs(300, 1), far(60, 4)[:, ::-1] * 0.3 + 7])
    truth = np.arange(360) >= 300
    area = {
        trim: roc_auc_score(
            truth, AnomalyDetector(trim=trim, random_state=0).fit(X).anomaly_score(test)
        )
        for trim in (0.0, 0.1)
    }
    assert area[0.1] > area[0.0]
    assert area[0.1] > 0.9


def mixed(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    kind = rng.choice(["cat", "dog"], n)
    size = np.where(kind == "cat", 4.0, 20.0) + rng.normal(size=n)
    size[rng.random(n) < 0.1] = np.nan
    age = rng.integers(0, 15, n)
    return pd.DataFrame({"kind": kind, "size": size, "age": age, "house": rng.random(n) < 0.5})


def test_frames_with_names_blanks_and_unseen_values():
    detector = AnomalyDetector(random_state=0).fit(mixed(400, 0))
    rows = mixed(4, 1)
    rows["size"] = [4.0, 20.0, np.nan, 4.0]
    rows["kind"] = ["cat", "dog", "dog", "dog"]
    ordinary = detector.anomaly_score(rows)
    assert detector.p_values(rows)[3] < 0.05
    assert (detector.p_values(rows)[:3] > 0.02).all()
    # Another order of the columns, a half where there were whole numbers, a kind never seen.
    assert np.array_equal(detector.anomaly_score(rows[["age", "house", "size", "kind"]]), ordinary)
    odd = rows.assign(kind="bear", age=3.5)
    assert (detector.anomaly_score(odd) > ordinary - 0.1).all()
    with pytest.raises(DataError, match="'size'"):
        detector.anomaly_score(rows.drop(columns="size"))


@pytest.mark.parametrize("make", [lambda n, i: blobs(n, i), mixed])
def test_saved_and_loaded_scores_are_the_same(make, tmp_path):
    detector = AnomalyDetector(random_state=0, trim=0.05).fit(make(200, 0))
    detector.save(tmp_path / "run")
    again = AnomalyDetector.load(tmp_path / "run")
    rows = make(20, 1)
    assert np.array_equal(again.anomaly_score(rows), detector.anomaly_score(rows))
    assert np.array_equal(again.p_values(rows), detector.p_values(rows))
    assert again.offset_ == detector.offset_
    assert again.get_params() == detector.get_params()
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(again.anomaly_score(rows), detector.anomaly_score(rows))


def test_more_rows_than_it_compares_with_are_sampled_and_settings_are_checked():
    detector = AnomalyDetector(max_rows=50, random_state=0).fit(blobs(200, 0))
    assert len(detector.reference_) == 50
    assert len(detector.training_scores_) == 200
    with pytest.raises(SettingError, match="trim"):
        AnomalyDetector(trim=0.9).fit(blobs(50, 0))
    with pytest.raises(DataError, match="pictures"):
        AnomalyDetector().fit(np.zeros((5, 4, 4), dtype=np.uint8))


def test_of_many_training_rows_some_are_scored_when_they_are_asked_for(monkeypatch):
    X = blobs(300, 0)
    whole = AnomalyDetector(max_rows=50, calibration="split", random_state=0).fit(X)
    monkeypatch.setattr(reference, "_ALL_SCORED", 200)
    detector = AnomalyDetector(max_rows=50, calibration="split", random_state=0).fit(X)
    gaps = np.isnan(detector.training_scores_)
    assert gaps.sum() == 300 - 50 - len(detector.calibration_scores_)
    assert np.allclose(detector.known_scores(X), whole.training_scores_)
    assert (np.isnan(detector.training_p_values()) == gaps).all()
    scores = detector.known_scores(X)
    assert np.allclose(detector.training_p_values(scores), whole.training_p_values())


def test_training_rows_are_scored_without_themselves():
    X = blobs(200, 0)
    X[0] = 30.0
    detector = AnomalyDetector(random_state=0).fit(X)
    assert detector.training_scores_.argmax() == 0
    assert detector.anomaly_score(X).max() < detector.training_scores_[0]


def test_a_cell_that_is_as_expected_is_no_reason():
    cell = Blame("kind", "cat", "dog", None, None, ("dog", "cat"), 0.3, usual=True)
    odd = Blame("age", 200, 41, 17, 79, (), 9.0)
    assert (
        Explanation(5.0, (odd, cell), {}, 0.1, {}).describe() == "age 200 (expected 41, 17 to 79)"
    )
    assert Explanation(5.0, (cell,), {}, 0.1, {}).describe().startswith("no cell alone")
    X = blobs(300, 0)
    for found in AnomalyDetector(random_state=0).fit(X).explain(X[:40]):
        for blame in found.blamed:
            assert blame.usual == (blame.low <= blame.value <= blame.high)


def test_the_cell_that_was_changed_is_blamed_and_what_was_expected_is_told():
    """An interval of 90 % holds a true cell of 200 at least 165 times (failure rate 1e-4)."""
    rng = np.random.default_rng(5)
    table = mixed(500, 2).drop(columns="house")
    detector = AnomalyDetector(random_state=0).fit(table)
    found = detector.explain(table[:1].assign(kind="dog", size=4.0))[0]
    assert {b.column for b in found.blamed} & {"kind", "size"}
    assert found.typical_score < found.score
    assert set(found.nearest) == {"kind", "size", "age"}
    # A strange row among those it is compared with does not vouch for itself.
    planted = pd.concat([table, table[:1].assign(age=200)], ignore_index=True)
    worst = AnomalyDetector(random_state=0).fit(planted).explain(planted[-1:], trained_on=True)[0]
    assert worst.blamed[0].column == "age"
    assert worst.typical["age"] < 25
    assert worst.typical_score < worst.score
    odd = detector.explain(table[:1].assign(kind="cat", size=4.0, age=200))[0].blamed[0]
    assert odd.column == "age"
    assert odd.value == 200
    assert odd.low <= odd.expected <= odd.high < 20
    x = rng.normal(size=(900, 1))
    X = np.hstack([x, -x, 2 * x]) + 0.3 * rng.normal(size=(900, 3))
    plain = AnomalyDetector(random_state=0).fit(X[:500])
    changed = X[500:700].copy()
    changed[:, 1] += 8.0
    why = plain.explain(changed, most=1)
    assert all(row.blamed[0].column == "x1" for row in why)
    held = [
        row.blamed[0].low <= true <= row.blamed[0].high
        for row, true in zip(why, X[500:700, 1], strict=True)
    ]
    assert sum(held) >= 165
    names, shares = plain.column_contributions(changed[:5])
    assert names == ["x0", "x1", "x2"]
    assert (shares.argmax(axis=1) == 1).all()


def test_columns_named_like_a_pattern_are_explained_and_no_rows_have_no_reasons():
    """A polars frame takes ``*`` for all of its columns where it is asked for one."""
    rng = np.random.default_rng(0)
    table = pl.DataFrame(rng.normal(size=(60, 3)), schema=["*", "b", "c"])
    detector = AnomalyDetector(random_state=0).fit(table)
    (found,) = detector.explain(pl.DataFrame({"*": [9.0], "b": [0.0], "c": [0.0]}))
    assert found.blamed[0].column == "*"
    assert set(found.nearest) == {"*", "b", "c"}
    assert detector.explain(table[:0]) == []
