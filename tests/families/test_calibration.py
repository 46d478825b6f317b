"""Which rows a fit measures, validates and calibrates on, and how long it takes for that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from energyscape.families import EDM, fitting


@pytest.fixture(scope="module")
def model() -> EDM:
    """Two columns of a file that is sorted by both, as files in order of classes or dates are."""
    X = np.sort(np.random.default_rng(0).normal(size=(2000, 2)), axis=0)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_CALIBRATION_ROWS", "_VALIDATION_ROWS"):
            patch.setattr(fitting, name, 60)
        patch.setattr(fitting, "_MEASURED_NUMBERS", 120)
        return EDM(max_steps=20, width=8, blocks=1, calibration_fraction=0.4, random_state=0).fit(X)


def test_some_rows_of_a_sorted_file_come_from_all_of_it(model: EDM) -> None:
    kept = model.calibration_["rows"]
    assert len(kept) == model.info_["rows"]["calibration"] == 60
    assert abs(kept.mean()) < 0.4  # the first 60 of 800 have a mean of -1.9, and an error of 0.13
    assert model.facts_["sigma_data"] == pytest.approx(1.0, abs=0.3)


def test_calibration_ends_with_its_time_but_not_before_it_has_enough_rows(model: EDM) -> None:
    x = torch.zeros(100_000, 2)
    assert len(model._surprise_rows(x, seconds=0.0)) == 32_768  # one part
    assert len(model._surprise_rows(x, seconds=0.0, least=40_000)) == 65_536
    assert len(model._surprise_rows(x[:40_000])) == 40_000


def test_a_fit_cut_short_says_on_how_many_rows_it_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EDM, "_surprise", lambda self, x: x.abs())
    shown = EDM._surprise_rows
    monkeypatch.setattr(
        EDM, "_surprise_rows", lambda self, x, *a, seconds, least: shown(self, x[: 2 * least])
    )
    X = np.random.default_rng(0).normal(size=(1500, 2))
    model = EDM(time_limit=0.05, width=8, blocks=1, calibration_fraction=0.2, random_state=0).fit(X)
    assert model.info_["rows"]["calibration"] == len(model.calibration_["anomaly_scores"]) == 200
    (note,) = (n for n in model.info_["notes"] if "calibrated" in n)
    assert "200 of 300 rows" in note
    assert "0.005" in note
