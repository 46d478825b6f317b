"""What is told of the chains that samples came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import energyscape
from energyscape.families import EBM, EDM, ScoreModel
from energyscape.families.sampled import of_one_class
from energyscape.families.storage import save_sampling
from energyscape.mcmc import run_chains

QUICK = {"max_steps": 4, "batch_size": 32, "width": 8, "blocks": 1, "normalise": False}
NUMBERS = {"acceptance", "rhat", "ess_bulk", "ess_tail", "energy_first", "energy_last"}


def points(n: int = 80) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2))


@pytest.fixture(scope="module")
def model() -> EBM:
    return EBM(**QUICK, random_state=0).fit(points())


def test_nothing_is_told_before_a_sample_and_after_another_fit(model):
    fresh = EBM(**QUICK, random_state=0).fit(points())
    with pytest.raises(AttributeError, match="call sample first"):
        _ = fresh.sampling_
    fresh.sample(3, steps=4)
    assert fresh.sampling_["chains"] == 3
    fresh.fit(points())
    assert not hasattr(fresh, "sampling_")
    other = EDM(max_steps=2, width=8, blocks=1, random_state=0).fit(points())
    other.sample(2, steps=2)
    assert not hasattr(other, "sampling_")


def test_draws_are_those_of_the_plain_run(model):
    """By hand, with nothing watched: the same rows, bit by bit."""
    rng = torch.Generator().manual_seed(7 + 104729)
    start = model._starts(30, torch.device("cpu"), rng)
    target = model.model_.at(None)
    run = run_chains(model._kernel("mala"), target, start, 90, rng=rng, keep="last")
    assert torch.equal(model.sample_encoded(30, steps=90, random_state=7), run.x)
    told = model.sampling_
    assert told["acceptance"] == pytest.approx(float(run.info.acceptance.mean()))
    assert told["divergences"] == int(run.info.diverged.sum())
    with torch.no_grad():
        energy = float(model.model_(run.x).mean())
    assert told["energy_last"] == pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize("sampler", ["mala", "hmc", "ula", "tempering"])
def test_every_kernel_tells_what_it_knows(model, sampler):
    model.sample(20, steps=60, sampler=sampler)
    told = model.sampling_
    steps = 30 if sampler == "tempering" else 60
    assert (told["sampler"], told["chains"], told["steps"]) == (sampler, 20, steps)
    assert (told["chains_seen"], told["draws_seen"]) == (20, steps)
    known = {k for k in NUMBERS if told.get(k) is not None}
    assert known == (NUMBERS if sampler != "ula" else {"rhat", "ess_bulk", "ess_tail"})
    assert told["verdict"].startswith("chains")
    assert ("spread as their starts" in told["verdict"]) == (told["rhat"] > 1.01)


def test_chains_stuck_apart_are_told(model, monkeypatch):
    """From starts 3 deviations apart, steps too short to meet: the energy's chains do not agree."""
    apart = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).repeat(10, 1)
    monkeypatch.setattr(model, "_starts", lambda n, device, rng: apart[:n])
    kernel = model._kernel("ula")
    monkeypatch.setattr(model, "_kernel", lambda name: kernel.__class__(1e-5))
    model.sample(20, steps=40, sampler="ula")
    assert model.sampling_["rhat"] > 2
    assert model.sampling_["verdict"].startswith("chains have not mixed")


def test_groups_of_chains_are_told_together(model, monkeypatch):
    from energyscape.families import drawing

    monkeypatch.setattr(drawing, "_CHUNK", 8)
    model.sample(20, steps=5)
    assert (model.sampling_["chains"], model.sampling_["chains_seen"]) == (20, 8)
    model.sample(1, steps=5)
    told = model.sampling_
    assert (told["chains"], told["rhat"]) == (1, None)
    assert told["verdict"].startswith("mixing cannot be judged")


def test_chains_of_one_class_are_compared():
    """Chains of two classes follow two laws, which no chain could make agree."""
    classes = torch.tensor([0, 1, 1, 0, 1])
    assert of_one_class(classes).tolist() == [1, 2, 4]
    many = of_one_class(torch.tensor([0, 1]).repeat(500))
    assert isinstance(many, torch.Tensor)
    assert len(many) == 64
    assert not (many % 2).any()
    assert of_one_class(None) == 64


def test_where_draws_are_made_otherwise_that_is_told():
    """Levels and short runs: not R-hat but why it is not asked; given cells: particles."""
    pictures = np.random.default_rng(0).integers(0, 9, (40, 4, 4), dtype=np.uint8)
    levels = EBM(**QUICK, random_state=0).fit(pictures)
    levels.sample(3, steps=4)
    short = EBM(objective="short-run", **QUICK, random_state=0).fit(points())
    short.sample(3, steps=4)
    for told, word in ((levels.sampling_, "the levels"), (short.sampling_, "short runs")):
        assert word in told["start"]
        assert told["rhat"] is None
        assert told["verdict"].endswith("R-hat is not asked")
        assert 0 < told["acceptance"] <= 1
    short.impute(np.array([[0.3, np.nan]]), steps=4)
    assert short.sampling_["chains"] == 32
    assert "weighted particles" in short.sampling_["verdict"]


def test_a_score_without_an_energy_tells_nothing():
    energy = ScoreModel(**QUICK, random_state=0).fit(points())
    energy.sample(3, steps=4)
    assert energy.sampling_["chains"] == 3
    field = ScoreModel(network="field", **QUICK, random_state=0).fit(points())
    field.sample(3, steps=4)
    assert not hasattr(field, "sampling_")


def test_it_is_kept_with_the_run_and_with_its_weights_alone(model, tmp_path: Path):
    run = tmp_path / "run"
    model.save(run)
    model.sample(5, steps=6)
    save_sampling(model, run, seed=3)
    again = energyscape.load(run)
    assert again.sampling_ == {"seed": 3, **model.sampling_}
    kept = json.loads((run / "sampling.json").read_text())
    assert sorted(p.name for p in run.glob("sampling*")) == ["sampling.json"]
    (run / "sampling.json").write_text(json.dumps(kept | {"weights": "of another fit"}))
    assert not hasattr(energyscape.load(run), "sampling_")
    (run / "sampling.json").write_text("{ half")
    assert not hasattr(energyscape.load(run), "sampling_")
    with pytest.raises(energyscape.families.ArtifactError, match="no whole run"):
        save_sampling(model, tmp_path)
