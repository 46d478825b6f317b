"""Data of any kind as points: encoded rows, a plane of two directions, a mixture that stands in.

A lesson that compares with a truth needs one. On one's own data the true score is unknown, so a
Gaussian mixture fitted to them (components by BIC) takes their place, new rows are drawn from it, and
its score is exact. Each step away from the data as they came is told in `notes`.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from energyscape.data import Codec, Dataset, fit_codec, load
from energyscape.densities import GaussianMixture

__all__ = ["Points", "encoded", "plane", "published_mixture", "stand_in"]


class Points(NamedTuple):
    """Rows as points, shape (rows, D), float32, with the codec that leads back and what was done."""

    x: Tensor
    codec: Codec
    name: str
    notes: list[str]


def encoded(
    data: Dataset | None, default: str, seed: int, *, most: int = 4000, noise: bool = True
) -> Points:
    """Rows of a data set, encoded and flattened, at most `most` of them in random order.

    Without `noise` discrete values stay on their points.
    """
    notes: list[str] = []
    if data is None:
        data = load(default)
        notes.append(f"No data were given: the built-in set {default} is used.")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data))[:most]
    if len(rows) < len(data):
        notes.append(f"{len(rows):,} of {len(data):,} rows, drawn at random, are used.")
    codec = fit_codec(data)
    x = codec.encode(data.data[rows], rng if noise else None).x.reshape(len(rows), -1)
    return Points(torch.as_tensor(x, dtype=torch.float32), codec, data.name, [*notes, *data.notes])


def plane(points: Points) -> Points:
    """The rows seen along their two principal directions, scaled to unit spread along the first."""
    x = points.x - points.x.mean(0)
    if x.shape[1] == 1:
        raise ValueError("this lesson is drawn in a plane: give data with at least two columns")
    notes = list(points.notes)
    if x.shape[1] > 2:
        spread, directions = torch.linalg.svd(x, full_matrices=False)[1:]
        share = float(spread[:2].square().sum() / spread.square().sum())
        notes.append(
            f"The {x.shape[1]} encoded dimensions are seen along their two principal directions, "
            f"which hold {share:.0%} of the variance."
        )
        x = x @ directions[:2].T
    return points._replace(x=x / x.std(0).max(), notes=notes)


def stand_in(points: Points, seed: int, *, most: int = 8) -> tuple[GaussianMixture, list[str]]:
    """A Gaussian mixture of 2 to `most` components near the points, and the note that says so."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Fitted

    x = points.x.double().numpy()
    with warnings.catch_warnings():
        # It stands in for the data, which needs no last digit of the likelihood.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            Fitted(k, random_state=seed, reg_covar=1e-3).fit(x)
            for k in range(2, min(most, len(x) // 10 + 1) + 1)
        ]
    if not fits:
        raise ValueError(f"a mixture needs at least 20 rows to stand in for them, got {len(x)}")
    best = min(fits, key=lambda fit: float(fit.bic(x)))
    mixture = GaussianMixture(
        torch.as_tensor(best.weights_),
        torch.as_tensor(best.means_),
        torch.as_tensor(best.covariances_),
    )
    told = (
        "The true score of these data is unknown. A mixture of "
        f"{len(best.weights_)} Gaussians fitted to them stands in, and new rows are drawn from it."
    )
    return mixture, [*points.notes, told]


def published_mixture(std: float = 1.0) -> GaussianMixture:
    """``1/5 N((-5,-5), I) + 4/5 N((5,5), I)``, the toy of 1907.05600 section 3.2.

    >>> published_mixture().weights.tolist()
    [0.2, 0.8]
    """
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    return GaussianMixture.isotropic(means, std, [0.2, 0.8])
