r"""Surroundings among many reference rows, in both views of a table at once and in single precision.

Distances to n rows cost a product, a sum of exponentials and a search for neighbours. For many rows:

- Columns that are the same in both views (all but the ranked ones) are multiplied once; those that
  are mostly zero (names of many levels, flags) only where they are not.
- ``|x - r|^2 = |x|^2 + (|r|^2 - 2 x.r)``: the bracket is in single precision, ``|x|^2`` is added in
  double. A weight ``exp(-|x - r|^2 / 2 sigma^2)`` is then off by a share of about
  ``1e-7 |x|^2 / sigma^2``: rows farther than 64 from the centre are left to double precision.
- The k smallest of a row's n distances lie in those k of its groups whose smallest are smallest: few
  cells are searched. Distances to the k are computed again in double precision, from differences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from energyscape.detectors.energies import Surroundings, share_out, surroundings

__all__ = ["MANY", "smallest", "two_surroundings"]

#: Reference rows from which on single precision pays.
MANY = 2000
#: Distances at once.
_CELLS = 400_000
_GROUPS = 256
#: A column that is other than zero in a smaller share of rows is sparse.
_SPARSE = 0.15
_FARTHEST = 4096.0
#: The log of a weight that is as good as none.
_LEAST = np.float32(-80.0)

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def two_surroundings(
    x: Pair, rows: Pair, level: float, k: int, *, own: NDArray[np.int64] | None = None
) -> tuple[Surroundings, Surroundings]:
    """:func:`surroundings` in two views; neighbours are looked for in the first alone.

    Parameters
    ----------
    x : two arrays of shape (m, D)
    rows : two arrays of shape (n, D)
    level, k, own
        As in :func:`energyscape.detectors.surroundings`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows, x = rng.normal(size=(500, 3)), rng.normal(size=(2, 3))
    >>> fast = two_surroundings((x, 2 * x), (rows, 2 * rows), 0.5, 3)[1].energy
    >>> bool(np.allclose(fast, surroundings(2 * x, 2 * rows, 0.5, 0).energy, atol=1e-4))
    True
    """
    # About the rows' mean least is lost to cancellation; sparse columns stay sparse.
    centres = [np.where((r != 0).mean(axis=0) < _SPARSE, 0.0, r.mean(axis=0)) for r in rows]
    lengths = [np.square(a - c).sum(axis=1) for a, c in zip(x, centres, strict=True)]
    far = np.maximum(*lengths) > _FARTHEST
    m = len(x[0])
    energy, reach, ids = np.empty((2, m)), np.empty(m), np.empty((m, k), dtype=np.int64)
    if far.any():
        mine = None if own is None else own[far]
        first = surroundings(x[0][far], rows[0], level, k, own=mine)
        energy[0, far], reach[far], ids[far] = first
        energy[1, far] = surroundings(x[1][far], rows[1], level, 0, own=mine).energy
    near = np.flatnonzero(~far)
    differs = (rows[0] != rows[1]).any(axis=0) | (x[0] != x[1]).any(axis=0)
    shared = _Products(rows[0] - centres[0], ~differs)
    apart = [_Products(r - c, differs) for r, c in zip(rows, centres, strict=True)]
    log_count = np.log(len(rows[0]) - (own is not None))
    size = max(1, _CELLS // len(rows[0]))

    def walk(start: int, stop: int) -> None:
        # Memory that is asked for again and again costs more than what is done in it.
        shape = (min(size, stop - start), len(rows[0]))
        same_cells, own_cells = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for begin in range(start, stop, size):
            part = near[begin : min(begin + size, stop)]
            centred = [a[part] - c for a, c in zip(x, centres, strict=True)]
            same = shared(centred[0], same_cells[: len(part)])
            for v in (0, 1):
                cells = apart[v](centred[v], own_cells[: len(part)])
                cells += same
                if own is not None:
                    cells[np.arange(len(part)), own[part]] = np.inf
                if v == 0 and k:
                    chosen = smallest(cells, k)
                    found = np.square(x[0][part][:, None] - rows[0][chosen]).sum(axis=2)
                    order = np.argsort(found, axis=1, kind="stable")
                    ids[part] = np.take_along_axis(chosen, order, axis=1)
                    reach[part] = np.sqrt(found).mean(axis=1)
                least = cells.min(axis=1)
                cells -= least[:, None]
                cells *= np.float32(-0.5 / level**2)
                # Smaller weights are no normal numbers, and slow.
                mass = np.exp(np.maximum(cells, _LEAST, out=cells), out=cells).sum(axis=1)
                nearest = np.maximum(lengths[v][part] + least, 0.0)
                energy[v, part] = nearest * (0.5 / level**2) - np.log(mass) + log_count

    share_out(walk, len(near), len(rows[0]))
    if not k:
        reach[near] = np.nan
    none = np.empty((m, 0), dtype=np.int64)
    return Surroundings(energy[0], reach, ids), Surroundings(energy[1], np.full(m, np.nan), none)


class _Products:
    """``|r|^2 - 2 x.r`` over some columns, float32 [m, n]."""

    def __init__(self, rows: NDArray[np.float64], columns: NDArray[np.bool_]) -> None:
        used = rows[:, columns]
        # The squared lengths are one more column, by which x has 1.
        extended = np.concatenate([-2.0 * used, np.square(used).sum(axis=1, keepdims=True)], axis=1)
        sparse = np.append((used != 0).mean(axis=0) < _SPARSE, False)
        self.columns = columns
        self.dense = np.ascontiguousarray(extended[:, ~sparse].T, dtype=np.float32)
        self.sparse = np.ascontiguousarray(extended[:, sparse].T, dtype=np.float32)
        self.is_sparse = sparse[:-1]

    def __call__(self, x: NDArray[np.float64], out: NDArray[np.float32]) -> NDArray[np.float32]:
        used = x[:, self.columns].astype(np.float32)
        ones = np.ones((len(x), 1), dtype=np.float32)
        np.matmul(np.concatenate([used[:, ~self.is_sparse], ones], axis=1), self.dense, out=out)
        few = used[:, self.is_sparse]
        for i, j in zip(*np.nonzero(few), strict=True):
            out[i] += self.sparse[j] if few[i, j] == 1 else few[i, j] * self.sparse[j]
        return out


def smallest(cells: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Where each row's k smallest cells stand, in no order, shape (m, k).

    Examples
    --------
    >>> np.sort(smallest(np.array([[3, 1, 2, 0]], dtype=np.float32), 2)).tolist()
    [[1, 3]]
    """
    m, n = cells.shape
    deep = n // _GROUPS
    if deep < 4 or 4 * k > _GROUPS:
        return np.argpartition(cells, k - 1, axis=1)[:, :k]
    # Group g holds the cells g, g + 256, g + 512, ...; what is left over is a group of its own kind.
    even = cells[:, : deep * _GROUPS]
    groups = even.reshape(m, deep, _GROUPS).min(axis=1)
    best = np.argpartition(groups, k - 1, axis=1)[:, :k]
    inside = best[:, None, :] + _GROUPS * np.arange(deep)[:, None]
    rest = np.broadcast_to(np.arange(deep * _GROUPS, n), (m, n - deep * _GROUPS))
    candidates = np.concatenate([inside.reshape(m, -1), rest], axis=1)
    among = np.take_along_axis(cells, candidates, axis=1)
    chosen = np.argpartition(among, k - 1, axis=1)[:, :k]
    return np.take_along_axis(candidates, chosen, axis=1)
