"""Data that is always there: plane densities made here, digits and tables of scikit-learn.

The planes have known shapes and are the field's usual test pieces (Grathwohl et al. 1810.01367,
section 4.1). All are deterministic given ``n`` and ``seed``; units are of order 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from energyscape.data.errors import DataError

__all__ = ["BUILTIN", "BuiltIn", "built_in"]

BUILTIN: dict[str, str] = {
    "breast-cancer": "scikit-learn's 569 tumours, 30 measurements and a diagnosis",
    "checkerboard": "plane: eight squares of constant density on [-4, 4]^2",
    "digits": "scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels",
    "eight-gaussians": "plane: eight equal Gaussians (deviation 0.2) on a circle of radius 2",
    "iris": "scikit-learn's 150 flowers, 4 measurements and a species",
    "pinwheel": "plane: five bent arms",
    "rings": "plane: four concentric circles, radii 0.75 to 3",
    "spirals": "plane: two arms of a spiral",
    "twenty-five-gaussians": "plane: a 5 x 5 grid of Gaussians (deviation 0.1), 1 apart",
    "two-moons": "plane: two half circles that interlock, noise 0.1",
    "wine": "scikit-learn's 178 wines, 13 measurements and a cultivar",
}


class BuiltIn(NamedTuple):
    """``columns`` (name to values) or ``pictures`` uint8 [N, H, W, C]; ``labels`` [N] or None."""

    columns: dict[str, np.ndarray] | None
    pictures: np.ndarray | None
    labels: np.ndarray | None


def built_in(name: str, n: int = 2000, seed: int = 0) -> BuiltIn:
    """A built-in set by name.

    Parameters
    ----------
    name : a key of :data:`BUILTIN`.
    n, seed : rows and seed of a plane density; the others are what they are.

    Raises
    ------
    DataError : no such name (the nearest is suggested).

    Examples
    --------
    >>> made = built_in("rings", n=100)
    >>> {key: len(values) for key, values in made.columns.items()}
    {'x': 100, 'y': 100}
    """
    if name not in BUILTIN:
        import difflib

        near = difflib.get_close_matches(name, BUILTIN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BUILTIN)}"
        raise DataError(f"there is no file, folder or built-in data {name!r}; {hint}")
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return BuiltIn(None, digits.images.astype(np.uint8)[..., None], digits.target)
    if name in ("iris", "wine", "breast-cancer"):
        return _table(name)
    if n < 2:
        raise DataError(f"{name}: {n} rows asked for; at least 2 are needed")
    points, labels = _PLANES[name](n, np.random.default_rng(seed))
    return BuiltIn({"x": points[:, 0], "y": points[:, 1]}, None, labels)


def _table(name: str) -> BuiltIn:
    from sklearn import datasets

    loaders = {
        "iris": (datasets.load_iris, "species"),
        "wine": (datasets.load_wine, "cultivar"),
        "breast-cancer": (datasets.load_breast_cancer, "diagnosis"),
    }
    loader, target = loaders[name]
    bunch = loader()
    columns = {str(key): bunch.data[:, j] for j, key in enumerate(bunch.feature_names)}
    columns[target] = np.array([str(key) for key in bunch.target_names])[bunch.target]
    return BuiltIn(columns, None, bunch.target)


_Plane = tuple[np.ndarray, np.ndarray]


def _two_moons(n: int, rng: np.random.Generator) -> _Plane:
    arm = rng.integers(0, 2, n)
    t = rng.uniform(0, np.pi, n)
    outer = np.stack([np.cos(t), np.sin(t)], axis=1)
    inner = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
    points = np.where(arm[:, None] == 0, outer, inner)
    return points + 0.1 * rng.standard_normal((n, 2)), arm


def _eight_gaussians(n: int, rng: np.random.Generator) -> _Plane:
    mode = rng.integers(0, 8, n)
    angle = mode * np.pi / 4
    centre = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centre + 0.2 * rng.standard_normal((n, 2)), mode


def _twenty_five_gaussians(n: int, rng: np.random.Generator) -> _Plane:
    mode = rng.integers(0, 25, n)
    centre = np.stack([mode // 5 - 2, mode % 5 - 2], axis=1).astype(np.float64)
    return centre + 0.1 * rng.standard_normal((n, 2)), mode


def _checkerboard(n: int, rng: np.random.Generator) -> _Plane:
    square = rng.integers(0, 8, n)
    column = square // 2
    row = 2 * (square % 2) + column % 2
    corner = np.stack([2 * column - 4, 2 * row - 4], axis=1)
    return corner + rng.uniform(0, 2, (n, 2)), square


def _pinwheel(n: int, rng: np.random.Generator) -> _Plane:
    arm = rng.integers(0, 5, n)
    radius = 1 + 0.3 * rng.standard_normal(n)
    across = 0.1 * rng.standard_normal(n)
    angle = 2 * np.pi * arm / 5 + 0.25 * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([radius * cos - across * sin, radius * sin + across * cos], axis=1)
    return 2 * points, arm


def _spirals(n: int, rng: np.random.Generator) -> _Plane:
    arm = rng.integers(0, 2, n)
    t = 3 * np.pi * np.sqrt(rng.uniform(0, 1, n))
    points = np.stack([-np.cos(t) * t, np.sin(t) * t], axis=1) / 3
    return points * (1 - 2 * arm[:, None]) + 0.1 * rng.standard_normal((n, 2)), arm


def _rings(n: int, rng: np.random.Generator) -> _Plane:
    ring = rng.integers(0, 4, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = 0.75 * (ring + 1)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + 0.08 * rng.standard_normal((n, 2)), ring


_PLANES: dict[str, Callable[[int, np.random.Generator], _Plane]] = {
    "checkerboard": _checkerboard,
    "eight-gaussians": _eight_gaussians,
    "pinwheel": _pinwheel,
    "rings": _rings,
    "spirals": _spirals,
    "twenty-five-gaussians": _twenty_five_gaussians,
    "two-moons": _two_moons,
}
