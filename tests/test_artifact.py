"""The folder of a fitted model: whole or refused, by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from energyscape.artifact import (
    Artifact,
    ArtifactError,
    fingerprint,
    is_run,
    prepare,
    read_artifact,
    write_artifact,
)


@pytest.fixture
def run(tmp_path):
    """A written artifact."""
    folder = tmp_path / "run"
    model = {"weight": torch.arange(6.0).reshape(2, 3), "flag": torch.tensor(True)}
    arrays = {"mean": np.arange(3.0)}
    write_artifact(
        folder, Artifact(model, arrays, {"rows": np.ones((2, 2))}, {"a": 1}, {"seed": 7})
    )
    return folder


def test_round_trip_is_exact(run):
    """Tensors, arrays and plain values come back as they were."""
    found = read_artifact(run)
    assert torch.equal(found.model["weight"], torch.arange(6.0).reshape(2, 3))
    assert found.model["flag"].dtype == torch.bool
    assert np.array_equal(found.codec["mean"], np.arange(3.0))
    assert found.config == {"a": 1}
    assert found.manifest["seed"] == 7


def test_no_pickle_is_written(run):
    """Only safetensors and JSON."""
    assert {p.suffix for p in run.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "codec.safetensors", "calibration.safetensors", "config.json"],
)
def test_every_flipped_byte_and_missing_file_is_named(run, name):
    """Any one byte changed anywhere, or the file gone, is refused with the file's name."""
    path = run / name
    content = path.read_bytes()
    for position in {0, len(content) // 2, len(content) - 1}:
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(ArtifactError, match=f"{name} is damaged"):
            read_artifact(run)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        read_artifact(run)


def test_newer_format_is_refused_with_its_version(run):
    """The message says which version wrote it and what to do."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 99, "versions": {"energyscape": "9.0"}}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"format 99 by energyscape 9\.0.*upgrade"):
        read_artifact(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', "\0"])
def test_foreign_manifest_is_refused(run, text):
    """A manifest.json of something else is not taken for ours."""
    (run / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest"):
        read_artifact(run)


def test_folders_that_are_no_runs(tmp_path):
    """No folder, an empty one, and an unfinished run are told apart."""
    with pytest.raises(ArtifactError, match="is not a folder"):
        read_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="not an energyscape run"):
        read_artifact(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ArtifactError, match="unfinished.*--resume"):
        read_artifact(tmp_path)


def test_prepare_protects_what_is_there(run, tmp_path):
    """A run is replaced only when asked to; a folder of other files never."""
    with pytest.raises(ArtifactError, match=r"--overwrite.*--resume"):
        prepare(run)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_bytes(b"")
    with pytest.raises(ArtifactError, match="other files"):
        prepare(foreign, overwrite=True)
    (run / "notes.txt").write_text("mine")
    (run / "sampling.json").write_text("{}")
    prepare(run, overwrite=True)
    assert [p.name for p in run.iterdir()] == ["notes.txt"]


def test_interrupted_writing_leaves_no_manifest(run, monkeypatch):
    """A failure between two files leaves a folder that is refused, not a mixture of two models."""
    import energyscape.artifact as module

    real, written = module.write_bytes, []

    def fails(path, content):
        if len(written) == 2:
            raise ArtifactError("cannot write: No space left on device")
        written.append(path)
        real(path, content)

    monkeypatch.setattr(module, "write_bytes", fails)
    artifact = read_artifact(run)
    with pytest.raises(ArtifactError, match="No space"):
        write_artifact(run, artifact._replace(model={"weight": torch.zeros(1)}))
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        read_artifact(run)


def test_fingerprint_sees_every_change():
    """Values, shapes and types all count."""
    a = np.arange(6)
    different = [a[::-1], a.reshape(2, 3), a.astype(float), np.array(list("abcdef"), dtype=object)]
    prints = {fingerprint(x) for x in [a, *different]}
    assert len(prints) == 5
    assert fingerprint(a) == fingerprint(a.copy())


@pytest.mark.parametrize("foreign", ["train", "manifest"])
def test_folders_of_others_are_no_runs(tmp_path, foreign):
    """Pictures often lie in a folder called train, and other programs write a manifest.json."""
    mine = tmp_path / "pictures"
    (mine / "train" / "cats").mkdir(parents=True)
    (mine / "train" / "cats" / "a.png").write_bytes(b"a")
    if foreign == "manifest":
        (mine / "manifest.json").write_text('{"name": "an app", "icons": []}')
    for settings in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ArtifactError, match="other files and no energyscape run"):
            prepare(mine, **settings)
    assert (mine / "train" / "cats" / "a.png").read_bytes() == b"a"
    assert not is_run(mine)


def test_a_model_in_a_folder_of_pictures_is_replaced_without_them(run):
    (run / "train" / "cats").mkdir(parents=True)
    prepare(run, overwrite=True)
    assert [p.name for p in run.iterdir()] == ["train"]


def test_a_finished_model_without_checkpoints_is_not_gone_on_with(run):
    """It would be trained from the start, and replaced by what comes out."""
    with pytest.raises(ArtifactError, match="no checkpoint to go on from; use --overwrite"):
        prepare(run, resume=True)
    (run / "train").mkdir()
    with pytest.raises(ArtifactError, match="no checkpoint to go on from"):
        prepare(run, resume=True)
    (run / "train" / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no checkpoint to go on from"):
        prepare(run, resume=True)
    (run / "train" / "step-00000004").mkdir()
    (run / "train" / ".DS_Store").write_bytes(b"")
    prepare(run, resume=True)
    prepare(run, overwrite=True)
    assert list(run.iterdir()) == []


def test_an_empty_folder_train_makes_nothing_ours(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="other files"):
        prepare(tmp_path, overwrite=True)
    assert (tmp_path / "config.json").is_file()


def test_a_damaged_manifest_does_not_make_a_run_foreign(run):
    (run / "manifest.json").write_text('{"format": 1, "fi')
    assert is_run(run)
    prepare(run, overwrite=True)
    assert list(run.iterdir()) == []
