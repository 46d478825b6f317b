"""Each verb from end to end on small runs: what is written, what is said."""

from __future__ import annotations

import errno
import functools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import FEW, write_people

from energyscape import detection
from energyscape.families import EBM, settings_of


@pytest.fixture
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two-sample test with little work: what it finds is tested with the metrics."""
    from energyscape import fidelity, metrics

    small = functools.partial(metrics.two_sample_accuracy, num_trees=10, folds=2)
    monkeypatch.setattr(metrics, "two_sample_accuracy", small)
    few = functools.partial(fidelity.fidelity_table, num_trees=5, repeats=1)
    monkeypatch.setattr(fidelity, "fidelity_table", few)


def test_inspect_says_what_happens_to_every_column(cli, people, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ended = cli("inspect", people, "--out", tmp_path / "schema.toml")
    assert ended.code == 0
    for words in (
        r"id +identifier .*left out",
        r"age +integer +18 to 79",
        r"pay +numeric .*blank",
        r"city +category +3 categories: Bonn, Oslo, Rome",
        r"member +boolean +no / yes",
        r"joined +datetime +20",
        r"country +constant .*reproduced in samples",
        r"remark +text .*left out",
        "5 columns would be modelled, 2 left out",
    ):
        assert re.search(words, ended.out), words
    assert cli("inspect", people, "--quiet") == (0, "", "")


def test_fit_says_what_training_had_to_note(cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Settings without effect, or a log Z not to be trusted; nothing twice, and not if quiet."""
    command = ["fit", "two-moons", "--model", "ebm", "--set", "max_steps=3", "--overwrite"]
    command += ["--set", "objective=denoising", "--set", "sampler=hmc", "--out", tmp_path / "run"]
    ended = cli(*command)
    assert ended.code == 0, ended.err
    noted = [line for line in ended.err.splitlines() if line.startswith("note: ")]
    assert any("sampler had no effect" in line for line in noted), ended.err
    assert len(noted) == len(set(noted))
    assert cli(*command, "--quiet") == (0, "", "")


OBJECTIVES = next(s for s in settings_of(EBM) if s.name == "objective").type.split(" | ")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_of_an_energy_is_a_setting(cli, tmp_path, objective) -> None:  # type: ignore[no-untyped-def]
    command = ["fit", "two-moons", "--model", "ebm", "--set", f"objective={objective}"]
    command += ["--set", "max_steps=2", "--set", "normalise=false", "--out", tmp_path / "run"]
    assert cli(*command, "--quiet") == (0, "", "")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["objective"] == objective


