"""Codecs: decode inverts encode, and log_abs_det makes exact probabilities in original units."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyscape.data import (
    Codec,
    DataError,
    PictureCodec,
    TableCodec,
    as_dataset,
    codec_from_state,
    detect_levels,
    fit_codec,
    infer_schema,
    load,
    schema_from_array,
    write_table,
)
from energyscape.data.blocks import LabelBlock, NumberBlock
from energyscape.data.picture_codec import frequency_edges


def normal(x: np.ndarray, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def mixed_frame(n: int = 60, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    blank = rng.random(n) < 0.2
    return pl.DataFrame(
        {
            "size": rng.normal(3, 2, n),
            "income": np.exp(3 * rng.standard_normal(n)),
            "count": rng.poisson(4, n),
            "narrow": pl.Series(rng.integers(0, 200, n), dtype=pl.UInt8),
            "sex": rng.choice(["f", "m", "other"], n).tolist(),
            "ok": (rng.random(n) < 0.3).tolist(),
            "answer": rng.choice(["No", "Yes"], n).tolist(),
            "maybe": [
                None if b else float(v) for b, v in zip(blank, rng.normal(size=n), strict=True)
            ],
            "which": [
                None if b else str(v) for b, v in zip(blank, rng.integers(7, 9, n), strict=True)
            ],
            "day": [
                dt.date(2020, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 900, n)
            ],
            "moment": [
                dt.datetime(2020, 1, 1) + dt.timedelta(microseconds=int(d))
                for d in rng.integers(0, 10**12, n)
            ],
            "written": [f"{d:02d}.{m:02d}.2021" for d, m in rng.integers(1, 13, (n, 2))],
            "fixed": ["always"] * n,
        }
    ).with_columns(pl.col("which").cast(pl.String))


def assert_same(a: pl.DataFrame, b: pl.DataFrame) -> None:
    assert a.columns == b.columns
    assert a.dtypes == b.dtypes
    for x, y in zip(a.iter_columns(), b.iter_columns(), strict=True):
        if x.dtype.is_float():
            np.testing.assert_allclose(x.to_numpy(), y.to_numpy(), rtol=1e-9, atol=1e-9)
        else:
            assert x.to_list() == y.to_list(), x.name


def test_samples_written_to_a_file_are_read_by_their_schema(tmp_path: Path) -> None:
    """Zones, resolutions, typed constants: every format of file gives the kept frame back."""
    frame = mixed_frame().with_columns(
        zone=pl.col("moment").dt.replace_time_zone("Europe/Paris"),
        coarse=pl.col("moment").dt.cast_time_unit("ms"),
        then=pl.lit(dt.datetime(2020, 5, 6, 7, 8)),
        there=pl.lit(dt.datetime(2020, 5, 6, 7, 8)).dt.replace_time_zone("Europe/Paris"),
        kind=pl.col("sex").cast(pl.Enum(["f", "m", "other"])),
    )
    dataset = as_dataset(frame)
    codec = fit_codec(dataset)
    samples = codec.decode(codec.encode(dataset.frame, np.random.default_rng(0)).x)
    assert_same(samples, dataset.frame)
    for suffix in ("csv", "jsonl", "parquet", "arrow"):
        path = write_table(samples, tmp_path / f"s.{suffix}")
        assert_same(load(path, schema=dataset.schema).frame, samples)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_decode_inverts_encode_for_every_kind(seed: int | None) -> None:
    dataset = as_dataset(mixed_frame())
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    rng = None if seed is None else np.random.default_rng(seed)
    x, log_abs_det = codec.encode(dataset.frame, rng)
    assert x.shape == (60, *codec.event_shape)
    assert np.isfinite(log_abs_det).all()
    assert_same(codec.decode(x), dataset.frame)


cells = st.one_of(st.none(), st.floats(-1e6, 1e6, allow_nan=False))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(cells, st.integers(-(10**6), 10**6), st.sampled_from("abcd"), st.booleans()),
        min_size=2,
        max_size=30,
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_table_comes_back(rows: list[tuple[Any, ...]], seed: int) -> None:
    columns = dict(zip(("real", "whole", "name", "flag"), zip(*rows, strict=True), strict=True))
    frame = pl.DataFrame({key: list(value) for key, value in columns.items()})
    frame = frame.with_columns(pl.col("real").cast(pl.Float64))
    try:
        dataset = as_dataset(frame, types={"whole": "integer"})
    except DataError:
        return  # every column constant, or one that only numbers its rows
    codec = fit_codec(dataset)
    x, _ = codec.encode(dataset.frame, np.random.default_rng(seed))
    back = codec.decode(x)
    for name in dataset.frame.columns:
        before, after = dataset.frame[name].to_list(), back[name].to_list()
        if dataset.frame[name].dtype.is_float():
            assert [v is None for v in before] == [v is None for v in after]
            spread = max(abs(v) for v in [1.0, *(v for v in before if v is not None)])
            pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None]
            assert all(abs(a - b) <= 1e-9 * spread for a, b in pairs)
        else:
            assert before == after


def test_numeric_log_det_is_the_derivative_of_the_map() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(5, 3, 400), np.exp(3 * rng.standard_normal(400))):
        schema = schema_from_array(values[:, None])
        codec = TableCodec(schema).fit(values[:, None])
        at = np.quantile(values, [0.1, 0.5, 0.9])[:, None]
        h = 1e-6 * np.abs(at)
        slope = (codec.encode(at + h).x - codec.encode(at - h).x) / (2 * h)
        np.testing.assert_allclose(codec.encode(at).log_abs_det, np.log(slope[:, 0]), rtol=1e-6)


def test_numeric_density_in_original_units_integrates_to_one() -> None:
    """With p(x) a standard normal, exp(log p(x) + log_abs_det) is a density of the value."""
    values = np.exp(2 * np.random.default_rng(1).standard_normal(500))[:, None]
    codec = TableCodec(schema_from_array(values)).fit(values)
    assert codec.blocks[0].heavy
    block = codec.blocks[0]
    grid = np.sinh(np.linspace(-25, 25, 400_001)) * block.spread + block.median
    x, log_abs_det = codec.encode(grid[:, None])
    density = np.exp(normal(x[:, 0]) + log_abs_det)
    assert abs(np.trapezoid(density, grid) - 1) < 1e-6


def test_category_and_blank_probabilities_are_exact_for_the_matching_mixture() -> None:
    """p(x) = sum_c P_c q(x | c) gives log P_c, noise drawn or not."""
    frame = pl.DataFrame({"c": ["a", "b", "c", None, "a", "b"] * 20})
    codec = TableCodec(infer_schema(frame)).fit(frame)
    rows = pl.DataFrame({"c": ["a", "b", "c", None]})
    probability = np.array([0.2, 0.5, 0.05, 0.25])
    block: LabelBlock = codec.blocks[0]
    there = codec.signs["c"]
    assert there.scale == pytest.approx(1 / np.sqrt(1 - there.mean**2))
    noise = 0.15 * there.scale
    for rng in (None, np.random.default_rng(0)):
        x, log_abs_det = codec.encode(rows, rng)
        value, sign = x[:, :3], x[:, 3]
        terms = []
        for c in range(4):
            if c == 3:
                log_p = normal(value).sum(1) + normal(sign, there.scale * (-1 - there.mean), noise)
            else:
                centre = block.scale * (np.eye(3)[c] - block.frequency)
                log_p = normal(value - centre, 0, 0.1 * block.scale).sum(1)
                log_p = log_p + normal(sign, there.scale * (1 - there.mean), noise)
            terms.append(np.log(probability[c]) + log_p)
        log_mixture = np.logaddexp.reduce(terms)
        np.testing.assert_allclose(log_mixture + log_abs_det, np.log(probability), atol=1e-9)


def test_whole_number_probabilities_sum_to_one() -> None:
    """Cells of width 1: a slowly varying density summed over all integers gives 1."""
    values = np.random.default_rng(0).poisson(400.0, 300)[:, None]
    codec = TableCodec(schema_from_array(values)).fit(values)
    x, log_abs_det = codec.encode(np.arange(-1000, 2000)[:, None])
    assert abs(np.exp(normal(x[:, 0]) + log_abs_det).sum() - 1) < 1e-6


def test_standardised_on_training_rows() -> None:
    dataset = as_dataset(mixed_frame(2000))
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    x, _ = codec.encode(dataset.frame, np.random.default_rng(0))
    for name, where in codec.groups:
        if name in ("size", "income", "count", "narrow", "day", "moment", "written"):
            assert abs(x[:, where].mean()) < 0.02
            assert abs(x[:, where].std() - 1) < 0.02
        elif name == "sex":
            assert abs(x[:, where].var(axis=0).sum() - 1) < 0.1


def test_heavy_tails_are_told_from_light_ones() -> None:
    rng = np.random.default_rng(0)

    def heavy(values: np.ndarray) -> bool:
        return NumberBlock.fit(values, False, values.min(), values.max()).heavy

    assert not heavy(rng.standard_normal(5000))
    assert not heavy(rng.uniform(size=5000))
    assert not heavy(rng.exponential(size=5000))
    assert heavy(rng.standard_cauchy(5000))
    assert heavy(np.exp(2 * rng.standard_normal(5000)))
    spoiled = rng.standard_normal(5000)
    spoiled[7] = 1e9
    assert heavy(spoiled)
    block = NumberBlock.fit(spoiled, False, spoiled.min(), spoiled.max())
    assert block.encode(np.delete(spoiled, 7), None)[0].std() > 0.5


def test_samples_stay_within_the_observed_range_and_types() -> None:
    dataset = as_dataset(mixed_frame())
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    wild = 50 * np.random.default_rng(0).standard_normal((300, *codec.event_shape))
    made = codec.decode(wild)
    assert made.dtypes == dataset.frame.dtypes
    for column in dataset.schema.kept:
        low, high = dataset.frame[column.name].min(), dataset.frame[column.name].max()
        assert made[column.name].min() >= low or column.name == "written"
        assert made[column.name].max() <= high or column.name == "written"
        assert (made[column.name].null_count() > 0) == column.has_missing


def test_unseen_values_are_scored_and_named() -> None:
    frame = mixed_frame()
    dataset = as_dataset(frame)
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    odd = dataset.frame.head(3).with_columns(
        sex=pl.Series(["f", "robot", None]),
        size=pl.Series([1.0, None, 2.0]),
        fixed=pl.Series(["always", "never", "always"]),
    )
    assert codec.unseen(odd) == {"size": [None], "sex": ["robot", None], "fixed": ["never"]}
    x, log_abs_det = codec.encode(odd)
    assert np.isfinite(x).all()
    assert np.isfinite(log_abs_det).all()
    where = dict(codec.groups)["sex"]
    block = codec.blocks[[c.name for c in dataset.schema.modelled].index("sex")]
    np.testing.assert_allclose(x[1, where], -block.scale * block.frequency)


def test_a_row_alone_is_encoded_as_in_a_batch() -> None:
    dataset = as_dataset(mixed_frame())
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    x, log_abs_det = codec.encode(dataset.frame)
    for i in (0, 17):
        one = codec.encode(dataset.frame[i])
        np.testing.assert_array_equal(one.x[0], x[i])
        assert one.log_abs_det[0] == log_abs_det[i]


def test_conditioning_and_filling_in() -> None:
    dataset = as_dataset(mixed_frame())
    codec = TableCodec(dataset.schema).fit(dataset.frame)
    x, known = codec.encode_given({"sex": "m", "count": 3, "maybe": 0.5}, 4)
    assert known.sum() == 3 + 1 + 2
    made = codec.decode(x)
    assert made["sex"].to_list() == ["m"] * 4
    assert made["count"].to_list() == [3] * 4
    np.testing.assert_allclose(made["maybe"].to_numpy(), 0.5)
    with pytest.raises(DataError, match="never 'robot'"):
        codec.encode_given({"sex": "robot"}, 1)
    with pytest.raises(DataError, match="did you mean 'sex'"):
        codec.encode_given({"sexx": "m"}, 1)
    x, known = codec.encode_blanks(dataset.frame)
    blank = dataset.frame["maybe"].is_null().to_numpy()
    where = dict(codec.groups)["maybe"]
    assert (~known[blank, where.start]).all()
    assert known[~blank].all()
    present = codec.signs["maybe"].encode(np.ones(1, dtype=np.int64), None)[0]
    assert (x[:, codec.indicators["maybe"]] == present[0, 0]).all()
    assert codec.decode(x).null_count().sum_horizontal()[0] == 0


@pytest.mark.parametrize("data", [mixed_frame(), np.arange(12.0).reshape(6, 2) ** 2])
def test_prepared_rows_encode_the_same(data: Any) -> None:
    dataset = as_dataset(data)
    codec = fit_codec(dataset)
    prepared = codec.prepare(dataset.data)
    rows = np.array([3, 1, 1])
    assert len(prepared[rows]) == 3
    for seed in (None, 0):
        a = codec.encode(prepared[rows], None if seed is None else np.random.default_rng(seed))
        b = codec.encode(dataset.data[rows], None if seed is None else np.random.default_rng(seed))
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.log_abs_det, b.log_abs_det)


@pytest.mark.parametrize("kind", ["frame", "array", "whole", "pictures"])
def test_state_gives_the_same_codec_to_the_bit(kind: str) -> None:
    rng = np.random.default_rng(0)
    data: Any = {
        "frame": mixed_frame(),
        "array": np.where(rng.random((50, 3)) < 0.1, np.nan, rng.normal(size=(50, 3))),
        "whole": rng.integers(-5, 5, (50, 3)).astype(np.int16),
        "pictures": rng.integers(0, 17, (6, 4, 5, 3)).astype(np.uint8),
    }[kind]
    dataset = as_dataset(data)
    codec = fit_codec(dataset)
    assert isinstance(codec, Codec)
    arrays, meta = codec.state()
    again = codec_from_state(arrays, meta)
    a = codec.encode(dataset.data, np.random.default_rng(1))
    b = again.encode(dataset.data, np.random.default_rng(1))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.log_abs_det, b.log_abs_det)
    assert a.x.dtype == a.log_abs_det.dtype == np.float64
    back = again.decode(b.x)
    if kind == "frame":
        assert_same(back, dataset.frame)
    else:
        assert back.dtype == data.dtype
        np.testing.assert_allclose(back, data, rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="unknown codec"):
        codec_from_state({}, {"codec": "sound"})


def test_array_with_constant_and_half_blank_columns() -> None:
    data = np.array([[1.0, 7.0, 2.0], [2.0, 7.0, np.nan], [3.5, 7.0, 2.0]])
    dataset = as_dataset(data)
    codec = fit_codec(dataset)
    assert codec.event_shape == (2,)
    np.testing.assert_allclose(codec.decode(codec.encode(data).x), data)
    assert isinstance(codec, TableCodec)
    whole = as_dataset(np.arange(6).reshape(3, 2))
    with pytest.raises(DataError, match="'x1' was whole numbers"):
        fit_codec(whole).encode(np.array([[1.0, 2.5]]))
    odd = np.array([[1.0, 8.0, 2.0], [np.nan, 7.0, 3.0]])
    assert codec.unseen(odd) == {"x0": [None], "x1": [8.0], "x2": [3.0]}


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 256), st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 1.0]))
def test_pictures_come_back_exactly(levels: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, levels, (3, 4, 2, 3)).astype(np.uint8)
    codec = PictureCodec((4, 2, 3), levels, spread)
    for noise in (rng, None):
        x, log_abs_det = codec.encode(pictures, noise)
        assert x.shape == (3, 3, 4, 2)
        assert x.min() >= -1
        assert x.max() <= 1
        np.testing.assert_array_equal(codec.decode(x), pictures)
        np.testing.assert_allclose(log_abs_det, 24 * np.log(2 * spread / levels))
        offset = (x.transpose(0, 2, 3, 1) + 1) / 2 * levels - pictures - 0.5
        assert np.abs(offset).max() <= spread / 2 + 1e-9


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 64), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_cells_by_frequency_invert_and_are_levels_probabilities_under_a_uniform_density(
    levels: int, seed: int, power: float
) -> None:
    rng = np.random.default_rng(seed)
    pictures = rng.binomial(levels - 1, 0.1, (4, 3, 3, 1)).astype(np.uint8)
    edges = frequency_edges(pictures, levels, power=power)
    codec = PictureCodec((3, 3, 1), levels, 1.0, edges)
    for noise in (rng, None):
        x, log_abs_det = codec.encode(pictures, noise)
        np.testing.assert_array_equal(codec.decode(x), pictures)
        np.testing.assert_allclose(
            log_abs_det, np.log(np.diff(edges)[pictures]).reshape(4, -1).sum(1)
        )
    every = PictureCodec((1, 1, 1), levels, 1.0, edges)
    grid = np.arange(levels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    assert np.exp(every.encode(grid).log_abs_det - np.log(2)).sum() == pytest.approx(1.0)
    again = PictureCodec.from_state(*codec.state())
    np.testing.assert_array_equal(again.edges, codec.edges)


def test_uniform_density_of_pictures_is_uniform_over_levels() -> None:
    codec = PictureCodec((2, 2, 1), 17)
    x, log_abs_det = codec.encode(np.zeros((1, 2, 2, 1), dtype=np.uint8))
    log_p = -x[0].size * np.log(2.0) + log_abs_det[0]
    assert abs(log_p + 4 * np.log(17)) < 1e-12
    bits_per_dim = -(log_abs_det / 4 / np.log(2))
    assert bits_per_dim[0] == pytest.approx(np.log2(17 / 2))


def test_picture_refusals_and_levels() -> None:
    codec = PictureCodec((2, 2, 1), 17)
    with pytest.raises(DataError, match="2 x 2"):
        codec.encode(np.zeros((1, 3, 3, 1), dtype=np.uint8))
    with pytest.raises(DataError, match="value 17"):
        codec.encode(np.full((1, 2, 2, 1), 17, dtype=np.uint8))
    with pytest.raises(DataError, match="NaN"):
        codec.decode(np.full((1, 1, 2, 2), np.nan))
    assert [detect_levels(np.array([v], dtype=np.uint8)) for v in (0, 1, 16, 255)] == [
        2,
        2,
        17,
        256,
    ]


def test_refusals_of_a_table_codec() -> None:
    dataset = as_dataset(mixed_frame())
    codec = TableCodec(dataset.schema)
    with pytest.raises(DataError, match="not fitted"):
        codec.encode(dataset.frame)
    codec.fit(dataset.frame)
    with pytest.raises(DataError, match="have shape"):
        codec.decode(np.zeros((2, 3)))
    with pytest.raises(DataError, match="NaN"):
        codec.decode(np.full((2, *codec.event_shape), np.nan))
    with pytest.raises(DataError, match=r"'sex'.*missing"):
        codec.encode(dataset.frame.drop("sex"))
