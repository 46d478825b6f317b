"""Chains of pictures, from the data and from noise, as they go on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from energyscape.families import EBM, EDM
from energyscape.mcmc import run_chains
from energyscape.models import Energy
from energyscape.report import strips
from energyscape.report.sections import stretched
from energyscape.report.subject import look_at

SMALL: dict[str, Any] = {"max_steps": 4, "width": 8, "blocks": 1, "random_state": 0}


def stripes() -> np.ndarray:
    """Bright columns on black, 8 x 8 in 17 grey levels."""
    rng = np.random.default_rng(0)
    x = np.zeros((80, 8, 8), dtype=np.uint8)
    x[np.arange(80), :, rng.integers(0, 8, 80)] = 16
    return x


class Unbounded(Energy):
    """Falls for ever as pixels brighten."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return -self.slope * x.flatten(1).sum(1)


@pytest.fixture(scope="module")
def subjects() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        models = {
            "levels": EBM(normalise=False, **SMALL).fit(stripes()),
            "persistent": EBM(
                normalise=False, objective="persistent", network="mlp", chain_steps=2, **SMALL
            ).fit(stripes()),
        }
    return {name: look_at(model, seconds=0.0) for name, model in models.items()}


@pytest.mark.parametrize("name", ["levels", "persistent"])
def test_rows_are_the_states_of_the_chains(
    subjects: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first are the starts, the last what a run of as many steps by hand ends in."""
    subject, shown = subjects[name], []

    def keep(pictures: np.ndarray, columns: int, alt: str, **_: Any) -> str:
        shown.append(pictures.reshape(-1, columns, *pictures.shape[1:]))
        return ""

    monkeypatch.setattr(strips.sheets, "picture_html", keep)
    section = strips.strips(subject, stops=(2, 7), seconds=1e9)
    assert section is not None
    est, rng = subject.estimator, torch.Generator().manual_seed(0)
    data = torch.as_tensor(subject.data_x[:6]).float()
    data = data + est.blur_ * torch.randn(data.shape, generator=rng)
    noise = est.from_noise(6, rng) if name == "levels" else est._round(6, rng)
    first = torch.cat([data, noise])
    x = first
    for steps in (2, 5):
        x = run_chains(est._kernel("mala"), est.model_.at(None), x, steps, rng=rng, keep="last").x
    for strip, half in zip(shown, (slice(6), slice(6, None)), strict=True):
        assert strip.shape[:2] == (3, 6)
        for row, state in ((strip[0], first), (strip[-1], x)):
            wanted = est.codec_.decode(est._finish(state)[half].double().numpy())
            # Batches of another size differ in their last bits, pictures by a level at most.
            gap = np.abs(row.astype(int) - stretched(subject, wanted).astype(int))
            assert gap.max() <= 16
            assert gap.mean() < 1
    table = section.tables[0].rows
    assert [row[0] for row in table] == ["0", "2", "7"]
    assert (table[0][3], table[0][5]) == ("0", "0")
    assert float(table[-1][3]) > 0
    with torch.no_grad():
        assert float(table[-1][2]) == pytest.approx(float(est.model_(x[:6]).mean()), rel=1e-3)
    assert "after 0, 2, 7 steps" in section.items[0].caption
    assert ("brought down the levels" in section.text) == (name == "levels")


def test_steps_end_with_the_time(subjects: dict[str, Any]) -> None:
    section = strips.strips(subjects["levels"], seconds=0.0, stops=(1, 10, 100))
    assert section is not None
    assert [row[0] for row in section.tables[0].rows] == ["0", "1"]


def test_chains_that_run_from_the_data_are_told(
    subjects: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an energy without a lowest point energies fall, and the warning is passed on."""
    subject = subjects["persistent"]
    monkeypatch.setattr(subject.estimator, "model_", Unbounded())
    section = strips.strips(subject, stops=(5, 60), seconds=1e9)
    assert section is not None
    first, *_, last = section.tables[0].rows
    assert float(last[2]) < float(first[2]) - 60
    assert "still climbs" in section.text


def test_there_are_none_of_denoisers_and_tables() -> None:
    rows = np.random.default_rng(0).normal(size=(80, 2))
    table = EBM(normalise=False, chain_steps=2, **SMALL).fit(rows)
    assert strips.strips(look_at(table, seconds=0.0)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        denoiser = EDM(network="mlp", **SMALL).fit(stripes())
    subject = look_at(denoiser, seconds=0.0)
    assert subject.pictures
    assert strips.strips(subject) is None
