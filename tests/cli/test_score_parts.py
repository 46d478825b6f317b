"""A large file scored in pieces: the same table, also after being stopped."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import write_people

import energyscape
from energyscape.cli import console, main
from energyscape.cli.parts import fineness
from energyscape.data import Piece, streaming
from energyscape.families import AnomalyDetector, ModelDetector


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "anomaly"
    words = ["fit", str(people), "--model", "anomaly", "--out", str(out), "--seed", "1", "--quiet"]
    assert main(words) == 0
    return out


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Rows of which some are strange, one town never seen."""
    path = write_people(tmp_path / "new.csv", rows=200, seed=5)
    rows = path.read_text().splitlines()
    for i in range(1, 200, 20):
        cells = rows[i].split(",")
        rows[i] = ",".join([cells[0], "260", cells[2], "Lima", *cells[4:]])
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LARGE", 1000)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 4000)
    monkeypatch.setattr(streaming, "PIECE_ROWS", 60)


def test_in_pieces_is_the_same_as_at_once(cli, run, new, tmp_path, request):
    pl.read_csv(new).write_parquet(tmp_path / "new.parquet")
    whole = cli("score", run, new, "--out", tmp_path / "whole.csv")
    request.getfixturevalue("pieces")
    for data in (new, tmp_path / "new.parquet"):
        ended = cli("score", run, data, "--out", tmp_path / "parts.csv", "--overwrite")
        assert ended.code == 0, ended
        assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()
        assert ended.out.replace("parts.csv", "whole.csv") == whole.out
        assert "Lima" in ended.err
        assert not (tmp_path / "parts.csv.parts").exists()


def test_stopped_it_goes_on_where_it_was(cli, refused, run, new, tmp_path, pieces, monkeypatch):
    whole = cli("score", run, new, "--out", tmp_path / "whole.parquet")
    assert whole.code == 0
    honest, scored = AnomalyDetector.anomaly_score, []

    def stopped(self, X):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(X))
        return honest(self, X)

    out = tmp_path / "out.parquet"
    monkeypatch.setattr(AnomalyDetector, "anomaly_score", stopped)
    ended = cli("score", run, new, "--out", out)
    assert ended.code == 130
    assert "--resume" in ended.err
    assert not out.exists()
    state = json.loads((tmp_path / "out.parquet.parts" / "state.json").read_text())
    assert [part["rows"] for part in state["done"]] == scored
    assert "--resume goes on" in refused("score", run, new, "--out", out)
    again: list[int] = []
    monkeypatch.setattr(
        AnomalyDetector, "anomaly_score", lambda self, X: (again.append(len(X)), honest(self, X))[1]
    )
    ended = cli("score", run, new, "--out", out, "--resume")
    assert ended.code == 0, ended
    assert f"going on after {sum(scored)} rows" in ended.err
    assert sum(scored) + sum(again) == 200
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))


def test_parts_of_other_data_are_not_gone_on_with(
    cli, refused, run, new, tmp_path, pieces, monkeypatch
):
    honest = AnomalyDetector.anomaly_score
    monkeypatch.setattr(AnomalyDetector, "anomaly_score", lambda self, X: 1 / 0)
    assert cli("score", run, new, "--out", tmp_path / "out.csv").code == 1
    monkeypatch.setattr(AnomalyDetector, "anomaly_score", honest)
    assert cli("score", run, new, "--out", tmp_path / "out.csv", "--resume").code == 0
    (tmp_path / "more.csv.parts").mkdir()
    (tmp_path / "more.csv.parts" / "state.json").write_text('{"belongs": {}, "done": []}')
    said = refused("score", run, new, "--out", tmp_path / "more.csv", "--resume")
    assert "of another run" in said
    assert cli("score", run, new, "--out", tmp_path / "more.csv", "--overwrite").code == 0


def test_the_training_table_is_known_in_pieces_too(cli, run, people, tmp_path, pieces):
    ended = cli("score", run, people, "--out", tmp_path / "s.csv")
    assert "fitted on" in ended.err
    detector = AnomalyDetector.load(run)
    found = pl.read_csv(tmp_path / "s.csv")["anomaly_score"].to_numpy()
    assert abs(found - detector.training_scores_).max() < 1e-12


def test_a_family_scores_in_pieces(cli, people_run, new, tmp_path, pieces, monkeypatch):
    words = ("score", people_run, new, "--no-density", "--out")
    assert cli(*words, tmp_path / "parts.csv").code == 0
    monkeypatch.setattr(streaming, "LARGE", 10**9)
    assert cli(*words, tmp_path / "whole.csv").code == 0
    one, two = (pl.read_csv(tmp_path / f"{name}.csv") for name in ("parts", "whole"))
    assert one.columns == two.columns
    assert one.drop("anomaly_score", "top_columns").equals(two.drop("anomaly_score", "top_columns"))
    assert abs(one["anomaly_score"] - two["anomaly_score"]).max() < 1e-6


