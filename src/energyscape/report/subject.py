"""What a report is about: a fitted estimator, rows it never trained on, and fresh samples.

Calibration rows are the data shown: they trained nothing. How many rows are drawn and scored is
settled by timing a few of them, so that a page takes seconds for every family.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Subject", "affordable", "columns_of", "look_at", "take"]


class Subject(NamedTuple):
    """A fitted estimator with matching data and samples.

    `data` and `samples` are polars frames, arrays or pictures, `data_x` and `samples_x` the same
    rows encoded, arrays of shape (rows, ...).
    """

    estimator: Any
    family: str
    data: Any
    data_x: np.ndarray
    samples: Any
    samples_x: np.ndarray

    @property
    def pictures(self) -> bool:
        """Whether the rows are pictures."""
        return bool(self.estimator.data_kind_ == "pictures")

    @property
    def names(self) -> list[str]:
        """The columns of a table that were modelled."""
        return [column.name for column in self.estimator.schema_.modelled]


def affordable(work: Callable[[int], Any], few: int, most: int, seconds: float) -> int:
    """How many rows `work(n)` can do in `seconds`, from timing it on `few`; at most `most`.

    Counts time as proportional to rows, which errs on the quick side for batched work.
    """
    few = min(few, most)
    start = time.perf_counter()
    work(few)
    spent = time.perf_counter() - start
    return int(np.clip(few * seconds / max(spent, 1e-6), few, most))


def take(rows: Any, index: Any) -> Any:
    """Rows of an array or a polars frame."""
    return rows[np.asarray(index)]


def columns_of(rows: Any, schema: Any) -> dict[str, np.ndarray]:
    """The modelled columns as arrays: numbers, dates as decimal years, everything else as words."""
    modelled = [(i, c) for i, c in enumerate(schema.kept) if c.modelled]
    if isinstance(rows, np.ndarray):
        return {column.name: rows[:, i] for i, column in modelled}
    return {column.name: _plain(rows[column.name], column.format) for _, column in modelled}


def _plain(column: Any, format: str) -> np.ndarray:
    import polars as pl

    if format and column.dtype == pl.String:
        column = column.str.to_datetime(format, strict=False)
    kind = column.dtype
    if kind.is_temporal():
        seconds = column.cast(pl.Datetime("us")).dt.epoch("s").cast(pl.Float64).to_numpy()
        return np.asarray(1970 + seconds / 31_556_952)
    if kind.is_numeric():
        whole = kind.is_integer() and column.null_count() == 0
        return np.asarray(column.cast(pl.Int64 if whole else pl.Float64).to_numpy())
    return np.asarray(column.cast(pl.String).fill_null("(blank)").to_numpy()).astype(str)


def look_at(estimator: Any, *, seed: int = 0, seconds: float = 3.0, most: int = 400) -> Subject:
    """Decode calibration rows and draw samples to lay beside them.

    Raises
    ------
    ValueError
        If no rows were set aside for calibration.
    """
    rows = np.asarray(estimator.calibration_["rows"])
    if len(rows) == 0:
        raise ValueError(
            "this run set no rows aside, so there is nothing to lay beside its samples: "
            "fit with calibration_fraction > 0"
        )
    order = np.random.default_rng(seed).permutation(len(rows))[:most]
    data_x = rows[np.sort(order)]
    drawn: dict[int, np.ndarray] = {}

    def draw(n: int) -> np.ndarray:
        if n not in drawn:
            drawn[n] = estimator.sample_encoded(n, random_state=seed).double().numpy()
        return drawn[n]

    samples_x = draw(affordable(draw, 64, most, seconds))
    return Subject(
        estimator,
        type(estimator).__name__,
        estimator.codec_.decode(data_x.astype(np.float64)),
        data_x,
        estimator.codec_.decode(samples_x),
        samples_x,
    )
