"""The detector on the command line: fitted, scored, explained, reported; refused as a density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import write_people

import energyscape
from energyscape.families import reference


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from energyscape.cli import main

    out = tmp_path_factory.mktemp("runs") / "anomaly"
    words = ["fit", str(people), "--model", "anomaly", "--out", str(out), "--seed", "1", "--quiet"]
    assert main(words) == 0
    return out


def test_new_rows_are_flagged_at_a_rate_and_explained(cli, run, tmp_path):
    """Twelve rows of 60 have an age nobody has; a town never seen is no failure."""
    new = write_people(tmp_path / "new.csv", rows=60, seed=5)
    lines = new.read_text().splitlines()
    for i in range(1, 13):
        cells = lines[i].split(",")
        lines[i] = ",".join([cells[0], "260", *cells[2:]])
    lines[20] = lines[20].replace(lines[20].split(",")[3], "Lima", 1)
    new.write_text("\n".join(lines) + "\n")
    ended = cli("score", run, new, "--out", tmp_path / "s.csv", "--fdr", "0.1")
    assert ended.code == 0, ended
    found = pl.read_csv(tmp_path / "s.csv")
    assert found.columns == ["row", "anomaly_score", "p_value", "flagged", "reasons"]
    assert found["flagged"].to_list()[:12] == [True] * 12
    assert found["flagged"].sum() <= 16
    assert all("age 260 (expected" in text for text in found["reasons"][:12])
    assert "Lima" in ended.err
    assert f"{found['flagged'].sum()} of 60 rows flagged" in ended.out
    again = energyscape.load(run)
    scores = again.anomaly_score(pl.read_csv(new))
    assert abs(found["anomaly_score"].to_numpy() - scores).max() < 1e-9


def test_columns_that_moved_are_named(cli, run, tmp_path):
    new = write_people(tmp_path / "new.csv", rows=60, seed=5)
    older = pl.read_csv(new).with_columns(pl.col("age") + 40)
    older.write_csv(new)
    ended = cli("score", run, new, "--out", tmp_path / "s.csv", "--reasons", "0")
    assert "column 'age' has moved (median " in ended.err
    assert "column 'pay'" not in ended.err
    assert "no drift" not in ended.out


def test_the_training_table_is_ranked_without_itself_and_nothing_is_flagged(
    cli, run, people, tmp_path
):
    ended = cli("score", run, people, "--out", tmp_path / "s.parquet", "--reasons", "3")
    found = pl.read_parquet(tmp_path / "s.parquet")
    detector = energyscape.load(run)
    assert found["anomaly_score"].to_list() == detector.training_scores_.tolist()
    assert sorted(found["p_value"].to_list())[0] == 1 / 160
    assert not found["flagged"].any()
    assert (found["reasons"] != "").sum() == 3
    assert "fitted on" in ended.err


def test_of_many_training_rows_those_not_yet_scored_are_scored_now(
    cli, people, tmp_path, monkeypatch
):
    monkeypatch.setattr(reference, "_ALL_SCORED", 100)
    settings = ("--set", "max_rows=40", "--set", "calibration=split")
    assert cli("fit", people, "--model", "anomaly", "--out", tmp_path / "run", *settings).code == 0
    gaps = np.isnan(energyscape.load(tmp_path / "run").training_scores_)
    assert gaps.any()
    assert cli("score", tmp_path / "run", people, "--out", tmp_path / "s.csv").code == 0
    found = pl.read_csv(tmp_path / "s.csv")
    assert found["anomaly_score"].is_finite().all()
    assert found["p_value"].is_between(0, 1, closed="right").all()


def test_it_is_reported(cli, run, tmp_path):
    assert cli("report", run, "--out", tmp_path / "page.html").code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Rows that fit least" in text
    assert "expected" in text
    assert "Calibration" in text


def test_what_needs_a_density_is_refused_in_one_line(refused, run, people, tmp_path):
    out = tmp_path / "x.csv"
    assert "learned no density" in refused("sample", run, "--n", "3", "--out", out)
    assert "learned no density" in refused("impute", run, people, "--out", out)
    assert "learned no density" in refused("evaluate", run, people)
    assert "learned no density" in refused("compare", run, run, people)
    assert "on the processor" in refused("score", run, people, "--out", out, "--device", "cuda")
    fit = ("fit", people, "--model", "anomaly", "--out", tmp_path / "r")
    assert "leave out --time" in refused(*fit, "--time", "5s")
    assert "leave out --resume" in refused(*fit, "--resume")
    assert "has no setting 'max_steps'" in refused(*fit, "--set", "max_steps=5")
    assert "did you mean 'anomaly'" in refused(*fit[:3], "anomalie", *fit[4:])
    assert not (tmp_path / "r").exists()


def test_its_settings_are_listed(cli):
    shown = cli("models", "anomaly").out
    assert "AnomalyDetector" in shown
    assert "false_alarm_rate" in shown
