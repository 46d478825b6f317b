"""Known cells, blanks and classes: exact where given, the right law elsewhere, bad wishes named."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import energyscape
from energyscape.data import DataError, as_dataset, load
from energyscape.densities import GaussianMixture
from energyscape.families import DDPM, EBM, EDM, NCSN, ScoreModel, conditioning
from energyscape.families.labels import class_codes, class_labels
from energyscape.models import FunctionDenoiser, MixtureOfGaussians

QUICK = {"max_steps": 3, "batch_size": 16, "width": 8, "blocks": 1, "random_state": 0}


def people(n: int = 80) -> pl.DataFrame:
    """Every kind of column, blanks in two of them, and one left out."""
    rng = np.random.default_rng(0)
    day = datetime.date(2020, 1, 1)
    return pl.DataFrame(
        {
            "name": [f"a person who was counted as number {i} and no other" for i in range(n)],
            "size": [None if i % 9 == 0 else round(float(v), 2) for i, v in
                     enumerate(rng.normal(170, 10, n))],
            "count": rng.integers(0, 30, n),
            "colour": [None if i % 7 == 0 else c for i, c in
                       enumerate(rng.choice(["red", "green", "blue"], n))],
            "member": rng.choice([True, False], n),
            "joined": [day + datetime.timedelta(days=int(k)) for k in rng.integers(0, 900, n)],
        }
    )  # fmt: skip


@pytest.fixture(scope="module", params=[EDM, DDPM, NCSN])
def fitted(request):
    return request.param(**QUICK).fit(people())


@pytest.fixture(scope="module")
def edm():
    return EDM(**QUICK).fit(people())


class _Exact:
    """An estimator of numbers whose trained denoiser is swapped for a closed form."""

    def __init__(self, p: GaussianMixture, rows: int = 4000) -> None:
        rng = torch.Generator().manual_seed(0)
        self.data = p.sample(rows, rng).numpy()
        self.model = EDM(**QUICK).fit(self.data)
        blocks = self.model.codec_.blocks
        assert not any(block.heavy for block in blocks)
        mean = torch.tensor([block.mean for block in blocks], dtype=torch.float64)
        scale = torch.tensor([block.std for block in blocks], dtype=torch.float64)
        encoded = GaussianMixture(
            p.weights, (p.means - mean) / scale, p.covariances / scale[:, None] / scale
        )
        self.model.model_ = _Denoiser(encoded)


class _Denoiser(FunctionDenoiser):
    def __init__(self, p: GaussianMixture) -> None:
        super().__init__(p.denoise)
        self.dtype = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


MIXTURE = GaussianMixture(
    [0.3, 0.7],
    torch.tensor([[-1.0, -1.5], [1.0, 1.5]]),
    torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.2]]]),
)


@pytest.fixture(scope="module")
def exact():
    return _Exact(MIXTURE).model


def test_a_number_given_leaves_the_closed_form_conditional(exact):
    """400 draws of a bimodal conditional: the weight of a mode within 4 standard errors (false
    failure 1 in 10,000) and 0.05 for the steps; the value itself to the bit."""
    drawn = exact.sample(400, given={"x0": 0.5}, random_state=1)
    assert (drawn[:, 0] == 0.5).all()
    law = MIXTURE.conditional([0], torch.tensor([0.5]))
    want = float((law.sample(100_000, torch.Generator().manual_seed(0)) > 0).double().mean())
    got = float((drawn[:, 1] > 0).mean())
    assert abs(got - want) < 4 * (want * (1 - want) / 400) ** 0.5 + 0.05
    assert (exact.sample(2, given={0: -0.5}, random_state=1, steps=6)[:, 0] == -0.5).all()


def test_annealed_langevin_paints_around_a_number(exact):
    """Asked for by name: the conditional's own mode of the mixture is met, and the value kept."""
    drawn = exact.sample(300, given={"x0": 0.5}, sampler="langevin", steps=40, random_state=1)
    assert (drawn[:, 0] == 0.5).all()
    law = MIXTURE.conditional([0], torch.tensor([0.5]))
    want = law.sample(100_000, torch.Generator().manual_seed(0))
    # Known cells are noised to each level, so high levels see little of them: modes keep some of the
    # weight they have without it, and each mode is met.
    right, truth = drawn[:, 1][drawn[:, 1] > 0], want[want > 0]
    assert len(right) > 200
    assert abs(right.mean() - float(truth.mean())) < 0.1
    assert abs(right.std() - float(truth.std())) < 0.1


