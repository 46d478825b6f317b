r"""The same row as it would be typical: moved down in the energy of the data, along some cells alone.

Where the energy is that of blurred rows (:mod:`energyscape.detectors.energies`), a step down has a
closed form: the *mean shift* (Fukunaga and Hostetler 1975; Cheng 1995), here of the numbers J that may
move,

    x_J  <-  sum_i w_i x_iJ,        w_i ~ exp(-|x - x_i|^2 / 2 sigma^2).

It is a step of expectation maximisation on the mixture of all rows, hence never goes up, and no step
size is chosen. A name becomes the one of most weight, ``argmax_c sum_{i: c_i = c} w_i``, by weights
that leave its column out: the energy's minimum over the names of the column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from energyscape.detectors.views import TableRows, View

__all__ = ["downhill"]

_CELLS = 1_000_000
_STEPS = 25
#: In standard deviations: where no number moves farther, the walk has ended.
_STILL = 5e-3
#: Squared distance of two names.
_APART = 2.0


def downhill(
    rows: TableRows,
    free: Sequence[Sequence[int]],
    reference: TableRows,
    view: View,
    points: NDArray[np.float64],
    level: float,
    *,
    own: NDArray[np.int64] | None = None,
) -> TableRows:
    """Rows moved down in energy along their free cells; numbers that are blank stay blank.

    Parameters
    ----------
    rows : TableRows
        Of shape (m, ...).
    free : for each row the columns that may move: numbers first, then names.
    reference : TableRows
        Of shape (n, ...): what the density is made of.
    view : View
        In which distances are measured, not ranked.
    points : array of shape (n, D)
        The reference rows in the view.
    level : float
        Noise level sigma, in the units of the view.
    own : int array of shape (m,), optional
        A reference row for each row that does not count for it.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 1))
    >>> known = TableRows(np.hstack([x, x]), np.zeros((500, 0), dtype=np.int64))
    >>> odd = TableRows(np.array([[1.0, -2.0]]), np.zeros((1, 0), dtype=np.int64))
    >>> view = View.fit(known)
    >>> downhill(odd, [[1]], known, view, view.transform(known), 0.3).numbers.round(1).tolist()
    [[1.0, 0.9]]
    """
    size = max(1, _CELLS // max(len(points), 1))
    width = rows.numbers.shape[1]
    numbers, codes = rows.numbers.copy(), rows.codes.copy()
    may = np.zeros((len(rows), width + codes.shape[1]), dtype=bool)
    for i, columns in enumerate(free):
        may[i, list(columns)] = True
    may[:, :width] &= ~np.isnan(numbers) & ~view.constant
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        here = TableRows(numbers[part], codes[part])
        mine = None if own is None else own[part]
        _walk(here, may[part], reference, view, points, level, mine)
    return TableRows(numbers, codes)


def _walk(
    rows: TableRows,
    may: NDArray[np.bool_],
    reference: TableRows,
    view: View,
    points: NDArray[np.float64],
    level: float,
    own: NDArray[np.int64] | None,
) -> None:
    """In place, a block of rows."""
    width = rows.numbers.shape[1]
    scale = np.divide(view.std, view.weight, out=np.zeros(width), where=view.weight > 0)
    left = np.arange(len(rows))
    for _ in range(_STEPS):
        if not len(left):
            return
        free, here = may[left], rows.take(left)
        renamed = np.zeros(len(left), dtype=bool)
        for j in np.flatnonzero(free[:, width:].any(axis=0)):
            mine, known = free[:, width + j], reference.codes[:, j]
            apart = _APART * (here.codes[mine, j, None] != known)
            kept = None if own is None else own[left][mine]
            weights = _weights(here.take(np.flatnonzero(mine)), view, points, level, kept, apart)
            votes = np.stack([weights[:, known == c].sum(axis=1) for c in view.names[j]], axis=1)
            chosen = view.names[j][votes.argmax(axis=1)]
            renamed[mine] |= chosen != here.codes[mine, j]
            here.codes[mine, j] = chosen
        z = _weights(here, view, points, level, None if own is None else own[left])
        z = z @ points[:, :width]
        aim = np.where(free[:, :width], view.mean + z * scale, here.numbers)
        moved = np.where(free[:, :width], np.abs(aim - here.numbers) / view.std, 0.0)
        rows.numbers[left], rows.codes[left] = aim, here.codes
        left = left[renamed | (moved.max(axis=1, initial=0.0) > _STILL)]


def _weights(
    rows: TableRows,
    view: View,
    points: NDArray[np.float64],
    level: float,
    own: NDArray[np.int64] | None,
    without: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """Of each reference row, shape (m, n), adding up to 1; ``without`` is taken off the distances."""
    x = view.transform(rows)
    squares = (x**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2 * x @ points.T - without
    if own is not None:
        squares[np.arange(len(x)), own] = np.inf
    weights = np.exp((squares.min(axis=1, keepdims=True) - squares) * (0.5 / level**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
