"""What every family promises: data of the same kind back, the same bits after loading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest

import energyscape
from energyscape.data import DataError, as_dataset
from energyscape.detection import benjamini_hochberg
from energyscape.families import (
    EDM,
    FAMILIES,
    ArtifactError,
    CheckpointError,
    ModelDetector,
    SettingError,
    settings_of,
    validate_settings,
)

QUICK = {"max_steps": 4, "batch_size": 16, "width": 8, "blocks": 1, "random_state": 0}


def mixed(n: int = 60) -> pl.DataFrame:
    """A table with every kind of column, and blanks."""
    rng = np.random.default_rng(0)
    size = rng.normal(170, 10, n)
    return pl.DataFrame(
        {
            "size": [None if i % 9 == 0 else round(float(v), 2) for i, v in enumerate(size)],
            "count": rng.integers(0, 30, n),
            "colour": rng.choice(["red", "green", "blue"], n),
            "member": rng.choice([True, False], n),
        }
    )


def steps_of(name: str) -> int | None:
    return {"ncsn": 1, "ddpm": 20, "ebm": 20, "score": 20, "edm": 4}[name]


@pytest.fixture(scope="module", params=list(FAMILIES))
def fitted(request):
    """Each family, fitted on the mixed table."""
    return request.param, FAMILIES[request.param](**QUICK).fit(mixed())


def test_frame_in_frame_out(fitted):
    """Columns, their order, types, categories and ranges come back."""
    name, model = fitted
    drawn, data = model.sample(40, steps=steps_of(name)), mixed()
    assert isinstance(drawn, pl.DataFrame)
    assert drawn.schema == data.schema
    assert set(drawn["colour"].unique()) <= {"red", "green", "blue"}
    assert drawn["count"].min() >= data["count"].min()
    assert drawn["count"].max() <= data["count"].max()
    values = drawn["size"].drop_nulls()
    assert values.min() >= data["size"].min()
    assert values.max() <= data["size"].max()


def test_pandas_in_pandas_out():
    """The same with pandas, after loading too."""
    data = mixed().to_pandas()
    model = EDM(**QUICK).fit(data)
    drawn = model.sample(5, steps=3)
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.columns) == list(data.columns)
    assert drawn["count"].dtype == data["count"].dtype


@pytest.mark.filterwarnings("ignore:these values are minus an energy")
def test_saved_and_loaded_is_the_same(fitted, tmp_path):
    """Samples and scores of the loaded model are those of the fitted one, to the bit."""
    name, model = fitted
    model.save(tmp_path / "run")
    loaded = energyscape.load(tmp_path / "run")
    assert type(loaded) is type(model)
    assert loaded.get_params() == model.get_params()
    a, b = (m.sample(5, steps=steps_of(name), random_state=3) for m in (model, loaded))
    assert a.equals(b)
    assert np.array_equal(model.anomaly_score(mixed()), loaded.anomaly_score(mixed()))
    assert np.array_equal(model.score_samples(mixed()[:3]), loaded.score_samples(mixed()[:3]))
    assert loaded.history_ == model.history_


@pytest.mark.filterwarnings("ignore:these values are minus an energy")
def test_row_alone_is_as_in_any_batch(fitted):
    """Log-density and anomaly score of a row do not depend on its neighbours, but for what the networks
    of denoisers, in float32 under an integral in float64, round: some 1e-6 nats."""
    _, model = fitted
    rounding = 5e-6 if hasattr(model, "_density_dtype") else 1e-9
    data = mixed(12)
    together, scores = model.score_samples(data), model.anomaly_score(data)
    for i in (0, 5, 11):
        alone = model.score_samples(data[i : i + 1])
        assert alone == pytest.approx(together[i : i + 1], abs=rounding)
        assert model.anomaly_score(data[i : i + 1]) == pytest.approx(scores[i : i + 1], abs=1e-9)


def test_log_density_says_what_it_is(fitted):
    """Every value has a kind and a standard error of its own."""
    _, model = fitted
    values = model.log_density(mixed(6))
    assert values.kind in {"exact_ode", "hutchinson_ode", "ais", "unnormalised"}
    assert values.value.shape == values.stderr.shape == (6,)
    assert np.isfinite(values.value).all()


def test_p_values_and_predictions_agree(fitted):
    """Predictions follow the sign of the decision; p-values lie on the grid of the calibration rows."""
    _, model = fitted
    data = mixed()
    assert np.array_equal(model.predict(data) == 1, model.decision_function(data) >= 0)
    n = len(model.calibration_["anomaly_scores"])
    ranks = model.p_values(data) * (n + 1)
    assert np.allclose(ranks, ranks.round())
    assert ranks.min() >= 1
    assert np.array_equal(model.predict_proba(data)[:, 0], model.p_values(data))
    assert model.smallest_p_value == 1 / (n + 1)
    assert model.threshold(model.false_alarm_rate) == -model.offset_
    expected = benjamini_hochberg(model.p_values(data), 0.3)
    assert np.array_equal(model.flag(data, fdr=0.3), expected)


def test_drift_of_scores_and_columns_is_told():
    """Rows of the same law give no small p-value; a column moved by three deviations one below 1e-6."""
    X = np.random.default_rng(0).normal(size=(900, 2))
    model = EDM(**QUICK | {"calibration_fraction": 0.3}).fit(X[:600])
    still = model.drift(X[600:])
    assert still.scores.p_value > 0.01
    assert still.moved() == []
    moved = model.drift(X[600:] + np.array([0.0, 3.0]))
    assert moved.scores.p_value < 1e-6
    assert moved.scores.shift > 0.9
    assert [column.column for column in moved.moved()] == ["x1"]
    scores = model.anomaly_score(X[600:])
    assert model.drift(X[600:], scores=scores) == still


@pytest.mark.parametrize("made", [lambda x: x, lambda x: np.round(2 * x) / 6])
def test_ties_are_no_drift(made):
    """Whole numbers and thirds in an array: batches of the same law do not move."""
    values = made(np.random.default_rng(0).poisson(3.0, size=(900, 2)).astype(float))
    model = EDM(**QUICK | {"calibration_fraction": 0.5}).fit(values[:600])
    assert model.drift(values[600:]).moved() == []


def test_drift_of_named_columns_and_of_pictures():
    """Names that become one are told; ordinary rows and pictures without columns tell none."""
    table = mixed(900)
    model = EDM(**QUICK | {"calibration_fraction": 0.3}).fit(table[:600])
    moved = model.drift(table[600:].with_columns(colour=pl.lit("red")))
    assert [column.column for column in moved.moved()] == ["colour"]
    assert model.drift(table[600:]).moved() == []
    assert model.anomaly_score(table[:0]).shape == (0,)
    assert ModelDetector.of(model, by="score_norm").evidence(table[:0]).shape == (0, 4)
    pictures = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    model = EDM(**QUICK | {"calibration_fraction": 0.5}).fit(pictures)
    assert model.drift(pictures).columns == ()


def test_contributions_name_the_columns(fitted):
    """Shares of the four columns sum to one."""
    _, model = fitted
    names, shares = model.column_contributions(mixed(7))
    assert names == ["size", "count", "colour", "member"]
    assert shares.sum(1) == pytest.approx(np.ones(7))


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_in_pictures_out(name):
    """uint8 pictures of any odd size, with the grey levels they had."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 17, (40, 5, 7, 3), dtype=np.uint8)
    model = FAMILIES[name](**QUICK).fit(pictures)
    drawn = model.sample(3, steps=steps_of(name))
    assert drawn.shape == (3, 5, 7, 3)
    assert drawn.dtype == np.uint8
    assert drawn.max() <= 16
    assert model.anomaly_score(pictures[:2]).shape == (2,)


