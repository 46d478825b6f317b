"""A fitted family as a detector, by each kind of evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from energyscape import DDPM, EBM, EDM, NCSN, ModelDetector, ScoreModel
from energyscape.families.evidence import denoising_errors, energies, score_norms
from energyscape.models import Energy

QUICK = {"max_steps": 3, "batch_size": 16, "width": 8, "blocks": 1, "random_state": 0}


def rows(n: int, seed: int) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(n, 2))
    return X @ np.array([[1.0, 0.9], [0.0, 0.4]]) + 3.0


@pytest.fixture(scope="module")
def fitted():
    short = {"max_steps": 150, "width": 24, "blocks": 1, "random_state": 0}
    kinds = {
        "edm": EDM(**short),
        "ddpm": DDPM(**short),
        "ncsn": NCSN(**short),
        "ebm": EBM(**short),
        "levels": EBM(objective="levels", **short),
        "score": ScoreModel(**short),
        "field": ScoreModel(network="field", **short),
    }
    return {name: model.fit(rows(600, 0)) for name, model in kinds.items()}


@parametrize_with_checks(
    [
        ModelDetector(EDM(calibration_fraction=0.3, **QUICK), by="denoising_error"),
        ModelDetector(ScoreModel(calibration_fraction=0.3, **QUICK)),
    ],
    expected_failed_checks=lambda estimator: {
        "check_dataframe_column_names_consistency": (
            "columns in another order are put in order by their names instead of refused"
        ),
    },
)
@pytest.mark.filterwarnings("ignore:.*calibration rows cannot give")
def test_check_estimator(estimator, check):
    check(estimator)


AT_LEVELS = ["0.1", "0.2", "0.4", "0.8"]


@pytest.mark.parametrize(
    ("name", "by", "columns"),
    [
        ("edm", "own", ["own"]),
        ("edm", "log_density", ["log_density"]),
        ("edm", "denoising_error", [f"denoising_error at {s}" for s in AT_LEVELS]),
        ("ncsn", "score_norm", [f"score_norm at {s}" for s in AT_LEVELS]),
        ("ddpm", "bound", ["bound"]),
        ("ebm", "energy", ["energy"]),
        ("ebm", "score_norm", ["score_norm"]),
        ("levels", "energy", [f"energy at {s}" for s in AT_LEVELS]),
        ("levels", "denoising_error", [f"denoising_error at {s}" for s in AT_LEVELS]),
        ("score", "log_density", ["log_density"]),
        ("field", "score_norm", ["score_norm"]),
    ],
)
def test_each_kind_of_evidence(fitted, name, by, columns):
    """Named columns, finite numbers, p-values of ordinary rows about uniform, strange rows found."""
    detector = ModelDetector.of(fitted[name], by=by)
    X, strange = rows(300, 1), np.array([[9.0, 0.0]])
    assert detector.columns == columns
    found = detector.evidence(X)
    assert found.shape == (300, len(columns))
    assert np.isfinite(found).all()
    p = detector.p_values(X)
    assert 0.35 < p.mean() < 0.65
    assert (p <= 0.1).mean() < 0.2
    if by not in ("own", "score_norm"):
        assert detector.p_values(strange)[0] <= 0.1
        assert detector.predict(np.full((1, 2), 60.0))[0] == -1
    alone = detector.anomaly_score(X[7:8])[0]
    assert detector.anomaly_score(X)[7] == pytest.approx(alone, rel=1e-6)


def test_evidence_is_what_the_models_say(fitted):
    """Levels are in units of the data's scale; functions of `evidence` at these levels."""
    X = rows(20, 2)
    edm, levels, ebm = fitted["edm"], fitted["levels"], fitted["ebm"]
    x, sigma = edm.encode(X), [0.5 * edm.facts_["sigma_data"]]
    model = edm._double()
    found = ModelDetector.of(edm, by=["denoising_error", "score_norm"], levels=[0.5]).evidence(X)
    assert np.allclose(found[:, 0], denoising_errors(model, x, sigma)[0].sum(1))
    assert np.allclose(found[:, 1], score_norms(model, x, sigma)[:, 0])
    found = ModelDetector.of(levels, by="energy", levels=[0.5, 2.0]).evidence(X)
    scale = levels.facts_["scale"]
    wanted = energies(levels._double(), levels.encode(X), [0.5 * scale, 2.0 * scale])
    assert torch.allclose(torch.from_numpy(found), wanted)
    energy = ebm._double()
    assert isinstance(energy, Energy)
    found = ModelDetector.of(ebm, by="energy").evidence(X)[:, 0]
    assert np.allclose(found, energies(energy, ebm.encode(X))[:, 0])
    assert np.allclose(ModelDetector.of(edm).evidence(X)[:, 0], edm.anomaly_score(X))


