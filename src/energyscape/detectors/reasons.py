r"""Why a row is strange: which of its cells the rest of the row does not lead one to expect.

**Blame.** Say that cell j was replaced by one that has nothing to do with the row. The odds of that
against a whole row are, in the blurred data's density (:mod:`energyscape.detectors.energies`),

    r_j(x) = -log p(x_j | x_-j) + log q_j(x_j),
    p(x_j | x_-j) = sum_i w_i N(x_j; x_ij, s^2),    w_i ~ exp(-|x_-j - x_i,-j|^2 / 2 r^2),

where q_j is the column's own density, mixed with one that reaches everywhere (a value that no row
has). With r = s, the detectors' level, ``-log p(x_j | x_-j)`` is E(x) less the energy without column j.
Among many names the nearest row alone says little, so the reach r is s or wider: the one by which
reference rows expect their own cells most (the pseudo-likelihood, Besag 1975). The column of the
largest r_j, the mean over the two views of the table, is blamed first. Strange cells hide one another,
hence the next is sought in the row *without* those blamed before, and is blamed only if its r_j is
rarer among ordinary rows than one in twenty over all columns
(:class:`~energyscape.detectors.surprise.TailLaw`).

**What was expected** of a blamed cell is told by the rows nearest in all other columns: their median
and an interval, or the commonest names. Intervals and sets are conformalised (Romano et al.
1905.03222, Angelopoulos & Bates 2107.07511): on reference rows, each without itself, they hold the
true cell as often as stated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from energyscape.detectors.surprise import TailLaw
from energyscape.detectors.views import TableRows, View

__all__ = ["Expected", "Reasons", "find_rows"]

_LEVEL = 0.5
_CELLS = 400_000
#: Reaches that are tried, in levels, and rows that tell which is best.
_REACHES = (1.0, 2**0.5, 2.0, 2**1.5)
_JUDGES, _JUDGED_COLUMNS = 100, 100
#: Reference rows that reasons are sought among, and how many of them tell what is usual: fewer where
#: they have more cells than so many.
_MOST_ROWS, _PROBES, _FEWEST_PROBES, _PROBED_CELLS = 4000, 400, 100, 80_000
_NEAR = 40
#: A further column is blamed where ordinary rows have one as unexpected once in twenty.
_RARE = 0.05


class Expected(NamedTuple):
    """What a cell was expected to be.

    ``middle``, ``low`` and ``high`` of a number (NaN: a blank), or ``names``: codes, likeliest first.
    """

    middle: float
    low: float
    high: float
    names: tuple[int, ...]


@dataclass(frozen=True)
class Reasons:
    """Finds the cells that make rows strange; columns are numbers first, then names.

    Parameters
    ----------
    rows : reference rows, at most 4,000 of those fitted on.
    views : of the detector.
    cells : for each view, the reference rows' numbers column by column.
    laws : of each column's r_j among ordinary rows.
    widening : for each number how far its interval reaches beyond the neighbours' own, in their
        spreads; for each name the share of neighbours that its set must hold.
    coverage : what intervals and sets are for.
    reach : the width of the kernels that weigh reference rows by the rest of a row.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 1))
    >>> rows = TableRows(np.hstack([x, x, -x]) + 0.1 * rng.normal(size=(300, 3)),
    ...                  np.zeros((300, 0), dtype=np.int64))
    >>> reasons = Reasons.fit(rows, (View.fit(rows),))
    >>> odd = TableRows(np.array([[1.0, -1.0, -1.0]]), np.zeros((1, 0), dtype=np.int64))
    >>> blamed, surprise = reasons.blame(odd)
    >>> blamed
    [[1]]
    >>> found = reasons.expected(odd, blamed)[0][0]
    >>> bool(found.low < 1.0 < found.high)
    True
    """

    rows: TableRows
    views: tuple[View, ...]
    cells: tuple[list[NDArray[np.float64]], ...]
    laws: tuple[TailLaw, ...]
    widening: NDArray[np.float64]
    coverage: float
    reach: float = _LEVEL

    @classmethod
    def fit(
        cls, rows: TableRows, views: Sequence[View], *, coverage: float = 0.9, seed: int = 0
    ) -> Self:
        """Measure on the reference rows what is usual; ``seed`` draws the rows that tell.

        Raises
        ------
        ValueError
            Fewer than two rows, or a coverage outside of (0, 1).
        """
        if len(rows) < 2:
            raise ValueError(f"at least 2 rows are needed to compare, got {len(rows)}")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie strictly between 0 and 1, got {coverage}")
        order = np.random.default_rng(seed).permutation(len(rows))
        rows = rows.take(np.sort(order[:_MOST_ROWS]))
        cells = tuple(view.cells(rows) for view in views)
        rng = np.random.default_rng(seed)
        probes, width = np.arange(len(rows)), rows.numbers.shape[1] + rows.codes.shape[1]
        most = min(_PROBES, max(_FEWEST_PROBES, _PROBED_CELLS // max(width, 1)))
        if len(rows) > most:
            probes = np.sort(rng.permutation(len(rows))[:most])
        told = np.sort(rng.permutation(width)[:_JUDGED_COLUMNS])
        bare = cls(rows, tuple(views), cells, (), np.empty(0), coverage)
        judges = probes[:: max(1, len(probes) // _JUDGES)]
        tried = [replace(bare, reach=_LEVEL * wide) for wide in _REACHES]
        bare = min(tried, key=lambda r: r._unexpected(rows.take(judges), judges, told))
        usual = bare.odds(rows.take(probes), own=probes)
        laws = tuple(TailLaw.fit(column) for column in usual.T)
        widening = bare._calibrate(rows.take(probes), probes)
        return replace(bare, laws=laws, widening=widening)

    @property
    def num_columns(self) -> int:
        """Columns of the table."""
        return self.rows.numbers.shape[1] + self.rows.codes.shape[1]

    # -- blame ---------------------------------------------------------------------------------

    def odds(
        self,
        rows: TableRows,
        without: NDArray[np.bool_] | None = None,
        own: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """``r_j``: how much likelier each cell is as one from elsewhere, nats, shape (m, C).

        Parameters
        ----------
        rows : TableRows
        without : bool array of shape (m, C), optional
            Cells that are left out of their rows; their odds are of no meaning.
        own : int array of shape (m,), optional
            Where the rows stand among the reference rows (-1: nowhere): they are compared with the
            others.
        """
        cells, elsewhere = self._terms(rows, without, own)
        return cells - elsewhere

    def _unexpected(
        self, rows: TableRows, own: NDArray[np.int64], told: NDArray[np.int64]
    ) -> float:
        """The mean of ``-log p(x_j | x_-j)`` over the cells of some columns, nats."""
        return float(self._terms(rows, None, own, both=False, told=told)[0][:, told].mean())

    def _terms(
        self,
        rows: TableRows,
        without: NDArray[np.bool_] | None,
        own: NDArray[np.int64] | None,
        *,
        both: bool = True,
        told: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``-log p(x_j | x_-j)`` and, if asked for, ``-log q_j(x_j)``, means over the views, (m, C),
        of the columns asked for."""
        if without is None:
            without = np.zeros((len(rows), self.num_columns), dtype=bool)
        cells, elsewhere = np.zeros((2, len(rows), self.num_columns))
        narrower = (_LEVEL / self.reach) ** 2
        for view, known in zip(self.views, self.cells, strict=True):
            x = view.cells(rows)
            for part in self._blocks(len(rows)):
                columns = self._columns(x, rows.codes, known, part)
                alone = None if own is None else own[part]
                total = self._total(columns, without[part], alone)
                whole = _energy(total) if narrower == 1 else None
                for j in range(self.num_columns) if told is None else told:
                    squares = columns(j)
                    rest = (total - squares * ~without[part, j, None]) * narrower
                    joint = _energy(rest + squares) if whole is None else whole
                    cells[part, j] += joint - _energy(rest)
                    if both:
                        _leave_out(squares, alone)
                        elsewhere[part, j] += self._elsewhere(squares)
        return cells / len(self.views), elsewhere / len(self.views)

    def _elsewhere(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """``-log q_j``: the column's own density with one row more, which stands everywhere."""
        return np.log(len(self.rows) + 1) - np.logaddexp(-_energy(squares), 0.0)

    def find(self, rows: TableRows) -> NDArray[np.int64]:
        """Where each row stands among the reference rows, -1 where it does not, shape (m,)."""
        return find_rows(rows, self.rows)

    def blame(
        self, rows: TableRows, most: int = 3, own: NDArray[np.int64] | None = None
    ) -> tuple[list[list[int]], NDArray[np.float64]]:
        """Columns to blame for each row, most to blame first, at least one, and their odds.

        Returns
        -------
        list of m lists of column numbers, and odds of shape (m, C): of blamed columns when they
        were, of the others in the whole row.
        """
        odds = self.odds(rows, own=own)
        blamed = [[int(c)] for c in odds.argmax(axis=1)]
        rare = np.log(self.num_columns / _RARE)
        left = np.arange(len(rows))
        for _ in range(min(most, self.num_columns) - 1):
            without = np.zeros((len(left), self.num_columns), dtype=bool)
            for i, row in enumerate(left):
                without[i, blamed[row]] = True
            alone = None if own is None else own[left]
            more = np.where(without, -np.inf, self.odds(rows.take(left), without, alone))
            best = more.argmax(axis=1)
            going = np.array(
                [self.laws[c].surprise(more[i, c]) > rare for i, c in enumerate(best)], dtype=bool
            )
            left, more, best = left[going], more[going], best[going]
            for row, column, again in zip(left, best, more, strict=True):
                blamed[row].append(int(column))
                odds[row, column] = again[column]
            if not left.size:
                break
        return blamed, odds

    def _blocks(self, count: int) -> list[slice]:
        size = max(1, _CELLS // len(self.rows))
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def _columns(
        self,
        x: list[NDArray[np.float64]],
        codes: NDArray[np.int64],
        cells: list[NDArray[np.float64]],
        part: slice,
    ) -> Callable[[int], NDArray[np.float64]]:
        """Squared distances in column j of some rows to the reference rows, shape (m, n)."""

        def squares(j: int) -> NDArray[np.float64]:
            if j >= len(cells):
                names, others = codes[part, j - len(cells)], self.rows.codes[:, j - len(cells)]
                return 2.0 * (names[:, None] != others)
            own, known = x[j][part], cells[j]
            out = np.square(own[:, :1] - known[:, 0])
            for d in range(1, own.shape[1]):
                if own[:, d].any() or known[:, d].any():
                    out += np.square(own[:, d : d + 1] - known[:, d])
            return out

        return squares

    def _total(
        self,
        columns: Callable[[int], NDArray[np.float64]],
        without: NDArray[np.bool_],
        own: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """Squared distances over the columns that are not left out, infinite to itself."""
        total = np.zeros((len(without), len(self.rows)))
        for j in range(self.num_columns):
            total += columns(j) * ~without[:, j, None]
        _leave_out(total, own)
        return total

    # -- what was expected ---------------------------------------------------------------------

    def expected(
        self,
        rows: TableRows,
        blamed: Sequence[Sequence[int]],
        own: NDArray[np.int64] | None = None,
    ) -> list[list[Expected]]:
        """For each blamed cell what the rest of its row, without blamed cells, leads to expect."""
        near, far = self._nearest(rows, blamed, own)
        return [
            [self._cell(j, near[i], far[i]) for j in columns] for i, columns in enumerate(blamed)
        ]

    def nearest(
        self,
        rows: TableRows,
        blamed: Sequence[Sequence[int]],
        own: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """The reference row (in ``rows``) nearest in all cells that are not blamed, shape (m,)."""
        return self._nearest(rows, blamed, own)[0][:, 0]

    def _nearest(
        self,
        rows: TableRows,
        blamed: Sequence[Sequence[int]],
        own: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows nearest in the mean of the views, nearest first, [m, k], and how far [m]."""
        without = np.zeros((len(rows), self.num_columns), dtype=bool)
        for i, columns in enumerate(blamed):
            without[i, list(columns)] = True
        found = [
            self._closest(total) for total, _ in self._both_views(rows, without, own)
        ]  # one block after the other
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _both_views(
        self, rows: TableRows, without: NDArray[np.bool_], own: NDArray[np.int64] | None
    ) -> Iterator[tuple[NDArray[np.float64], Callable[[int], NDArray[np.float64]]]]:
        """Block by block: squared distances, the mean over views, and those of each column."""
        x = [view.cells(rows) for view in self.views]
        for part in self._blocks(len(rows)):
            each = [
                self._columns(xs, rows.codes, cells, part)
                for xs, cells in zip(x, self.cells, strict=True)
            ]

            def column(j: int, each: list[Any] = each) -> NDArray[np.float64]:
                return np.asarray(sum(squares(j) for squares in each) / len(each))

            yield self._total(column, without[part], None if own is None else own[part]), column

    def _closest(
        self, squares: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        k = min(_NEAR, len(self.rows) - 1)
        near = np.argpartition(squares, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(squares, near, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1), np.sqrt(np.maximum(found.mean(axis=1), 0))

    def _cell(self, j: int, near: NDArray[np.int64], far: float) -> Expected:
        numbers = self.rows.numbers.shape[1]
        if j < numbers:
            found = self._spreads(j, near[None], np.array([far]))
            low, middle, high, spread = (float(v[0]) for v in found)
            wider = self.widening[j] * spread
            return Expected(middle, min(low - wider, middle), max(high + wider, middle), ())
        codes, shares = self._shares(j - numbers, near)
        held = np.cumsum(shares) <= self.widening[j] + 1e-9
        held[0] = True
        return Expected(np.nan, np.nan, np.nan, tuple(int(c) for c in codes[held]))

    def _spreads(
        self, j: int, near: NDArray[np.int64], far: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], ...]:
        """Quantiles and median of each row's neighbours, and the unit in which an interval is widened.

        Of neighbours (m, k) four arrays of shape (m,), NaN where most of them are blank.
        """
        values = self.rows.numbers[near, j]
        blank = np.isnan(values)
        mostly = 2 * blank.sum(axis=1) >= values.shape[1]
        tail = (1 - self.coverage) / 2
        quantile = np.nanquantile if (blank & ~mostly[:, None]).any() else np.quantile
        values[mostly] = 0.0
        low, middle, high = quantile(values, [tail, 0.5, 1 - tail], axis=1)
        # Farther neighbours know less of the row.
        unit = 0.1 * float(self.views[0].std[j]) * (1 + far)
        found = np.stack([low, middle, high, high - low + unit])
        found[:, mostly] = np.nan
        return tuple(found)

    def _shares(
        self, j: int, near: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes of a column by their share among the neighbours, the whole table counting as one."""
        column, known = self.rows.codes[:, j], self.views[0].names[j]
        whole = np.bincount(np.searchsorted(known, column), minlength=len(known)) / len(column)
        local = np.bincount(np.searchsorted(known, column[near]), minlength=len(known))
        share = (local + whole) / (len(near) + 1)
        order = np.argsort(-share, kind="stable")
        return known[order], share[order]

    def _calibrate(self, rows: TableRows, own: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far intervals must reach so that they hold the truth as often as stated."""
        missed: list[list[float]] = [[] for _ in range(self.num_columns)]
        none = np.zeros((len(rows), self.num_columns), dtype=bool)
        start = 0
        for total, column in self._both_views(rows, none, own):
            for j in range(self.num_columns):
                near, far = self._closest(total - column(j))
                part = np.arange(start, start + len(near))
                missed[j] += self._missed(j, rows.take(part), near, far).tolist()
            start += len(total)
        out = np.zeros(self.num_columns)
        for j, values in enumerate(missed):
            rank = int(np.ceil(self.coverage * (len(values) + 1)))
            out[j] = np.sort(values)[min(rank, len(values)) - 1] if values else 0.0
        return out

    def _missed(
        self, j: int, rows: TableRows, near: NDArray[np.int64], far: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """How much wider the intervals (or sets) of a column's cells must be to hold them.

        Not told of blanks: whether a cell is one is told by the middle, not by the interval.
        """
        numbers = self.rows.numbers.shape[1]
        if j < numbers:
            low, _, high, spread = self._spreads(j, near, far)
            value = rows.numbers[:, j]
            misses = np.maximum(low - value, value - high) / np.maximum(spread, 1e-300)
            return misses[~np.isnan(misses)]
        out = np.ones(len(rows))
        for i, code in enumerate(rows.codes[:, j - numbers]):
            codes, shares = self._shares(j - numbers, near[i])
            where = np.flatnonzero(codes == code)
            if where.size:
                out[i] = np.cumsum(shares)[where[0]]
        return out


def find_rows(rows: TableRows, among: TableRows) -> NDArray[np.int64]:
    """The first place of each row among others, -1 where none is the same, shape (m,).

    >>> one = TableRows(np.array([[1.0], [np.nan]]), np.zeros((2, 0), dtype=np.int64))
    >>> find_rows(one, TableRows(np.array([[np.nan], [2.0]]), one.codes)).tolist()
    [-1, 0]
    """
    places: dict[bytes, int] = {}
    for i, (numbers, codes) in enumerate(zip(among.numbers, among.codes, strict=True)):
        places.setdefault(numbers.tobytes() + codes.tobytes(), i)
    found = [
        places.get(numbers.tobytes() + codes.tobytes(), -1)
        for numbers, codes in zip(rows.numbers, rows.codes, strict=True)
    ]
    return np.array(found, dtype=np.int64)


def _leave_out(squares: NDArray[np.float64], own: NDArray[np.int64] | None) -> None:
    """Make rows infinitely far from themselves, where they stand somewhere."""
    if own is not None:
        there = np.flatnonzero(own >= 0)
        squares[there, own[there]] = np.inf


def _energy(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the log of the sum of the reference rows' kernels, shape (m,)."""
    nearest = squares.min(axis=1, keepdims=True)
    mass = np.exp((nearest - squares) * (0.5 / _LEVEL**2)).sum(axis=1)
    return np.asarray(nearest[:, 0] * (0.5 / _LEVEL**2) - np.log(mass))