def test_a_schema_goes_from_inspect_to_fit(cli, people, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "schema.toml"
    assert cli("inspect", people, "--out", path, "--quiet").code == 0
    text = path.read_text().replace('kind = "integer"', 'kind = "category"')
    path.write_text(text)
    out = tmp_path / "run"
    ended = cli("fit", people, "--out", out, "--schema", path, "--drop", "pay", *FEW)
    assert ended.code == 0, ended.err
    columns = json.loads((out / "config.json").read_text())["codec"]["schema"]["columns"]
    kinds = {column["name"]: column["kind"] for column in columns}
    assert kinds["age"] == "category"
    assert kinds["pay"] == "text"
    assert kinds["joined"] == "datetime"


def test_inspect_counts_pictures_and_labels(cli) -> None:  # type: ignore[no-untyped-def]
    out = cli("inspect", "digits").out
    assert re.search(r"pictures +1797", out)
    assert re.search(r"grey levels +17", out)
    assert "10 classes" in out


def test_fit_says_what_it_wrote_and_what_is_next(cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    data, out = write_people(tmp_path / "people.csv", rows=60), tmp_path / "run"
    config = tmp_path / "settings.toml"
    config.write_text("max_steps = 7\nwidth = 16\nbatch_size = 8\n")
    ended = cli("fit", data, "--out", out, "--config", config, "--set", "max_steps=4", "--seed", 3)
    assert ended.code == 0, ended.err
    assert "column 'remark' is left out (text" in ended.err
    assert "column 'id' is left out (identifier" in ended.err
    assert "4 steps" in ended.out
    assert "seed 3" in ended.out
    for verb in ("sample", "score", "report"):
        assert f"energyscape {verb} {out}" in ended.out
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["max_steps"], settings["batch_size"]) == (4, 8)
    assert not any(p.suffix in (".pkl", ".pt", ".pickle") for p in out.rglob("*"))


def test_fit_for_a_time(cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    began = time.monotonic()
    words = ["--set", "width=16", "--set", "max_steps=1000000", "--quiet"]
    ended = cli("fit", "rings", "--out", tmp_path / "run", "--time", "1s", *words)
    assert ended == (0, "", "")
    assert time.monotonic() - began < 30  # a million steps would take many minutes


def test_samples_have_the_columns_types_and_ranges_of_the_data(  # type: ignore[no-untyped-def]
    cli, people, people_run, tmp_path
) -> None:
    for suffix in (".csv", ".parquet", ".jsonl"):
        out = tmp_path / f"s{suffix}"
        ended = cli("sample", people_run, "--n", 25, "--out", out, "--seed", 5, "--steps", 6)
        assert ended.code == 0, ended.err
        assert "25 rows" in ended.out
    drawn = pl.read_csv(tmp_path / "s.csv", infer_schema_length=None)
    data = pl.read_csv(people, infer_schema_length=None)
    assert drawn.columns == ["age", "pay", "city", "member", "joined", "country"]
    assert drawn.height == 25
    assert drawn["age"].dtype == pl.Int64
    assert drawn["age"].is_between(data["age"].min(), data["age"].max()).all()
    assert set(drawn["city"]) <= {"Rome", "Oslo", "Bonn"}
    assert set(drawn["member"]) <= {"yes", "no"}
    assert set(drawn["country"]) == {"IT"}
    assert drawn["joined"].str.to_date("%Y-%m-%d", strict=True).is_not_null().all()
    again = cli(
        "sample", people_run, "--n", 25, "--out", tmp_path / "t.csv", "--seed", 5, "--steps", 6
    )
    assert again.code == 0
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()


def test_how_chains_went_is_told_and_kept(cli, energy_run, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """In two lines, and beside the run; of a family without chains nothing, and quietly when asked."""
    words = ["--n", 12, "--seed", 3, "--steps", 30, "--overwrite", "--out", tmp_path / "s.csv"]
    ended = cli("sample", energy_run, *words)
    assert ended.code == 0, ended.err
    first, second, last = ended.out.splitlines()
    told = json.loads((energy_run / "sampling.json").read_text())
    assert first == (
        "12 chains of mala, 30 steps each from the chains that settled after training: acceptance "
        f"{told['acceptance']:.2f}, R-hat {told['rhat']:.3g}, {told['ess_bulk']:,.0f} effective draws"
    )
    assert second == told["verdict"]
    assert last.startswith("wrote 12 rows")
    assert (told["rows"], told["seed"], told["chains"]) == (12, 3, 12)
    drawn = (tmp_path / "s.csv").read_bytes()
    assert cli("sample", energy_run, *words, "--quiet") == (0, "", "")
    assert (tmp_path / "s.csv").read_bytes() == drawn
    assert len(cli("sample", people_run, *words).out.splitlines()) == 1
    assert not (people_run / "sampling.json").exists()


def test_samples_of_a_run_that_cannot_be_written_to_are_drawn(  # type: ignore[no-untyped-def]
    cli, energy_run, tmp_path, monkeypatch
) -> None:
    refusal = OSError(errno.EROFS, "Read-only file system")
    opened, removed = Path.open, Path.unlink

    def opens(self: Path, *args: Any, **named: Any) -> Any:
        if "sampling.json" in self.name:
            raise refusal
        return opened(self, *args, **named)

    def removes(self: Path, *args: Any, **named: Any) -> None:
        if "sampling.json" in self.name:
            raise refusal
        removed(self, *args, **named)

    monkeypatch.setattr(Path, "open", opens)
    monkeypatch.setattr(Path, "unlink", removes)
    ended = cli("sample", energy_run, "--n", 2, "--steps", 4, "--out", tmp_path / "s.csv")
    assert ended.code == 0
    assert "Read-only file system" in ended.err
    assert pl.read_csv(tmp_path / "s.csv").height == 2


def test_columns_are_held_fixed(cli, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "s.csv"
    words = ["--given", "city=Oslo", "--given", "member=yes", "--seed", 2, "--steps", 4]
    ended = cli("sample", people_run, "--n", 12, "--out", out, *words)
    assert ended.code == 0, ended.err
    drawn = pl.read_csv(out)
    assert drawn.height == 12
    assert set(drawn["city"]) == {"Oslo"}
    assert set(drawn["member"]) == {"yes"}
    assert drawn.unique().height >= 6


def test_pictures_are_written_as_grid_folder_and_arrays(cli, digits_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    for name in ("s.png", "s.npy", "s.npz", "folder"):
        words = ["--n", 5, "--out", tmp_path / name, "--seed", 1, "--steps", 4, "--quiet"]
        assert cli("sample", digits_run, *words) == (0, "", "")
    values = np.load(tmp_path / "s.npy")
    assert values.shape == (5, 8, 8, 1)
    assert values.dtype == np.uint8
    assert values.max() <= 16
    np.testing.assert_array_equal(np.load(tmp_path / "s.npz")["x"], values)
    files = sorted((tmp_path / "folder").glob("*.png"))
    assert len(files) == 5
    first = np.asarray(Image.open(files[0]))
    np.testing.assert_array_equal(first, np.round(values[0, :, :, 0] * (255 / 16)))
    with Image.open(tmp_path / "s.png") as grid:
        assert min(grid.size) >= 16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "s.npy", "s.npz", "s.png"]


def test_scores_are_per_row_and_calibrated(cli, people, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import energyscape

    out = tmp_path / "scores.csv"
    ended = cli("score", people_run, people, "--out", out, "--fdr", 0.2)
    assert ended.code == 0, ended.err
    frame = pl.read_csv(out)
    assert frame.columns == [
        "row", "log_prob", "kind", "stderr", "anomaly_score", "p_value", "flagged", "top_columns",
    ]  # fmt: skip
    assert frame["row"].to_list() == list(range(1, 161))
    model = energyscape.load(people_run)
    data = energyscape.data.load(people, schema=model.schema_)
    np.testing.assert_allclose(frame["log_prob"], model.score_samples(data), rtol=1e-6)
    np.testing.assert_allclose(frame["anomaly_score"], model.anomaly_score(data), rtol=1e-6)
    np.testing.assert_allclose(frame["p_value"], model.p_values(data))
    flagged = detection.benjamini_hochberg(frame["p_value"].to_numpy(), 0.2)
    assert frame["flagged"].to_list() == flagged.tolist()
    assert "calibration rows give p-values down to" in ended.err
    quick = cli("score", people_run, people, "--out", tmp_path / "q.csv", "--no-density")
    assert quick.code == 0
    assert "log_prob" not in pl.read_csv(tmp_path / "q.csv").columns
    names = {"age", "pay", "city", "member", "joined"}
    found = {
        part.split()[0] for row in frame["top_columns"].drop_nulls() for part in row.split("; ")
    }
    assert found <= names


def test_columns_may_be_reordered_or_added_and_new_categories_are_named(  # type: ignore[no-untyped-def]
    cli, people, people_run, tmp_path
) -> None:
    frame = pl.read_csv(people, infer_schema=False)
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    assert cli("score", people_run, people, "--out", before, "--quiet").code == 0
    changed = frame.select(reversed(frame.columns)).with_columns(shoe=pl.lit("44"))
    changed.write_csv(tmp_path / "new.csv")
    ended = cli("score", people_run, tmp_path / "new.csv", "--out", after)
    assert ended.code == 0
    assert "shoe" in ended.err
    assert before.read_bytes() == after.read_bytes()
    odd = {"city": pl.lit("Lima" + "a" * 99), "age": pl.lit("")}
    changed.head(1).with_columns(**odd).write_csv(tmp_path / "one.csv")
    ended = cli("score", people_run, tmp_path / "one.csv", "--out", tmp_path / "one-score.csv")
    assert ended.code == 0
    assert "'Limaa" in ended.err
    assert "a" * 60 not in ended.err
    assert "'age' has blanks and had none in training" in ended.err
    assert pl.read_csv(tmp_path / "one-score.csv").height == 1


def test_a_family_without_normalised_density_says_so(cli, score_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ended = cli("score", score_run, "two-moons", "--out", tmp_path / "s.csv")
    assert ended.code == 0
    frame = pl.read_csv(tmp_path / "s.csv")
    assert "anomaly_score" in frame.columns
    assert "p_value" not in frame.columns
    assert "calibration_fraction" in ended.err
    assert set(frame["kind"]) == {"unnormalised"}
    assert "log_prob is unnormalised" in ended.err


def test_a_model_without_log_density_gets_no_column(cli, score_run, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from energyscape.families import NoLogDensityError, ScoreModel

    def none(self: ScoreModel, X: object) -> None:
        raise NoLogDensityError("use edm")

    monkeypatch.setattr(ScoreModel, "log_density", none)
    ended = cli("score", score_run, "two-moons", "--out", tmp_path / "s.csv")
    assert ended.code == 0
    assert "no log_prob column: use edm" in ended.err
    assert pl.read_csv(tmp_path / "s.csv").columns == ["row", "anomaly_score", "top_columns"]


@pytest.mark.usefixtures("small_forests")
def test_evaluate_an_unnormalised_model(cli, score_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The file has no calibration rows, and validation rows are the held-out ones."""
    words = ["two-moons", "--rows", 40, "--out", tmp_path / "q.json", "--quiet"]
    assert cli("evaluate", score_run, *words) == (0, "", "")
    result = json.loads((tmp_path / "q.json").read_text())
    assert result["rows"] == 40
    assert result["measures"]["log_prob"]["stderr"] > 0
    assert any("unnormalised" in line for line in result["notes"])


def test_folders_of_pictures_are_scored_by_file_name(cli, digits_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    folder = tmp_path / "new"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/b.png"):
        Image.fromarray(rng.integers(0, 17, size=(8, 8), dtype=np.uint8)).save(folder / name)
    ended = cli("score", digits_run, folder, "--out", tmp_path / "s.csv")
    assert ended.code == 0, ended.err
    frame = pl.read_csv(tmp_path / "s.csv")
    assert frame["file"].to_list() == ["a.png", "deep/b.png"]
    assert frame["log_prob"].is_finite().all()


@pytest.mark.usefixtures("small_forests")
def test_two_level_pictures_and_samples_of_few_levels_are_read_as_levels(  # type: ignore[no-untyped-def]
    cli, digits_run, tmp_path
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path / "two-level"
    folder.mkdir()
    for i in range(24):
        Image.fromarray(rng.random((5, 5)) < 0.5).convert("1").save(folder / f"{i:02d}.png")
    run, out = tmp_path / "run", tmp_path / "scores.csv"
    assert cli("fit", folder, "--out", run, "--seed", 0, *FEW).code == 0
    ended = cli("score", run, folder, "--out", out)
    assert (ended.code, "2 levels of the model" in ended.err) == (0, True), ended.err
    # samples of digits, of 17 levels, are stretched when written as files
    drawn = tmp_path / "drawn"
    assert cli("sample", digits_run, "--n", 4, "--out", drawn, "--seed", 0).code == 0
    ended = cli("score", digits_run, drawn, "--out", tmp_path / "again.csv")
    assert (ended.code, "17 levels of the model" in ended.err) == (0, True), ended.err


def test_evaluate_measures_with_errors(cli, people, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    data = write_people(tmp_path / "held-out.csv", rows=60, seed=9)
    out = tmp_path / "quality.json"
    ended = cli("evaluate", people_run, data, "--out", out, "--labels", "member=yes", "--seed", 1)
    assert ended.code == 0, ended.err
    result = json.loads(out.read_text())
    measures = result["measures"]
    assert measures["log_prob"]["stderr"] > 0
    for name in (
        *("column_shapes", "pair_trends", "two_sample_accuracy", "train_on_drawn"),
        *("coverage", "neighbour_ratio", "closer_to_training", "copies"),
    ):
        assert measures[name]["low"] <= measures[name]["value"] <= measures[name]["high"], name
        assert np.isfinite(measures[name]["real"]), name
        assert name in ended.out
    for name in ("auroc", "average_precision"):
        assert 0 <= measures[name]["low"] <= measures[name]["value"] <= measures[name]["high"] <= 1
    assert set(result["columns"]) == {"age", "pay", "city", "member", "joined"}
    assert result["columns"]["age"]["low"] <= result["columns"]["age"]["value"]
    strange = pl.read_csv(data)["member"].eq("yes").sum()
    assert result["rows"] == 60 - strange


@pytest.mark.usefixtures("small_forests")
def test_evaluate_on_the_training_file_uses_its_held_out_rows(cli, people, people_run) -> None:  # type: ignore[no-untyped-def]
    ended = cli("evaluate", people_run, people)
    assert ended.code == 0, ended.err
    assert "its 32 held-out rows are used" in ended.err


@pytest.mark.usefixtures("small_forests")
def test_evaluate_pictures_in_bits(cli, digits_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ended = cli(
        "evaluate", digits_run, digits_run.parent / "digits.npz", "--out", tmp_path / "q.json"
    )
    assert ended.code == 0, ended.err
    measures = json.loads((tmp_path / "q.json").read_text())["measures"]
    bits = -measures["log_prob"]["value"] / (64 * np.log(2))
    assert measures["bits_per_dim"]["value"] == pytest.approx(bits)


def test_models_shows_every_setting_of_every_family(cli) -> None:  # type: ignore[no-untyped-def]
    from energyscape.families import FAMILIES, MODELS, settings_of

    found = json.loads(cli("models", "--json").out)
    assert set(found) == set(MODELS) == {*FAMILIES, "anomaly"}
    for name, cls in MODELS.items():
        settings = {s["name"]: s["default"] for s in found[name]["settings"]}
        assert settings == {s.name: s.default for s in settings_of(cls)}
        assert found[name]["about"]
    out = cli("models").out
    assert all(s.name in out for cls in FAMILIES.values() for s in settings_of(cls))
    assert "did you mean 'ddpm'" in cli("models", "ddmp").err


def test_report_is_written_into_the_run_or_where_asked(cli, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ended = cli("report", people_run, "--out", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    page = (tmp_path / "page.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "page.html" in ended.out


def test_ctrl_c_leaves_a_run_that_goes_on(cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The command printed after Ctrl-C, run as it is, finishes the run."""
    out = tmp_path / "my run"
    words = ["fit", "rings", "--out", str(out), "--seed", "1", "--set", "width=16", "--quiet"]
    words += ["--set", "max_steps=400", "--set", "blocks=1", "--overwrite"]
    command = [sys.executable, "-m", "energyscape", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not _steps(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.count("\n") == 1
    go_on = shlex.split(err.partition("go on with: ")[2])
    assert go_on[0] == "energyscape"
    assert go_on[1:] == [*words[:-1], "--resume"]
    assert cli(*go_on[1:]).code == 0
    assert json.loads((out / "manifest.json").read_text())["steps"] == 400


def _steps(out: Path) -> int:
    curve = out / "metrics.jsonl"
    lines = curve.read_text().splitlines() if curve.is_file() else []
    return len(lines)