def test_one_number_is_calibrated_on_all_rows_and_several_on_every_other(fitted):
    model = fitted["edm"]
    count = len(model.calibration_["rows"])
    one = ModelDetector.of(model)
    assert np.allclose(one.calibration_scores_, model.calibration_["anomaly_scores"], rtol=1e-4)
    several = ModelDetector.of(model, by=["own", "log_density"])
    assert len(several.laws_) == 2
    assert len(several.calibration_scores_) == count // 2
    assert several.smallest_p_value == 1 / (count // 2 + 1)


def test_extremes_of_a_clumped_column_have_their_p_values():
    """A column with a spike is kept by its ranks, whose inverse ends at the training rows' extremes.

    Calibration rows beyond them must count as they were: the largest of n of them has p = 2/(n + 1).
    """
    rng = np.random.default_rng(3)
    X = np.where(rng.random((400, 1)) < 0.4, 0.0, np.exp(2 * rng.normal(size=(400, 1))))
    model = EDM(max_steps=60, width=16, blocks=1, calibration_fraction=0.4, random_state=0).fit(X)
    detector = ModelDetector.of(model, by="log_density")
    split_x, inner = model._kept()
    again = detector._combine(detector._measure(split_x, inner))
    assert np.array_equal(np.sort(again), detector.calibration_scores_)
    assert set(detector.calibration_scores_.tolist()) <= set(detector.anomaly_score(X).tolist())


def test_what_is_set_later_changes_nothing(fitted):
    detector = ModelDetector.of(fitted["edm"], by=["denoising_error", "score_norm"])
    before = detector.p_values(rows(50, 4))
    detector.set_params(by="own", levels=[3.0])
    assert np.array_equal(detector.p_values(rows(50, 4)), before)
    assert detector.kinds_ == ["denoising_error", "score_norm"]


def test_drift_by_other_evidence(fitted):
    detector = ModelDetector.of(fitted["edm"], by="log_density")
    assert detector.drift(rows(200, 5)).moved() == []
    moved = detector.drift(rows(200, 5) + np.array([0.0, 3.0]))
    assert [column.column for column in moved.moved()] == ["x1"]
    assert moved.scores.p_value < 1e-6


def test_a_run_of_earlier_versions_is_calibrated(fitted):
    """Which kept its rows in single precision, and no Jacobians."""
    import copy

    old = copy.copy(fitted["edm"])
    kept = old.calibration_ | {"rows": old.calibration_["rows"].astype(np.float32)}
    old.calibration_ = {k: v for k, v in kept.items() if k != "log_abs_det"}
    for by in ("log_density", "own"):
        now = ModelDetector.of(fitted["edm"], by=by).calibration_scores_
        assert np.allclose(ModelDetector.of(old, by=by).calibration_scores_, now, atol=1e-3)


def test_fit_fits_a_copy():
    X = rows(200, 0)
    family = EDM(calibration_fraction=0.3, **QUICK)
    detector = ModelDetector(family, by="score_norm").fit(X)
    assert not hasattr(family, "model_")
    assert detector.score_samples(X).shape == (200,)
    same = ModelDetector.of(family.fit(X), by="score_norm")
    assert np.array_equal(same.anomaly_score(X), detector.anomaly_score(X))


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        ("edm", "energy", "no energy"),
        ("edm", "bound", "ddpm"),
        ("ebm", "denoising_error", "no denoiser"),
        ("field", "log_density", "no log-density"),
        ("edm", "magic", "one or several of own, energy"),
        ("edm", [], "one or several"),
    ],
)
def test_evidence_that_there_is_not(fitted, name, by, said):
    with pytest.raises(ValueError, match=said):
        ModelDetector.of(fitted[name], by=by)


def test_mistakes_are_named(fitted):
    with pytest.raises(NotFittedError):
        ModelDetector.of(EDM())
    with pytest.raises(NotFittedError):
        ModelDetector(EDM()).predict(rows(3, 0))
    with pytest.raises(ValueError, match="positive"):
        ModelDetector.of(fitted["edm"], by="score_norm", levels=[0.0])
    with pytest.raises(ValueError, match="false_alarm_rate"):
        ModelDetector.of(fitted["edm"], false_alarm_rate=0.0)
    bare = EDM(calibration_fraction=0.0, **QUICK).fit(rows(100, 0))
    with pytest.raises(ValueError, match="calibration_fraction > 0"):
        ModelDetector.of(bare)
    with pytest.warns(UserWarning, match="10 calibration rows cannot give"):
        few = ModelDetector.of(EDM(**QUICK).fit(rows(100, 0)))
    assert few.predict(np.full((1, 2), 60.0))[0] == -1


def test_a_bound_that_no_family_has_is_refused_before_training(monkeypatch):
    """Nothing is fitted for it."""
    monkeypatch.setattr(EDM, "fit", lambda self, X: pytest.fail("was fitted"))
    with pytest.raises(ValueError, match="EDM has no evidence 'bound'"):
        ModelDetector(by=["own", "bound"]).fit(np.zeros((20, 2)))