def test_reordered_missing_and_extra_columns():
    """Reordered is fine; a missing column is an error that names it; an extra one is ignored."""
    model = EDM(**QUICK).fit(mixed())
    data = mixed(5)
    expected = model.anomaly_score(data)
    assert np.array_equal(model.anomaly_score(data.select(data.columns[::-1])), expected)
    assert np.array_equal(model.anomaly_score(data.with_columns(extra=1)), expected)
    with pytest.raises(DataError, match="'colour'.*missing"):
        model.anomaly_score(data.drop("colour"))


def test_no_calibration_rows_is_said():
    """Without rows set aside there is no p-value, and the error says what to do."""
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = EDM(calibration_fraction=0.0, **QUICK).fit(X)
    with pytest.raises(ValueError, match="calibration_fraction"):
        model.p_values(X)


def test_density_of_a_gaussian_is_learned():
    """A short training on a Gaussian with correlation gives its log-density within 0.1 nats."""
    rng = np.random.default_rng(0)
    cov = np.array([[4.0, 1.5], [1.5, 1.0]])
    X = rng.multivariate_normal([10.0, -3.0], cov, size=4000)
    model = EDM(max_steps=600, width=64, blocks=2, learning_rate=5e-3, random_state=0).fit(X)
    new = rng.multivariate_normal([10.0, -3.0], cov, size=500)
    z = new - [10.0, -3.0]
    truth = -0.5 * np.einsum("ni,ij,nj->n", z, np.linalg.inv(cov), z)
    truth -= 0.5 * np.log(np.linalg.det(2 * np.pi * cov))
    assert model.score(new) == pytest.approx(truth.mean(), abs=0.1)
    drawn = model.sample(2000)
    assert np.cov(drawn.T) == pytest.approx(cov, rel=0.15, abs=0.15)


