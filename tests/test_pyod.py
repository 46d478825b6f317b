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
