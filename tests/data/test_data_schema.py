"""What each column is taken to be, and that a schema survives JSON and TOML."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyscape.data import Column, DataError, Schema, infer_schema, schema_from_array
from energyscape.data.parsing import clean_text, date_format, number_style, parse_numbers

RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=60).tolist()
WORDS = ["Nest was empty when we came by", "No blood could be taken from it today"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (FLOATS, "numeric"),
        ([str(v) for v in FLOATS], "numeric"),
        ([f"{v:.2f}".replace(".", ",") for v in FLOATS], "numeric"),
        (RNG.poisson(5, 60).tolist(), "integer"),
        ([f"{v}.0" for v in RNG.poisson(5, 60)], "integer"),
        (["1 250", "17", "1 250 000"] * 20, "integer"),
        (["1,250", "17", "1,250,000"] * 20, "integer"),
        ([1, 2, 3] * 20, "integer"),
        ([0, 1] * 30, "boolean"),
        (["0", "1"] * 30, "boolean"),
        ([True, False, None] * 20, "boolean"),
        (["Yes", "no"] * 30, "boolean"),
        (["TRUE", "FALSE", "NA"] * 20, "boolean"),
        (["m", "f"] * 30, "category"),
        (["0", "1", "2", "3+"] * 15, "category"),
        (["a", "?"] * 30, "category"),
        ([dt.date(2020, 1, 1 + i % 28) for i in range(60)], "datetime"),
        ([f"2020-01-{1 + i % 28:02d}" for i in range(60)], "datetime"),
        ([f"{1 + i % 28}/3/2021" for i in range(60)], "datetime"),
        ([f"2020-01-01T10:{i:02d}:00Z" for i in range(60)], "datetime"),
        (["x"] * 60, "constant"),
        ([None] * 60, "constant"),
        (["NA", "", "?", "-", "null", " "] * 10, "constant"),
        ([f"N{i}A" for i in range(60)], "identifier"),
        (list(range(1, 61)), "identifier"),
        ([*range(1, 41), *range(1, 21)], "identifier"),
        ([f"{w} {i}" for i in range(30) for w in WORDS], "text"),
    ],
)
def test_kinds(values: list[Any], kind: str) -> None:
    frame = pl.DataFrame({"v": pl.Series(values), "other": FLOATS})
    assert infer_schema(frame)["v"].kind == kind


def test_names_decide_where_values_cannot() -> None:
    codes = RNG.permutation(100_000)[:60]
    frame = pl.DataFrame(
        {
            "customerId": codes,
            "population": codes,
            "year": range(1960, 2020),
            "Unnamed: 0": range(60),
        }
    )
    assert infer_schema(frame).kinds == {
        "customerId": "identifier",
        "population": "integer",
        "year": "integer",
        "Unnamed: 0": "identifier",
    }


def test_different_floats_are_measurements_not_identifiers() -> None:
    frame = pl.DataFrame({"row_id": np.arange(50) + 0.5, "Delta (o/oo)": FLOATS[:50]})
    assert set(infer_schema(frame).kinds.values()) == {"numeric"}


def test_given_types_and_drops() -> None:
    frame = pl.DataFrame(
        {
            "code": ["1", "2", "3"] * 20,
            "id": [f"u{i}" for i in range(60)],
            "d": ["01/02/2020", "03/04/2020", "05/06/2021"] * 20,
            "pick": ["left", "right"] * 30,
            "v": FLOATS,
        }
    )
    types = {"code": "category", "id": "category", "d": "datetime:%m/%d/%Y", "pick": "boolean"}
    schema = infer_schema(frame, types, drop=["v"])
    assert schema.kinds == {**{k: v.split(":")[0] for k, v in types.items()}, "v": "text"}
    assert schema["d"].format == "%m/%d/%Y"
    assert schema["code"].categories == ("1", "2", "3")
    assert schema.left_out == [("v", "text: dropped as asked")]
    assert infer_schema(frame, schema.kinds)["code"].kind == "category"
    for wrong, says in [
        ({"codee": "category"}, "did you mean 'code'"),
        ({"code": "number"}, "there is no type 'number'"),
        ({"id": "numeric"}, "'id' row 1: 'u0' is not a number"),
        ({"id": "datetime"}, "no known format"),
        ({"id": "boolean"}, "a boolean has two"),
        ({"v": "integer"}, "not a whole number"),
        ({"id": "constant"}, "has 60 values"),
    ]:
        with pytest.raises(DataError, match=says):
            infer_schema(frame, wrong)
    with pytest.raises(DataError, match="no column 'w'"):
        infer_schema(frame, drop=["w"])


def test_day_and_month_that_could_be_swapped_are_said() -> None:
    assert "other way round" in date_format(pl.Series(["01/02/2020", "03/04/2020"]))[2]  # type: ignore[index]
    assert "other" not in date_format(pl.Series(["01/22/2020", "03/04/2020"]))[2]  # type: ignore[index]
    assert date_format(pl.Series(["10:20", "31:30"])) is None  # minutes and seconds, not a clock
    assert date_format(pl.Series(["1.2.3", "2.0.1"])) is None


@pytest.mark.parametrize(
    ("written", "style", "values"),
    [
        (["1,5", "20"], "comma", [1.5, 20]),
        (["1,234", "20"], "thousands", [1234, 20]),
        (["1,234.5", "12,000"], "thousands", [1234.5, 12000]),
        (["1.234,5", "2,5", "20"], "european", [1234.5, 2.5, 20]),
        (["1 234 567", "-5e-3", ".5"], "plain", [1234567, -0.005, 0.5]),
        (["1,5", "x"], "comma", [1.5, None]),
    ],
)
def test_number_styles(written: list[str], style: str, values: list[float | None]) -> None:
    text = pl.Series(written)
    assert number_style(text) == style
    assert parse_numbers(text, style).to_list() == values


def test_one_column_with_decimal_commas_settles_the_others() -> None:
    frame = pl.DataFrame(
        {"a": ["1,5", "2,25", "4"], "b": ["10,377", "8,125", "9"], "c": FLOATS[:3]}
    )
    schema = infer_schema(frame)
    assert (schema["b"].kind, schema["b"].low, schema["b"].high) == ("numeric", 8.125, 10.377)
    assert infer_schema(frame, {"b": "numeric"})["b"].high == 10.377
    alone = infer_schema(frame.drop("a"))["b"]
    assert (alone.kind, alone.high, alone.note) == ("integer", 10377, "1,234 is read as 1234")


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_infinities_of_any_width_are_named(dtype: Any) -> None:
    fine = pl.Series("v", FLOATS, dtype=dtype)
    assert infer_schema(fine.to_frame())["v"].dtype == str(dtype)
    with pytest.raises(DataError, match="row 3: the value is -inf"):
        infer_schema(pl.DataFrame({"v": pl.Series([1, 2, -np.inf, 3], dtype=dtype)}))


def test_digits_that_are_no_measure() -> None:
    """Zeros in front come back; numbers that doubles confuse are no constant."""
    zips = ["02139", "10115", "00601"] * 20
    big = [str(2**62 + i % 17) for i in range(60)]
    frame = pl.DataFrame({"zip": zips, "month": ["01", "02", "11"] * 20, "key": big, "x": FLOATS})
    schema = infer_schema(frame)
    assert schema["zip"].categories == ("00601", "02139", "10115")
    assert "--types 'zip=integer'" in schema["zip"].note
    assert (schema["month"].kind, schema["key"].kind) == ("integer", "identifier")
    assert "19 digits" in schema["key"].note
    assert infer_schema(frame, {"zip": "integer"})["zip"].low == 601


def test_points_among_decimal_commas_are_no_numbers() -> None:
    assert parse_numbers(pl.Series(["1,5", "1.5"]), "comma").to_list() == [1.5, None]
    assert parse_numbers(pl.Series(["1,5", "1.5"]), "european").to_list() == [1.5, None]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8), st.booleans())
def test_written_numbers_read_back(values: list[float], comma: bool) -> None:
    text = [repr(v).replace(".", ",") if comma else repr(v) for v in values]
    parsed = parse_numbers(clean_text(pl.Series(text)), "comma" if comma else "plain")
    assert parsed.to_list() == values


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=1, max_size=4, unique=True), st.lists(names, max_size=3), names)
def test_schema_survives_json_and_toml(
    columns: list[str], categories: list[str], note: str
) -> None:
    schema = Schema(
        tuple(
            Column(name, "category", "String", 0.25, note, 1.5, None, tuple(categories))
            for name in columns
        )
    )
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert Schema.from_toml(schema.to_toml()) == schema


def test_an_edited_schema_is_a_set_of_types() -> None:
    frame = pl.DataFrame({"v": [1, 2, 3] * 20, "w": FLOATS})
    text = infer_schema(frame).to_toml()
    edited = Schema.from_toml(text.replace('kind = "integer"', 'kind = "category"'))
    assert infer_schema(frame, edited.kinds)["v"].categories == ("1", "2", "3")
    for wrong, says in [
        ("columns = 3", "list of columns"),
        ("[[columns]", "not valid TOML"),
        ('[[columns]]\nname = "a"\nkind = "numbr"', "unknown kind 'numbr'"),
        ('[[columns]]\nname = "a"\nkind = "text"\ncolour = 1', "unknown key 'colour'"),
        ('[[columns]]\nname = "a"\nkind = "text"\n' * 2, "twice"),
    ]:
        with pytest.raises(DataError, match=says):
            Schema.from_toml(wrong)


def test_schema_of_arrays() -> None:
    array = np.array([[1.0, 3.0, np.nan, 0.0], [2.0, 3.0, 5.0, 1.0], [2.5, 3.0, 7.0, 1.0]])
    schema = schema_from_array(array)
    assert [c.kind for c in schema] == ["numeric", "constant", "numeric", "numeric"]
    assert schema["x2"].has_missing
    assert {c.kind for c in schema_from_array(np.arange(6, dtype=np.int8).reshape(3, 2))} == {
        "integer"
    }
    longest = np.array([[2**64 - 1], [2**63]], dtype=np.uint64)
    assert schema_from_array(longest)["x0"].kind == "numeric"
    for bad, says in [
        (np.zeros(3), "reshape"),
        (np.array([["a"]]), "array of numbers"),
        (np.array([[1.0], [np.inf]]), "row 2"),
        (np.ones((3, 2)), "no usable column"),
        (np.ones((0, 2)), "with rows"),
    ]:
        with pytest.raises(DataError, match=says):
            schema_from_array(bad)
