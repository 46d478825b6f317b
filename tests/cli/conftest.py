"""A command line as a function, and runs fitted once for all tests of the room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from energyscape.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``cli("inspect", path)`` runs the command in this process."""

    def call(*words: object) -> Ended:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call


@pytest.fixture
def refused(cli: Callable[..., Ended]) -> Callable[..., str]:
    """The one line of a command that must end with exit code 2."""

    def call(*words: object) -> str:
        ended = cli(*words)
        assert ended.code == 2, ended
        lines = [line for line in ended.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("energyscape: ")
        assert "Traceback" not in ended.err
        return lines[0]

    return call


FEW = (
    *("--set", "max_steps=20", "--set", "batch_size=32"),
    *("--set", "width=16", "--set", "blocks=1", "--quiet"),
)


def write_people(path: Path, rows: int = 160, seed: int = 0) -> Path:
    """A table with every kind of column: identifier, integer, number with blanks, category,
    boolean, date, constant, free text."""
    rng = np.random.default_rng(seed)
    lines = ["id,age,pay,city,member,joined,country,remark"]
    for i in range(rows):
        pay = "" if rng.random() < 0.1 else f"{rng.normal(2000, 300):.2f}"
        city = rng.choice(["Rome", "Oslo", "Bonn"])
        day = f"20{rng.integers(10, 24)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
        member = rng.choice(["yes", "no"])
        remark = f"person number {i} said that the weather in {city} was fine on {day}"
        lines.append(f"P{i:04d},{rng.integers(18, 80)},{pay},{city},{member},{day},IT,{remark}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("data") / "people.csv")


@pytest.fixture(scope="session")
def people_run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edm of the people, after 20 steps."""
    out = tmp_path_factory.mktemp("runs") / "people"
    assert main(["fit", str(people), "--out", str(out), "--seed", "1", *FEW]) == 0
    return out


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred digits, as an array file, and an edm of them after 20 steps."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    np.savez(folder / "digits.npz", x=digits.images[:300].astype(np.uint8), y=digits.target[:300])
    words = ["fit", str(folder / "digits.npz"), "--out", str(folder / "run"), "--seed", "0"]
    assert main([*words, "--set", "network=mlp", *FEW]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def score_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family without a normalised log-density, on two columns, without calibration rows."""
    out = tmp_path_factory.mktemp("runs") / "score"
    words = ["fit", "two-moons", "--model", "score", "--out", str(out), "--seed", "0"]
    words += ["--set", "normalise=false"]
    assert main([*words, "--set", "calibration_fraction=0", *FEW]) == 0
    return out


@pytest.fixture(scope="session")
def energy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An energy of two columns, after 20 steps."""
    out = tmp_path_factory.mktemp("runs") / "energy"
    words = ["fit", "two-moons", "--model", "ebm", "--out", str(out), "--seed", "0", *FEW]
    assert main([*words, "--set", "normalise=false", "--set", "chain_steps=2"]) == 0
    return out