def test_a_range_beside_a_number_cuts_the_conditional(exact):
    """All draws lie in the range, and spread over it: not its edge alone."""
    drawn = exact.sample(150, given={"x0": 0.5, "x1": [(">", 0.0), ("<=", 2.0)]}, random_state=0)
    assert (drawn[:, 0] == 0.5).all()
    assert drawn[:, 1].min() > 0
    assert drawn[:, 1].max() <= 2
    assert abs(drawn[:, 1].mean() - 1.5) < 0.3


def test_blanks_are_drawn_from_their_conditional(exact):
    """Filled column against the column that was hidden: KS below the 0.1 % bound of 300 rows."""
    from scipy.stats import ks_2samp

    rng = torch.Generator().manual_seed(5)
    full = MIXTURE.sample(300, rng).numpy()
    gaps = full.copy()
    gaps[:, 1] = np.nan
    filled = exact.impute(gaps, random_state=2)
    assert np.array_equal(filled[:, 0], full[:, 0])
    assert ks_2samp(filled[:, 1], full[:, 1]).statistic < 1.95 * (2 / 300) ** 0.5
    residual = np.corrcoef(filled.T)[0, 1] - np.corrcoef(full.T)[0, 1]
    assert abs(residual) < 0.12


def test_given_cells_of_every_kind_come_back_exactly(fitted):
    """Number, whole number, category, yes or no, and date, all at once."""
    given = {
        "size": 171.25,
        "count": 7,
        "colour": "blue",
        "member": True,
        "joined": datetime.date(2021, 5, 6),
    }
    drawn = fitted.sample(3, given=given, steps=3)
    assert drawn.height == 3
    for name, value in given.items():
        assert drawn[name].to_list() == [value] * 3
    blank = fitted.sample(2, given={"size": None, "count": 7}, steps=3)
    assert blank["size"].null_count() == 2
    assert blank["joined"].null_count() == 0


def test_text_is_read_as_in_a_file(edm):
    """What a command line gives: the same rows as typed values."""
    typed = edm.sample(3, given={"joined": datetime.date(2021, 5, 6), "count": 7}, steps=3)
    text = edm.sample(3, given={"joined": "2021-05-06", "count": "7"}, steps=3)
    assert text.equals(typed)


def test_ranges_and_names_by_rejection(edm):
    """Every sign on the kinds it is for; pandas frames compare dates too."""
    given = {
        "count": [(">=", 5), ("<", 25)],
        "joined": (">", datetime.date(2020, 6, 1)),
        "colour": ("!=", "red"),
        "member": False,
    }
    drawn = edm.sample(8, given=given, steps=3, random_state=4)
    assert drawn.height == 8
    assert drawn["count"].is_between(5, 24).all()
    assert drawn["joined"].min() > datetime.date(2020, 6, 1)
    assert set(drawn["colour"]) <= {"green", "blue"}
    assert not drawn["member"].any()
    again = edm.sample(8, given=given, steps=3, random_state=4)
    assert again.equals(drawn)


def test_rare_names_are_conditioned_on_and_common_ones_rejected(edm, monkeypatch):
    """A name met once in fifty draws or less takes the conditional sampler."""
    asked: list[int] = []
    own = type(edm).sample_conditional

    def spy(self, values, known, **options):
        asked.append(len(values))
        return own(self, values, known, **options)

    monkeypatch.setattr(type(edm), "sample_conditional", spy)
    edm.sample(2, given={"member": True}, steps=2)
    assert asked == []
    monkeypatch.setattr(conditioning, "_RARE", 1.1)
    assert edm.sample(2, given={"member": True}, steps=2)["member"].all()
    assert asked == [2]


def test_energies_hold_cells_by_their_own_chains():
    """Numbers, names and blanks; a number of the given rows stands as it was given."""
    model = EBM(chain_steps=1, **QUICK).fit(people())
    assert model.sample(2, given={"member": True}, steps=2)["member"].all()
    assert (model.sample(2, given={"size": 170.0}, steps=5)["size"] == 170.0).all()
    filled = model.impute(people(9), steps=5)
    assert filled["size"].null_count() == 0
    with pytest.raises(ValueError, match="needs a model with classes"):
        model.sample(2, label="red")


