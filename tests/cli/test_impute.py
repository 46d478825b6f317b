"""Blanks filled in, values and ranges given, on the command line."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from energyscape.cli import main
from energyscape.cli.failures import BadInput
from energyscape.cli.sample import read_given
from energyscape.data import with_intervals


@pytest.fixture(scope="module")
def gaps(people, tmp_path_factory):
    """Thirty of the people with more blanks than they had."""
    frame = pl.read_csv(people, infer_schema_length=None).head(30)
    frame = frame.with_columns(
        city=pl.when(pl.int_range(30) % 5 == 0).then(None).otherwise(pl.col("city")),
        age=pl.when(pl.int_range(30) % 7 == 1).then(None).otherwise(pl.col("age")),
    )
    path = tmp_path_factory.mktemp("gaps") / "gaps.csv"
    frame.write_csv(path)
    return path


def test_blanks_are_filled_and_the_rest_is_kept(cli, people_run, gaps, tmp_path):
    out = tmp_path / "filled.csv"
    words = ["impute", people_run, gaps, "--out", out, "--steps", 3, "--seed", 4]
    ended = cli(*words)
    assert ended.code == 0, ended.err
    before, after = (pl.read_csv(p, infer_schema_length=None) for p in (gaps, out))
    assert after.columns == before.columns
    assert sum(after.null_count().row(0)) == 0
    for name in before.columns:
        there = before[name].is_not_null()
        assert after[name].filter(there).to_list() == before[name].filter(there).to_list()
    assert set(after["city"]) <= {"Rome", "Oslo", "Bonn"}
    blanks = sum(before.null_count().row(0))
    assert f"filled {blanks} blanks; wrote" in ended.out
    again = tmp_path / "again.csv"
    assert cli("impute", people_run, gaps, "--out", again, "--steps", 3, "--seed", 4).code == 0
    assert again.read_bytes() == out.read_bytes()
    assert "exists" in cli(*words).err


def test_draws_are_stacked(cli, people_run, gaps, tmp_path):
    out = tmp_path / "filled.parquet"
    words = ["--out", out, "--draws", 2, "--steps", 2, "--quiet"]
    assert cli("impute", people_run, gaps, *words) == (0, "", "")
    stacked = pl.read_parquet(out)
    assert stacked.columns[0] == "draw"
    assert stacked["draw"].to_list() == [1] * 30 + [2] * 30


def test_intervals_stand_beside_what_was_filled_in(cli, people_run, gaps, tmp_path):
    """The quantiles of the very draws that the same seed stacks; cells that were there have none."""
    out, stacked = tmp_path / "sure.parquet", tmp_path / "draws.parquet"
    words = ["impute", people_run, gaps, "--steps", 2, "--seed", 3]
    ended = cli(*words, "--out", out, "--interval", 0.5)
    assert ended.code == 0, ended.err
    assert "7 draws of each" in ended.out
    assert cli(*words, "--out", stacked, "--draws", 7).code == 0
    before = pl.read_csv(gaps, infer_schema_length=None)
    found, draws = pl.read_parquet(out), pl.read_parquet(stacked)
    each = np.stack([draws.filter(pl.col("draw") == m)["age"].to_numpy() for m in range(1, 8)])
    each.sort(axis=0)
    blank = before["age"].is_null().to_numpy()
    for name, k in (("age", 3), ("age low", 1), ("age high", 5)):
        assert (found[name].to_numpy()[blank] == each[k][blank]).all(), name
    assert found["age low"].is_null().to_numpy().tolist() == (~blank).tolist()
    cities = [draws.filter(pl.col("draw") == m)["city"].to_list() for m in range(1, 8)]
    for i, missing in enumerate(before["city"].is_null()):
        values = [city[i] for city in cities]
        most = max(values.count(v) for v in values)
        assert found["city share"][i] == (most / 7 if missing else None)
        assert values.count(found["city"][i]) == (most if missing else 7)
    for level in (0, 1, 1.5):
        assert (
            "between 0 and 1" in cli(*words, "--out", tmp_path / "no.csv", "--interval", level).err
        )
    few = cli(*words, "--out", tmp_path / "no.csv", "--interval", 0.9, "--draws", 5)
    assert few.code == 2
    assert "takes 19 draws or more, got 5" in few.err


def test_what_no_draw_filled_stays_blank_and_no_name_is_taken_twice():
    """A column left out has blanks in every copy; a table may have a column called 'x low'."""
    before = pl.DataFrame({"x": [1.0, None], "x low": [0, 1], "note": ["a", None]})
    copies = [before.with_columns(x=pl.Series([1.0, float(k)])) for k in range(7)]
    found = with_intervals(before, copies, 0.5)
    assert found.columns == ["x", "x low of draws", "x high", "x low", "note"]
    assert found.row(1) == (3.0, 1.0, 5.0, 1, None)


def test_arrays_are_filled_under_their_names(cli, tmp_path):
    """A run of an .npy file; blanks are NaN."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.save(tmp_path / "x.npy", x)
    few = ["--set", "max_steps=3", "--set", "width=8", "--set", "blocks=1", "--quiet"]
    assert main(["fit", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), *few]) == 0
    x[::3, 1] = np.nan
    np.save(tmp_path / "gaps.npy", x)
    out = tmp_path / "filled.csv"
    words = [tmp_path / "run", tmp_path / "gaps.npy", "--out", out, "--steps", 2]
    ended = cli("impute", *words)
    assert ended.code == 0, ended.err
    assert "filled 20 blanks" in ended.out
    filled = pl.read_csv(out)
    assert filled.columns == ["x0", "x1"]
    assert np.allclose(filled["x0"], x[:, 0])
    assert filled["x1"].is_finite().all()


