"""Where values lie: every encoded cell is within its noise of the centre that stands for its value."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from energyscape.data import TableCodec, infer_schema


def table(n: int = 600) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    name = rng.choice(["a", "b", "c", "d"], n, p=[0.5, 0.3, 0.15, 0.05]).astype(object)
    name[rng.random(n) < 0.1] = None
    steps = rng.integers(0, 6, n).astype(object)
    steps[rng.random(n) < 0.2] = None
    return pl.DataFrame(
        {
            "number": rng.normal(size=n),
            "name": pl.Series(name.tolist(), dtype=pl.String),
            "yes": rng.random(n) < 0.3,
            "steps": pl.Series(steps.tolist(), dtype=pl.Int64),
        }
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[TableCodec, pl.DataFrame]:
    frame = table()
    return TableCodec(infer_schema(frame)).fit(frame), frame


def test_columns_of_few_values_and_their_indicators_have_atoms_and_numbers_none(fitted):
    codec, _ = fitted
    where = dict(codec.groups)
    starts = {start: len(atoms.step) for start, atoms in codec.atoms()}
    assert starts == {
        where["name"].start: 5,
        codec.indicators["name"]: 2,
        where["yes"].start: 2,
        where["steps"].start: 7,
        codec.indicators["steps"]: 2,
    }


def test_cells_lie_within_their_noise_of_their_value(fitted):
    """Standardised distances to the nearest centre are chi-square, for every value and for blanks."""
    codec, frame = fitted
    x = codec.encode(frame, np.random.default_rng(1)).x
    for start, atoms in codec.atoms():
        here = x[:, start : start + len(atoms.origin)]
        square = ((here[:, None] - atoms.centres) ** 2).sum(2)
        likely = -0.5 * square / atoms.noise**2 - here.shape[1] * np.log(atoms.noise)
        best = likely.argmax(1)
        z = square[np.arange(len(x)), best] / atoms.noise[best] ** 2 / here.shape[1]
        assert abs(z.mean() - 1) < 5 * np.sqrt(2 / z.size)
        assert np.allclose(
            atoms.shares(here), (np.bincount(best, minlength=len(atoms.step)) + 0.5)
            / (len(x) + 0.5 * len(atoms.step))
        )  # fmt: skip


def test_shares_are_the_frequencies_of_the_table(fitted):
    codec, frame = fitted
    x = codec.encode(frame, np.random.default_rng(1)).x
    atoms = dict(codec.atoms())[dict(codec.groups)["name"].start]
    counts = [(frame["name"] == name).sum() for name in "abcd"] + [frame["name"].null_count()]
    expected = (np.array(counts) + 0.5) / (len(frame) + 2.5)
    start = dict(codec.groups)["name"].start
    # A blank's N(0, I) may fall on a value, of which it then is a likelier draw.
    assert np.abs(atoms.shares(x[:, start : start + 4]) - expected).max() < 3 / len(frame)
    facts = atoms.facts(start, x)
    assert facts["start"] == start
    assert np.array_equal(facts["share"], atoms.shares(x[:, start : start + 4]))
    yes = dict(codec.groups)["yes"].start
    no, share = dict(codec.atoms())[yes].shares(x[:, yes : yes + 1])
    assert np.isclose(share, (frame["yes"].sum() + 0.5) / (len(frame) + 1))
    assert np.isclose(no + share, 1)
    assert set(facts) == {"start", "origin", "axis", "step", "anchored", "noise", "share"}