class _ExactEnergy:
    """A ScoreModel whose energy is that of a mixture in closed form."""

    def __init__(self, p, **settings):
        X = p.sample(600, torch.Generator().manual_seed(3)).numpy()
        self.model = ScoreModel(max_steps=2, random_state=0, normalise=False, **settings).fit(X)
        codec = self.model.encode(X[:2]).numpy()
        scale = (codec[1] - codec[0]) / (X[1] - X[0])
        shift = torch.tensor(codec[0] - X[0] * scale)
        s = torch.tensor(scale)
        there = GaussianMixture(p.weights, p.means * s + shift, p.covariances * s[:, None] * s)
        self.model.model_ = MixtureOfGaussians(there)
        # Where the family looks for device and type.
        self.model.model_.register_parameter("own", torch.nn.Parameter(torch.zeros(1)))
        self.model.calibration_["chains"] = (
            there.sample(1000, torch.Generator().manual_seed(4)).float().numpy()
        )


def test_an_energy_draws_from_the_closed_form_conditional():
    """400 draws of a bimodal conditional: the weight of a mode within 4 standard errors and 0.05."""
    model = _ExactEnergy(MIXTURE).model
    drawn = model.sample(400, given={"x0": 0.2}, random_state=1)
    assert (drawn[:, 0] == 0.2).all()
    law = MIXTURE.conditional([0], torch.tensor([0.2]))
    want = law.sample(100_000, torch.Generator().manual_seed(0)).numpy()[:, 0]
    share = float((want > 0).mean())
    assert abs((drawn[:, 1] > 0).mean() - share) < 4 * (share * (1 - share) / 400) ** 0.5 + 0.05
    for side in (1, -1):
        here, there = drawn[:, 1][side * drawn[:, 1] > 0], want[side * want > 0]
        assert abs(here.mean() - there.mean()) < 5 * there.std() / len(here) ** 0.5


