r"""The energy of the data themselves: the density blurred at a noise level, without a network.

Rows ``x_1 .. x_n`` blurred by ``N(0, sigma^2 I)`` have the density

    p_sigma(x) = 1/n sum_i N(x; x_i, sigma^2 I),

whose score minimises denoising score matching at that level over all fields (Vincent 2011, eqs. 9
to 11), so its energy ``-log p_sigma`` is what a network trained on these rows would learn if it could
learn them by heart. As sigma goes to 0, ``2 sigma^2 E`` becomes the squared distance to the nearest.

Training rows are scored **without themselves** (leave one out): with themselves every one of them is
at distance 0. Sums are over ``log``-weights, so that no distance underflows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

__all__ = [
    "Surroundings",
    "empirical_energies",
    "kth_distances",
    "nearest_distances",
    "surroundings",
]

#: Distances at once: a block that stays in the cache is 1.7 times faster than one of four times this.
_CELLS = 1_000_000
#: A thread is worth its start where it has so many blocks to do.
_BLOCKS_A_THREAD = 4


def empirical_energies(
    x: NDArray[np.float64],
    rows: NDArray[np.float64],
    levels: Sequence[float],
    *,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """``-log p_sigma(x)`` of the blurred rows at each level, in nats.

    Parameters
    ----------
    x : array of shape (m, D)
    rows : array of shape (n, D)
        What the density is made of.
    levels : sequence of L positive numbers
        Noise levels sigma, in the units of x.
    own : int array of shape (m,), optional
        Where each x stands in ``rows``: it is left out of its own density.

    Returns
    -------
    ndarray of shape (m, L)

    Raises
    ------
    ValueError
        A level that is not positive, widths that differ, or no row to compare with.

    References
    ----------
    Vincent 2011, "A connection between score matching and denoising autoencoders".

    Examples
    --------
    >>> rows = np.zeros((1, 1))
    >>> float(empirical_energies(np.ones((1, 1)), rows, [1.0])[0, 0].round(4))
    1.4189
    """
    _check(x, rows, own)
    sigmas = np.asarray(levels, dtype=np.float64)
    if sigmas.ndim != 1 or not (sigmas > 0).all():
        raise ValueError(f"noise levels must be positive numbers, got {list(levels)}")
    out = np.empty((len(x), len(sigmas)))
    log_count = np.log(len(rows) - (own is not None))
    for part, squares in _squared_distances(x, rows, own):
        nearest = squares.min(axis=1, keepdims=True)
        squares -= nearest
        for j, sigma in enumerate(sigmas):
            mass = np.exp(squares * (-0.5 / sigma**2)).sum(axis=1)
            out[part, j] = nearest[:, 0] * (0.5 / sigma**2) - np.log(mass)
    return out + log_count + 0.5 * x.shape[1] * np.log(2 * np.pi * sigmas**2)


def nearest_distances(
    x: NDArray[np.float64],
    rows: NDArray[np.float64],
    k: int = 1,
    *,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Distances to the k nearest rows, nearest first.

    Parameters
    ----------
    x, rows, own
        As in :func:`empirical_energies`.
    k : int
        At most as many as there are rows to compare with.

    Returns
    -------
    ndarray of shape (m, k)

    Examples
    --------
    >>> nearest_distances(np.array([[0.0]]), np.array([[1.0], [3.0]]), 2).tolist()
    [[1.0, 3.0]]
    """
    _check(x, rows, own)
    others = len(rows) - (own is not None)
    if not 1 <= k <= others:
        raise ValueError(f"k must lie between 1 and the {others} rows there are, got {k}")
    out = np.empty((len(x), k))
    for part, squares in _squared_distances(x, rows, own):
        near = np.partition(squares, k - 1, axis=1)[:, :k]
        out[part] = np.sqrt(np.sort(near, axis=1))
    return out


