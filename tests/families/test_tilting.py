"""Energies of many columns: what they start from, and that they do not fall outwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import energyscape
from energyscape.families import EBM
from energyscape.families.tilting import fitted_reference
from energyscape.models import TiltedEnergy


def rows(n: int, dim: int, clusters: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(clusters, dim, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, dim, generator=rng, dtype=torch.float64)
    return centres[torch.arange(n) % clusters] + noise


def test_held_out_rows_choose_the_components_and_the_shrinkage():
    assert len(fitted_reference(rows(400, 9), 0.02).weights) == 2  # one and the wide one
    assert len(fitted_reference(rows(600, 9, 4), 0.02).weights) >= 5
    # Twenty rows in thirty columns: the rows' own covariance is singular, that of the reference round.
    few = fitted_reference(rows(20, 30), 0.02)
    test = rows(500, 30)[20:]
    assert float(few.log_prob(test).mean()) > -60  # the truth's is -43, unshrunk far below


@pytest.fixture(scope="module")
def wide() -> EBM:
    """Whole numbers on few values in twelve columns, from two common causes."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(240, 2)) @ rng.normal(size=(2, 12))
    X = np.clip(np.round(np.exp(0.5 * z)), 1, 10)
    return EBM(max_steps=60, random_state=0, normalise=False, width=32).fit(X[:160])


def test_more_than_eight_columns_tilt_a_reference(wide, tmp_path):
    assert wide._objective(wide.facts_) == "nce"
    assert isinstance(wide.model_, TiltedEnergy)
    wide.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    X = np.full((3, 12), 2.0)
    assert np.array_equal(again.anomaly_score(X), wide.anomaly_score(X))
    few = EBM(max_steps=1, random_state=0, normalise=False).fit(rows(60, 3).numpy())
    assert few._objective(few.facts_) == "persistent"
    assert not isinstance(few.model_, TiltedEnergy)


def test_a_run_that_kept_no_name_of_its_objective_was_trained_by_chains(wide):
    """Runs of many columns from before the default changed, which had no mixture."""
    old = {k: v for k, v in wide.facts_.items() if k not in ("objective", "components")}
    assert wide._objective(old) == "persistent"
    assert wide._objective(old | {"components": 2}) == "nce"


def test_rows_farther_out_are_stranger(wide):
    """Along rays from the middle the energy rises: it was free to fall where there were no rows."""
    far = wide.anomaly_score(np.stack([np.full(12, v) for v in (2.0, 20.0, 60.0, 200.0)]))
    assert bool((np.diff(far) > 0).all())
