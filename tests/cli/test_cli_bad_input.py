"""Bad input: one line that says what to do, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FEW

ROWS = "".join(f"{i}.5,{'ab'[i % 2]}\n" for i in range(30))

TABLES = {
    "empty.csv": ("", "empty"),
    "header.csv": ("x,c\n", "0 rows"),
    "one.csv": ("x,c\n1.5,a\n", "1 row"),
    "infinite.csv": ("x,c\n" + ROWS + "inf,a\n", "'x'"),
    "midway.csv": ("x,c\n" + ROWS + "lots,a\n", "'lots'"),
    "ragged.csv": ("x,c\n" + ROWS + "1,2,3\n", "row 31"),
    "nothing.csv": ("id,c\n" + "".join(f"P{i:03d},a\n" for i in range(30)), "no usable column"),
    "blank.csv": ("x,y\n" + "1,\n" * 9, "no usable column"),
    "table.xyz": ("x\n1\n", ".xyz"),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("verb", ["inspect", "fit"])
def test_tables_that_cannot_be_learned(refused, tmp_path, name, verb) -> None:  # type: ignore[no-untyped-def]
    text, says = TABLES[name]
    (tmp_path / name).write_text(text)
    more = ["--out", tmp_path / "run", *FEW] if verb == "fit" else []
    assert says in refused(verb, tmp_path / name, *more)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    "words, says",
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["two-mons"], "did you mean 'two-moons'"),
        (["rings", "--types", "x"], "COL=TYPE"),
        (["rings", "--types", "z=numeric"], "'z'"),
        (["rings", "--types", "x=number"], "'number'"),
        (["rings", "--drop", "z"], "'z'"),
        (["digits", "--drop", "z"], "no columns"),
        (["rings", "--drop", "x", "--drop", "y"], "no usable column"),
    ],
)
def test_sources_and_columns_that_do_not_exist(refused, words, says) -> None:  # type: ignore[no-untyped-def]
    assert says in refused("inspect", *words)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--set", "max_step=5"], "did you mean max_steps"),
        (["--set", "max_steps=none at all"], "max_steps"),
        (["--set", "max_steps=0"], "max_steps"),
        (["--set", "max_steps"], "KEY=VALUE"),
        (["--model", "edmm"], "did you mean 'edm'"),
        (["--config", "none.toml"], "none.toml"),
        (["--schema", "none.toml"], "none.toml"),
        (["--time", "soon"], "--time"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--set", "validation_fraction=0.6", "--set", "calibration_fraction=0.6"], "below 1"),
        (["--device", "toaster"], "toaster"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--set", "random_state=99999999999999999999"], "random_state"),
        (["--size", "5x5"], "no folder of pictures"),
    ],
)
def test_settings_that_do_not_exist(refused, tmp_path, words, says) -> None:  # type: ignore[no-untyped-def]
    assert says in refused("fit", "rings", "--out", tmp_path / "run", *words)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked_before_data_are_read(refused, tmp_path) -> None:  # type: ignore[no-untyped-def]
    line = refused("fit", "nowhere.csv", "--out", tmp_path / "run", "--set", "depth=3")
    assert "depth" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_the_library_warns_of_is_a_note(cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """In its own words, without a line of source; --quiet prints errors only."""
    words = ["fit", "two-moons", "--model", "ncsn", "--set", "sigma_max=0.5", *FEW]
    loud = cli(*(w for w in words if w != "--quiet"), "--out", tmp_path / "loud")
    assert loud.code == 0
    told = [line for line in loud.err.splitlines() if "far below the spread" in line]
    assert len(told) == 1
    assert told[0].startswith("note: the largest level (0.5)")
    assert "UserWarning" not in loud.err
    assert "far below" not in cli(*words, "--out", tmp_path / "quiet").err


def test_a_config_file_with_an_unknown_key(refused, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "c.toml"
    config.write_text("batchsize = 32\n")
    line = refused("fit", "rings", "--out", tmp_path / "run", "--config", config)
    assert "did you mean batch_size" in line
    config.write_text("batch_size = = 32\n")
    assert "TOML" in refused("fit", "rings", "--out", tmp_path / "run", "--config", config)


def test_an_output_folder_that_exists(refused, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    before = (people_run / "manifest.json").read_bytes()
    assert "--overwrite" in refused("fit", "rings", "--out", people_run, *FEW)
    assert (people_run / "manifest.json").read_bytes() == before
    (tmp_path / "thesis.txt").write_text("mine")
    assert "no energyscape run" in refused("fit", "rings", "--out", tmp_path, "--overwrite", *FEW)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert "is a file" in refused("fit", "rings", "--out", tmp_path / "thesis.txt", *FEW)


def pictures(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        values = rng.integers(0, 256, size=size, dtype=np.uint8)
        Image.fromarray(values).save(folder / f"p{i:02d}.png")
    return folder


def test_pictures_that_are_damaged_or_differ(refused, cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    mixed = pictures(tmp_path / "mixed", [(6, 6)] * 3 + [(4, 8)] * 2)
    line = refused("inspect", mixed)
    assert "6x6 (3)" in line
    assert "4x8 (2)" in line
    assert cli("inspect", mixed, "--size", "6x6").code == 0
    damaged = pictures(tmp_path / "damaged", [(6, 6)] * 3)
    (damaged / "p01.png").write_bytes((damaged / "p01.png").read_bytes()[:40])
    assert "p01.png" in refused("inspect", damaged)
    assert "--size" in refused("inspect", damaged, "--size", "big")
    assert "channels is 2" in refused("inspect", mixed, "--size", "6", "--channels", "2")
    (tmp_path / "hollow").mkdir()
    assert "no picture" in refused("inspect", tmp_path / "hollow")


@pytest.fixture
def copy(people_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(people_run, tmp_path / "copy")
    return tmp_path / "copy"


def test_damaged_and_foreign_runs(refused, copy, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "s.csv"

    def refusal() -> str:
        line: str = refused("sample", copy, "--n", 3, "--out", out)
        assert not out.exists()
        return line

    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "model.safetensors" in refusal()
    weights.unlink()
    assert "model.safetensors is missing" in refusal()
    weights.write_bytes(whole)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    assert "format 99" in refusal()
    (copy / "manifest.json").write_text("{}")
    assert "manifest" in refusal()
    assert "not an energyscape run" in refused("report", tmp_path)
    assert "ends in .html" in refused("report", tmp_path, "--out", tmp_path / "page.pdf")
    assert "no-run" in refused("score", tmp_path / "no-run", "rings", "--out", out)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--out", "s.xyz"], ".xyz"),
        (["--out", "folder"], "a folder"),
        (["--out", "s.png"], ".png"),
        (["--out", "no/s.csv"], "no folder"),
        (["--out", "s.csv", "--sampler", "walk"], "unknown sampler 'walk'"),
        (["--out", "s.csv", "--sampler", "ddim:order=2"], "no setting 'order'"),
        (["--out", "s.csv", "--given", "town=Rome"], "no column 'town'"),
        (["--out", "s.csv", "--given", "city"], "COL=VALUE"),
        (["--out", "s.csv", "--given", "city=Lima"], "never 'Lima' in training"),
        (["--out", "s.csv", "--given", "city>Bonn"], "no order"),
        (["--out", "s.csv", "--given", "pay>much"], "'much'"),
        (["--out", "s.csv", "--given", "age>30", "--given", "age=4", "--given", "age=5"], "two"),
        (["--out", "s.csv", "--guidance", "2"], "guidance needs a model with classes"),
        (["--out", "s.csv", "--label", "Rome"], "label needs a model with classes"),
        (["--out", "s.csv", "--device", "toaster"], "toaster"),
    ],
)
def test_samples_that_cannot_be_drawn(  # type: ignore[no-untyped-def]
    refused, people_run, tmp_path, monkeypatch, words, says
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused("sample", people_run, "--n", 2, *words)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_exist_are_kept(refused, cli, people, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "s.csv"
    out.write_text("mine")
    for words in (
        ["sample", people_run, "--n", 2, "--out", out],
        ["score", people_run, people, "--out", out],
        ["evaluate", people_run, people, "--out", out],
        ["inspect", people, "--out", out],
    ):
        assert "--overwrite" in refused(*words)
        assert out.read_text() == "mine"
    assert cli("sample", people_run, "--n", 2, "--out", out, "--overwrite", "--seed", 0).code == 0
    assert out.read_text().startswith("age,pay,city,member,joined,country\n")


def test_no_room_on_the_disk(refused, people_run, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from energyscape.data import tables

    full = shutil._ntuple_diskusage(10, 10, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(tables.shutil, "disk_usage", lambda path: full)
    line = refused("sample", people_run, "--n", 2, "--out", tmp_path / "s.csv")
    assert "make room" in line
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_fit_the_run(refused, people, people_run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import polars as pl

    frame = pl.read_csv(people, infer_schema=False)
    out = tmp_path / "scores.csv"

    def score(changed: pl.DataFrame) -> str:
        changed.write_csv(tmp_path / "new.csv")
        line: str = refused("score", people_run, tmp_path / "new.csv", "--out", out)
        assert not out.exists()
        return line

    assert "'pay'" in score(frame.drop("pay"))
    wrong = pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("old")).otherwise(pl.col("age"))
    line = score(frame.with_columns(wrong.alias("age")))
    assert "'age'" in line
    assert "'old'" in line
    assert "pictures" in refused("score", people_run, "digits", "--out", out)
    assert "0.0" in refused("score", people_run, people, "--out", out, "--fdr", 0.0)
    assert ".png" in refused("score", people_run, people, "--out", tmp_path / "s.png")


@pytest.mark.parametrize(
    "words, says",
    [
        (["--labels", "town"], "'town'"),
        (["--labels", "city"], "--labels city=VALUE"),
        (["--labels", "city=Paris"], "0 of 160"),
        (["--rows", "3"], "--rows"),
    ],
)
def test_labels_that_say_nothing(refused, people, people_run, words, says) -> None:  # type: ignore[no-untyped-def]
    assert says in refused("evaluate", people_run, people, *words)


def test_labels_that_came_with_the_data_have_a_name(refused, digits_run) -> None:  # type: ignore[no-untyped-def]
    """Any other name was taken for them."""
    assert "are called labels" in refused("evaluate", digits_run, "digits", "--labels", "nosuch")
