"""A table as points in R^D: one group of dimensions for each column that enters the density.

Each column is a block (see :mod:`energyscape.data.blocks`), followed by one dimension that says
whether the value is there when the training table had blanks in it. The log-probability of a row
is ``log p(x) + log_abs_det``: a density per original unit for numeric columns, a probability for
whole numbers (dates count in their resolution: days), booleans, categories and blanks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from energyscape.data.atoms import Atoms
from energyscape.data.blocks import (
    LabelBlock,
    NumberBlock,
    SignBlock,
    StepBlock,
    blank_rows,
    block_from_state,
    block_state,
    draw,
    log_q,
)
from energyscape.data.codecs import Encoded
from energyscape.data.errors import DataError
from energyscape.data.ranks import RankBlock, ranked, stepped
from energyscape.data.schema import Column, Schema, unknown_column

__all__ = ["TableCodec"]


@dataclass(frozen=True)
class BareRows:
    """Rows checked and taken out of their frame: float64 or codes [N] for each modelled column.

    What :meth:`TableCodec.prepare` gives; indexing takes rows.
    """

    columns: tuple[np.ndarray, ...]

    def __getitem__(self, rows: Any) -> BareRows:
        return BareRows(tuple(column[rows] for column in self.columns))

    def __len__(self) -> int:
        return len(self.columns[0])


class TableCodec:
    """Rows of a table to x [N, D] and back, in original names, types, ranges and units.

    Parameters
    ----------
    schema : of the training table. When it was made from an array, data are 2-D arrays.

    Attributes
    ----------
    groups : list of (column name, slice of the dimensions of x that belong to it).
    indicators : column name to the dimension that says whether the value is present.
    signs : column name to how it says so.

    Examples
    --------
    >>> import polars as pl
    >>> from energyscape.data import infer_schema
    >>> frame = pl.DataFrame({"a": [1.5, 2.5, 4.0], "b": ["u", "v", "u"]})
    >>> codec = TableCodec(infer_schema(frame)).fit(frame)
    >>> x, log_abs_det = codec.encode(frame)
    >>> x.shape, codec.groups
    ((3, 3), [('a', slice(0, 1, None)), ('b', slice(1, 3, None))])
    >>> codec.decode(x).equals(frame)
    True
    """

    def __init__(self, schema: Schema) -> None:
        if not schema.modelled:
            raise DataError("no column of the schema enters the density")
        self.schema = schema
        self.blocks: list[Any] = []
        self.groups: list[tuple[str, slice]] = []
        self.indicators: dict[str, int] = {}
        self.signs: dict[str, SignBlock] = {}

    def __repr__(self) -> str:
        size = self.groups[-1][1].stop if self.groups else "not fitted"
        return f"TableCodec({len(self.schema.modelled)} columns, dimensions: {size})"

    @property
    def event_shape(self) -> tuple[int]:
        """(D,)."""
        self._need_fit()
        return (self.groups[-1][1].stop,)

    def fit(self, data: Any, rng: np.random.Generator | None = None) -> Self:
        """Means, scales and frequencies of the training rows; draws nothing. Returns self."""
        bare = self.prepare(data).columns
        self.blocks = [
            _fit_block(column, values)
            for column, values in zip(self.schema.modelled, bare, strict=True)
        ]
        self.signs = {
            column.name: SignBlock.fit((~blank_rows(values)).astype(np.int64))
            for column, values in zip(self.schema.modelled, bare, strict=True)
            if column.has_missing
        }
        self._lay_out()
        return self

    def _lay_out(self) -> None:
        self.groups, self.indicators, start = [], {}, 0
        for column, block in zip(self.schema.modelled, self.blocks, strict=True):
            stop = start + block.width
            if column.has_missing:
                self.indicators[column.name] = stop
                stop += 1
            self.groups.append((column.name, slice(start, stop)))
            start = stop

    def _need_fit(self) -> None:
        if not self.blocks:
            raise DataError("the codec is not fitted; call fit(data) first")

    def _table(self, data: Any) -> Any:
        """Data as columns can be taken from: the 2-D array, or the conformed frame."""
        if self.schema.array and isinstance(data, np.ndarray):
            if data.ndim != 2 or data.shape[1] != len(self.schema):
                raise DataError(
                    f"expected an array of {len(self.schema)} columns, got shape {data.shape}"
                )
            return data
        from energyscape.data.frames import conform

        return conform(data, self.schema)

    def prepare(self, data: Any) -> BareRows:
        """Rows in the form that encodes fastest, to be indexed: ``encode(prepared[rows], rng)``.

        Checking and parsing are done here once, so that a training loop can draw fresh noise for
        every batch.
        """
        if isinstance(data, BareRows):
            return data
        table = self._table(data)
        return BareRows(tuple(self._bare(table, column) for column in self.schema.modelled))

    def _bare(self, table: Any, column: Column) -> np.ndarray:
        """Float64 with NaN for blanks, or integer codes."""
        from energyscape.data import values

        if not isinstance(table, np.ndarray):
            kept = table[column.name]
            named = column.kind in ("boolean", "category")
            return values.codes(kept, column) if named else values.numbers(kept, column)
        bare = np.asarray(table[:, self.schema.names.index(column.name)], dtype=np.float64)
        values.refuse_infinities(bare, column.name)
        if column.kind == "category":  # the one value of a column that is else blank
            codes = np.where(bare == float(column.categories[0]), 0, values.UNSEEN)
            return np.where(np.isnan(bare), values.BLANK, codes)
        if column.kind != "integer":
            return bare
        if (np.isfinite(bare) & (bare != np.round(bare))).any():
            raise DataError(f"column {column.name!r} was whole numbers in training; round it first")
        return bare - (column.low or 0.0)

    def encode(self, data: Any, rng: np.random.Generator | None = None) -> Encoded:
        """x [N, D] and log_abs_det [N] (nats).

        With ``rng`` the dequantisation noise is drawn (training); without, its centre is taken, so
        that a row always gives the same numbers. A blank in a column that had none in training is
        a draw of (or the centre of) N(0, 1); see :meth:`unseen`.

        Raises
        ------
        DataError : columns or values that do not fit the schema; not fitted.
        """
        self._need_fit()
        rows = self.prepare(data)
        x = np.empty((len(rows), *self.event_shape))
        log_abs_det = np.zeros(len(rows))
        for bare, (_, block, (name, where)) in zip(rows.columns, self._parts(), strict=True):
            blank = blank_rows(bare)
            part, log_det = block.encode(bare, rng)
            if blank.any():
                e = draw((int(blank.sum()), block.width), rng)
                part[blank], log_det[blank] = e, -log_q(e)
            x[:, where.start : where.start + block.width] = part
            log_abs_det += log_det
            if name in self.indicators:
                sign, log_det = self.signs[name].encode((~blank).astype(np.int64), rng)
                x[:, self.indicators[name]] = sign[:, 0]
                log_abs_det += log_det
        return Encoded(x, log_abs_det)

    def _parts(self) -> Any:
        return zip(self.schema.modelled, self.blocks, self.groups, strict=True)

    def atoms(self) -> list[tuple[int, Atoms]]:
        """Columns of few values: the first of their dimensions, and where in them each value lies."""
        self._need_fit()
        found: list[tuple[int, Atoms]] = []
        for column, block, (name, where) in self._parts():
            atoms = getattr(block, "atoms", None)  # numbers have none
            if atoms is not None:
                found.append((where.start, atoms.with_blank() if column.has_missing else atoms))
            if name in self.indicators:
                found.append((self.indicators[name], self.signs[name].atoms))
        return found

    def decode(self, x: np.ndarray) -> Any:
        """A polars frame with the kept columns as they were (an array when fitted on arrays)."""
        from energyscape.data import values

        self._need_fit()
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1:] != self.event_shape:
            raise DataError(f"encoded rows have shape [N, {self.event_shape[0]}], not {x.shape}")
        if not np.isfinite(x).all():
            raise DataError("encoded rows hold NaN or infinity; they cannot be decoded")
        bare: dict[str, np.ndarray] = {}
        for _, block, (name, where) in self._parts():
            value = block.decode(x[:, where.start : where.start + block.width])
            if name in self.indicators:
                sign = x[:, self.indicators[name], None]
                blank = self.signs[name].decode(sign) == 0
                value[blank] = np.nan if value.dtype.kind == "f" else values.BLANK
            bare[name] = value
        if self.schema.array:
            return self._array(bare, len(x))
        columns = []
        for column in self.schema.kept:
            if column.kind in ("boolean", "category"):
                columns.append(values.from_codes(bare[column.name], column))
            elif column.kind == "constant":
                code = 0 if column.categories else values.BLANK
                columns.append(values.from_codes(np.full(len(x), code), column))
            else:
                columns.append(values.from_numbers(bare[column.name], column))
        import polars as pl

        return pl.DataFrame(columns)

    def _array(self, bare: dict[str, np.ndarray], n: int) -> np.ndarray:
        dtype = np.dtype(self.schema.array)
        array = np.empty((n, len(self.schema)), dtype=np.float64)
        for j, column in enumerate(self.schema):
            if column.kind in ("constant", "category"):
                value = float(column.categories[0]) if column.categories else np.nan
                codes = bare.get(column.name, np.zeros(n, dtype=np.int64))
                array[:, j] = np.where(codes < 0, np.nan, value)
            else:
                low = (column.low or 0.0) if column.kind == "integer" else 0.0
                array[:, j] = bare[column.name] + low
        return array.astype(dtype)

    def unseen(self, data: Any) -> dict[str, list[Any]]:
        """Column name to the values the training table did not have (at most 20 each).

        Categories and booleans with a new value, constants with another one, and ``None`` for a
        blank in a column that had none. Such rows are scored; this names why they stand out.
        """
        from energyscape.data import values

        table = self._table(data)
        found: dict[str, list[Any]] = {}
        for column in self.schema.kept:
            if isinstance(table, np.ndarray):
                j = self.schema.names.index(column.name)
                odd = self._odd_numbers(np.asarray(table[:, j], dtype=np.float64), column)
            else:
                kept = table[column.name]
                odd = []
                if column.kind in ("boolean", "category", "constant"):
                    new = kept.filter(values.codes(kept, column) == values.UNSEEN)
                    odd = new.unique(maintain_order=True).head(20).to_list()
                always_blank = column.kind == "constant" and not column.categories
                if kept.null_count() and not column.has_missing and not always_blank:
                    odd.append(None)
            if odd:
                found[column.name] = odd
        return found

    def _odd_numbers(self, values: np.ndarray, column: Column) -> list[Any]:
        odd: list[Any] = []
        if column.kind in ("constant", "category"):
            known = [float(label) for label in column.categories]
            odd = np.unique(values[~np.isin(values, known) & ~np.isnan(values)])[:20].tolist()
        if np.isnan(values).any() and not column.has_missing:
            odd.append(None)
        return odd

    def mask(self, columns: list[str]) -> np.ndarray:
        """Boolean [D]: the dimensions that belong to these columns."""
        where = dict(self.groups)
        chosen = np.zeros(self.event_shape, dtype=bool)
        for name in columns:
            if name not in where:
                raise DataError(unknown_column(name, list(where)))
            chosen[where[name]] = True
        return chosen

    def encode_given(
        self, given: Mapping[str, Any], n: int, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Some columns fixed to values: (x [n, D], zero elsewhere; known [D], True where fixed).

        Raises
        ------
        DataError : a column that is not modelled, a value of another type or a category never seen.
        """
        import polars as pl

        from energyscape.data import values

        known = self.mask(list(given))
        x = np.zeros((n, *self.event_shape))
        for column, block, (name, where) in self._parts():
            if name not in given:
                continue
            kept = values.keep(pl.Series(name, [given[name]] * n, strict=False), column)
            named = column.kind in ("boolean", "category")
            bare = values.codes(kept, column) if named else values.numbers(kept, column)
            blank = blank_rows(bare)
            if (named and (bare == values.UNSEEN).any()) or (
                blank.any() and not column.has_missing
            ):
                shown = ", ".join(column.categories[:12]) or "a value, not a blank"
                raise DataError(
                    f"column {name!r} was never {given[name]!r} in training; it knows {shown}"
                )
            part, _ = block.encode(bare, rng)
            part[blank] = draw((int(blank.sum()), block.width), rng)
            x[:, where.start : where.start + block.width] = part
            if name in self.indicators:
                sign, _ = self.signs[name].encode((~blank).astype(np.int64), rng)
                x[:, self.indicators[name]] = sign[:, 0]
        return x, known

    def encode_blanks(
        self, data: Any, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """For filling blanks in: (x [N, D], known [N, D]).

        ``known`` is False in the value dimensions of blanks, which are what is to be drawn; their
        indicators are set to "present" and known.
        """
        rows = self.prepare(data)
        x, _ = self.encode(rows, rng)
        known = np.ones(x.shape, dtype=bool)
        for bare, (_, block, (name, where)) in zip(rows.columns, self._parts(), strict=True):
            blank = blank_rows(bare)
            known[blank, where.start : where.start + block.width] = False
            if name in self.indicators:
                sign, _ = self.signs[name].encode(np.ones(int(blank.sum()), dtype=np.int64), rng)
                x[blank, self.indicators[name]] = sign[:, 0]
        return x, known

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays (float64) and the schema."""
        self._need_fit()
        arrays: dict[str, np.ndarray] = {}
        for j, block in enumerate(self.blocks):
            numbers, frequency = block_state(block)
            arrays[f"block.{j}.values"] = np.array(numbers, dtype=np.float64)
            arrays[f"block.{j}.frequency"] = frequency
        for j, column in enumerate(self.schema.modelled):
            if column.name in self.signs:
                arrays[f"sign.{j}.values"] = np.array(self.signs[column.name], dtype=np.float64)
        return arrays, {"codec": "table", "schema": self.schema.to_dict()}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Self:
        """The codec again, to the bit; DataError when a column's numbers are not there."""
        codec = cls(Schema.from_dict(meta["schema"]))
        for j, column in enumerate(codec.schema.modelled):
            key = f"block.{j}.values"
            if key not in arrays:
                raise DataError(f"the codec's arrays lack {key} (column {column.name!r})")
            codec.blocks.append(
                block_from_state(column.kind, arrays[key], arrays[f"block.{j}.frequency"])
            )
            if column.has_missing:
                known = arrays.get(f"sign.{j}.values", ())  # not in runs of the first version
                codec.signs[column.name] = SignBlock(*(float(value) for value in known))
        codec._lay_out()
        return codec


def _fit_block(column: Column, bare: np.ndarray) -> Any:
    if column.kind == "boolean":
        return SignBlock.fit(bare)
    if column.kind == "category":
        return LabelBlock.fit(bare, len(column.categories))
    cell = column.kind == "integer" or (column.kind == "datetime" and column.resolution >= 1)
    low, high = float(column.low or 0.0), float(column.high or 0.0)
    if column.kind != "numeric":
        # Bare whole numbers and dates start at 0: see values.numbers.
        span = high - low
        step = column.resolution if column.kind == "datetime" and cell else 1.0
        low, high = 0.0, float(np.floor(span / step)) if cell else span
    if cell and stepped(bare):
        return StepBlock.fit(bare, low, high)
    if ranked(bare, cell):
        return RankBlock.fit(bare, cell, low, high)
    return NumberBlock.fit(bare, cell, low, high)
