"""The adapter is a PyOD detector where PyOD is there, and says what is missing where it is not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from energyscape.pyod import EnergyscapeDetector


@pytest.mark.skipif(importlib.util.find_spec("pyod") is not None, reason="PyOD is installed")
def test_without_pyod_it_says_what_to_install():
    with pytest.raises(ModuleNotFoundError, match="pip install pyod"):
        EnergyscapeDetector()


@pytest.mark.skipif(importlib.util.find_spec("pyod") is None, reason="PyOD is not installed")
@pytest.mark.filterwarnings("default")
class TestWithPyOD:
    """PyOD's conventions, on the data its own tests use."""

    @pytest.fixture(scope="class")
    def data(self):
        from pyod.utils.data import generate_data

        return generate_data(n_train=200, n_test=100, contamination=0.1, random_state=42)

    @pytest.fixture(scope="class")
    def fitted(self, data):
        return EnergyscapeDetector(contamination=0.1, random_state=0).fit(data[0])

    def test_it_is_one(self, fitted):
        from pyod.models.base import BaseDetector
        from sklearn.base import clone

        assert isinstance(fitted, BaseDetector)
        assert clone(fitted).get_params() == fitted.get_params()

    def test_training_scores_threshold_and_labels(self, fitted, data):
        assert fitted.decision_scores_.shape == (200,)
        assert fitted.labels_.sum() == 20
        assert ((fitted.decision_scores_ > fitted.threshold_) == fitted.labels_).all()

    def test_scores_labels_and_probabilities_of_new_rows(self, fitted, data):
        from sklearn.metrics import roc_auc_score

        _, X, _, y = data
        assert roc_auc_score(y, fitted.decision_function(X)) > 0.9
        labels, confidence = fitted.predict(X, return_confidence=True)
        assert set(np.unique(labels)) <= {0, 1}
        assert ((confidence >= 0) & (confidence <= 1)).all()
        for method in ("linear", "unify"):
            proba = fitted.predict_proba(X, method=method)
            assert ((proba >= 0) & (proba <= 1)).all()

    def test_what_pyod_asks_of_every_detector(self, fitted, data):
        """The checks that PyOD's tests repeat for each of its own detectors."""
        X, new, _, y = data
        for name in ("decision_scores_", "labels_", "threshold_", "_mu", "_sigma"):
            assert getattr(fitted, name, None) is not None
        scores = fitted.decision_function(new)
        assert scores.shape == y.shape
        assert fitted.predict(new).shape == y.shape
        for method in ("linear", "unify"):
            assert fitted.predict_proba(new, method=method).min() >= 0
            assert fitted.predict_proba(new, method=method).max() <= 1
        with pytest.raises(ValueError, match="something"):
            fitted.predict_proba(new, method="something")
        proba, confidence = fitted.predict_proba(new, method="linear", return_confidence=True)
        assert proba.shape == (100, 2)
        assert confidence.shape == y.shape
        ranks = fitted._predict_rank(new)
        assert ranks.min() >= 0
        assert ranks.max() <= len(X)
        normed = fitted._predict_rank(new, normalized=True)
        assert ((normed >= 0) & (normed <= 1)).all()
        # Larger ranks for larger scores.
        assert np.array_equal(np.argsort(ranks, kind="stable"), np.argsort(normed, kind="stable"))
        assert np.corrcoef(ranks, scores.argsort().argsort())[0, 1] > 0.8

    def test_fitting_and_asking_at_once_is_the_same(self, fitted, data):
        from pyod.models.base import BaseDetector

        X = data[0]
        again = EnergyscapeDetector(contamination=0.1, random_state=0)
        assert np.array_equal(again.fit_predict(X), fitted.labels_)
        roc = again.fit_predict_score(X, data[2], scoring="roc_auc_score")
        assert 0.9 < roc <= 1
        for wrong in (0.0, 0.51, -0.1):
            with pytest.raises(ValueError, match="contamination"):
                EnergyscapeDetector(contamination=wrong)
        assert issubclass(EnergyscapeDetector, BaseDetector)
