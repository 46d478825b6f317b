"""Tables that nobody prepared: read rightly and said, or refused by name."""

from __future__ import annotations

import gzip
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from energyscape.data import Column, DataError, Dataset, TableCodec, load, read_table

RNG = np.random.default_rng(0)
SIZES = [f"{value:.2f}" for value in RNG.normal(20, 5, 40)]
KINDS = [("red", "blue", "green")[i % 3] for i in range(40)]
LINES = [f"{size},{kind}" for size, kind in zip(SIZES, KINDS, strict=True)]
BODY = "\n".join(LINES) + "\n"


def read(folder: Path, content: str | bytes, name: str = "t.csv", **more: Any) -> Dataset:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(path, **more)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# of lab 3\n# in June, 2021\na,b\n" + BODY, "2 lines at the top skipped"),
        ("#a,b\n" + BODY.replace("red", "#red"), None),
        ("sep=;\na;b\n" + BODY.replace(",", ";"), "semicolons"),
        ("a,b\n" + BODY + "a,b\n" + BODY, "1 row skipped that repeat the header (first: 41)"),
        ("a,b\n" + BODY + ",\n,\n", "2 rows skipped at the end"),
        ("a,b\n" + BODY.replace("\n", ",\n"), "every row ends with a separator"),
        ("a,b\n" + "\n".join(f"{i},{line}" for i, line in enumerate(LINES)), "for row names"),
        ("a,b\n" + BODY.replace("\n", "\n\n", 3), "3 empty lines skipped"),
        (("a,b\n" + BODY).encode("utf-16-le"), "UTF-16"),
        (("a,b\n" + BODY).encode("utf-16-be"), "UTF-16"),
        (("a,b\n" + BODY).encode("utf-32"), "UTF-32"),
    ],
)
def test_layouts_are_seen_through_and_said(
    tmp_path: Path, content: str | bytes, said: str | None
) -> None:
    found = read(tmp_path, content)
    assert found.frame is not None
    assert [found.frame[:, -2].dtype, found.frame[:, -1].dtype] == [pl.Float64, pl.String]
    assert found.frame[:40, -2].to_list() == [float(size) for size in SIZES]
    assert [c.lstrip("#") for c in found.frame.columns] == ["a", "b"]
    assert said is None or any(said in note for note in found.notes)


