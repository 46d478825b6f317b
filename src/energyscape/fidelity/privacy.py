"""Whether drawn rows are somebody's own: distances to the closest training record.

A model that learned the law draws rows that are as far from the rows it was trained on as fresh rows
of the law are. Three readings:

    ratio     mean distance to the closest training record, of drawn over held-out rows: 1
              (:func:`energyscape.metrics.neighbour_ratio`)
    share     drawn rows that are closer to a training row than to any of as many held-out rows: 1/2
    copies    drawn rows that equal a training row, beside held-out rows that do
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from energyscape.fidelity.columns import Columns, checked, codes_of, is_number
from energyscape.metrics import Estimate

__all__ = ["closer_to_training", "closest_record_share", "copied", "copies", "nearest"]

_TREE_DIMENSIONS = 8


def nearest(rows: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Distance of each row [N, D] to its nearest reference row [M, D]."""
    from scipy.spatial import cKDTree
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(x, dtype=np.float64) for x in (rows, reference))
    if a.shape[1] <= _TREE_DIMENSIONS:
        return np.asarray(cKDTree(b).query(a)[0])
    return np.concatenate([cdist(a[i : i + 256], b).min(axis=1) for i in range(0, len(a), 256)])


def closer_to_training(
    train: ArrayLike, test: ArrayLike, drawn: ArrayLike, rng: np.random.Generator
) -> np.ndarray:
    """For each drawn row 1 if it is closer to a training row than to a held-out one, else 0; ties 1/2.

    The larger of the two real tables is cut to the size of the smaller one, at random.
    """
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (train, test, drawn))
    n = min(len(a), len(b))
    if not n or not len(c):
        raise ValueError("closest records need at least one row of each table")
    a, b = (x[rng.permutation(len(x))[:n]] for x in (a, b))
    near = [nearest(c, x) for x in (a, b)]
    return np.where(near[0] < near[1], 1.0, np.where(near[0] > near[1], 0.0, 0.5))


def closest_record_share(
    train: ArrayLike, test: ArrayLike, drawn: ArrayLike, rng: np.random.Generator
) -> Estimate:
    """The share of drawn rows closer to training rows than to as many held-out ones.

    1/2 when nothing leaked, 1 when every drawn row is a copy.

    Parameters
    ----------
    train, test, drawn : arrays of shape (N, D), (M, D) and (L, D); see `Space`.
    rng : cuts the larger of the two real tables.

    Examples
    --------
    >>> train, test = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])
    >>> closest_record_share(train, test, [[0.1], [2.0]], np.random.default_rng(0)).value
    1.0
    """
    closer = closer_to_training(train, test, drawn, rng)
    return Estimate(float(closer.mean()), float(closer.std() / np.sqrt(len(closer))))


def copied(train: Columns, drawn: Columns) -> np.ndarray:
    """Which drawn rows equal a training row in every column: booleans [L]."""
    keys = []
    for name in train:
        pair = [train[name], drawn[name]]
        if is_number(pair[0]):
            pair = [np.asarray(x, dtype=np.float64) for x in pair]
            places = np.unique(np.concatenate(pair), return_inverse=True, equal_nan=True)[1]
            keys.append(places.ravel())
        else:
            keys.append(np.concatenate(codes_of(*pair)))
    _, rows = np.unique(np.column_stack(keys), axis=0, return_inverse=True)
    rows = rows.ravel()
    n = len(next(iter(train.values())))
    return np.isin(rows[n:], rows[:n])


def copies(train: Columns, drawn: Columns) -> float:
    """The share of drawn rows that equal a training row in every column.

    Examples
    --------
    >>> copies({"x": np.array([1.0, 2.0])}, {"x": np.array([2.0, 3.0, np.nan, 1.0])})
    0.5
    """
    return float(copied(*checked(train, drawn)).mean())
