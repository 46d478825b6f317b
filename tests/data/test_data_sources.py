"""Pictures in folders, built-in sets, frames of other makes, splits, and the room's public face."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import energyscape.data as room
from energyscape.data import (
    BUILTIN,
    DataError,
    as_dataset,
    built_in,
    conform,
    fit_codec,
    is_frame,
    like,
    load,
    read_pictures,
    split_rows,
    to_polars,
)


def save(path: Path, mode: str, size: tuple[int, int] = (4, 3), value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 2, 3)).convert(mode).save(path)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("L", "png", 1), ("1", "png", 1), ("RGB", "bmp", 3), ("RGBA", "png", 4), ("P", "gif", 3),
     ("LA", "png", 4), ("RGB", "jpg", 3), ("RGB", "webp", 3), ("CMYK", "tif", 3)],
)  # fmt: skip
def test_every_mode_is_read(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.{suffix}", mode)
    found = read_pictures(tmp_path)
    assert found.pictures.shape == (2, 3, 4, channels)
    assert found.pictures.dtype == np.uint8
    assert found.labels is None
    assert read_pictures(tmp_path, size=(6, 5), channels=1).pictures.shape == (2, 6, 5, 1)


def test_two_level_pictures_keep_two_levels(tmp_path: Path) -> None:
    for i, value in enumerate((0, 255)):
        Image.new("1", (3, 3), value).save(tmp_path / f"{i}.png")
    dataset = load(tmp_path)
    assert dataset.pictures is not None
    assert set(np.unique(dataset.pictures)) == {0, 1}
    assert fit_codec(dataset).state()[1]["levels"] == 2


def test_palettes_with_opacity_keep_it(tmp_path: Path) -> None:
    """Pillow's warning, an error in tests, is the sign of opacity thrown away."""
    rng = np.random.default_rng(0)
    for i in range(2):
        image = Image.fromarray(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8), "RGBA")
        image.quantize(8).save(tmp_path / f"{i}.png")
    found = read_pictures(tmp_path)
    assert found.pictures.shape == (2, 4, 4, 4)
    assert found.notes == ["2 palettes with opacity: looked up as RGBA"]


