"""Files in: every decision taken in reading, and one clear line for each kind of bad input."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import energyscape.data.csvtext as csvtext
from energyscape.data import DataError, load, read_table, write_table


def rows(template: str, n: int = 30) -> str:
    return "".join(template.format(i=i, half=i / 2, seven=i % 7) + "\n" for i in range(n))


@pytest.fixture
def csv(tmp_path: Path) -> Any:
    def make(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x\n2,y\n",
        "a;b\r\n1;x\r\n2;y\r\n",
        "a\tb\n1\tx\n2\ty",
        "a|b\n1|x\n\n2|y\n\n",
        "a,b\n1, x\n2, y\n",
        '"a","b"\n1, "x"\n2,"y"\n',
        b"\xef\xbb\xbfa,b\n1,x\n2,y\n",
        "a,b\n1,x\n2,y\n".encode("utf-16"),
    ],
)
def test_separators_marks_blanks_and_quotes(csv: Any, content: str | bytes) -> None:
    assert read_table(csv(content)).to_dict(as_series=False) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_quoted_newlines_and_old_encodings(csv: Any) -> None:
    notes: list[str] = []
    frame = read_table(csv('é,b\n1,"x\ny"\n2,"a, ""b"""\n'.encode("cp1252")), notes=notes)
    assert frame.to_dict(as_series=False) == {"é": ["1", "2"], "b": ["x\ny", 'a, "b"']}
    assert notes == ["text is not UTF-8: read as Windows-1252"]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("age,sex\n31,m\n25,f\n", True),
        ("39, State-gov, 77516\n50, Private, 83311\n38, Private, 215646\n", False),
        ("A11,6,A34\nA12,48,A32\nA14,12,A34\n", False),
        ("x,s,n\nx,y,w\nb,s,n\nx,s,n\n", False),
        ("name,2019,2020\nA,1,2\nB,3,4\n", True),
        ("name,kind\nA,u\nB,v\n", True),
        ("0,1\n0.5,2.5\n1.5,3.5\n", True),
        ("1.5,2.5\n0.5,2.5\n", False),
        ("a,b\nNA,NA\n1,?\n", True),
    ],
)
def test_header_is_told_from_data(csv: Any, content: str, header: bool) -> None:
    frame = read_table(csv(content))
    assert frame.columns[0].startswith("column_") != header
    assert frame.height == content.count("\n") - header


def test_expected_names_settle_the_header(csv: Any) -> None:
    path = csv("b\nx\n")
    assert read_table(path, min_rows=1, names=["a", "b"]).columns == ["b"]
    assert read_table(path, min_rows=1, names=["column_1"]).height == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n", "0 rows"),
        ("a,b\n1,2\n", "1 row of data"),
        ("a,b\n1,2\n3\n", "row 2: 1 value where the first row has 2"),
        ("a,b\n1,2\n3,4,5\n", "row 2: 3 values"),
        ('a,b\n1,"2\n3,4\n', "quotes"),
        (b"\x00\x01\x02", "zero bytes"),
        ("v,w\n" + rows("{half},{seven}") + "oops,1\n", "'v' row 31: 'oops' is not a number"),
        ("d,w\n" + rows("2020-01-02,{half}") + "soon,1\n", "'d' row 31: 'soon' is not a date"),
        ("v,w\n" + rows("{half},{seven}") + "inf,1\n", "'v' row 31: the value is inf"),
        ("v,w\n" + rows("{half},{seven}") + "1e300,1\n", "'v' row 31: the value is 1e+300"),
        ("v,w\n" + rows("7,"), "no usable column: 'v' is constant"),
    ],
)
def test_bad_text_tables_are_one_line(csv: Any, content: str | bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        load(csv(content))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_readers_give_the_same_frame(csv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = csv('a,b,c\n1, "x, y",u\n,z,v\n' + rows("{i}, w{seven} ,{half}"))
    plain = csv("a,b,c\n" + rows("{i}, w{seven} ,{half}"), "plain.csv")
    slow = [read_table(path), read_table(plain)]
    monkeypatch.setattr(csvtext, "_CAREFUL_BELOW", 0)
    fast = [read_table(path), read_table(plain)]
    assert all(a.equals(b) for a, b in zip(slow, fast, strict=True))
    with pytest.raises(DataError, match="row 31: 2 values"):
        read_table(csv("a,b,c\n" + rows("{i},u,{half}") + "1,2\n"))


@pytest.mark.parametrize("name", ["no.csv", "no.npz", "two-moon", "nothing-like-it", "x.exe"])
def test_missing_sources_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name.split(".")[0]):
        load(name)
    with pytest.raises(DataError, match="folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.arrow", "t.npy", "t.npz"])
