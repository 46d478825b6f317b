"""Pieces of a table file, put together again, are the table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from energyscape.data import DataError, is_large, read_pieces, read_table, streaming


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LARGE", 100)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 300)
    monkeypatch.setattr(streaming, "PIECE_ROWS", 16)  # narrow lines: fewer bytes then make a piece
    monkeypatch.setattr(streaming, "HEAD_BYTES", 250)


def lines(separator: str = ",") -> list[str]:
    """Rows with quoted separators, quoted line ends, doubled quotes and letters beyond ASCII."""
    rng = np.random.default_rng(0)
    found = [separator.join(["name", "size", "about"])]
    for i in range(120):
        about = f'"line one{separator} and\nline ""two"" of {i}"' if i % 7 == 0 else f"Malmö {i}"
        found.append(separator.join([f"n{i}", f"{rng.normal():.3f}", about]))
    return found


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pieces_of_text_are_the_table(tmp_path, separator, encoding, end):
    path = tmp_path / "t.csv"
    path.write_bytes((end.join(lines(separator)) + end).encode(encoding))
    whole = read_table(path)
    pieces = list(read_pieces(path, ["name", "size", "about"]))
    assert len(pieces) > 5
    assert pl.concat([piece.frame for piece in pieces]).equals(whole)
    assert pieces[-1].stop == pieces[-1].size == path.stat().st_size
    fine = list(read_pieces(path, ["name", "size", "about"], finer=3))
    assert len(fine) > 2 * len(pieces)
    assert pl.concat([piece.frame for piece in fine]).equals(whole)
    assert all(a.stop == b.start for a, b in pairwise(pieces))
    # Going on where a piece has stopped gives the rest, piece by piece.
    again = list(read_pieces(path, ["name", "size", "about"], pieces[2].stop))
    assert [piece.start for piece in again] == [piece.start for piece in pieces[3:]]
    assert pl.concat([piece.frame for piece in again]).equals(
        pl.concat([piece.frame for piece in pieces[3:]])
    )


def test_pieces_without_a_header_and_of_parquet(tmp_path):
    table = np.random.default_rng(1).normal(size=(100, 3)).round(2)
    np.savetxt(tmp_path / "t.tsv", table, fmt="%.2f", delimiter="\t")
    names = ["column_1", "column_2", "column_3"]
    found = pl.concat([p.frame for p in read_pieces(tmp_path / "t.tsv", names)])
    assert found.equals(read_table(tmp_path / "t.tsv"))
    frame = pl.DataFrame(table, schema=["a", "b", "c"])
    frame.write_parquet(tmp_path / "t.parquet")
    pieces = list(read_pieces(tmp_path / "t.parquet", ["c", "a"]))
    assert [p.frame.height for p in pieces] == [16] * 6 + [4]
    assert pl.concat([p.frame for p in pieces]).equals(frame.select("a", "c"))
    assert next(read_pieces(tmp_path / "t.parquet", ["a"], 96)).frame["a"].to_list() == (
        frame["a"][96:].to_list()
    )


def test_a_quote_inside_a_cell_does_not_swallow_the_file(tmp_path):
    rows = ["size,item", *(f'{i},pipe {i} 5" wide' if i == 3 else f"{i},pipe" for i in range(400))]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    found = pl.concat([p.frame for p in read_pieces(tmp_path / "t.csv", ["size", "item"])])
    assert found.equals(read_table(tmp_path / "t.csv"))


def test_what_is_not_read_in_pieces_and_what_is_refused(tmp_path):
    def large(name: str, raw: bytes) -> bool:
        Path(tmp_path / name).write_bytes(raw)
        return is_large(tmp_path / name)

    rows = b"a,b\n" + b"1,2\n" * 100
    assert large("t.csv", rows)
    assert not large("few.csv", rows[:40])
    assert not large("t.jsonl", rows)
    assert not large("above.csv", b"# made today\n" + rows)
    assert not large("wide.csv", rows.decode().encode("utf-16"))
    assert not is_large(tmp_path / "absent.csv")
    (tmp_path / "ragged.csv").write_bytes(rows + b"1,2,3\n" + b"1,2\n" * 20)
    with pytest.raises(DataError, match=r"bytes \d+ to \d+"):
        list(read_pieces(tmp_path / "ragged.csv", ["a", "b"]))


def test_pieces_of_narrow_text_are_bounded_by_rows(tmp_path, monkeypatch):
    """Two bytes a line: millions of rows would stand in a piece of bytes."""
    monkeypatch.setattr(streaming, "PIECE_BYTES", 10**6)
    (tmp_path / "n.csv").write_text("a\n" + "".join(f"{k % 10}\n" for k in range(1000)))
    heights = [p.frame.height for p in read_pieces(tmp_path / "n.csv", ["a"])]
    assert sum(heights) == 1000
    assert max(heights) <= 16
    assert max(p.frame.height for p in read_pieces(tmp_path / "n.csv", ["a"], finer=4)) <= 4
