"""From scores to decisions with a stated error rate: conformal p-values and what follows from them.

A score is any number that is larger for stranger rows. With ``n`` calibration rows that trained
nothing and stopped nothing, and a new row exchangeable with them, its conformal p-value

    p = (1 + #{calibration score >= score}) / (n + 1)

satisfies ``P(p <= a) <= a`` for every ``a`` and every score function (Bates et al. 2104.08279,
equation 3). It is never below ``1 / (n + 1)``: few calibration rows cannot give small p-values.

Over a batch, Benjamini-Hochberg keeps the expected fraction of false alarms among the flagged rows
below ``q``. The p-values share their calibration rows, hence are positively dependent, which the
procedure tolerates (2104.08279, theorem 2); a one-sample uniformity test over them does not, so
that drift is tested by comparing new scores with calibration scores as two samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Drift",
    "adjusted_p_values",
    "benjamini_hochberg",
    "conformal_p_values",
    "drift_test",
    "driving_columns",
    "rows_needed_to_flag",
    "smallest_p_value",
    "threshold",
]


class Drift(NamedTuple):
    """Outcome of :func:`drift_test`.

    ``statistic`` is the largest distance between the two distribution functions, ``p_value`` how
    often it would be as large without drift, ``shift`` the probability that a new score exceeds a
    calibration score (ties count half): 0.5 without drift, above it when new rows are stranger.
    """

    statistic: float
    p_value: float
    shift: float


def _scores(values: ArrayLike, what: str, *, empty: bool = True) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{what} must be one number per row, got shape {array.shape}")
    if np.isnan(array).any():
        row = int(np.flatnonzero(np.isnan(array))[0])
        raise ValueError(
            f"{what} hold NaN, first in row {row}; every row needs a finite or infinite score"
        )
    if not empty and array.size == 0:
        raise ValueError(f"{what} are empty; keep some rows for calibration")
    return array


def _level(value: float, what: str) -> float:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{what} must lie strictly between 0 and 1, got {value}")
    return float(value)


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Conformal p-value of each score, ``(1 + #{calibration >= score}) / (n + 1)``.

    Parameters
    ----------
    calibration : array of shape (n,)
        Scores of rows the model was not trained on, in any order.
    scores : array of shape (m,)
        Larger is stranger; infinities are allowed, NaN is not.

    Returns
    -------
    ndarray of shape (m,), between ``1 / (n + 1)`` and 1. Ties count against the new row, so the
    p-values stay valid for discrete scores.

    Raises
    ------
    ValueError
        No calibration scores, or a score that is NaN.

    References
    ----------
    Bates et al. 2104.08279, equation 3. One sort: O((n + m) log n).

    Examples
    --------
    >>> conformal_p_values([1.0, 2.0, 3.0], [0.0, 2.0, 9.0]).tolist()
    [1.0, 0.75, 0.25]
    """
    reference = np.sort(_scores(calibration, "calibration scores", empty=False))
    new = _scores(scores, "scores")
    at_least = reference.size - np.searchsorted(reference, new, side="left")
    return (1.0 + at_least) / (reference.size + 1.0)


def smallest_p_value(num_calibration: int) -> float:
    """The smallest p-value that ``num_calibration`` rows can give, ``1 / (n + 1)``.

    Examples
    --------
    >>> smallest_p_value(99)
    0.01
    """
    if num_calibration < 1:
        raise ValueError(f"conformal p-values need calibration rows, got {num_calibration}")
    return 1.0 / (num_calibration + 1.0)


def rows_needed_to_flag(num_calibration: int, num_rows: int, q: float) -> int:
    """How many of ``num_rows`` must reach the smallest p-value before any can be flagged at ``q``.

    Benjamini-Hochberg flags ``k`` rows only if their p-values are at most ``q k / num_rows``;
    with ``p >= 1 / (n + 1)`` this takes ``k >= num_rows / (q (n + 1))``. A result of 1 means that
    single rows can be found; one above ``num_rows`` that nothing ever can.

    Examples
    --------
    >>> rows_needed_to_flag(num_calibration=99, num_rows=1000, q=0.1)
    100
    """
    needed = num_rows * smallest_p_value(num_calibration) / _level(q, "false-discovery rate q")
    return max(1, math.ceil(needed * (1 - 1e-12)))


