"""The precision of training: chosen by trying, kept by a resumed run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from energyscape.families import DDPM, EDM, NCSN, ScoreModel, fitting
from energyscape.training import fastest_precision, precision


def _squares(model, x, aux, rng):
    return (model(x) - x).square().mean(1), aux, {}


@pytest.mark.parametrize(
    ("bfloat16", "wanted"), [(0.5, "bfloat16"), (0.9, "float32"), (3.0, "float32")]
)
def test_bfloat16_is_taken_where_it_is_much_faster(monkeypatch, bfloat16, wanted):
    seconds = {"float32": 1.0, "bfloat16": bfloat16}
    monkeypatch.setattr(precision, "_seconds", lambda model, objective, x, name: seconds[name])
    name, gain = fastest_precision(nn.Linear(2, 2), _squares, torch.zeros(4, 2))
    assert name == wanted
    assert gain == pytest.approx(1 / bfloat16)


def test_a_trial_leaves_model_and_generator_as_they_were():
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    name, gain = fastest_precision(model, _squares, torch.randn(16, 2))
    assert name in ("float32", "bfloat16")
    assert gain > 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert name == "float32" or gain >= 1.3
    assert torch.get_rng_state().shape == state.shape


def test_pictures_in_a_long_run_try_and_a_resumed_run_keeps_what_it_had(monkeypatch, tmp_path):
    """Small pictures, short runs and tables are not tried; the choice stands in the run's record."""
    pictures = np.random.default_rng(0).integers(0, 255, (60, 12, 12), dtype=np.uint8)
    tried = []

    def fake(model, objective, x, device):
        tried.append(tuple(x.shape))
        return "bfloat16", 2.5

    monkeypatch.setattr(fitting, "fastest_precision", fake)
    monkeypatch.setattr(fitting, "_LONG_STEPS", 4)
    how = {"max_steps": 4, "batch_size": 8, "width": 8, "blocks": 1, "random_state": 0}
    model = EDM(**how)
    dataset = model._training_data(pictures)
    model.fit_run(dataset, tmp_path / "run")
    assert tried == [(8, 1, 12, 12)]
    assert model.info_["precision"] == "bfloat16"
    assert "trained in bfloat16, 2.5 times as fast here as float32" in model.info_["notes"]
    assert (
        json.loads((tmp_path / "run" / "train" / "run.json").read_text())["precision"] == "bfloat16"
    )
    again = EDM(**how).fit_run(dataset, tmp_path / "run", resume=True)
    assert again.info_["precision"] == "bfloat16"
    assert len(tried) == 1
    for other in ({"max_steps": 3}, {"precision": "float32"}):
        assert EDM(**(how | other)).fit(pictures).info_["precision"] == "float32"
    EDM(**how).fit(pictures[:, :8, :8])
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (EDM, {}),
        (NCSN, {}),
        (DDPM, {"loss": "hybrid", "variance": "learned"}),
        (ScoreModel, {"objective": "sliced", "normalise": False}),
        (ScoreModel, {"objective": "exact", "normalise": False}),
        (ScoreModel, {"objective": "denoising", "network": "field"}),
    ],
    ids=lambda value: (
        value.__name__ if isinstance(value, type) else "-".join(map(str, value.values()))
    ),
)
def test_objectives_train_in_bfloat16_as_in_float32(family, settings):
    """Double backward included: the losses are those of float32 to bfloat16's three digits and not to
    the bit, so products were rounded; weights stay float32."""
    x = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.5], size=(200, 2))
    how = {"max_steps": 8, "batch_size": 32, "width": 16, "blocks": 1, "random_state": 0}
    losses = {}
    for name in ("float32", "bfloat16"):
        model = family(precision=name, **how, **settings).fit(x)
        assert model.info_["precision"] == name
        assert {p.dtype for p in model.model_.parameters()} == {torch.float32}
        losses[name] = model.history_[-1]["validation_loss"]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02, abs=0.02)
