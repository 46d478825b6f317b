"""Some cells known: `sample(given=...)` and `impute`, written once for all families.

Two roads lead to draws of ``p(row | conditions)``:

    rejection      draws of the model are kept when they meet every condition: exact, at 1/P draws
                   for each one kept
    conditioning   the known cells are held fixed in the encoded space by the family's conditional
                   sampler; exact for Gaussian data, and as its particles grow

Ranges take the first. So do single values of columns that can be counted, while at least one draw in
fifty has them. Other single values take the second (a number is never hit twice), and the ranges
beside them are met by rejecting its draws. Either way a value that was given comes back as it was.

Where ranges are met by fewer than one draw in 500, both: their columns take the values of draws that
met them, again and again where there are fewer than rows asked for, and the other columns are drawn
given these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from energyscape.data import Dataset, TableCodec, is_frame, like, to_polars
from energyscape.data.blocks import blank_rows
from energyscape.data.values import keep
from energyscape.families.bar import ProgressCallback
from energyscape.families.conditions import Condition, read_conditions
from energyscape.families.drawing import Drawing

if TYPE_CHECKING:
    import polars as pl

__all__ = ["impute", "sample_given"]

_COUNTABLE = ("boolean", "category", "integer")
_PILOT = 512
_RARE = 1 / 50
_MOST_DRAWS = (1000, 20_000)
_TOO_RARE, _ENOUGH = 1 / 500, 10


def _table_codec(estimator: Drawing, what: str) -> TableCodec:
    if not isinstance(estimator.codec_, TableCodec):
        raise ValueError(f"{what} columns, but this model was fitted on pictures")
    return estimator.codec_


def sample_given(
    estimator: Drawing,
    given: Mapping[Any, Any],
    n: int,
    *,
    seed: int,
    steps: int | None = None,
    sampler: str | None = None,
    label: Any = None,
    guidance: float | None = None,
    progress: ProgressCallback | None = None,
) -> Any:
    """`n` rows that meet every condition: a polars frame, or an array for models of arrays.

    Raises
    ------
    ValueError
        For conditions as `read_conditions` refuses them; or when fewer than n of 1,000 n (at least
        20,000) draws meet the conditions.
    """
    codec = _table_codec(estimator, "given holds")
    conditions = read_conditions(codec, given)
    fixed = {c.column.name: c.value for c in conditions if c.sign == "="}
    ranges = [c for c in conditions if c.sign != "="]
    counted = all(c.column.kind in _COUNTABLE for c in conditions if c.sign == "=")

    def free(count: int, number: int) -> Any:
        x = estimator.sample_encoded(
            count,
            random_state=seed + number,
            steps=steps,
            sampler=sampler,
            label=label,
            guidance=guidance,
            progress=progress,
        )
        return codec.decode(x.double().numpy())

    def held(count: int, number: int) -> Any:
        x, known = codec.encode_given(fixed, count, np.random.default_rng([seed, number]))
        drawn = estimator.sample_conditional(
            torch.from_numpy(x),
            torch.from_numpy(np.broadcast_to(known, x.shape).copy()),
            random_state=seed + number,
            steps=steps,
            sampler=sampler,
            label=label,
            guidance=guidance,
            progress=progress,
        )
        return _with_values(codec, codec.decode(drawn.double().numpy()), fixed)

    pool = _Pool(codec, n, conditions)
    if counted and fixed:
        pool.add(free(_PILOT, 0))
        if pool.share([c for c in conditions if c.sign == "="]) < _RARE:
            pool = _Pool(codec, n, ranges)
            return pool.fill(held, first=1)
        return pool.fill(free, first=1)
    if fixed:
        return _Pool(codec, n, ranges).fill(held)

    def given_found(found: Any, number: int) -> Any:
        """Rows with the found rows' values in the columns of the ranges."""
        rng = np.random.default_rng([seed, number])
        rows = found[rng.permutation(np.arange(n) % len(found))]
        names = sorted({c.column.name for c in conditions})
        known = np.broadcast_to(codec.mask(names), (n, *codec.event_shape)).copy()
        drawn = estimator.sample_conditional(
            torch.from_numpy(codec.encode(rows, rng).x),
            torch.from_numpy(known),
            random_state=seed + number,
            steps=steps,
            sampler=sampler,
            label=label,
            guidance=guidance,
            progress=progress,
        )
        return _with_columns(codec, codec.decode(drawn.double().numpy()), rows, names)

    return pool.fill(free, rare=given_found)