def adjusted_p_values(p_values: ArrayLike) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values: the smallest ``q`` at which each row is flagged.

    Sorted upwards, ``p_(i) -> min_{j >= i} m p_(j) / j`` (Benjamini & Hochberg 1995; Yekutieli &
    Benjamini 1999, definition 2.4).

    Examples
    --------
    >>> adjusted_p_values([0.01, 0.5, 0.02]).round(3).tolist()
    [0.03, 0.5, 0.03]
    """
    p = _scores(p_values, "p-values")
    if p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"p-values lie between 0 and 1, got {p.min():.4g} to {p.max():.4g}")
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(adjusted, 1.0)


def benjamini_hochberg(p_values: ArrayLike, q: float) -> np.ndarray:
    """Which rows to flag so that, on average, at most a fraction ``q`` of them is a false alarm.

    Flags the ``k`` smallest p-values for the largest ``k`` with ``p_(k) <= q k / m``.

    Parameters
    ----------
    p_values : array of shape (m,)
    q : false-discovery rate, strictly between 0 and 1.

    Returns
    -------
    boolean ndarray of shape (m,)

    References
    ----------
    Benjamini & Hochberg 1995, equation 1; with conformal p-values 2104.08279, theorem 2.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.5, 0.02], q=0.1).tolist()
    [True, False, True]
    """
    # m p / k and q are both rounded; a tie such as 0.05 * 2 / 1 against 0.1 must count as equal.
    return adjusted_p_values(p_values) <= _level(q, "false-discovery rate q") * (1 + 1e-12)


def threshold(calibration: ArrayLike, false_alarm_rate: float) -> float:
    """The score above which a row is called strange, at a stated false-alarm rate.

    ``score > threshold`` holds exactly when the conformal p-value is at most ``false_alarm_rate``,
    so that a row like the calibration rows exceeds it with at most that probability. Infinite
    when there are too few calibration rows for the rate.

    Parameters
    ----------
    calibration : array of shape (n,)
    false_alarm_rate : strictly between 0 and 1.

    References
    ----------
    The ``ceil((n + 1)(1 - a))``-th smallest calibration score (Bates et al. 2104.08279, section 2).

    Examples
    --------
    >>> threshold(range(1, 20), 0.1)
    18.0
    >>> threshold([1.0, 2.0], 0.1)
    inf
    """
    reference = np.sort(_scores(calibration, "calibration scores", empty=False))
    rate = _level(false_alarm_rate, "false-alarm rate")
    # floor with room for rounding, so that the rate 0.1 of 19 + 1 rows is two ranks and not one
    rank = reference.size + 1 - math.floor(rate * (reference.size + 1) * (1 + 1e-12))
    return float(reference[rank - 1]) if rank <= reference.size else math.inf


def drift_test(calibration: ArrayLike, scores: ArrayLike, *, stranger: bool = False) -> Drift:
    """Whether new rows as a whole score differently from the calibration rows.

    Two-sample Kolmogorov-Smirnov test (exact for up to 500 rows without ties), with the Mann-Whitney
    probability of a larger score as the size of the shift.

    Parameters
    ----------
    calibration : array of shape (n,)
    scores : array of shape (m,)
    stranger : bool
        Ask only whether new scores are larger (the one-sided test). It stays valid where ordinary
        new rows score a little lower than calibration rows, as they do with cross-conformal ones.

    Returns
    -------
    Drift

    Examples
    --------
    >>> import numpy as np
    >>> drift = drift_test(np.arange(50.0), np.arange(50.0) + 100.0)
    >>> drift.p_value < 1e-6, drift.shift
    (True, 1.0)
    """
    from scipy.special import kolmogorov
    from scipy.stats import ks_2samp

    reference = np.sort(_scores(calibration, "calibration scores", empty=False))
    new = _scores(scores, "scores", empty=False)
    below = np.searchsorted(reference, new, side="left")
    up_to = np.searchsorted(reference, new, side="right")
    shift = float(np.mean((below + up_to) / 2.0) / reference.size)
    both = np.concatenate([reference, new])
    gaps = np.searchsorted(reference, both, side="right") / reference.size
    gaps -= np.searchsorted(np.sort(new), both, side="right") / new.size
    statistic = max(float(gaps.max() if stranger else np.abs(gaps).max()), 0.0)
    # the exact law counts lattice paths: right without ties only, and slow beyond some hundred rows
    if np.unique(both).size == both.size and max(reference.size, new.size) <= 500:
        # "less": the distribution function of the new scores lies below, so that they are larger.
        side = "less" if stranger else "two-sided"
        p_value = float(ks_2samp(new, reference, alternative=side, method="exact").pvalue)
    else:
        size = reference.size * new.size / (reference.size + new.size)
        scaled = math.sqrt(size) * statistic
        p_value = math.exp(-2.0 * scaled**2) if stranger else float(kolmogorov(scaled))
    return Drift(statistic, p_value, shift)


def driving_columns(
    names: Sequence[str], shares: ArrayLike, *, count: int = 3, at_least: float = 0.1
) -> list[list[tuple[str, float]]]:
    """The columns that carry most of each row's anomaly score, largest first.

    Parameters
    ----------
    names : column names, C of them.
    shares : array of shape (m, C)
        Share of each column in the score of each row; a column that makes the row more usual may
        be negative and is never named.
    count : how many columns to name at most.
    at_least : columns below this fraction of the positive total are not named.

    Returns
    -------
    list of m lists of ``(name, fraction of the positive total)``

    Examples
    --------
    >>> driving_columns(["age", "pay", "sex"], [[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]])
    [[('pay', 0.75), ('age', 0.25)], []]
    """
    table = np.asarray(shares, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(f"shares must have shape (rows, {len(names)}), got {table.shape}")
    positive = np.maximum(table, 0.0)
    total = positive.sum(axis=1, keepdims=True)
    fractions = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    order = np.argsort(-fractions, axis=1, kind="stable")[:, :count]
    return [
        [(names[c], float(row[c])) for c in chosen if row[c] >= at_least]
        for row, chosen in zip(fractions, order, strict=True)
    ]
