"""Values are drawn as often as they were seen."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from energyscape.data.atoms import Atoms
from energyscape.families import EDM, edm
from energyscape.families.shares import match_shares, rows_to_match, weights
from energyscape.models import EDMPreconditioning, FewValues, MixedDenoiser

CENTRES, NOISE = [-1.0, 0.5, 2.0], 0.1


def denoiser(shares: list[float]) -> MixedDenoiser:
    """Of one column of three values, by a network that says how likely each is beside its share."""
    column = FewValues(0, [0.0], [0, 0, 0], CENTRES, [1.0] * 3, [NOISE] * 3, shares)
    hint = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    def network(x, c_noise, label):
        return hint.expand(len(x), 3) * (1 + x)

    return MixedDenoiser(network, EDMPreconditioning(1.0), 1, [column]).double()


def drawn(model: MixedDenoiser, rows: int, seed: int) -> torch.Tensor:
    """Values by the shares that the model holds, encoded."""
    rng = torch.Generator().manual_seed(seed)
    share = model.log_share.flatten().exp()
    k = torch.multinomial(share, rows, replacement=True, generator=rng)
    noise = NOISE * torch.randn(rows, generator=rng, dtype=torch.float64)
    return (torch.tensor(CENTRES, dtype=torch.float64)[k] + noise)[:, None]


def test_weights_on_shares_are_the_posterior_of_the_weighted_law():
    """Adding log w to log f is w_k P(k | x), normalised, at every level."""
    plain, weighed = denoiser([0.5, 0.3, 0.2]), denoiser([0.5, 0.3, 0.2])
    w = torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)
    weighed.log_share += w.log()[:, None]
    x = torch.linspace(-2, 3, 9, dtype=torch.float64)[:, None]
    for sigma in (0.05, 0.5, 5.0):
        logits = 0.4 * x * torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
        expected = plain.posterior(x, sigma, logits) * w
        found = weighed.posterior(x, sigma, logits)
        assert torch.allclose(found, expected / expected.sum(1, keepdim=True), rtol=1e-12)


def test_shares_come_to_what_was_seen():
    model = denoiser([0.2, 0.5, 0.3])
    wanted = [0.97, 0.02, 0.01]
    columns = [(0, Atoms.on_a_line(np.array(CENTRES), NOISE))]
    for k in range(4):  # each call is three rounds of half the way
        match_shares(model, columns, [wanted], lambda r, k=k: drawn(model, 4000, 10 * k + r))
    share = model.log_share.flatten().exp()
    assert torch.allclose(share / share.sum(), torch.tensor(wanted).double(), rtol=0.25, atol=1e-3)


def test_what_may_be_chance_moves_nothing():
    wanted = np.array([0.5, 0.5])
    assert not weights(np.array([485, 515]), wanted, 1000).any()
    sure, unsure = (weights(np.array([n, 1000 - n]), wanted, 1000)[0] for n in (300, 460))
    assert sure == pytest.approx(0.5 * np.log(501 / 301), rel=0.01)
    assert 0 < unsure < 0.5 * np.log(501 / 461)
    assert np.isfinite(weights(np.array([0, 1000]), np.array([1e-9, 1 - 1e-9]), 1000)).all()


def test_values_too_rare_for_a_count_stay():
    """Of a value wanted less than twice a count of 0 is no sign, so that 5 must be none either."""
    wanted = np.array([1.9 / 1000, 1 - 1.9 / 1000])
    for seen in (0, 1, 5, 20):
        assert weights(np.array([seen, 1000 - seen]), wanted, 1000)[0] == 0.0
    assert weights(np.array([9, 991]), np.array([0.003, 0.997]), 1000)[0] < 0


def test_a_short_run_draws_nothing():
    assert rows_to_match(0) == rows_to_match(80_000) == 0
    assert rows_to_match(10**9) == 4096


@pytest.fixture(scope="module")
def few() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.choice(["often", "rarely"], 400, p=[0.96, 0.04])
    return pl.DataFrame({"x": rng.normal(size=400), "kind": kind})


def test_a_fit_weighs_and_keeps_its_weights(few, tmp_path, monkeypatch):
    """What a run weighed is saved with it; without the rounds the shares are those of the rows."""
    import energyscape

    settings = {"max_steps": 200, "batch_size": 512, "width": 16, "blocks": 1, "random_state": 0}
    model = EDM(**settings).fit(few)
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert torch.equal(again.model_.log_share, model.model_.log_share)
    asked = []
    monkeypatch.setattr(edm, "match_shares", lambda *a, **k: asked.append(a))
    plain = EDM(**settings).fit(few)
    (arguments,) = asked
    assert arguments[2] == [c["share"] for c in plain.facts_["columns"]]
    assert len(arguments[3](0)) == rows_to_match(200 * 512)
    share = np.concatenate(arguments[2])
    assert np.allclose(plain.model_.log_share.numpy()[:, 0], np.log(share), atol=1e-6)
    off = [
        abs((m.sample(4000, random_state=1)["kind"] == "rarely").mean() - share[1])
        for m in (model, plain)
    ]
    assert off[0] <= max(off[1], 0.01)
