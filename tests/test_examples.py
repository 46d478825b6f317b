"""The examples run as they are written and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from energyscape.artifact import ArtifactError, load_weights

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_an_own_energy_is_trained_kept_and_walked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fixed seed on one machine; bounds are about twice what was measured."""
    out = tmp_path / "run"
    example = runpy.run_path(str(EXAMPLES / "own_energy.py"), run_name="example")
    found = example["main"](out)
    assert found["misfit"] < 0.2
    assert abs(found["ratio_error"]) < 0.5
    assert abs(found["radius_error"]) < 0.15
    assert found["rarest_mode"] > 0.05
    assert found["validations"] >= 10
    assert "misfit" in capsys.readouterr().out
    # Checkpoints, curve and checksummed weights stand beside each other; nothing is pickled.
    names = {p.name for p in out.iterdir()}
    assert {"train", "metrics.jsonl", "model.safetensors", "manifest.json"} <= names
    suffixes = {p.suffix for p in out.rglob("*") if p.is_file()}
    assert suffixes == {".safetensors", ".sha256", ".json", ".jsonl"}
    # Built by construction: a point and its quarter turns have one energy.
    energy = example["TurnedEnergy"]()
    load_weights(out, energy)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    torch.testing.assert_close(energy(x), energy(turned))
    # One flipped byte is seen.
    file = out / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="damaged"):
        load_weights(out, energy)


def test_the_demo_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second of training instead of fifty, and no page, which has tests of its own."""
    demo = runpy.run_path(str(EXAMPLES / "demo.py"), run_name="demo")["main"]
    demo.__globals__.update(SECONDS=1.0, OUT=tmp_path / "demo")
    demo.__globals__["build"] = lambda run, page: page.touch()
    assert demo() == 0
    assert {"samples.png", "report.html", "model.safetensors"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
    assert "try next" in capsys.readouterr().out
