"""Each column by itself: Kolmogorov-Smirnov for numbers, total variation for labels.

    KS = sup_v |F(v) - G(v)|        TV = 1/2 sum_k |p_k - q_k|

Both are 0 for one law and 1 for disjoint ones. A sample of N rows is about 0.87/sqrt(N) from its own
law in KS, hence the comparison with as many real rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from energyscape.fidelity.columns import blanks, is_number
from energyscape.metrics import kolmogorov_smirnov, total_variation

__all__ = ["column_shapes"]


def column_shapes(
    real: Mapping[str, ArrayLike], drawn: Mapping[str, ArrayLike]
) -> dict[str, float]:
    """Distance of each column's distribution: 0 is the same, 1 disjoint.

    Numbers by :func:`energyscape.metrics.kolmogorov_smirnov` over the values that are there,
    anything else by :func:`energyscape.metrics.total_variation`. Where blanks (NaN, None) are more or
    less frequent than in ``real`` by a larger amount, that difference is the distance.

    Examples
    --------
    >>> column_shapes({"x": [1.0, 2.0], "c": ["a", "b"]}, {"x": [1.0, 2.0], "c": ["a", "a"]})
    {'x': 0.0, 'c': 0.5}
    """
    missing = [name for name in real if name not in drawn]
    if missing:
        raise ValueError(f"the generated rows lack column {missing[0]!r}")
    return {name: _shape(np.asarray(real[name]), np.asarray(drawn[name])) for name in real}


def _shape(a: np.ndarray, b: np.ndarray) -> float:
    numeric = is_number(a) and is_number(b)
    blank = [blanks(x.astype(np.float64) if numeric else x.astype(object)) for x in (a, b)]
    there = [x[~gone] for x, gone in zip((a, b), blank, strict=True)]
    gap = abs(float(blank[0].mean()) - float(blank[1].mean()))
    if not len(there[0]) or not len(there[1]):
        return gap
    if numeric:
        return max(gap, kolmogorov_smirnov(*there))
    return max(gap, total_variation(*(x.astype(str) for x in there)))
