"""Two runs by their likelihood ratio: the numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from energyscape.cli import main

SMALL = ("batch_size=32", "width=16", "blocks=1")


def fit(data: object, out: Path, model: str, *settings: str) -> Path:
    words = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    words += ["--model", model, "--out", str(out), "--seed", "0", "--quiet"]
    assert main(["fit", str(data), *words]) == 0
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An energy after 20 steps, one after 60, and points that neither has seen."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(0)
    np.save(folder / "train.npy", rng.normal(3.0, 0.5, (300, 2)))
    np.save(folder / "new.npy", rng.normal(3.0, 0.5, (120, 2)))
    settings = ["learning_rate=0.01", "calibration_fraction=0.3"]
    few = fit(folder / "train.npy", folder / "few", "ebm", *settings, "max_steps=20")
    many = fit(folder / "train.npy", folder / "many", "ebm", *settings, "max_steps=60")
    return few, many, folder / "new.npy"


def test_the_ratio_is_that_of_the_two_log_densities(cli, pair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Row by row the difference of what `score_samples` gives; the total is their sum."""
    import energyscape

    first, second, data = pair
    ended = cli("compare", first, second, data, "--out", tmp_path / "ratio.csv")
    assert ended.code == 0, ended.err
    written = pl.read_csv(tmp_path / "ratio.csv")
    x = np.load(data)
    a, b = (energyscape.load(folder).log_density(x) for folder in (first, second))
    assert a.kind == b.kind == "quadrature"
    assert np.allclose(written["log_ratio"], a.value - b.value)
    assert np.allclose(written["stderr"], np.hypot(a.stderr, b.stderr))
    total = float((a.value - b.value).sum())
    line = next(line for line in ended.out.splitlines() if "in total" in line)
    assert float(line.split()[4]) == pytest.approx(total, rel=1e-3)
    assert "second more probable" in line
    # Rows vary, and both estimates of log Z are the same for all of them.
    ratio, own = a.value - b.value, float(np.hypot(a.stderr, b.stderr).max())
    error = float(np.hypot(ratio.std(ddof=1) / len(ratio) ** 0.5, own)) * len(ratio)
    assert float(line.split("±")[1].split()[0]) == pytest.approx(error, rel=0.05)


def test_swapping_the_runs_turns_the_sign(cli, pair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    first, second, data = pair
    for name, runs in (("ab", (first, second)), ("ba", (second, first))):
        assert cli("compare", *runs, data, "--out", tmp_path / f"{name}.csv", "-q").code == 0
    one, other = (pl.read_csv(tmp_path / f"{n}.csv")["log_ratio"] for n in ("ab", "ba"))
    assert np.allclose(one, -other)


def test_rows_of_training_are_left_out(cli, pair) -> None:  # type: ignore[no-untyped-def]
    """On the data both were fitted on, only rows that neither trained on are compared."""
    first, second, data = pair
    ended = cli("compare", first, second, data.with_name("train.npy"))
    assert ended.code == 0
    assert "of 300 rows were held out" in ended.err


def test_a_run_against_itself_is_undecided(cli, pair) -> None:  # type: ignore[no-untyped-def]
    first, _, data = pair
    assert "undecided" in cli("compare", first, first, data).out


def test_unnormalised_energies_lack_a_constant(cli, pair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Ratios are written, no total is told, and what is missing is named."""
    first, _, data = pair
    train = data.with_name("train.npy")
    raw = fit(train, tmp_path / "raw", "ebm", "normalise=false", "max_steps=5")
    ended = cli("compare", raw, first, data, "--out", tmp_path / "ratio.csv")
    assert ended.code == 0
    assert f"lacks log Z of {raw}" in ended.err
    assert "in total" not in ended.out
    assert pl.read_csv(tmp_path / "ratio.csv")["log_ratio"].is_finite().all()


def test_different_columns_are_refused(cli, pair, people_run) -> None:  # type: ignore[no-untyped-def]
    first, _, data = pair
    ended = cli("compare", first, people_run, data)
    assert ended.code == 2
    assert "different columns" in ended.err
    assert "only" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_field_has_nothing_to_compare(cli, pair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A free score field has no log-density; the line names the alternatives."""
    first, _, data = pair
    train = data.with_name("train.npy")
    field = fit(train, tmp_path / "field", "score", "network=field", "max_steps=5")
    ended = cli("compare", first, field, data)
    assert ended.code == 2
    assert "no log-density" in ended.err
    assert "edm" in ended.err
