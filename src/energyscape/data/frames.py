"""Frames of any make in, the same make out; and a frame brought into line with a schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energyscape.data.errors import DataError
from energyscape.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["conform", "is_frame", "like", "to_polars"]


def is_frame(data: Any) -> bool:
    """Whether ``data`` is a table of pandas, polars, pyarrow or another make narwhals reads.

    >>> import polars as pl
    >>> is_frame(pl.DataFrame({"a": [1]})), is_frame(np.zeros((2, 2)))
    (True, False)
    """
    import narwhals as nw

    return bool(nw.dependencies.is_into_dataframe(data)) or _is_lazy(data)


def _is_lazy(data: Any) -> bool:
    import polars as pl

    return isinstance(data, pl.LazyFrame)


def to_polars(data: Any) -> pl.DataFrame:
    """A polars frame with the same columns; pandas needs no pyarrow for it.

    Raises
    ------
    DataError : not a frame, or two columns of one name.
    """
    import narwhals as nw
    import polars as pl

    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    if not is_frame(data):
        raise DataError(f"expected a data frame, got {type(data).__name__}")
    if nw.dependencies.is_pyarrow_table(data):
        return pl.DataFrame(data)
    if nw.dependencies.is_pandas_dataframe(data):
        names = [str(name) for name in data.columns]
        _refuse_duplicates(names)
        return pl.DataFrame([_from_pandas(data.iloc[:, i], name) for i, name in enumerate(names)])
    frame = nw.from_native(data, eager_only=True)
    return frame.to_polars()


def _refuse_duplicates(names: list[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DataError(f"two columns are named {name!r}; give every column its own name")


def _from_pandas(series: Any, name: str) -> pl.Series:
    import polars as pl

    kind = getattr(series.dtype, "kind", "O")
    if kind == "M":
        zone = getattr(series.dtype, "tz", None)
        plain = series.dt.tz_convert("UTC").dt.tz_localize(None) if zone is not None else series
        dates = pl.Series(name, plain.to_numpy().astype("datetime64[us]"))
        if zone is None:
            return dates
        return dates.dt.replace_time_zone("UTC").dt.convert_time_zone(str(zone))
    if isinstance(series.dtype, np.dtype) and kind in "iufb":
        return pl.Series(name, series.to_numpy())
    blank = series.isna().to_numpy()
    values = [None if b else v for v, b in zip(series.tolist(), blank, strict=True)]
    if kind in "iufb":
        return pl.Series(name, values)
    present = [v for v in values if v is not None]
    if any(isinstance(v, str) for v in present) and not all(isinstance(v, str) for v in present):
        # An object column of text and numbers: each as it would be written.
        values = [None if v is None else str(v) for v in values]
    try:
        made = pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        made = pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
    if str(series.dtype) == "category" and made.dtype == pl.String:
        return made.cast(pl.Categorical)
    return made


def like(frame: pl.DataFrame, original: Any) -> Any:
    """The polars frame in the make of ``original`` (pandas in, pandas out); arrays give polars.

    >>> import pandas as pd, polars as pl
    >>> like(pl.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [5]})).a.tolist()
    [1, 2]
    """
    import narwhals as nw

    if nw.dependencies.is_pyarrow_table(original):
        return frame.to_arrow()
    if nw.dependencies.is_pandas_dataframe(original):
        pandas = nw.get_native_namespace(original)
        names = {str(name): name for name in original.columns}
        columns = {
            names.get(name, name): _to_pandas(frame[name], pandas, original, names.get(name))
            for name in frame.columns
        }
        return pandas.DataFrame(columns)
    return frame


def _to_pandas(series: pl.Series, pandas: Any, original: Any, label: Any) -> Any:
    import polars as pl

    wanted = original[label].dtype if label is not None else None
    if series.dtype.is_integer() and series.null_count():
        made = pandas.Series(series.cast(pl.Float64).to_numpy())
    elif isinstance(series.dtype, pl.Datetime) or series.dtype == pl.Date:
        zone = getattr(series.dtype, "time_zone", None)
        moments = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone else series
        array = moments.cast(pl.Datetime("us")).to_numpy().astype("datetime64[us]")
        made = pandas.Series(array)
        made = made.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else made
    elif series.dtype.is_numeric() or (series.dtype == pl.Boolean and not series.null_count()):
        made = pandas.Series(series.to_numpy())
    else:
        made = pandas.Series(
            series.cast(pl.String).to_list() if _texty(series) else series.to_list()
        )
    whole = wanted is not None and getattr(wanted, "kind", "O") in "iu" and made.isna().any()
    if wanted is None or wanted == made.dtype or (whole and isinstance(wanted, np.dtype)):
        return made
    if series.dtype == pl.Date and getattr(wanted, "kind", "O") == "O":
        return pandas.Series(series.to_list(), dtype=object)
    return made.astype(wanted)


def _texty(series: pl.Series) -> bool:
    import polars as pl

    return series.dtype in (pl.String, pl.Categorical) or isinstance(series.dtype, pl.Enum)


def conform(frame: Any, schema: Schema, notes: list[str] | None = None) -> pl.DataFrame:
    """The kept columns of a schema, in its order, checked and typed; idempotent.

    Columns may come in any order. Columns the schema does not know are dropped and said in
    ``notes``; a constant column that is absent is filled in and said. A category never seen is
    kept as it is: see ``TableCodec.unseen``.

    Raises
    ------
    DataError : a column is missing, or a value is not of the column's type (named with its row).

    Examples
    --------
    >>> import polars as pl
    >>> from energyscape.data import Column
    >>> schema = Schema((Column("a", "integer", dtype="Int64"), Column("b", "numeric")))
    >>> conform(pl.DataFrame({"b": [" 2.5", "NA"], "a": ["1", "2"]}), schema).rows()
    [(1, 2.5), (2, None)]
    """
    import polars as pl

    from energyscape.data.values import from_codes, keep

    table = to_polars(frame)
    said = notes if notes is not None else []
    columns = []
    for column in schema.kept:
        if column.name in table.columns:
            columns.append(keep(table[column.name], column))
        elif column.kind == "constant":
            code = 0 if column.categories else -1
            columns.append(from_codes(np.full(table.height, code), column))
            said.append(f"column {column.name!r} is absent: filled with its one value")
        else:
            near = [name for name in table.columns if name.strip() == column.name]
            hint = f" ({near[0]!r} differs by blanks)" if near else ""
            raise DataError(
                f"column {column.name!r} ({column.kind}) is missing{hint}; "
                f"the table has: {', '.join(table.columns[:12])}"
            )
    extra = [name for name in table.columns if name not in schema.names]
    if extra:
        said.append(f"columns the model does not know are ignored: {', '.join(extra[:12])}")
    if not columns:
        raise DataError("the schema keeps no column; change a kind or read other data")
    return pl.DataFrame(columns)
