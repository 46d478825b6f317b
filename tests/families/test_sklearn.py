"""scikit-learn's contract, for every family."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from energyscape.families import DDPM, EBM, EDM, FAMILIES, NCSN, ScoreModel

QUICK = {"max_steps": 2, "batch_size": 16, "width": 8, "blocks": 1, "random_state": 0}
REASONS = {
    "check_dataframe_column_names_consistency": (
        "columns in another order are put in order by their names instead of refused"
    ),
}


@pytest.mark.filterwarnings("ignore:these values are minus an energy")
@parametrize_with_checks(
    [
        EBM(chain_steps=2, normalise=False, **QUICK),
        ScoreModel(normalise=False, **QUICK),
        NCSN(**QUICK),
        DDPM(**QUICK),
        EDM(**QUICK),
    ],
    expected_failed_checks=lambda estimator: REASONS,
)
def test_check_estimator(estimator, check):
    """Every check of scikit-learn passes, but for the one named above with its reason."""
    check(estimator)


@pytest.mark.parametrize("cls", FAMILIES.values())
def test_clone_and_pipeline(cls):
    """A clone has the same settings; a pipeline fits and scores."""
    model = cls(max_steps=3, width=8, blocks=1, random_state=1)
    assert clone(model).get_params() == model.get_params()
    X = np.random.default_rng(0).normal(5, 3, size=(60, 2))
    pipeline = make_pipeline(StandardScaler(), model).fit(X)
    assert pipeline.score_samples(X).shape == (60,)


def test_grid_search_over_score():
    """The search prefers the setting that trains."""
    X = np.random.default_rng(0).normal(size=(150, 2)) @ np.array([[1.0, 0.9], [0.0, 0.3]])
    grid = {"learning_rate": [1e-9, 1e-2]}
    search = GridSearchCV(EDM(max_steps=150, width=32, blocks=1, random_state=0), grid, cv=2)
    search.fit(X)
    assert search.best_params_ == {"learning_rate": 1e-2}