def test_a_field_is_held_at_its_known_cells():
    """The long axis of a Gaussian of correlation 0.9: the other column follows the given one."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 400)
    settings = {"max_steps": 150, "learning_rate": 0.01, "width": 16, "noise_level": 0.3}
    model = ScoreModel(network="field", random_state=0, **settings).fit(X)
    low, high = (model.sample(60, given={"x0": v}, steps=200) for v in (-1.0, 1.0))
    assert (low[:, 0] == -1.0).all()
    assert high[:, 1].mean() - low[:, 1].mean() > 1.0


@pytest.mark.parametrize(
    "given, error, says",
    [
        ({"town": 1}, ValueError, "no column 'town'.*size"),
        ({"name": "x"}, ValueError, "no column 'name'"),
        ({"colour": (">", "red")}, ValueError, "no order"),
        ({"count": ("~", 3)}, ValueError, "no comparison"),
        ({"count": [3, 4]}, ValueError, "two values"),
        ({"count": (">", None)}, ValueError, "blank"),
        ({"colour": "pink"}, DataError, "never 'pink'"),
        ({"colour": ("!=", "pink")}, DataError, "never 'pink'"),
        ({"count": None}, DataError, "never None"),
        ({"count": 2.5}, DataError, "whole number"),
        ({"size": "tall"}, DataError, "tall"),
        ({"count": (">", 99)}, ValueError, "no row can; samples of 'count' are 0 to 29"),
        ({"count": [("<", 3), (">", 8)]}, ValueError, "count<3, count>8: no row can"),
        ({"size": [(">", 170.0), ("<", 160.0)]}, ValueError, "no row can"),
        ({"joined": ("<", "1990-01-01")}, ValueError, "samples of 'joined' are 2020-01"),
        ({"joined": "in May"}, DataError, "given joined=in May: 'in May' is not an ISO date"),
        ({"colour": [("!=", c) for c in ("red", "green", "blue")]}, ValueError, "no row can"),
        ({"count": [3, (">", 8)]}, ValueError, "contradict"),
        ({"count": [("!=", 3), (">", 3), ("<", 4)]}, ValueError, "no row can"),
        ({"size": [(">", 177.0), ("<", 177.001)]}, ValueError, "0 of .* draws fit"),
    ],
)
def test_conditions_that_cannot_be_met_are_named(edm, given, error, says, monkeypatch):
    monkeypatch.setattr(conditioning, "_MOST_DRAWS", (10, 200))
    with pytest.raises(error, match=says):
        edm.sample(1, given=given, steps=2)


def test_ranges_that_leave_one_value_hold_it(edm, monkeypatch):
    """Between two neighbours, from and to one day, all names but one: held, not waited for."""
    monkeypatch.setattr(conditioning, "_MOST_DRAWS", (1, 10))
    monkeypatch.setattr(conditioning, "_RARE", 1.1)
    given = {
        "count": [(">", 6), ("<", 8)],
        "joined": [(">=", "2021-05-06"), ("<=", "2021-05-06")],
        "colour": [("!=", "red"), ("!=", "green")],
    }
    drawn = edm.sample(3, given=given, steps=3)
    assert drawn["count"].to_list() == [7] * 3
    assert drawn["joined"].to_list() == [datetime.date(2021, 5, 6)] * 3
    assert drawn["colour"].to_list() == ["blue"] * 3


def test_rare_ranges_take_found_values_and_draw_the_rest_given_them(exact, monkeypatch):
    """The first coordinate above its 99 % quantile, ten draws found and forty rows asked for: all lie
    there, and the other one follows the closed-form conditional of the values that were found: mean
    residual within four standard errors."""
    monkeypatch.setattr(conditioning, "_MOST_DRAWS", (1000, 2000))
    monkeypatch.setattr(conditioning, "_TOO_RARE", 1.1)
    drawn = exact.sample(200, given={"x0": (">", 2.0)}, random_state=0)
    assert len(drawn) == 200
    assert drawn[:, 0].min() > 2.0
    assert len(np.unique(drawn[:, 0])) < 200
    # Beyond 2 the second mode has all the weight: mean 1.5 - 0.25 (x - 1), variance 0.2 - 0.025.
    residual = drawn[:, 1] - (1.5 - 0.25 * (drawn[:, 0] - 1.0))
    assert abs(residual.mean()) < 4 * np.sqrt(0.175 / 200)
    assert abs(residual.std() - np.sqrt(0.175)) < 0.09


def test_dates_are_given_in_their_own_form_or_as_iso():
    rows = people().with_columns(pl.col("joined").dt.strftime("%d.%m.%Y"))
    model = EDM(**QUICK).fit(rows)
    for written in ("06.05.2021", "2021-05-06"):
        drawn = model.sample(2, given={"joined": written}, steps=3)
        assert drawn["joined"].to_list() == ["06.05.2021"] * 2
    late = model.sample(3, given={"joined": (">", "2021-06-01")}, steps=3)
    assert late["joined"].str.to_date("%d.%m.%Y").min() > datetime.date(2021, 6, 1)


@pytest.mark.parametrize("kind", ["polars", "pandas", "dataset"])
def test_filled_frames_keep_all_that_was_there(edm, kind):
    """Same kind, columns and types; only blanks change; several draws differ."""
    gaps = people(30).with_columns(count=pl.Series([None, *people(30)["count"][1:]]))
    given = {"polars": gaps, "pandas": gaps.to_pandas(), "dataset": as_dataset(gaps)}[kind]
    first, second = edm.impute(given, draws=2, steps=3)
    assert isinstance(first, pd.DataFrame if kind == "pandas" else pl.DataFrame)
    filled = pl.DataFrame(first.to_dict("list")) if kind == "pandas" else first
    assert filled.columns == gaps.columns
    assert sum(filled.null_count().row(0)) == 0
    for name in gaps.columns:
        there = gaps[name].is_not_null()
        if name != "joined":  # pandas has its own type of date
            assert filled[name].filter(there).to_list() == gaps[name].filter(there).to_list()
    assert set(filled["colour"]) <= {"red", "green", "blue"}
    assert not first.equals(second)
    one = edm.impute(given, steps=3)
    assert one.equals(first)


def test_nothing_blank_is_nothing_drawn(edm):
    """Whole rows come back without a walk; a count of draws below 1 is refused."""
    whole = people(20).drop_nulls()
    assert edm.impute(whole).equals(whole)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        edm.impute(whole, draws=0)


def test_filling_survives_saving(edm, tmp_path):
    """The loaded model fills with the same values."""
    edm.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    gaps = people(12)
    assert again.impute(gaps, steps=3).equals(edm.impute(gaps, steps=3))


def test_masked_pixels_are_drawn_and_the_others_kept():
    """Pictures small (particles) and large (one conditioned walk)."""
    rng = np.random.default_rng(0)
    for side in (5, 12):
        pictures = rng.integers(0, 17, (30, side, side), dtype=np.uint8)
        model = EDM(network="mlp", **QUICK).fit(pictures)
        assert ("covariance" in model.calibration_) == (side == 5)
        mask = np.zeros(pictures[:3].shape, dtype=bool)
        mask[:2, :2] = True
        filled = model.impute(np.ma.array(pictures[:3], mask=mask), steps=3)
        assert filled.dtype == np.uint8
        assert np.array_equal(filled[~mask], pictures[:3][~mask])
        assert filled.max() <= 16
        with pytest.raises(ValueError, match="mask the pixels"):
            model.impute(pictures[:3])
        with pytest.raises(ValueError, match="fitted on pictures"):
            model.sample(1, given={"x0": 1})


def test_conditional_rows_of_another_shape_are_refused(exact):
    with pytest.raises(ValueError, match="shape"):
        exact.sample_conditional(torch.zeros(2, 3), torch.zeros(2, 3) > 0)


@pytest.mark.parametrize("cls", [EDM, DDPM, NCSN])
def test_classes_are_learned_and_guided(cls):
    """Two classes at -3 and 3: samples of a class are on its side; guidance 2 goes no less far."""
    rng = np.random.default_rng(0)
    side = np.repeat([0, 1], 200)
    X = rng.normal(size=(400, 2)) * 0.5 + 6.0 * side[:, None] - 3
    model = cls(
        label="y", max_steps=250, width=32, blocks=1, learning_rate=5e-3, random_state=0
    ).fit(X, side)
    steps = {"langevin": 3, "ancestral": 40}.get(model.default_sampler)
    for label in (0, 1):
        drawn = model.sample(40, label=label, steps=steps)
        assert ((drawn.mean(1) > 0) == bool(label)).mean() > 0.9
    far = model.sample(40, label="1", guidance=2.0, steps=steps)
    assert far.mean() > 2
    both = model.sample(60, steps=steps)
    assert 0.2 < (both.mean(1) > 0).mean() < 0.8
    each = model.sample(3, label=[0, 1, 0], steps=steps)
    assert ((each.mean(1) > 0) == [False, True, False]).all()
    assert np.isfinite(model.score_samples(X[:3])).all()
    held = model.sample(20, given={"x0": 3.0}, label=1, steps=8)
    assert (held[:, 0] == 3.0).all()


def test_a_column_as_class_stays_in_the_rows(tmp_path):
    """The label names a column: rows still have it, and loading knows the classes."""
    model = EDM(label="colour", **QUICK).fit(people())
    assert model.facts_["classes"] == ["blue", "green", "red"]
    assert sum(model.facts_["class_counts"]) + model.facts_["no_class"] == 64
    assert model.facts_["no_class"] > 0
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    a, b = (m.sample(4, label="red", guidance=1.5, steps=3) for m in (model, again))
    assert a.equals(b)
    assert a.columns == people().drop("name").columns
    with pytest.raises(ValueError, match="'pink' was not in training; there are blue, green, red"):
        model.sample(1, label="pink")
    with pytest.raises(ValueError, match="2 labels were given for 3"):
        model.sample(3, label=["red", "blue"])


@pytest.mark.parametrize(
    "wanted, says",
    [
        ("size", "numeric"),
        ("name", "classes come from a category"),
        ("town", "no such column.*colour.*labels"),
        ("Colours", "did you mean 'colour'"),
        ("labels", "without labels"),
    ],
)
def test_labels_that_are_no_classes_are_named(wanted, says):
    with pytest.raises(ValueError, match=says):
        class_labels(wanted, as_dataset(people()))


def test_a_single_value_is_no_label():
    """A constant column, and labels that are all alike."""
    constant = people().with_columns(colour=pl.lit("red"))
    with pytest.raises(ValueError, match="'colour' has the single value 'red'"):
        EDM(label="colour", **QUICK).fit(constant)
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match="single value '1'"):
        EDM(label="y", **QUICK).fit(X, np.ones(20))
    with pytest.raises(ValueError, match="as many labels"):
        EDM(label="y", **QUICK).fit(X, np.ones(19))


def test_class_labels_are_ordered_as_numbers_where_they_are():
    """10 comes after 9; floats that are whole read as whole."""
    made = class_labels("labels", load("digits"))
    assert made.names == [str(k) for k in range(10)]
    facts = made.facts(np.arange(100))
    assert sum(facts["class_counts"]) == 100
    assert class_codes(np.array([3.0, 9.0]), 2, facts).tolist() == [3, 9]
    numbers = as_dataset(np.c_[np.arange(40.0) % 11, np.random.default_rng(0).normal(size=40)])
    assert class_labels("x0", numbers).names == [str(k) for k in range(11)]