class _Pool:
    """Draws kept when they meet the conditions."""

    def __init__(self, codec: TableCodec, n: int, conditions: list[Condition]) -> None:
        self.codec, self.n, self.conditions = codec, n, conditions
        self.names = [column.name for column in codec.schema.modelled]
        self.parts: list[Any] = []
        self.found = self.tried = 0
        self.last: Any = None

    def _met(self, drawn: Any, conditions: list[Condition]) -> NDArray[np.bool_]:
        columns = self.codec.prepare(drawn).columns
        kept = np.ones(len(drawn), dtype=bool)
        for condition in conditions:
            kept &= condition.met(columns[self.names.index(condition.column.name)])
        return kept

    def add(self, drawn: Any) -> None:
        """Keep what fits."""
        self.last = drawn
        kept = np.flatnonzero(self._met(drawn, self.conditions))
        self.parts.append(drawn[kept])
        self.found, self.tried = self.found + len(kept), self.tried + len(drawn)

    def share(self, conditions: list[Condition]) -> float:
        """The share of the last draws that meet these conditions."""
        return float(self._met(self.last, conditions).mean())

    def fill(
        self,
        draw: Callable[[int, int], Any],
        first: int = 0,
        rare: Callable[[Any, int], Any] | None = None,
    ) -> Any:
        """Draw until there are n, as many at once as the share kept so far asks for.

        `rare` makes n rows of those found once it is plain that hardly any draw fits.
        """
        most, number = max(_MOST_DRAWS[0] * self.n, _MOST_DRAWS[1]), first
        while self.found < self.n and self.tried < most:
            few = self.tried >= _MOST_DRAWS[1] and self.found < _TOO_RARE * self.tried
            if rare is not None and few and self.found >= _ENOUGH:
                return rare(_concatenated(self.parts), number)
            count = self.n
            if self.conditions:
                share = (self.found + 1) / (self.tried + 2)
                wanted = 1.2 * (self.n - self.found) / share
                count = int(min(max(wanted, 64), 8192, most - self.tried))
            self.add(draw(count, number))
            number += 1
        if self.found < self.n:
            asked = ", ".join(map(str, self.conditions))
            raise ValueError(
                f"given {asked}: {self.found} of {self.tried} draws fit and {self.n} were asked "
                "for; ask for fewer, or for less"
            )
        return _concatenated(self.parts)[: self.n]


def _concatenated(parts: list[Any]) -> Any:
    import polars as pl

    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pl.concat(parts)


def _with_values(codec: TableCodec, drawn: Any, fixed: Mapping[str, Any]) -> Any:
    """The fixed columns exactly as they were given, free of rounding."""
    import polars as pl

    for name, value in fixed.items():
        kept = keep(pl.Series(name, [value], strict=False), codec.schema[name])
        if isinstance(drawn, np.ndarray):
            drawn[:, codec.schema.names.index(name)] = np.nan if kept[0] is None else kept[0]
        else:
            drawn = drawn.with_columns(kept.new_from_index(0, drawn.height).cast(drawn[name].dtype))
    return drawn


def _with_columns(codec: TableCodec, drawn: Any, rows: Any, names: list[str]) -> Any:
    """These columns as they are in other rows, free of rounding."""
    if isinstance(drawn, np.ndarray):
        places = [codec.schema.names.index(name) for name in names]
        drawn[:, places] = rows[:, places]
        return drawn
    return drawn.with_columns(rows[name] for name in names)


