"""Rows moved down in energy along some cells: never up, to a minimum, other cells as they are."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from energyscape.detectors import EmpiricalDetector, TableRows, View, downhill, empirical_energies

LEVEL = 0.5
module = importlib.import_module("energyscape.detectors.downhill")


def table(n: int, seed: int) -> TableRows:
    """Three numbers that go together, the last with blanks, and two names that go with them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1))
    numbers = np.hstack([x, 10 - 3 * x, x**2]) + 0.2 * rng.normal(size=(n, 3))
    numbers[rng.random(n) < 0.1, 2] = np.nan
    codes = np.stack([(x[:, 0] > 0).astype(int), rng.integers(0, 4, n)], axis=1)
    return TableRows(numbers, codes.astype(np.int64))


@pytest.fixture(scope="module")
def known():
    rows = table(800, 0)
    view = View.fit(rows)
    return rows, view, view.transform(rows)


def energy(rows: TableRows, view: View, points: np.ndarray) -> np.ndarray:
    return empirical_energies(view.transform(rows), points, [LEVEL])[:, 0]


def test_energy_falls_to_a_minimum_along_the_free_cells(known, monkeypatch):
    rows, view, points = known
    monkeypatch.setattr(module, "_STILL", 1e-6)
    monkeypatch.setattr(module, "_STEPS", 500)
    start = table(40, 1)
    free = [[i % 3] if i % 2 else [i % 3, 3] for i in range(40)]
    start.numbers[:, 0] += 1.5
    found = downhill(start, free, rows, view, points, LEVEL)
    before, after = energy(start, view, points), energy(found, view, points)
    assert (after <= before + 1e-9).all()
    assert (before - after).mean() > 0.5
    for j in range(3):  # a minimum: a little to either side is no lower
        for step in (0.02, -0.02):
            aside = TableRows(found.numbers.copy(), found.codes)
            mine = np.array([j in columns for columns in free]) & ~np.isnan(found.numbers[:, j])
            aside.numbers[mine, j] += step * view.std[j]
            assert (energy(aside, view, points)[mine] >= after[mine] - 1e-6).all()
    for code in range(2):  # nor is the other name
        mine = np.array([3 in columns for columns in free])
        other = TableRows(found.numbers, found.codes.copy())
        other.codes[mine, 0] = code
        assert (energy(other, view, points)[mine] >= after[mine] - 1e-9).all()


def test_other_cells_and_blanks_stay(known):
    rows, view, points = known
    start = table(20, 2)
    start.numbers[3, 2] = np.nan
    found = downhill(start, [[2]] * 20, rows, view, points, LEVEL)
    assert np.array_equal(found.numbers[:, :2], start.numbers[:, :2])
    assert np.array_equal(found.codes, start.codes)
    assert np.array_equal(np.isnan(found.numbers), np.isnan(start.numbers))
    assert np.isfinite(found.numbers[~np.isnan(found.numbers)]).all()
    still = downhill(start, [[]] * 20, rows, view, points, LEVEL)
    assert np.array_equal(still.numbers, start.numbers, equal_nan=True)
    none = downhill(start.take(np.arange(0)), [], rows, view, points, LEVEL)
    assert len(none) == 0


def test_of_two_rows_the_hollow_is_where_their_mean_shift_rests():
    """One free number between rows at 0 and 1, far narrower than their distance: the nearer one."""
    rows = TableRows(np.array([[0.0], [1.0]]), np.zeros((2, 0), dtype=np.int64))
    view = View.fit(rows)
    start = TableRows(np.array([[0.4], [0.7]]), np.zeros((2, 0), dtype=np.int64))
    found = downhill(start, [[0], [0]], rows, view, view.transform(rows), 0.05)
    assert found.numbers[:, 0] == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_constant_column_and_names_alone(known):
    rows = TableRows(np.full((50, 1), 7.0), np.array([[i % 2] for i in range(50)]))
    detector = EmpiricalDetector.fit(rows)
    start = TableRows(np.array([[8.0]]), np.array([[-1]]))
    found = detector.downhill(start, [[0, 1]], rows)
    assert found.numbers[0, 0] == 8.0
    assert found.codes[0, 0] in (0, 1)


def test_rows_in_blocks_are_the_rows_alone(known, monkeypatch):
    rows, view, points = known
    start = table(7, 3)
    whole = downhill(start, [[0, 3]] * 7, rows, view, points, LEVEL)
    alone = [
        downhill(start.take(np.array([i])), [[0, 3]], rows, view, points, LEVEL) for i in range(7)
    ]
    monkeypatch.setattr(module, "_CELLS", 1600)
    pairs = downhill(start, [[0, 3]] * 7, rows, view, points, LEVEL)
    assert np.allclose(pairs.numbers, whole.numbers, equal_nan=True)
    for i, one in enumerate(alone):
        assert np.allclose(one.numbers[0], whole.numbers[i], atol=1e-3, equal_nan=True)
        assert np.array_equal(one.codes[0], whole.codes[i])
