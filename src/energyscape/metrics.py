"""How close generated rows are to real ones, and how well scores tell strange rows from usual ones.

Two samples ``X ~ P`` and ``Y ~ Q`` are compared by

- a classifier that must tell them apart: accuracy 1/2 iff ``P = Q`` (Lopez-Paz & Oquab 1610.06545);
- distances: energy distance ``D^2 = 2 E|X-Y| - E|X-X'| - E|Y-Y'|`` (Szekely & Rizzo 2013),
  sliced Wasserstein ``(E_u W_2(u.X, u.Y)^2)^(1/2)`` over unit directions u (Bonneel et al. 2015),
  Frechet ``|m_X - m_Y|^2 + tr(C_X + C_Y - 2 (C_X C_Y)^(1/2))`` (Heusel et al. 1706.08500);
- one column: Kolmogorov-Smirnov for numbers, total variation for categories;
- precision and recall: generated rows within reach of real ones, and the reverse (1904.06991);
- the distance of a generated row to its nearest training row over that of a test row: below 1
  training rows are repeated, above 1 generated rows are off the data.

Rows are ``[N, D]`` (more axes are flattened). Every random choice takes a
``numpy.random.Generator``; every estimate carries its standard error or an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Estimate",
    "Interval",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "correlation_difference",
    "energy_distance",
    "frechet_distance",
    "kolmogorov_smirnov",
    "mean_with_error",
    "neighbour_ratio",
    "precision_recall",
    "sliced_wasserstein",
    "total_variation",
    "two_sample_accuracy",
]


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    stderr: float


class Interval(NamedTuple):
    """A value and the interval around it."""

    value: float
    low: float
    high: float


def _rows(values: ArrayLike, what: str, *, least: int = 1) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    if len(array) < least:
        raise ValueError(f"{what} has {len(array)} rows; at least {least} are needed")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{what} has a value in row {row} that is not finite; leave the row out")
    return array


def _pair(first: ArrayLike, second: ArrayLike, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    a, b = _rows(first, "the first sample", least=least), _rows(second, "the second", least=least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both samples need the same columns, got {a.shape[1]} and {b.shape[1]}")
    return a, b


def mean_with_error(values: ArrayLike) -> Estimate:
    """Mean and its standard error, ``s / sqrt(N)``; the error of a single value is NaN.

    Examples
    --------
    >>> mean_with_error([1.0, 3.0])
    Estimate(value=2.0, stderr=1.0)
    """
    array = _rows(values, "the values")
    if array.shape[1] != 1:
        raise ValueError(f"values must be one per row, got {array.shape[1]} per row")
    n = len(array)
    error = float(array.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(float(array.mean()), error)


def two_sample_accuracy(
    real: ArrayLike,
    generated: ArrayLike,
    rng: np.random.Generator,
    *,
    repeats: int = 5,
    folds: int = 5,
    num_trees: int = 100,
) -> Estimate:
    """Accuracy of a random forest in telling real from generated rows it has not seen.

    0.5 means that the forest cannot; 1.0 that it always can. The larger sample is cut to the size
    of the smaller one, anew in each repeat; each repeat is a stratified cross-validation.

    Parameters
    ----------
    real, generated : arrays of shape (N, ...) and (M, ...)
        ``real`` should be rows the model was not trained on.
    rng : seeds the cuts, the folds and the forests.
    repeats, folds, num_trees : size of the experiment; cost is their product.

    Returns
    -------
    Estimate
        The error adds the spread over repeats and the binomial error of the rows themselves,
        which repeats on the same rows cannot reduce.

    References
    ----------
    Lopez-Paz & Oquab 1610.06545, section 2.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 2)), rng.normal(5.0, 1.0, size=(60, 2))
    >>> two_sample_accuracy(x, y, rng, repeats=1, num_trees=10).value > 0.95
    True
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    a, b = _pair(real, generated, least=folds)
    n = min(len(a), len(b))
    labels = np.repeat([0, 1], n)
    accuracies = []
    for _ in range(repeats):
        rows = np.concatenate([x[rng.permutation(len(x))[:n]] for x in (a, b)])
        forest = RandomForestClassifier(num_trees, random_state=int(rng.integers(2**31)))
        split = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
        accuracies.append(
            float(np.mean(cross_val_predict(forest, rows, labels, cv=split) == labels))
        )
    accuracy = float(np.mean(accuracies))
    spread = float(np.var(accuracies, ddof=1)) / repeats if repeats > 1 else 0.0
    return Estimate(accuracy, math.sqrt(spread + accuracy * (1.0 - accuracy) / (2 * n)))