def impute(
    estimator: Drawing,
    X: Any,
    *,
    seed: int,
    steps: int | None = None,
    progress: ProgressCallback | None = None,
) -> Any:
    """`X` with every blank of a modelled column drawn given the rest of its row.

    Parameters
    ----------
    X : array, DataFrame or Dataset of a table; masked array of pictures
        Of pictures the masked pixels are filled in.
    seed : int

    Returns
    -------
    array, DataFrame or pictures
        The kind of data given (polars for a Dataset); whatever was not blank is as it was.
    """
    data = estimator._conform(X)
    if not isinstance(estimator.codec_, TableCodec):
        return _inpaint(estimator, X, data, seed, steps, progress)
    codec = estimator.codec_
    rows = codec.prepare(data)
    blank = np.stack([blank_rows(column) for column in rows.columns], axis=1)
    chosen = np.flatnonzero(blank.any(axis=1))
    drawn: Any = None
    if len(chosen):
        x, known = codec.encode_blanks(rows[chosen], np.random.default_rng([seed, 1]))
        filled = estimator.sample_conditional(
            torch.from_numpy(x),
            torch.from_numpy(known),
            random_state=seed,
            steps=steps,
            progress=progress,
        )
        drawn = codec.decode(filled.double().numpy())
    places = np.full(len(blank), -1)
    places[chosen] = np.arange(len(chosen))
    if codec.schema.array:
        return _filled_array(codec, np.array(data), blank, places, drawn)
    original = _frame(X, data)
    frame = _filled_frame(codec, original, blank, places, drawn)
    return like(frame, X) if is_frame(X) else frame


def _frame(X: Any, data: Any) -> pl.DataFrame:
    if isinstance(X, Dataset):
        return to_polars(X.data if X.raw is None else X.raw)
    return to_polars(X if is_frame(X) else data)


def _filled_array(
    codec: TableCodec,
    array: NDArray[Any],
    blank: NDArray[np.bool_],
    places: NDArray[np.int64],
    drawn: Any,
) -> NDArray[Any]:
    for i, column in enumerate(codec.schema.modelled):
        j = codec.schema.names.index(column.name)
        rows = np.flatnonzero(blank[:, i])
        if len(rows):
            array[rows, j] = drawn[places[rows], j]
    return array


def _filled_frame(
    codec: TableCodec,
    frame: pl.DataFrame,
    blank: NDArray[np.bool_],
    places: NDArray[np.int64],
    drawn: Any,
) -> pl.DataFrame:
    import polars as pl

    index = pl.Series("i", places)
    index = index.to_frame().select(pl.when(pl.col("i") >= 0).then(pl.col("i")))["i"]
    columns = []
    for i, column in enumerate(codec.schema.modelled):
        if not blank[:, i].any():
            continue
        kept = keep(frame[column.name], column)
        values = drawn[column.name].gather(index).cast(kept.dtype)
        columns.append(kept.zip_with(pl.Series(~blank[:, i]), values).alias(column.name))
    return frame.with_columns(columns)


def _inpaint(
    estimator: Drawing,
    X: Any,
    pictures: NDArray[Any],
    seed: int,
    steps: int | None,
    progress: ProgressCallback | None,
) -> NDArray[Any]:
    """Pictures whose masked pixels are drawn given the others."""
    if not np.ma.isMaskedArray(X):
        raise ValueError(
            "pictures have no blanks; mask the pixels to fill in: numpy.ma.array(pictures, mask=...)"
        )
    hidden = np.ma.getmaskarray(X).reshape(pictures.shape)
    filled = np.where(hidden, np.zeros((), pictures.dtype), pictures)
    chosen = np.flatnonzero(hidden.reshape(len(hidden), -1).any(axis=1))
    if len(chosen):
        x = estimator.codec_.encode(filled[chosen], np.random.default_rng([seed, 1])).x
        known = torch.from_numpy(np.ascontiguousarray(np.moveaxis(~hidden[chosen], 3, 1)))
        drawn = estimator.sample_conditional(
            torch.from_numpy(x), known, random_state=seed, steps=steps, progress=progress
        )
        new = np.asarray(estimator.codec_.decode(drawn.double().numpy()))
        filled[chosen] = np.where(hidden[chosen], new, filled[chosen])
    return filled.reshape(np.shape(X))