def test_values_and_ranges_are_given(cli, people_run, tmp_path):
    out = tmp_path / "s.csv"
    given = ["pay=2000.5", "age>30", "age<=60", "city!=Rome", "joined>=2012-01-01"]
    words = [word for one in given for word in ("--given", one)]
    ended = cli("sample", people_run, "--n", 6, "--out", out, "--steps", 4, "--seed", 1, *words)
    assert ended.code == 0, ended.err
    drawn = pl.read_csv(out, try_parse_dates=True)
    assert drawn["pay"].to_list() == [2000.5] * 6
    assert drawn["age"].is_between(31, 60).all()
    assert "Rome" not in drawn["city"].to_list()
    assert drawn["joined"].dt.year().min() >= 2012


def test_classes_and_guidance(cli, people, tmp_path):
    run = tmp_path / "run"
    few = ["--set", "max_steps=3", "--set", "width=8", "--set", "blocks=1", "--quiet"]
    assert cli("fit", people, "--out", run, "--set", "label=city", *few).code == 0
    out = tmp_path / "s.csv"
    words = ["--n", 3, "--out", out, "--label", "Oslo", "--guidance", 2, "--steps", 3]
    assert cli("sample", run, *words).code == 0
    assert pl.read_csv(out).height == 3
    ended = cli("sample", run, "--n", 3, "--out", tmp_path / "t.csv", "--label", "Lima")
    assert ended.code == 2
    assert "'Lima' was not in training; there are Bonn, Oslo, Rome" in ended.err


@pytest.mark.parametrize(
    "column, says",
    [("country", "single value"), ("pay", "numeric"), ("town", "no such column")],
)
def test_labels_that_are_no_classes_end_in_one_line(refused, people, tmp_path, column, says):
    out = tmp_path / "run"
    assert says in refused("fit", people, "--out", out, "--set", f"label={column}", "--quiet")
    assert not out.exists()


def test_a_run_of_energies_fills_blanks_too(cli, score_run, tmp_path):
    half = tmp_path / "half.csv"
    half.write_text("x,y\n0.5,\n,0.25\n1.0,0.0\n")
    ended = cli("impute", score_run, half, "--out", tmp_path / "filled.csv", "--seed", 1)
    assert ended.code == 0, ended.err
    filled = pl.read_csv(tmp_path / "filled.csv")
    assert filled.null_count().sum_horizontal()[0] == 0
    assert (filled["x"][0], filled["y"][1], filled["x"][2]) == (0.5, 0.25, 1.0)


def test_runs_that_cannot_fill_say_so(refused, digits_run, people_run, gaps, tmp_path):
    out = tmp_path / "filled.csv"
    assert "pictures" in refused("impute", digits_run, "digits", "--out", out)
    assert ".png" in refused("impute", people_run, gaps, "--out", tmp_path / "filled.png")
    assert "--draws" in refused("impute", people_run, gaps, "--out", out, "--draws", 0)
    assert list(tmp_path.iterdir()) == []


def test_conditions_are_read_by_the_columns_names():
    assert read_given(["a > 3", "a<9", "b<c=x"], ["a", "b", "b<c"]) == {
        "a": [(">", "3"), ("<", "9")],
        "b<c": [("=", "x")],
    }
    with pytest.raises(BadInput, match="did you mean 'age'"):
        read_given(["agee=3"], ["age", "pay"])
    with pytest.raises(BadInput, match="COL=VALUE"):
        read_given(["age"], ["age"])
