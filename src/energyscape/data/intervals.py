"""What several completed copies of a table say together of each cell that was blank.

Of M draws of a number given its row and a fresh one, every order is as likely as any other, so the
fresh one lies between the k-th smallest and the k-th largest with probability ``1 - 2 k / (M + 1)``:
the interval of two order statistics holds what the model holds, whatever its law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from energyscape.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["draws_for", "with_intervals"]


def draws_for(level: float, given: int | None = None) -> int:
    """How many draws make an interval of this level that does not end at the outermost of them.

    Parameters
    ----------
    level : float
        In (0, 1).
    given : int, optional
        So many instead, if they are enough.

    Raises
    ------
    DataError
        If the level is none, or too few are given.

    Examples
    --------
    >>> draws_for(0.9), draws_for(0.5)
    (39, 7)
    """
    if not 0 < level < 1:
        raise DataError(f"the level of an interval lies between 0 and 1, as in 0.9; got {level:g}")
    least = math.ceil(round(2 / (1 - level), 9)) - 1
    if given is not None and given < least:
        raise DataError(
            f"an interval that holds {level:g} takes {least} draws or more, got {given}"
        )
    return 2 * least + 1 if given is None else given


def with_intervals(
    before: pl.DataFrame, copies: Sequence[pl.DataFrame], level: float = 0.9
) -> pl.DataFrame:
    """One row a row: blanks filled by the middle of the draws, with intervals beside them.

    Parameters
    ----------
    before : DataFrame
        With the blanks; a number that is NaN counts as one.
    copies : sequence of DataFrame
        M completed draws of it, columns as in `before`; what is blank in them too stays so.
    level : float
        Of the intervals, in (0, 1).

    Returns
    -------
    DataFrame
        The columns of `before`. After each that was filled in, for ordered values ``COL low`` and
        ``COL high``, the k-th smallest and largest draw, ``k = floor((M + 1) (1 - level) / 2)``; for
        others ``COL share``, the share of draws that agree with the most frequent value. They are
        null where the cell was not blank, and have another name where that is a column's own. A
        filled cell is the middle draw, or the most frequent value.

    Raises
    ------
    DataError
        If M is too few for the level.

    Examples
    --------
    >>> import polars as pl
    >>> copies = [pl.DataFrame({"x": [1.0, v]}) for v in (5.0, 2.0, 9.0)]
    >>> with_intervals(pl.DataFrame({"x": [1.0, None]}), copies, 0.5).row(1)
    (5.0, 2.0, 9.0)
    """
    import polars as pl

    outer = math.floor(round((draws_for(level, len(copies)) + 1) * (1 - level) / 2, 9))
    columns: list[pl.Series] = []
    taken = set(before.columns)

    def beside(name: str, kind: Any, rows: list[int], values: list[Any]) -> pl.Series:
        while name in taken:
            name += " of draws"
        taken.add(name)
        cells: list[Any] = [None] * before.height
        for i, value in zip(rows, values, strict=True):
            cells[i] = value
        return pl.Series(name, cells, dtype=kind)

    for name in before.columns:
        own = before[name].fill_nan(None) if before[name].dtype.is_float() else before[name]
        drawn = [copy[name] for copy in copies]
        made = own.is_null() & drawn[0].is_not_null()
        blank = [i for i, missing in enumerate(made) if missing]
        if not blank:
            columns.append(drawn[0])
            continue
        cells = [sorted(series[i] for series in drawn) for i in blank]
        kind = drawn[0].dtype
        if kind.is_numeric() or kind.is_temporal():
            middle = [values[len(values) // 2] for values in cells]
            low, high = [v[outer - 1] for v in cells], [v[-outer] for v in cells]
            more = [
                beside(f"{name} low", kind, blank, low),
                beside(f"{name} high", kind, blank, high),
            ]
        else:
            counts = [max((values.count(v), v) for v in dict.fromkeys(values)) for values in cells]
            middle = [value for _, value in counts]
            share = [count / len(copies) for count, _ in counts]
            more = [beside(f"{name} share", pl.Float64, blank, share)]
        filled = drawn[0].to_list()
        for i, value in zip(blank, middle, strict=True):
            filled[i] = value
        columns += [pl.Series(name, filled, dtype=kind), *more]
    return pl.DataFrame(columns)