def test_damaged_files_are_named_in_one_line(csv: Any, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load(csv(b'{"a": 1\nPK junk', name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "suffix", ["csv", "tsv", "parquet", "jsonl", "ndjson", "arrow", "feather", "ipc"]
)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"a": [1.5, 2.25, None], "b": ["x", "y, z", 'q"']})
    path = write_table(frame, tmp_path / f"t.{suffix}")
    assert load(path).frame.equals(frame)  # type: ignore[union-attr]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_writing_refuses_by_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="format"):
        write_table({"a": [1]}, tmp_path / "t.docx")
    with pytest.raises(DataError, match="no folder"):
        write_table({"a": [1]}, tmp_path / "no" / "t.csv")
    with pytest.raises(DataError, match="only; write t.csv instead"):
        write_table({"a": ["x"]}, tmp_path / "t.npy")
    usage = shutil.disk_usage(tmp_path)._replace(free=3)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DataError, match="make room"):
            write_table({"a": [1]}, tmp_path / "t.csv")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pl.DataFrame, "write_csv", full)
        with pytest.raises(DataError, match="No space left"):
            write_table({"a": [1]}, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_array_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    y = np.arange(20) % 2
    np.save(tmp_path / "t.npy", x)
    np.savez(tmp_path / "t.npz", X=x, y=y, other=x[:5])
    np.savez(tmp_path / "two.npz", u=x, v=x)
    pictures = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5) % 256
    np.savez(tmp_path / "p.npz", x_train=pictures, y_train=[0, 1], x_test=pictures[:1])
    table = load(tmp_path / "t.npy")
    assert table.array is not None
    assert table.frame.columns == ["x0", "x1", "x2"]  # type: ignore[union-attr]
    labelled = load(tmp_path / "t.npz")
    np.testing.assert_array_equal(labelled.labels, y)
    assert "not read: other" in labelled.notes[0]
    assert len(load(f"{tmp_path / 't.npz'}::other")) == 5
    with pytest.raises(DataError, match="several arrays"):
        load(tmp_path / "two.npz")
    with pytest.raises(DataError, match="no array 'w'"):
        load(f"{tmp_path / 'two.npz'}::w")
    moved = load(tmp_path / "p.npz")
    assert moved.pictures.shape == (2, 5, 5, 3)  # type: ignore[union-attr]
    assert any("second axis" in note for note in moved.notes)
    np.save(tmp_path / "long.npy", x.astype(np.longdouble))
    assert load(tmp_path / "long.npy").schema.array == "float64"  # type: ignore[union-attr]
    np.save(tmp_path / "f.npy", pictures / 255)
    with pytest.raises(DataError, match="uint8"):
        load(tmp_path / "f.npy")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="never read"):
        load(tmp_path / "o.npy")


def test_yes_and_no_of_an_array_are_read_from_what_is_written(tmp_path: Path) -> None:
    flags = np.arange(12).reshape(6, 2) % 3 == 0
    np.save(tmp_path / "flags.npy", flags)
    schema = load(tmp_path / "flags.npy").schema
    assert schema is not None
    write_table(pl.DataFrame({"x0": flags[:, 0], "x1": flags[:, 1]}), tmp_path / "flags.csv")
    again = load(tmp_path / "flags.csv", schema=schema).frame
    np.testing.assert_array_equal(again.to_numpy(), flags)  # type: ignore[union-attr]


def test_a_table_to_score_is_read_by_the_schema_it_was_learned_from(csv: Any) -> None:
    learned = load(
        csv("when,size,name\n" + rows("0{seven}.03.2021,{seven},n{seven}").replace("00.", "22."))
    )
    schema = learned.schema
    assert schema is not None
    assert schema["when"].format == "%d.%m.%Y"
    one = load(csv("extra,name,size,when\nq,new,3,05.04.2021\n", "s.csv"), schema=schema)
    assert one.frame.rows() == [("05.04.2021", 3, "new")]  # type: ignore[union-attr]
    assert any("extra" in note for note in one.notes)
    with pytest.raises(DataError, match="'size' \\(integer\\) is missing"):
        load(csv("name,when\nn1,05.04.2021\n", "s.csv"), schema=schema)
    with pytest.raises(DataError, match="'size' row 1: '3x' is not a number"):
        load(csv("name,size,when\nn1,3x,05.04.2021\n", "s.csv"), schema=schema)
    with pytest.raises(DataError, match=r"3\.5 is not a whole number"):
        load(csv("name,size,when\nn1,3.5,05.04.2021\n", "s.csv"), schema=schema)
    with pytest.raises(DataError, match="'when' row 1: '2021-04-05' is not a date"):
        load(csv("name,size,when\nn1,3,2021-04-05\n", "s.csv"), schema=schema)