def test_settings_come_from_the_signature():
    """Names, defaults and bounds of every family; each has what all share."""
    shared = {
        "max_steps",
        "batch_size",
        "learning_rate",
        "validation_fraction",
        "calibration_fraction",
        "random_state",
        "device",
        "precision",
    }
    for cls in FAMILIES.values():
        settings = {s.name: s for s in settings_of(cls)}
        assert shared <= set(settings)
        assert all(s.description for s in settings.values())
        assert {k: s.default for k, s in settings.items()} == cls().get_params()


def test_unknown_and_impossible_settings_are_named():
    """The nearest real name is suggested; bounds are told; strings are read."""
    with pytest.raises(SettingError, match="did you mean max_steps"):
        validate_settings(EDM, {"max_step": 3})
    with pytest.raises(SettingError, match="batch_size=0.*greater than or equal to 1"):
        validate_settings(EDM, {"batch_size": 0})
    with pytest.raises(SettingError, match="learning_rate"):
        validate_settings(EDM, {"learning_rate": "fast"})
    assert validate_settings(EDM, {"max_steps": "300", "width": "none"}) == {
        "max_steps": 300,
        "width": None,
    }
    with pytest.raises(SettingError, match="max_steps"):
        EDM(max_steps=0).fit(np.ones((5, 2)))


def test_run_folder_resumes_only_what_it_started(tmp_path):
    """Other data or other settings in the same folder are refused with --resume."""
    data = as_dataset(np.random.default_rng(0).normal(size=(40, 2)))
    EDM(**QUICK).fit_run(data, tmp_path)
    model = EDM(**QUICK).fit_run(data, tmp_path, resume=True)
    assert model.info_["steps"] == 4
    with pytest.raises(CheckpointError, match="learning_rate"):
        EDM(learning_rate=0.5, **QUICK).fit_run(data, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="started with seed 0 \\(now 5\\)"):
        EDM(**QUICK | {"random_state": 5}).fit_run(data, tmp_path, resume=True)
    other = as_dataset(np.random.default_rng(1).normal(size=(40, 2)))
    with pytest.raises(CheckpointError, match="other data"):
        EDM(**QUICK).fit_run(other, tmp_path, resume=True)
    for damaged in ('{"data"', "{}", "[1]"):
        (tmp_path / "train" / "run.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
            EDM(**QUICK).fit_run(data, tmp_path, resume=True)
    (tmp_path / "train" / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"run\.json is missing"):
        EDM(**QUICK).fit_run(data, tmp_path, resume=True)


def test_damaged_training_curve_is_named(tmp_path):
    """A changed byte in metrics.jsonl is refused by name; without the file the curve is empty."""
    EDM(**QUICK).fit(np.random.default_rng(0).normal(size=(30, 2))).save(tmp_path)
    curve = tmp_path / "metrics.jsonl"
    whole = curve.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"0", b"1", 1)):
        curve.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"metrics\.jsonl is damaged"):
            energyscape.load(tmp_path)
    curve.unlink()
    assert energyscape.load(tmp_path).history_ == []


def test_foreign_family_is_refused(tmp_path):
    """An artifact of an unknown family is named."""
    import json
    from hashlib import sha256

    EDM(**QUICK).fit(np.random.default_rng(0).normal(size=(30, 2))).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"family": "flow"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"]["config.json"] = sha256((tmp_path / "config.json").read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="unknown family 'flow'"):
        energyscape.load(tmp_path)


@pytest.mark.parametrize("wrong", [{"max_steps": "3"}, {"batch_size": 16.0}, {"width": "8"}])
def test_settings_of_another_type_are_named_before_training(wrong):
    """The command line reads text; an estimator trains with what it was given."""
    name, value = list(wrong.items())[-1]
    with pytest.raises(SettingError, match=f"{name}={value!r} is not possible: give {int(value)}"):
        EDM(**QUICK | wrong).fit(np.ones((5, 2)))


def test_a_run_does_not_go_on_with_other_labels(tmp_path):
    """Classes that come beside the data are no part of it, and weights depend on them."""
    data = as_dataset(np.random.default_rng(0).normal(size=(40, 2)))
    classes = np.array(["a", "b"] * 20)
    given = replace(data, labels=classes)
    EDM(label="labels", **QUICK).fit_run(given, tmp_path)
    EDM(label="labels", **QUICK).fit_run(given, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="other labels"):
        EDM(label="labels", **QUICK).fit_run(
            replace(data, labels=classes[::-1]), tmp_path, resume=True
        )