def kth_distances(
    x: NDArray[np.float64],
    rows: NDArray[np.float64],
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The distance to the k-th nearest row alone, shape (m,); arguments of :func:`nearest_distances`.

    Examples
    --------
    >>> kth_distances(np.array([[0.0]]), np.array([[1.0], [3.0]]), 2).tolist()
    [3.0]
    """
    _check(x, rows, own)
    others = len(rows) - (own is not None)
    if not 1 <= k <= others:
        raise ValueError(f"k must lie between 1 and the {others} rows there are, got {k}")
    out = np.empty(len(x))

    def look(part: slice, squares: NDArray[np.float64]) -> None:
        squares.partition(k - 1, axis=1)
        out[part] = np.sqrt(squares[:, k - 1])

    _over_blocks(look, x, rows, own)
    return out


def _check(
    x: NDArray[np.float64], rows: NDArray[np.float64], own: NDArray[np.int64] | None
) -> None:
    if x.ndim != 2 or rows.ndim != 2 or x.shape[1] != rows.shape[1]:
        raise ValueError(f"rows of one width are compared, got shapes {x.shape} and {rows.shape}")
    if len(rows) < (1 if own is None else 2):
        raise ValueError(f"{len(rows)} row(s) leave nothing to compare with")
    if own is not None and own.shape != (len(x),):
        raise ValueError(f"{len(x)} rows need as many own positions, got shape {own.shape}")


def _squared_distances(
    x: NDArray[np.float64], rows: NDArray[np.float64], own: NDArray[np.int64] | None
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Blocks of x and their squared distances to all rows, float64, infinite to itself."""
    # About the rows' mean the expanded square loses least to cancellation.
    centre = rows.mean(axis=0)
    x, rows = x - centre, rows - centre
    lengths = np.einsum("nd,nd->n", rows, rows)
    size = max(1, _CELLS // max(len(rows), 1))
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        block = x[part]
        squares = block @ (-2.0 * rows.T)
        squares += lengths
        squares += np.einsum("nd,nd->n", block, block)[:, None]
        np.maximum(squares, 0.0, out=squares)
        if own is not None:
            squares[np.arange(len(block)), own[part]] = np.inf
        yield part, squares


class Surroundings(NamedTuple):
    """What is near: energy [m], mean distance to the k nearest [m], where they stand [m, k]."""

    energy: NDArray[np.float64]
    reach: NDArray[np.float64]
    nearest: NDArray[np.int64]


def surroundings(
    x: NDArray[np.float64],
    rows: NDArray[np.float64],
    level: float,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
) -> Surroundings:
    """Energy at one level and the k nearest rows, in one pass over the distances.

    Without neighbours (k = 0) their mean distance is NaN. Many rows are shared out over the threads
    that matrix products may use. The energy is that of :func:`empirical_energies` without its
    constant, which depends on the level and the width alone.

    Examples
    --------
    >>> near = surroundings(np.zeros((1, 1)), np.array([[1.0], [2.0]]), 1.0, 2)
    >>> float(near.reach[0]), near.nearest[0].tolist()
    (1.5, [0, 1])
    """
    _check(x, rows, own)
    others = len(rows) - (own is not None)
    if not 0 <= k <= others:
        raise ValueError(f"k must lie between 0 and the {others} rows there are, got {k}")
    energy, reach = np.empty(len(x)), np.full(len(x), np.nan)
    ids = np.empty((len(x), k), dtype=np.int64)

    def look(part: slice, squares: NDArray[np.float64]) -> None:
        if k:
            near = np.argpartition(squares, k - 1, axis=1)[:, :k]
            distances = np.take_along_axis(squares, near, axis=1)
            order = np.argsort(distances, axis=1, kind="stable")
            ids[part] = np.take_along_axis(near, order, axis=1)
            reach[part] = np.sqrt(distances).mean(axis=1)
            nearest = distances.min(axis=1, keepdims=True)
        else:
            nearest = squares.min(axis=1, keepdims=True)
        squares -= nearest
        squares *= -0.5 / level**2
        mass = np.exp(squares, out=squares).sum(axis=1)
        energy[part] = nearest[:, 0] * (0.5 / level**2) - np.log(mass / others)

    _over_blocks(look, x, rows, own)
    return Surroundings(energy, reach, ids)


def _over_blocks(
    look: Callable[[slice, NDArray[np.float64]], None],
    x: NDArray[np.float64],
    rows: NDArray[np.float64],
    own: NDArray[np.int64] | None,
) -> None:
    """``look`` at every block of distances, on several threads where there are many."""

    def walk(start: int, stop: int) -> None:
        mine = slice(start, stop)
        for part, squares in _squared_distances(x[mine], rows, None if own is None else own[mine]):
            look(slice(start + part.start, start + part.stop), squares)

    share_out(walk, len(x), len(rows))


def share_out(walk: Callable[[int, int], None], count: int, cells: int) -> None:
    """``walk(start, stop)`` over all rows, on several threads where they have many cells together."""
    threads = max((int(t["num_threads"]) for t in threadpool_info()), default=1)
    parts = min(threads, count * cells // (_BLOCKS_A_THREAD * _CELLS))
    if parts < 2:
        walk(0, count)
        return
    edges = np.linspace(0, count, parts + 1).astype(int)
    # Each thread has its own products: two pools would get in each other's way.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(parts) as pool:
        list(pool.map(walk, edges[:-1].tolist(), edges[1:].tolist()))