def test_several_sizes_and_modes_are_counted_and_converted_only_as_asked(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png", "RGB")
    save(tmp_path / "a" / "1.png", "L")
    save(tmp_path / "b" / "c" / "2.png", "RGB", (8, 8))
    (tmp_path / "readme.txt").write_text("not a picture")
    with pytest.raises(DataError, match=r"several sizes: 3x4 \(2\), 8x8 \(1\); say --size"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"several modes: RGB \(2\), L \(1\); say --channels"):
        load(tmp_path, size=5)
    dataset = load(tmp_path, size=5, channels=3)
    assert dataset.pictures is not None
    assert dataset.pictures.shape == (3, 5, 5, 3)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == ["a", "a", "b/c"]
    said = "\n".join(dataset.notes)
    assert "readme.txt" in said
    assert "resized to 5x5" in said
    assert "converted to 3" in said
    with pytest.raises(DataError, match="no columns"):
        load(tmp_path, size=5, channels=3, drop=["a"])


def test_sizes_are_refused_where_nothing_is_resized(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    for source in ("digits", str(tmp_path / "t.csv")):
        with pytest.raises(DataError, match="no folder of pictures"):
            load(source, size=5)
        with pytest.raises(DataError, match="no folder of pictures"):
            load(source, channels=1)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40), np.uint8)).save(
            tmp_path / f"good{i}.png"
        )
    whole = (tmp_path / "good0.png").read_bytes()
    for broken in (whole[: len(whole) // 2], b"no picture at all", b""):
        (tmp_path / "broken.png").write_bytes(broken)
        with pytest.raises(DataError, match=r"broken\.png is damaged"):
            load(tmp_path)


def test_links_are_followed_once_and_dead_ones_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    save(tmp_path / "cat" / "a.png", "L", value=1)
    save(tmp_path / "cat" / "b.png", "L", value=2)
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "cat")
    (folder / "again").symlink_to(folder)
    assert len(read_pictures(folder).pictures) == 2
    (folder / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        read_pictures(folder)


def test_print_colours_are_converted_and_said(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.jpg", "CMYK", value=i)
    assert "mode CMYK: converted to RGB" in read_pictures(tmp_path).notes


def test_pictures_all_the_same_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "same.npy", np.full((5, 3, 3), 7, dtype=np.uint8))
    with pytest.raises(DataError, match="all 5 pictures are the same"):
        load(tmp_path / "same.npy")
    assert len(load(tmp_path / "same.npy", min_rows=1)) == 5


def test_picture_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no picture"):
        load(tmp_path)
    save(tmp_path / "0.png", "L")
    with pytest.raises(DataError, match="2 are needed"):
        load(tmp_path)
    with pytest.raises(DataError, match="channels is 2"):
        load(tmp_path, channels=2)
    with pytest.raises(DataError, match="size is"):
        load(tmp_path, size=(0, 3))
    Image.fromarray(np.full((3, 4), 60_000, dtype=np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read_pictures(tmp_path)
    assert read_pictures(tmp_path, channels=1).pictures.max() == 60_000 >> 8


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_built_in_sets_are_read_encoded_and_the_same_every_time(name: str) -> None:
    dataset, again = load(name), load(name)
    x, log_abs_det = fit_codec(dataset).encode(dataset.data)
    np.testing.assert_array_equal(x, fit_codec(again).encode(again.data).x)
    assert np.isfinite(x).all()
    assert np.isfinite(log_abs_det).all()
    assert dataset.labels is not None
    assert len(dataset.labels) == len(dataset)


def test_built_in_planes_have_their_shapes() -> None:
    """Known supports; the seed is fixed and the tolerance six standard errors."""
    board = built_in("checkerboard", 4000, 1).columns
    assert board is not None
    assert ((np.floor(board["x"] / 2) + np.floor(board["y"] / 2)) % 2 == 0).all()
    for axis in board.values():
        assert abs(axis.mean()) < 6 * 2.31 / np.sqrt(4000)
        assert np.abs(axis).max() <= 4
    ring = built_in("eight-gaussians", 4000, 1)
    assert ring.columns is not None
    radius = np.hypot(ring.columns["x"], ring.columns["y"])
    assert abs(radius.mean() - 2.01) < 6 * 0.2 / np.sqrt(4000)
    assert np.unique(ring.labels).size == 8
    with pytest.raises(DataError, match="did you mean 'two-moons'"):
        load("two-mons")
    with pytest.raises(DataError, match="at least 2"):
        built_in("rings", 1)


def test_frames_of_any_make_go_in_and_come_back() -> None:
    frame = pd.DataFrame(
        {
            "v": [1.5, np.nan, 2.5],
            "n": [1, 2, 3],
            "s": ["a", None, "b"],
            "b": [True, False, True],
            "c": pd.Categorical(["u", "v", "u"]),
            "t": pd.to_datetime(["2020-01-01", "2021-02-03", None]),
            "z": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]).tz_localize("UTC"),
            "i": pd.array([1, None, 3], dtype="Int64"),
            7: [1.0, 2.0, 3.5],
        }
    )
    table = to_polars(frame)
    assert table.columns == ["v", "n", "s", "b", "c", "t", "z", "i", "7"]
    assert table["s"].to_list() == ["a", None, "b"]
    assert table["i"].to_list() == [1, None, 3]
    back = like(table.with_columns(pl.col("v").fill_nan(None)), frame)
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)
    assert [str(d) for d in back.dtypes[["n", "b", "c", "i"]]] == [
        "int64",
        "bool",
        "category",
        "Int64",
    ]
    arrow = pa.table({"a": [1, 2], "b": ["x", None]})
    assert like(to_polars(arrow), arrow).to_pydict() == arrow.to_pydict()
    assert like(table, np.zeros((2, 2))) is table
    assert is_frame(table.lazy())
    assert not is_frame([[1, 2]])
    with pytest.raises(DataError, match="expected a data frame"):
        to_polars([1])
    with pytest.raises(DataError, match="two columns are named 'a'"):
        to_polars(pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"]))


def test_half_precision_comes_back() -> None:
    import pandas as pd

    frame = pd.DataFrame({"h": np.array([30_000, 0.5, 2.25] * 5, dtype=np.float16)})
    dataset = as_dataset(frame)
    assert dataset.schema is not None
    assert dataset.schema["h"].kind == "numeric"
    made = like(dataset.frame, frame)
    assert made["h"].dtype == np.float16
    np.testing.assert_array_equal(made["h"], frame["h"])


def test_pandas_without_pyarrow() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import pandas as pd\nfrom energyscape.data import as_dataset, fit_codec, like\n"
        "f = pd.DataFrame({'s': ['a', 'b', None] * 9, 'v': [1.5, 2.5, 4.0] * 9})\n"
        "d = as_dataset(f); c = fit_codec(d)\n"
        "back = like(c.decode(c.encode(f).x), f)\n"
        "assert back['v'].tolist() == f['v'].tolist()\n"
        "assert back['s'].isna().tolist() == f['s'].isna().tolist()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_conforming_is_idempotent_and_speaks_of_what_it_drops() -> None:
    frame = pl.DataFrame({"v": ["1,5", "2,5", "NA"] * 9, "k": ["a", "b", "c"] * 9, "f": ["q"] * 27})
    dataset = as_dataset(frame)
    assert dataset.schema is not None
    notes: list[str] = []
    table = pl.DataFrame({"new": [1, 2], "k": ["z", None], "v": [1.0, None]})
    kept = conform(table, dataset.schema, notes)
    assert kept.rows() == [(1.0, "z", "q"), (None, None, "q")]
    assert conform(kept, dataset.schema).equals(kept)
    assert len(notes) == 2
    samples = pl.DataFrame({"v": ["1.5"], "k": ["a"], "f": ["q"]})
    assert conform(samples, dataset.schema)["v"].to_list() == [1.5]
    with pytest.raises(DataError, match="'v' row 2: the value is -inf"):
        conform(table.with_columns(v=pl.Series([1.0, -np.inf])), dataset.schema)


@given(st.integers(1, 400), st.floats(0, 0.5), st.floats(0, 0.45), st.integers(0, 2**32 - 1))
def test_splits_are_disjoint_and_cover(n: int, a: float, b: float, seed: int) -> None:
    split = split_rows(n, a, b, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(n))
    assert len(split.train) >= 1
    if n >= 20:
        assert abs(len(split.validation) - max(a * n, a > 0)) <= 1
        assert abs(len(split.calibration) - max(b * n, b > 0)) <= 1


def test_split_refusals() -> None:
    rng = np.random.default_rng(0)
    for arguments in [(0, 0.1, 0.1), (10, 1.0, 0.0), (10, -0.1, 0.0), (10, 0.5, 0.5)]:
        with pytest.raises(DataError):
            split_rows(*arguments, rng)


def test_public_names_are_sorted_and_exist() -> None:
    assert room.__all__ == sorted(room.__all__)
    for name in room.__all__:
        assert getattr(room, name).__doc__, name
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="nonsense"):
        room.nonsense  # noqa: B018


def test_importing_the_room_loads_no_heavy_library() -> None:
    code = (
        "import sys, energyscape.data\n"
        "assert not {'torch', 'polars', 'pandas', 'sklearn', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
