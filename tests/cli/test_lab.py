"""`energyscape lab`: lists, runs, refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyscape.lab import LESSONS, catalogue
from energyscape.lab.chains import crossing


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesson on crossing, with few chains."""

    def lesson_function(name: str) -> Callable[..., Any]:
        assert name == "crossing"
        return lambda data, seed: crossing(data, seed, chains=64, steps=100)

    monkeypatch.setattr("energyscape.lab.page.lesson_function", lesson_function)


def test_without_a_lesson_all_are_listed(cli: Callable[..., Any]) -> None:
    ended = cli("lab")
    assert ended.code == 0
    assert all(name in ended.out for name in LESSONS)


def test_listing_needs_no_torch() -> None:
    assert "torch" not in dir(catalogue)


@pytest.mark.usefixtures("small")
def test_a_lesson_writes_its_page(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("lab", "crossing", "--seed", "2")
    assert ended.code == 0, ended.err
    assert "lab-crossing.html" in ended.out
    assert "--seed 2" in (tmp_path / "lab-crossing.html").read_text(encoding="utf-8")
    assert cli("lab", "crossing", "--quiet", "--overwrite").out == ""


@pytest.mark.usefixtures("small")
def test_a_lesson_takes_data(cli: Callable[..., Any], tmp_path: Path) -> None:
    ended = cli("lab", "crossing", "iris", "--drop", "species", "--out", tmp_path / "iris.html")
    assert ended.code == 0, ended.err
    assert "principal directions" in (tmp_path / "iris.html").read_text(encoding="utf-8")


def test_bad_words_are_refused_before_any_work(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "did you mean 'crossing'" in refused("lab", "crosing")
    assert "none was given" in refused("lab", "crossing", "--drop", "x", "--out", tmp_path / "a")
    (tmp_path / "there.html").write_text("")
    assert "--overwrite" in refused("lab", "crossing", "--out", tmp_path / "there.html")
    assert "no file" in refused("lab", "crossing", "no.csv", "--out", tmp_path / "b.html")
