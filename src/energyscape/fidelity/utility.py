"""Whether drawn rows are of use: models trained on them, tested on real rows.

Every column in turn is predicted from the others by a random forest (2 to 8 of them, spread over the
table, or one that is named). Of labels the accuracy counts, of numbers the share of the variance of
their ranks that is explained: a heavy tail weighs no more than the rest,

    skill = mean over columns of  accuracy,  or  max(-1, 1 - sum (F(y) - f)^2 / sum (F(y) - mean F)^2),

F the real training rows' distribution function. The same forests trained on as many real rows give
what can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyscape.fidelity.columns import blanks, checked, forest_inputs, is_number, rows_in

__all__ = ["Predicted", "predict", "skill", "targets_of", "train_on_drawn"]

_MOST_TARGETS = 8
_TREES = 100


class Predicted(NamedTuple):
    """One column of the test rows and what was predicted of it; ranks of numbers, or labels."""

    name: str
    number: bool
    truth: np.ndarray
    guess: np.ndarray
    rows: NDArray[np.int64]


def targets_of(table: Mapping[str, np.ndarray], most: int = _MOST_TARGETS) -> list[str]:
    """Columns to predict: all, or `most` of them spread over the table."""
    names = list(table)
    if len(names) <= most:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, most).round().astype(int)]


def predict(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    name: str,
    rng: np.random.Generator,
    *,
    real: np.ndarray,
    num_trees: int = _TREES,
) -> Predicted | None:
    """One column of the test rows by a forest of the training rows.

    `real` are the column's values in real training rows, by which numbers are ranked. None when
    either table has no value of it; a training table of one label predicts that one.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    x, z = forest_inputs(train, test, without=name)
    y, t = train[name], test[name]
    here, there = ~blanks(y), np.flatnonzero(~blanks(t))
    if not here.any() or not len(there):
        return None
    seed = int(rng.integers(2**31))
    empty = np.isnan(x[here]).all(0)  # a column without a value tells a forest nothing
    x, z = x[here][:, ~empty], z[there][:, ~empty]
    if is_number(y):
        known = np.sort(real[~blanks(real)].astype(np.float64))
        rank = [np.searchsorted(known, v.astype(np.float64)) + np.searchsorted(known, v, "right")
                for v in (y[here], t[there])]  # fmt: skip
        u, v = (r / (2 * max(len(known), 1)) for r in rank)
        forest = RandomForestRegressor(
            num_trees, min_samples_leaf=3, max_features=0.5, random_state=seed
        )
        guess = forest.fit(x, u).predict(z) if x.shape[1] else np.full(len(v), u.mean())
        return Predicted(name, True, v, guess, there)
    words = [np.array([str(v) for v in values]) for values in (y[here], t[there])]
    if x.shape[1] and len(np.unique(words[0])) > 1:
        chooser = RandomForestClassifier(num_trees, min_samples_leaf=2, random_state=seed)
        guess = chooser.fit(x, words[0]).predict(z)
    else:
        names, counts = np.unique(words[0], return_counts=True)
        guess = np.full(len(words[1]), names[counts.argmax()])
    return Predicted(name, False, words[1], guess, there)


def skill(found: Predicted, weight: np.ndarray | None = None) -> float:
    """Accuracy, or explained variance of ranks; `weight` counts how often each test row is taken."""
    w = np.ones(len(found.truth)) if weight is None else weight[found.rows]
    if not w.sum():
        return float("nan")
    if not found.number:
        return float(np.average(found.truth == found.guess, weights=w))
    mean = np.average(found.truth, weights=w)
    total = np.average((found.truth - mean) ** 2, weights=w)
    if total == 0:
        return float("nan")
    return max(-1.0, float(1 - np.average((found.truth - found.guess) ** 2, weights=w) / total))


def train_on_drawn(
    real: Mapping[str, ArrayLike],
    test: Mapping[str, ArrayLike],
    drawn: Mapping[str, ArrayLike],
    rng: np.random.Generator,
    *,
    targets: Sequence[str] | None = None,
    num_trees: int = _TREES,
) -> dict[str, tuple[float, float]]:
    """Skill on test rows of each target: (trained on drawn rows, trained on as many real ones).

    Parameters
    ----------
    real, test, drawn : tables of the same columns.
    rng : cuts the larger of the two training tables and seeds the forests.
    targets : columns to predict; without it, up to 8 spread over the table.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=300)
    >>> table = {"x": x, "c": np.where(x > 0, "up", "down")}
    >>> found = train_on_drawn(table, table, table, rng, targets=["c"], num_trees=5)
    >>> found["c"][0] > 0.97 and found["c"][1] > 0.97
    True
    """
    a, b, c = checked(real, test, drawn)
    n = min(rows_in(a), rows_in(c))
    made = {}
    for name in targets_of(a) if targets is None else targets:
        if name not in a:
            raise ValueError(f"there is no column {name!r} to predict")
        pair = []
        for table in (c, a):
            rows = rng.permutation(rows_in(table))[:n]
            part = {key: values[rows] for key, values in table.items()}
            found = predict(part, b, name, rng, real=a[name], num_trees=num_trees)
            pair.append(float("nan") if found is None else skill(found))
        made[name] = (pair[0], pair[1])
    return made