def test_densities_are_in_smaller_pieces_than_detectors_scores(
    cli, run, people_run, new, tmp_path, pieces, monkeypatch
):
    """A row's density takes some milliseconds: progress and what a stop loses are of an eighth."""
    model, detector = energyscape.load(people_run), AnomalyDetector.load(run)
    assert (fineness(detector), fineness(model)) == (1, 8)
    sizes: list[int] = []
    honest = type(model).log_density
    monkeypatch.setattr(
        type(model), "log_density", lambda self, X: (sizes.append(len(X)), honest(self, X))[1]
    )
    compared: list[int] = []
    monkeypatch.setattr(
        "energyscape.cli.parts.say_drift",
        lambda judge, rows, scores, quiet: compared.append(len(rows())),
    )
    ended = cli("score", people_run, new, "--out", tmp_path / "parts.csv")
    assert ended.code == 0, ended
    assert len(sizes) > 8
    assert sum(sizes) == 200
    assert compared == [200]  # all rows of so small a file, for drift
    monkeypatch.setattr(streaming, "LARGE", 10**9)
    assert cli("score", people_run, new, "--out", tmp_path / "whole.csv").code == 0
    one, two = (pl.read_csv(tmp_path / f"{name}.csv") for name in ("parts", "whole"))
    assert abs(one["log_prob"] - two["log_prob"]).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*calibration rows cannot give")
def test_other_evidence_is_the_same_in_pieces(
    cli, refused, people_run, new, tmp_path, pieces, monkeypatch
):
    by = ("--by", "denoising_error, score_norm")
    words = ("score", people_run, new, "--no-density", *by, "--out")
    assert cli(*words, tmp_path / "parts.csv").code == 0
    monkeypatch.setattr(streaming, "LARGE", 10**9)
    assert cli(*words, tmp_path / "whole.csv").code == 0
    one, two = (pl.read_csv(tmp_path / f"{name}.csv") for name in ("parts", "whole"))
    assert one.columns == two.columns == ["row", "anomaly_score", "p_value", "flagged"]
    assert one.drop("anomaly_score").equals(two.drop("anomaly_score"))
    assert abs(one["anomaly_score"] - two["anomaly_score"]).max() < 1e-6
    model = energyscape.load(people_run)
    wanted = ModelDetector.of(model, by=["denoising_error", "score_norm"])
    assert abs(two["anomaly_score"] - wanted.anomaly_score(pl.read_csv(new))).max() < 1e-6


@pytest.mark.parametrize(
    ("by", "said"),
    [("energy", "no energy"), ("magic", "one or several of own"), ("", "one or several of own")],
)
def test_evidence_that_there_is_not_is_named(refused, people_run, new, tmp_path, by, said):
    assert said in refused("score", people_run, new, "--by", by, "--out", tmp_path / "s.csv")


def test_a_detector_has_its_own_evidence(refused, run, new, tmp_path):
    said = refused("score", run, new, "--by", "log_density", "--out", tmp_path / "s.csv")
    assert "no evidence but its own" in said


def test_progress_within_a_piece_says_how_far_the_file_is(monkeypatch, capsys):
    """In a log, and only while a file is gone through."""
    monkeypatch.setattr(console, "_LINE_EVERY", 0.0)
    pieces = [Piece(pl.DataFrame(), k, k + 50, 100, []) for k in (0, 50)]
    with console.Bar() as bar:
        for _ in bar.through("scoring", pieces):
            for _ in bar.over("log-density", ["ab", "cd"]):
                pass
        for _ in bar.over("anomaly scores", ["ab"]):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("scoring 0 %: log-density 2/4")
    assert lines[2].startswith("scoring 50/100, 50 %")
    assert lines[3].startswith("scoring 50 %, ")
    assert "left: log-density 2/4" in lines[3]
    assert lines[-1].startswith("anomaly scores 2/2")


def test_a_scoring_begun_with_larger_pieces_is_gone_on_with(
    cli, run, new, tmp_path, pieces, monkeypatch
):
    """As an earlier version may have begun it: the same scores and reasons."""
    assert cli("score", run, new, "--out", tmp_path / "whole.csv").code == 0
    honest, scored = AnomalyDetector.anomaly_score, []

    def stopped(self, X):
        if len(scored) == 1:
            raise KeyboardInterrupt
        scored.append(len(X))
        return honest(self, X)

    monkeypatch.setattr(AnomalyDetector, "anomaly_score", stopped)
    assert cli("score", run, new, "--out", tmp_path / "out.csv").code == 130
    monkeypatch.setattr(AnomalyDetector, "anomaly_score", honest)
    monkeypatch.setattr(streaming, "PIECE_ROWS", 7)
    assert cli("score", run, new, "--out", tmp_path / "out.csv", "--resume").code == 0
    one, two = (pl.read_csv(tmp_path / f"{name}.csv") for name in ("out", "whole"))
    assert one.drop("anomaly_score").equals(two.drop("anomaly_score"))
    assert abs(one["anomaly_score"] - two["anomaly_score"]).max() < 1e-9
