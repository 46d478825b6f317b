"""Many reference rows at once against one view after the other in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from energyscape.detectors import TableRows, View, surroundings
from energyscape.detectors.crowds import smallest, two_surroundings


@pytest.fixture(scope="module")
def pair():
    """Points in both views: heavy tails, names of 2 and 40 levels, blanks, equal rows, far ones."""
    rng = np.random.default_rng(0)
    numbers = np.column_stack([rng.normal(size=(3000, 3)), np.exp(2 * rng.normal(size=3000))])
    numbers[rng.random(3000) < 0.05, 1] = np.nan
    codes = np.column_stack([rng.integers(2, size=3000), rng.integers(40, size=3000)])
    numbers[100:140], codes[100:140] = numbers[100], codes[100]
    rows = TableRows(numbers[:2500], codes[:2500])
    numbers[2990:, 0] = 1e5
    codes[2980:, 1] = -1
    new = TableRows(numbers[2500:], codes[2500:])
    views = (View.fit(rows), View.fit(rows, ranked=True))
    assert any(known is not None for known in views[1].order)
    return tuple(v.transform(new) for v in views), tuple(v.transform(rows) for v in views)


def test_energies_and_neighbours_are_those_of_each_view(pair):
    x, rows = pair
    standard, ranked = two_surroundings(x, rows, 0.5, 10)
    exact = surroundings(x[0], rows[0], 0.5, 10)
    assert np.allclose(standard.energy, exact.energy, rtol=1e-7, atol=1e-3)
    assert np.allclose(standard.reach, exact.reach, rtol=1e-4, atol=1e-9)
    assert (standard.nearest == exact.nearest).mean() > 0.99
    other = surroundings(x[1], rows[1], 0.5, 0)
    assert np.allclose(ranked.energy, other.energy, rtol=1e-7, atol=1e-3)
    assert np.isnan(ranked.reach).all()


def test_rows_are_left_out_of_their_own_surroundings(pair):
    _, rows = pair
    own = np.arange(len(rows[0]))
    found = two_surroundings(rows, rows, 0.5, 5, own=own)[0]
    exact = surroundings(rows[0], rows[0], 0.5, 5, own=own)
    assert np.allclose(found.energy, exact.energy, rtol=1e-7, atol=1e-3)
    assert (found.nearest != own[:, None]).all()
    # Of 40 equal rows each has the others at no distance at all.
    assert (found.reach[100:140] == 0).all()


@pytest.mark.parametrize("shape", [(3, 40), (5, 1030), (4, 5000)])
def test_the_smallest_cells_are_found(shape):
    cells = np.random.default_rng(0).integers(0, 999, size=shape).astype(np.float32)
    found = np.take_along_axis(cells, smallest(cells, 10), axis=1)
    assert (np.sort(found, axis=1) == np.sort(cells, axis=1)[:, :10]).all()
