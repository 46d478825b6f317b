"""Real rows that the drawn ones come near.

A real row is covered when at least one drawn row is no farther from it than its k-th nearest real
neighbour (Naeem et al. 2002.09797, equation 4). For N real and M drawn rows of one law

    E coverage = 1 - prod_{j=1..k} (N - j) / (M + N - j) :

a row is not covered iff the k nearest of all the others are all real (their lemma 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["coverage", "covered", "expected_coverage"]

NEIGHBOURS = 5


def covered(real: ArrayLike, drawn: ArrayLike, *, k: int = NEIGHBOURS) -> np.ndarray:
    """Which real rows are covered: booleans [N]. O(N (N + M)), 512 rows at a time."""
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(x, dtype=np.float64) for x in (real, drawn))
    if len(a) <= k or not len(b):
        raise ValueError(f"{len(a)} real and {len(b)} drawn rows; more than {k} and one are needed")
    found = []
    for start in range(0, len(a), 512):
        block = a[start : start + 512]
        # The row itself is among them, at distance 0.
        radius = np.partition(cdist(block, a), k, axis=1)[:, k]
        found.append(cdist(block, b).min(axis=1) <= radius)
    return np.concatenate(found)


def coverage(real: ArrayLike, drawn: ArrayLike, *, k: int = NEIGHBOURS) -> float:
    """The share of real rows that are covered.

    Parameters
    ----------
    real, drawn : arrays of shape (N, D) and (M, D), of comparable columns; see `Space`.
    k : neighbours.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> coverage(x, x[:3] + 0.1, k=2)
    0.5
    """
    return float(covered(real, drawn, k=k).mean())


def expected_coverage(num_real: int, num_drawn: int, *, k: int = NEIGHBOURS) -> float:
    """What rows of one law reach, without ties.

    >>> round(expected_coverage(1000, 1000), 4)
    0.969
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((num_real - j) / (num_drawn + num_real - j)))
