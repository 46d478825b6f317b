"""A module of one's own in the artifact's folder: exact, whole, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import energyscape
from energyscape.artifact import ArtifactError, load_weights, save_model


def module(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def test_weights_and_buffers_come_back_exactly_in_the_type_of_the_model(tmp_path: Path) -> None:
    saved, loaded = module(), module()
    saved[1](torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    save_model(tmp_path, saved, {"seed": 3, "notes": ["two columns"]})
    info = load_weights(tmp_path, loaded)
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert info["seed"] == 3
    assert info["notes"] == ["two columns"]
    assert info["parameters"] == 2 * 3 + 3 + 3 + 3 + 3 + 1
    assert set(info["versions"]) == {"energyscape", "torch"}
    assert "files" not in info
    double = module().double()
    load_weights(tmp_path, double)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_shared_weights_are_kept(tmp_path: Path) -> None:
    """safetensors itself refuses two names for one memory."""
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_model(tmp_path, tied)
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    load_weights(tmp_path, plain)
    assert torch.equal(plain[0].weight, plain[1].weight)


def test_weights_of_another_model_are_refused_and_the_model_is_left_alone(tmp_path: Path) -> None:
    save_model(tmp_path, module())
    wide = module(4)
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(
        ArtifactError, match=r"0\.weight has shape \(3, 2\) there and \(4, 2\) here"
    ):
        load_weights(tmp_path, wide)
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())
    with pytest.raises(ArtifactError, match=r"the model has no 0\.bias"):
        load_weights(tmp_path, nn.Linear(2, 1))
    with pytest.raises(ArtifactError, match=r"the folder has no 3\.bias"):
        load_weights(tmp_path, nn.Sequential(*module(), nn.Linear(1, 1)))


def test_an_own_model_is_not_taken_for_a_family(tmp_path: Path) -> None:
    save_model(tmp_path, module())
    with pytest.raises(ArtifactError, match=r"weights of Sequential.*load_weights"):
        energyscape.load(tmp_path)


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for bad in ({"loss": float("nan")}, {"path": tmp_path}, {"weights": torch.zeros(2)}):
        with pytest.raises(ArtifactError, match="finite numbers, text, lists and dicts"):
            save_model(tmp_path / "run", module(), bad)
    assert not (tmp_path / "run").exists()


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    save_model(tmp_path, module(), {"seed": 1})
    save_model(tmp_path, module(5), {"seed": 2})
    again = module(5)
    assert load_weights(tmp_path, again)["seed"] == 2
    assert json.loads((tmp_path / "config.json").read_text()) == {"model": "Sequential"}