def test_lines_of_two_encodings_are_read_each_as_what_it_is(tmp_path: Path) -> None:
    lines = [f"{s},Köln\n".encode("utf-8" if i % 2 else "cp1252") for i, s in enumerate(SIZES)]
    found = read(tmp_path, b"a,b\n" + b"".join(lines))
    assert found.schema is not None
    assert found.schema["b"].categories == ("Köln",)
    assert any("others Windows-1252" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"PK\x03\x04 and more", "Excel"),
        ("t.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"),
        ("t.csv", b"%PDF-1.4\n1 0 obj\n", "PDF"),
        ("t.csv", "<!DOCTYPE html>\n<html>404</html>\n", "web page"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\nsize 1\n", "Git LFS"),
        ("t.xlsx", b"PK\x03\x04", "save the sheet as .csv"),
        ("t.json", "[]", ".jsonl"),
        ("t.csv", "Sales of 2021\na,b\n" + BODY, "first row has 1 value and most have 2"),
        ("t.csv", "a b\n" + BODY.replace(",", " "), "separated by blanks"),
        ("t.csv", "d,b\n" + "2021-03-04,x\n04/03/2021,y\n" * 20, "is not a date like the others"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ("t.jsonl", "1\n2\n", "line 1 is no JSON object"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def numbers(folder: Path, cells: list[str], **more: Any) -> tuple[Column, list[Any], Dataset]:
    rows = "".join(f"{cell};{kind}\n" for cell, kind in zip(cells, KINDS, strict=True))
    found = read(folder, "v;k\n" + rows, **more)
    assert found.schema is not None
    assert found.frame is not None
    return found.schema["v"], found.frame["v"].to_list(), found


@pytest.mark.parametrize(
    ("form", "affix"),
    [
        ("${}", ("$", "")),
        ("{} €", ("", "€")),
        ("USD {}", ("USD", "")),
        ("{}%", ("", "%")),
        ("{} cm", ("", "cm")),
        ("\u2212{}", ("", "")),
    ],
)
def test_what_stands_around_numbers_is_taken_off(
    tmp_path: Path, form: str, affix: tuple[str, str]
) -> None:
    column, values, found = numbers(tmp_path, [form.format(size) for size in SIZES])
    sign = -1 if form.startswith("\u2212") else 1
    assert values == [sign * float(size) for size in SIZES]
    assert (column.before, column.after) == affix
    assert all(part in column.note for part in affix)
    # Samples are bare numbers, and are read by the same schema.
    assert found.frame is not None
    found.frame.write_csv(tmp_path / "s.csv")
    again = load(tmp_path / "s.csv", schema=found.schema).frame
    assert again is not None
    assert again.equals(found.frame)


def test_units_with_decimal_commas_and_a_type_given(tmp_path: Path) -> None:
    cells = [f"{size} kg".replace(".", ",") for size in SIZES]
    column, values, _ = numbers(tmp_path, cells)
    assert column.number_style == "comma"
    assert values == [float(size) for size in SIZES]
    given, same, _ = numbers(tmp_path, cells, types={"v": "numeric"})
    assert (given.after, same) == ("kg", values)


def test_few_kinds_with_a_letter_are_names(tmp_path: Path) -> None:
    column, _, _ = numbers(tmp_path, [f"{i % 4}A" for i in range(40)])
    assert column.kind == "category"


@pytest.mark.parametrize("word", ["None", "NaT", "n.a.", ".", "--", "#DIV/0!", "\\N", "missing"])
def test_words_for_nothing_among_numbers_are_blanks(tmp_path: Path, word: str) -> None:
    cells = [word if i % 8 == 3 else size for i, size in enumerate(SIZES)]
    column, values, found = numbers(tmp_path, cells)
    assert column.kind == "numeric"
    assert column.missing == 5 / 40
    assert values == [None if i % 8 == 3 else float(size) for i, size in enumerate(SIZES)]
    assert f"{word!r} read as blank" in column.note
    one = read(tmp_path, f"k,v\nred,{word}\n", schema=found.schema)
    assert one.frame is not None
    assert one.frame.rows() == [(None, "red")]


def test_words_for_nothing_among_names_and_codes_are_names(tmp_path: Path) -> None:
    column, _, _ = numbers(tmp_path, [("oak", "elm", "none")[i % 3] for i in range(40)])
    assert column.categories == ("elm", "none", "oak")
    column, _, _ = numbers(tmp_path, [("0", "1", "2", "unknown")[i % 4] for i in range(40)])
    assert column.categories == ("0", "1", "2", "unknown")


def test_zero_dates_are_blanks(tmp_path: Path) -> None:
    days = [f"2021-03-{1 + i % 28:02d}" if i % 9 else "0000-00-00" for i in range(40)]
    column, values, _ = numbers(tmp_path, days)
    assert column.kind == "datetime"
    assert values.count(None) == 5


@pytest.mark.parametrize("pattern", ["{h:02d}:{m:02d}", "{h}:{m:02d}", "{h:02d}:{m:02d}:07"])
def test_times_of_day_come_back_as_they_were(tmp_path: Path, pattern: str) -> None:
    cells = [pattern.format(h=7 + i % 12, m=i) for i in range(40)]
    column, values, found = numbers(tmp_path, cells)
    assert column.kind == "datetime"
    assert values == cells
    assert column.describe().startswith("07:0")
    codec = TableCodec(found.schema).fit(found.frame)
    encoded = codec.encode(found.frame, np.random.default_rng(0)).x
    assert codec.decode(encoded)["v"].to_list() == cells


@pytest.mark.parametrize("zone", ["+00", " UTC", ".250", "+00:00", "+0000"])
def test_moments_come_back_as_they_were_written(tmp_path: Path, zone: str) -> None:
    cells = [f"2021-03-04 10:{i:02d}:07{zone}" for i in range(40)]
    column, values, _ = numbers(tmp_path, cells)
    assert column.kind == "datetime"
    assert values == cells


def test_moments_of_several_zones_and_of_utc_by_its_letter_are_one_column(tmp_path: Path) -> None:
    """2020-01-05T12:00:00+02:00 and 2020-01-05T10:00:00Z are one moment, and come back as such."""
    ends = ("+02:00", "Z", "+01:00")
    lines = [f"2020-01-{i % 28 + 1:02d}T12:00:00{ends[i % 3]},{SIZES[i]}" for i in range(40)]
    lines += ["2020-01-05T12:00:00+02:00,1.5", "2020-01-05T10:00:00Z,2.5"]
    data = read(tmp_path, "at,size\n" + "\n".join(lines) + "\n")
    assert data.schema is not None
    assert data.frame is not None
    assert data.schema["at"].kind == "datetime"
    last = data.frame["at"].tail(2).to_list()
    assert last[0] == last[1]
    assert last[0].startswith("2020-01-05T10:00:00")


def test_yes_in_several_spellings_is_one_answer_also_in_new_rows(tmp_path: Path) -> None:
    answers = ("yes", "No", "NO", "Yes", "yes")
    lines = [f"{answers[i % 5]},{SIZES[i]}" for i in range(40)]
    first = read(tmp_path, "member,size\n" + "\n".join(lines) + "\n")
    assert first.schema is not None
    assert first.frame is not None
    assert set(first.frame["member"]) == set(first.schema["member"].categories)
    again = read(tmp_path, "member,size\n" + "\n".join(lines) + "\nYES,1.0\n", schema=first.schema)
    assert again.frame is not None
    assert again.frame["member"][:40].equals(first.frame["member"])
    assert TableCodec(first.schema).fit(first.frame).unseen(again.frame) == {}


def test_arrow_streams_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [float(size) for size in SIZES]})
    frame.write_ipc_stream(tmp_path / "t.arrow")
    assert read_table(tmp_path / "t.arrow").equals(frame)


def test_json_lines_in_other_encodings(tmp_path: Path) -> None:
    lines = "".join(f'{{"a": {size}, "k": "Köln"}}\n' for size in SIZES)
    for encoding in ("utf-8-sig", "cp1252", "utf-16"):
        (tmp_path / "t.jsonl").write_bytes(lines.encode(encoding))
        assert read_table(tmp_path / "t.jsonl")["k"].unique().to_list() == ["Köln"]


def test_a_monstrous_cell_is_shown_short() -> None:
    column = Column("k", "category", dtype="String", categories=("x" * 100_000, "two\nlines"))
    assert len(column.describe()) < 100
    assert "\n" not in column.describe()


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = "a,a,,a_2,a\n" + "".join(f"{v},{v}1,{v}2,{v}3,{v}4\n" for v in SIZES)
    data = read(tmp_path, text)
    assert data.frame is not None
    assert data.frame.columns == ["a", "a_3", "column_3", "a_2", "a_4"]
    assert "columns of one name: column 2, 'a', is 'a_3' here" in " ".join(data.notes)
    again = read(tmp_path, text, schema=data.schema)
    assert again.frame is not None
    assert again.frame.equals(data.frame)


def test_numbers_in_parentheses_are_below_zero(tmp_path: Path) -> None:
    cells = [f"({size})" if i % 3 else size for i, size in enumerate(SIZES)]
    column, values, _ = numbers(tmp_path, cells)
    assert column.kind == "numeric"
    assert values == [-float(size) if i % 3 else float(size) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("pattern", ["%Y%m%d", "%d-%b-%y", "%d %b %y", "%d/%b/%Y"])
def test_days_come_back_as_they_were_written(tmp_path: Path, pattern: str) -> None:
    days = [date(2019, 12, 1) + timedelta(days=i) for i in range(40)]
    cells = [day.strftime(pattern) for day in days]
    column, values, _ = numbers(tmp_path, cells)
    assert column.kind == "datetime"
    assert values == cells


def test_eight_digits_that_are_no_days_are_numbers(tmp_path: Path) -> None:
    cells = [str(20200101 + 7 * i) for i in range(40)]
    assert numbers(tmp_path, cells)[0].kind == "integer"


@pytest.mark.parametrize(
    "written",
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.000000", "%d.%m.%Y %H:%M", "%Y-%m-%d"],
)
def test_days_written_with_a_midnight_are_days(tmp_path, written):
    """What is drawn is written so again, at midnight too; one moment of another hour makes hours."""
    rng = np.random.default_rng(0)
    days = [datetime(2020, 1, 1) + timedelta(int(k)) for k in rng.integers(0, 900, 120)]

    def table(name: str) -> Dataset:
        lines = [f"{day.strftime(written)},{k % 7}.5" for k, day in enumerate(days)]
        return read(tmp_path, "when,x\n" + "\n".join(lines) + "\n", name)

    dataset = table("days.csv")
    assert dataset.schema["when"].resolution == 86400
    codec = TableCodec(dataset.schema).fit(dataset.data, rng)
    drawn = codec.decode(rng.normal(size=(50, *codec.event_shape)))
    for value in drawn["when"].to_list():
        assert datetime.strptime(value, written).time() == time()
    if "%H" in written:
        days[0] = days[0].replace(hour=7)
        assert table("hours.csv").schema["when"].resolution == 3600
