"""EDM on tables with columns of few values: the shares of every value are right from the first step."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

import energyscape
from energyscape.data import TableCodec, as_dataset
from energyscape.families import EDM
from energyscape.families.fitting import RunRecord, fit_estimator
from energyscape.models import MixedDenoiser, PreconditionedDenoiser
from energyscape.training.checkpoint import CheckpointError

QUICK = {"width": 16, "blocks": 1, "batch_size": 64, "random_state": 0}


def table(n: int = 400) -> pl.DataFrame:
    """Names that follow from a number but for noise, rare names, yes or no, steps and blanks."""
    rng = np.random.default_rng(0)
    number = rng.normal(size=n)
    name = np.where(number + 0.3 * rng.normal(size=n) > 0.8, "high", "low").astype(object)
    name[rng.random(n) < 0.06] = "other"
    steps = rng.integers(1, 5, n).astype(object)
    steps[rng.random(n) < 0.15] = None
    return pl.DataFrame(
        {
            "number": number,
            "name": pl.Series(name.tolist(), dtype=pl.String),
            "yes": rng.random(n) < 0.2,
            "steps": pl.Series(steps.tolist(), dtype=pl.Int64),
        }
    )


@pytest.fixture(scope="module")
def first_step() -> EDM:
    return EDM(max_steps=1, learning_rate=1e-9, **QUICK).fit(table())


@pytest.mark.parametrize("column", ["name", "yes", "steps"])
def test_shares_are_right_before_anything_is_learned(first_step, column):
    """Chi-square of 2,000 draws against the training rows; false-failure rate 1e-3 in all."""
    assert isinstance(first_step.model_, MixedDenoiser)
    drawn = first_step.sample(2000, steps=32, random_state=1)
    known = table()[column].fill_null("blank") if column == "name" else table()[column]
    values = known.cast(pl.String).fill_null("blank")
    found = drawn[column].cast(pl.String).fill_null("blank")
    names = values.unique(maintain_order=True).to_list()
    both = np.array([[(s == v).sum() for v in names] for s in (values, found)])
    assert found.is_in(names).all()
    assert stats.chi2_contingency(both).pvalue > 3e-4


def test_what_names_depend_on_is_learned():
    """Draws called high have higher numbers, and few of them lie where no row called high does."""
    model = EDM(max_steps=250, **QUICK | {"width": 32}).fit(table())
    drawn = model.sample(600, random_state=1)
    high, low = (drawn.filter(pl.col("name") == name)["number"] for name in ("high", "low"))
    known = table().filter(pl.col("name") == "high")["number"]
    assert abs(float(high.mean()) - float(known.mean())) < 0.35
    assert float(low.mean()) < 0.1
    values = model.log_density(table())
    assert np.isfinite(values.value).all()
    assert values.value.mean() > first_value()


def first_value() -> float:
    """Held against: numbers and names without one another."""
    frame = table()
    x = frame["number"].to_numpy()
    total = stats.norm(x.mean(), x.std()).logpdf(x).mean()
    for column in ("name", "yes", "steps"):
        shares = frame[column].value_counts(normalize=True)["proportion"].to_numpy()
        total += (shares * np.log(shares)).sum()
    return float(total)


def test_saving_keeps_the_denoiser_and_older_runs_have_the_plain_one(first_step, tmp_path):
    first_step.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert isinstance(again.model_, MixedDenoiser)
    frame = table(50)
    assert np.array_equal(again.score_samples(frame), first_step.score_samples(frame))
    older = {k: v for k, v in first_step.facts_.items() if k != "columns"}
    assert isinstance(EDM(**QUICK)._build(older), PreconditionedDenoiser)


def test_whole_numbers_have_a_place_for_each_value_of_the_training_rows_and_for_the_ends():
    """One row of ten million costs one place, and values that no row has are not drawn."""
    steps = np.random.default_rng(0).choice([0, 5, 10, 15], 200)
    steps[7] = 10_000_000
    frame = pl.DataFrame({"steps": steps})
    for seed in range(
        40
    ):  # until the odd row trains nothing, and the column stays one of few values
        model = EDM(max_steps=1, learning_rate=1e-9, **QUICK | {"random_state": seed}).fit(frame)
        if model.facts_["columns"]:
            break
    (column,) = model.facts_["columns"]
    assert len(column["step"]) == 5
    drawn = model.sample(500, random_state=1)["steps"]
    assert (drawn.is_in([0, 5, 10, 15, 10_000_000])).mean() > 0.995
    again = type(model.codec_).from_state(*model.codec_.state())
    assert np.array_equal(again.blocks[0].values, model.codec_.blocks[0].values)


def test_a_killed_run_of_a_plain_network_is_not_continued(tmp_path, monkeypatch):
    """As many outputs, other meanings: refused by name instead of trained on."""
    frame = table().select("number", "name").with_columns(pl.col("name").fill_null("low"))
    settings = {"max_steps": 6, **QUICK}

    def run(resume: bool) -> None:
        model = EDM(**settings)
        model._template = None
        record = RunRecord(out=tmp_path / "run", resume=resume)
        fit_estimator(model, as_dataset(frame), record, progress=None)

    with monkeypatch.context() as patch:
        patch.setattr(TableCodec, "atoms", lambda self: [])
        run(False)
    with pytest.raises(CheckpointError, match="another network"):
        run(True)


def test_numbers_alone_have_no_columns_of_few_values():
    model = EDM(max_steps=1, **QUICK).fit(np.random.default_rng(0).normal(size=(60, 3)))
    assert isinstance(model.model_, PreconditionedDenoiser)
    assert model.facts_["columns"] == []