def _nearest(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row to its nearest reference row, 256 rows at a time."""
    squares = np.einsum("nd,nd->n", reference, reference)
    parts = []
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        best = np.argmin(squares - 2.0 * block @ reference.T, axis=1)
        # recomputed from the difference: the expanded square loses digits near zero
        parts.append(np.linalg.norm(block - reference[best], axis=1))
    return np.concatenate(parts)


def neighbour_ratio(train: ArrayLike, test: ArrayLike, generated: ArrayLike) -> Estimate:
    """Mean distance to the nearest training row, of generated rows over that of test rows.

    1 is neither memorised (below 1) nor blurred or off the data (above 1).

    Parameters
    ----------
    train, test, generated : arrays of shape (N, ...), of comparable columns (encoded or scaled).

    Returns
    -------
    Estimate
        The error is the first-order (delta-method) one of a ratio of means; training rows fixed.

    Examples
    --------
    >>> train = np.array([[0.0], [10.0]])
    >>> neighbour_ratio(train, [[1.0], [9.0]], [[0.0], [10.0]]).value
    0.0
    """
    reference, held_out = _pair(train, test)
    _, drawn = _pair(train, generated)
    top, bottom = _nearest(drawn, reference), _nearest(held_out, reference)
    if bottom.mean() == 0.0:
        raise ValueError("every test row is also a training row; give rows that were held out")
    ratio = float(top.mean() / bottom.mean())
    variance = top.var() / len(top) + ratio**2 * bottom.var() / len(bottom)
    return Estimate(ratio, float(math.sqrt(variance) / bottom.mean()))


def precision_recall(
    real: ArrayLike, generated: ArrayLike, *, neighbours: int = 3
) -> tuple[Estimate, Estimate]:
    """Share of generated rows among the real ones, and of real rows among the generated ones.

    A row is among others if it is no farther from one of them than that one's k-th nearest neighbour.
    Both fall as the rows of either side grow in number; compare like with like, on features.

    Parameters
    ----------
    real, generated : arrays of shape (N, ...) and (M, ...), of comparable columns
    neighbours : int
        k.

    Returns
    -------
    precision, recall : Estimate
        The errors are binomial, for the other side as it is.

    Raises
    ------
    ValueError
        With fewer than k + 1 rows on a side.

    References
    ----------
    Kynkaanniemi et al. 1904.06991, equations 1 and 2.

    Examples
    --------
    >>> line = np.arange(10.0)[:, None]
    >>> [share.value for share in precision_recall(line, line[:5] + 0.5)]
    [1.0, 0.8]
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be 1 or more, got {neighbours}")
    a, b = _pair(real, generated, least=neighbours + 1)
    shares = []
    for rows, others in ((b, a), (a, b)):
        share = float(_among(rows, others, neighbours).mean())
        shares.append(Estimate(share, math.sqrt(share * (1 - share) / len(rows))))
    return shares[0], shares[1]


def _among(rows: np.ndarray, others: np.ndarray, k: int) -> np.ndarray:
    """Which rows lie in a ball around one of the others that reaches to its k-th neighbour."""
    from scipy.spatial.distance import cdist

    blocks = range(0, len(others), 512)
    # Each is its own nearest, so its k-th neighbour stands behind k others.
    reach = [np.partition(cdist(others[i : i + 512], others), k, axis=1)[:, k] for i in blocks]
    radius = np.concatenate(reach)
    parts = range(0, len(rows), 512)
    return np.concatenate([(cdist(rows[i : i + 512], others) <= radius).any(1) for i in parts])


def kolmogorov_smirnov(first: ArrayLike, second: ArrayLike) -> float:
    """Largest distance between the two empirical distribution functions, in [0, 1].

    Examples
    --------
    >>> kolmogorov_smirnov([1.0, 2.0], [3.0, 4.0])
    1.0
    """
    a, b = (np.sort(x[:, 0]) for x in _pair(first, second))
    both = np.concatenate([a, b])
    up_to = [np.searchsorted(x, both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(up_to[0] - up_to[1]).max())


def total_variation(first: ArrayLike, second: ArrayLike) -> float:
    """Half the summed difference of category frequencies, in [0, 1].

    Examples
    --------
    >>> total_variation(["a", "a", "b", "b"], ["a", "a", "a", "c"])
    0.5
    """
    a, b = np.asarray(first), np.asarray(second)
    if not len(a) or not len(b):
        raise ValueError("total variation needs at least one value on either side")
    categories, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    counts = [np.bincount(c, minlength=len(categories)) for c in (codes[: len(a)], codes[len(a) :])]
    return float(0.5 * np.abs(counts[0] / len(a) - counts[1] / len(b)).sum())


def correlation_difference(first: ArrayLike, second: ArrayLike) -> float:
    """Mean absolute difference of the correlations of all pairs of columns, in [0, 2].

    Columns that are constant in either sample have no correlation and are left out; with fewer
    than two columns left the result is 0.

    Examples
    --------
    >>> round(correlation_difference([[0, 0], [1, 1]], [[0, 1], [1, 0]]), 6)
    2.0
    """
    a, b = _pair(first, second, least=2)
    # Not by the standard deviation, which rounding makes positive for 0.1 again and again.
    varies = (np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0)
    if varies.sum() < 2:
        return 0.0
    upper = np.triu_indices(int(varies.sum()), k=1)
    pairs = []
    for x in (a[:, varies], b[:, varies]):
        unit = (x - x.min(axis=0)) / np.ptp(x, axis=0)  # squares of 1e-200 would vanish
        pairs.append(np.corrcoef(unit, rowvar=False)[upper])
    return float(np.abs(pairs[0] - pairs[1]).mean())


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the samples' means and covariances.

    Raises
    ------
    ValueError
        Fewer than two rows, or different columns.

    References
    ----------
    Dowson & Landau 1982; as FID on features of a network: Heusel et al. 1706.08500, equation 6.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(x, x + 2.0), 6)
    12.0
    """
    a, b = _pair(first, second, least=2)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # tr (C1 C2)^(1/2) through the symmetric C1^(1/2) C2 C1^(1/2): real eigenvalues, no sqrtm
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0.0)).sum()
    shift = float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
    return max(0.0, shift + sum(float(np.trace(c)) for c in covariances) - 2.0 * float(cross))


def energy_distance(first: ArrayLike, second: ArrayLike) -> float:
    """``(2 E|X-Y| - E|X-X'| - E|Y-Y'|)^(1/2)`` over all pairs of rows; 0 iff the samples agree.

    O(N M) distances in memory-bounded blocks.

    References
    ----------
    Szekely & Rizzo 2013, equation 2 (its V-statistic, hence never negative).

    Examples
    --------
    >>> energy_distance([[0.0]], [[2.0]])
    2.0
    """
    a, b = _pair(first, second)
    squared = 2.0 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)
    return math.sqrt(max(0.0, squared))


def _mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.spatial.distance import cdist

    return sum(cdist(a[i : i + 512], b).sum() for i in range(0, len(a), 512)) / (len(a) * len(b))


def sliced_wasserstein(
    first: ArrayLike, second: ArrayLike, rng: np.random.Generator, *, num_directions: int = 100
) -> Estimate:
    """Root mean square over random directions of the 2-Wasserstein distance of the projections.

    Sizes may differ: the two quantile functions are integrated exactly over their joint steps.

    Parameters
    ----------
    first, second : arrays of shape (N, D) and (M, D)
    rng : draws the directions, uniform on the unit sphere.
    num_directions : the error, due to the directions alone, falls as its square root.

    References
    ----------
    Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters", equation 9.

    Examples
    --------
    >>> x = np.zeros((3, 1))
    >>> sliced_wasserstein(x, x + 2.0, np.random.default_rng(0), num_directions=4)
    Estimate(value=2.0, stderr=0.0)
    """
    a, b = _pair(first, second)
    directions = rng.normal(size=(a.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)
    ends = np.union1d(np.arange(1, len(a) + 1) / len(a), np.arange(1, len(b) + 1) / len(b))
    middle = ends - np.diff(ends, prepend=0.0) / 2.0
    quantiles = [
        np.sort(x @ directions, axis=0)[np.minimum((middle * len(x)).astype(int), len(x) - 1)]
        for x in (a, b)
    ]
    widths = np.diff(ends, prepend=0.0)[:, None]
    squared = ((quantiles[0] - quantiles[1]) ** 2 * widths).sum(axis=0)
    value = math.sqrt(float(squared.mean()))
    error = float(squared.std() / math.sqrt(num_directions))
    return Estimate(value, error / (2.0 * value) if value > 0 else 0.0)


def _detection(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    strange = np.asarray(labels).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    if strange.shape != values.shape or values.ndim != 1:
        raise ValueError(f"one score per label is needed, got {values.shape} for {strange.shape}")
    if strange.all() or not strange.any():
        raise ValueError("labels must hold both usual (0) and strange (1) rows, all are the same")
    if np.isnan(values).any():
        raise ValueError("scores hold NaN; every row needs a score")
    return strange, values


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a strange row (label 1) scores above a usual one, ties counting half.

    Examples
    --------
    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    strange, values = _detection(labels, scores)
    usual = np.sort(values[~strange])
    below = np.searchsorted(usual, values[strange], side="left")
    up_to = np.searchsorted(usual, values[strange], side="right")
    return float(np.mean((below + up_to) / 2.0) / len(usual))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """``sum_k (R_k - R_{k-1}) P_k`` over the distinct scores from the largest down.

    The fraction of strange rows is what a random score reaches.

    Examples
    --------
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    strange, values = _detection(labels, scores)
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(strange[order])
    last = np.append(values[order][1:] != values[order][:-1], True)
    recall = found[last] / found[-1]
    precision = found[last] / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def bootstrap_interval(
    measure: Callable[[np.ndarray, np.ndarray], float],
    labels: ArrayLike,
    scores: ArrayLike,
    rng: np.random.Generator,
    *,
    resamples: int = 500,
    level: float = 0.95,
) -> Interval:
    """A detection measure with its percentile bootstrap interval.

    Usual and strange rows are resampled separately, so that every resample has both.

    Parameters
    ----------
    measure : ``measure(labels, scores) -> float``, such as :func:`auroc`.
    labels, scores : arrays of shape (N,); label 1 (or true) is strange, larger scores stranger.
    rng : draws the resamples.
    resamples, level : number of resamples and coverage of the interval.

    References
    ----------
    Efron & Tibshirani 1993, section 13.3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bootstrap_interval(auroc, [0, 0, 1, 1], [0.0, 0.1, 0.8, 0.9], rng, resamples=20)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    strange, values = _detection(labels, scores)
    groups = [np.flatnonzero(~strange), np.flatnonzero(strange)]
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(group, size=len(group)) for group in groups])
        draws.append(measure(strange[rows], values[rows]))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(measure(strange, values)), float(low), float(high))
