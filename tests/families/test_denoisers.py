"""Settings of the denoiser families compose: losses, predictions, variances, samplers, clipping."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

import energyscape
from energyscape.artifact import read_artifact, write_artifact
from energyscape.diffusion import SAMPLERS, LearnedRange, variational_bound
from energyscape.families import DDPM, EBM, EDM, NCSN, ScoreModel
from energyscape.families.judging import Values
from energyscape.families.labels import HiddenLabels
from energyscape.families.settings import SettingError, settings_of, validate_settings
from energyscape.mcmc import Annealed
from energyscape.models import FunctionDenoiser, per_row
from energyscape.objectives import DenoisingLoss

QUICK = {"max_steps": 3, "batch_size": 16, "width": 8, "blocks": 1, "random_state": 0}
X = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.5], size=(300, 2))


@pytest.fixture(scope="module", params=[EDM, DDPM, NCSN])
def fitted(request):
    return request.param(**QUICK).fit(X)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "langevin"])
def test_every_sampler_walks_every_family(fitted, sampler):
    """Any number of steps; the same seed gives the same rows; progress ends complete."""
    seen: list[tuple[int, int]] = []
    options = {"sampler": sampler, "steps": 2, "random_state": 1}
    drawn = fitted.sample(4, progress=lambda p: seen.append((p.step, p.total)), **options)
    assert drawn.shape == (4, 2)
    assert np.isfinite(drawn).all()
    assert np.array_equal(drawn, fitted.sample(4, **options))
    assert seen[-1][0] == seen[-1][1] >= 2


def test_settings_of_a_sampler_reach_it(fitted):
    drawn = [
        fitted.sample(4, sampler=name, steps=3, random_state=0)
        for name in ("ddim", "ddim:eta=0", "ddim:eta=0.9")
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_an_unknown_sampler_is_named(fitted):
    with pytest.raises(ValueError, match=r"unknown sampler 'walk'.*heun.*langevin"):
        fitted.sample(2, sampler="walk")


def test_more_steps_than_the_chain_has_are_refused():
    with pytest.raises(ValueError, match="the chain has 25 steps, 26"):
        DDPM(num_steps=25, **QUICK).fit(X).sample(1, steps=26)


@pytest.mark.parametrize("parametrisation", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "loss, variance",
    [("simple", "fixed_large"), ("min_snr", "fixed_small"), ("bound", "fixed_small"),
     ("bound", "learned"), ("hybrid", "learned")],
)  # fmt: skip
def test_predictions_losses_and_variances_compose(parametrisation, loss, variance, tmp_path):
    """Each trains, samples, bounds and comes back from its folder to the same bits."""
    model = DDPM(
        parametrisation=parametrisation, loss=loss, variance=variance, num_steps=30, **QUICK
    ).fit(X)
    assert isinstance(model.model_, LearnedRange) == (variance == "learned")
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(model.sample(3, steps=6), again.sample(3, steps=6))
    a, b = (m.bound(X[:3], random_state=2) for m in (model, again))
    assert a.kind == "lower_bound"
    assert np.array_equal(a.value, b.value)
    assert (a.stderr > 0).all()


def test_variances_and_losses_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="variance='learned' is trained by the bound"):
        DDPM(variance="learned", **QUICK).fit(X)
    with pytest.raises(ValueError, match="give variance='learned'"):
        DDPM(loss="hybrid", **QUICK).fit(X)


class _UnitGaussian(FunctionDenoiser):
    """The exact denoiser of N(0, I), with a parameter that tells its dtype."""

    def __init__(self):
        super().__init__(lambda x, sigma: x / (1 + per_row(sigma, x) ** 2))
        self.dtype = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("clip", ["auto", "dynamic", "none"])
def test_the_bound_of_pictures_is_that_of_clipped_estimates(clip):
    """Clipped to their range unless told not to; a cosine chain hardly trained is then far better."""
    pictures = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    model = DDPM(max_steps=3, schedule="cosine", num_steps=40, clip=clip, width=8, random_state=0)
    model.fit(pictures)
    # The bound holds in the mean over noise within the grey levels, which is drawn too.
    encoded = model.codec_.encode(model._conform(pictures[:5]), np.random.default_rng(1))
    x = torch.from_numpy(encoded.x)
    rng = torch.Generator().manual_seed(model._seed(1) + 15485863)
    kind = {"variance": "fixed_small", "clip": None if clip == "none" else (-1.0, 1.0)}
    network = model._scorer(model._density_dtype())
    expected = variational_bound(model.chain_, network, x, rng, **kind).value
    found = model.bound(pictures[:5], decoder="gaussian", random_state=1)
    np.testing.assert_allclose(found.value, encoded.log_abs_det - expected.numpy(), rtol=1e-9)


def _pixels(levels: int, num_steps: int = 40) -> DDPM:
    pictures = np.random.default_rng(0).integers(0, levels, (60, 1, 1), dtype=np.uint8)
    pictures[0] = levels - 1
    return DDPM(max_steps=3, num_steps=num_steps, width=8, random_state=0).fit(pictures)


def test_probabilities_of_all_levels_add_up_to_less_than_one():
    """The bound is on a probability: over all 256 pictures of one pixel its exponentials add up to at
    most 1, and with an exact denoiser of even levels to nearly that."""
    model = _pixels(256, num_steps=400)
    pictures = np.arange(256, dtype=np.uint8)[:, None, None]
    middles = torch.from_numpy(model.codec_.encode(pictures, None).x)

    def exact(x, sigma):
        level = middles.flatten()[:, None]
        weights = torch.softmax(
            -0.5 * ((x.flatten() - level) / per_row(sigma, x).flatten()) ** 2, 0
        )
        return (weights * level).sum(0).reshape(x.shape)

    def total():
        found = np.mean([model.bound(pictures, random_state=i).value for i in range(2)], axis=0)
        return np.exp(found).sum()

    assert total() < 1
    model.model_, model._frozen = _UnitGaussian(), None
    model.model_.function = exact
    assert 0.5 < total() < 1


@pytest.mark.parametrize(("levels", "same"), [(256, "discretised"), (17, "gaussian")])
def test_the_last_step_is_discretised_where_levels_are_narrow(levels, same):
    """By default; the other one differs."""
    model = _pixels(levels)
    rows = np.arange(0, levels, 4, dtype=np.uint8)[:, None, None]
    usual, named = (model.bound(rows, random_state=1, decoder=d).value for d in ("auto", same))
    np.testing.assert_array_equal(usual, named)
    other = {"discretised": "gaussian", "gaussian": "discretised"}[same]
    assert (model.bound(rows, random_state=1, decoder=other).value != named).all()
    assert model.bound_terms(rows, random_state=1).discretised == (same == "discretised")


@pytest.mark.parametrize("family", [DDPM, EDM, NCSN])
def test_densities_of_tables_by_networks_in_single_precision_are_those_in_double(
    family, monkeypatch
):
    """A bend and a heavy tail; rows far outside relative to their density. Trained in float64, they
    stay there."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3))
    rows[:, 1] += rows[:, 0] ** 2
    rows[:, 2] = np.exp(2 * rows[:, 2])
    model = family(**QUICK).fit(rows)
    for some, rtol in ((rows[:50], 0.0), (30 * rows[:5], 1e-6)):
        single = model.score_samples(some)
        assert set(model._frozen) <= {torch.float32, torch.float64}
        assert torch.float32 in model._frozen
        with monkeypatch.context() as patch:
            patch.setattr(model, "_density_dtype", lambda: torch.float64)
            np.testing.assert_allclose(single, model.score_samples(some), rtol=rtol, atol=2e-5)
    # A cell whose square is beyond single precision has a density, the same beside others.
    wild = np.array([[1e25, 0.0, 1.0], rows[0]])
    found = model.score_samples(wild)
    assert np.isfinite(found).all()
    alone = [model.score_samples(wild[i : i + 1])[0] for i in range(2)]
    assert found == pytest.approx(alone, rel=1e-6)
    if family is DDPM:
        assert np.isfinite(model.bound(wild, num_steps=4, random_state=0).value).all()
    double = family(**QUICK, precision="float64").fit(rows)
    double.score_samples(rows[:1])
    assert torch.float32 not in double._frozen


def test_a_table_has_no_levels_to_discretise():
    """And no decoder of another name."""
    model = DDPM(**QUICK).fit(X)
    with pytest.raises(ValueError, match="is for pictures"):
        model.bound(X[:2], decoder="discretised")
    with pytest.raises(ValueError, match="not 'poisson'"):
        model.bound_terms(X[:2], decoder="poisson")


def test_the_bound_is_tight_for_a_gaussian():
    """With the exact denoiser of the encoded rows and the variance that is right for it, the large
    one, the bound of every row is its log-density but for 0.00005 nats: means of 300 rows within 5
    standard errors, in original units, with all steps and with sampled ones."""
    model = DDPM(variance="fixed_large", **QUICK).fit(X)
    assert not any(block.heavy for block in model.codec_.blocks)
    model.model_, model._frozen = _UnitGaussian(), None
    new = X
    mean, scale = (np.array([getattr(b, k) for b in model.codec_.blocks]) for k in ("mean", "std"))
    truth = -0.5 * (((new - mean) / scale) ** 2).sum(1) - np.log(2 * np.pi * scale.prod())
    bound = model.bound(new)
    gap, error = (truth - bound.value).mean(), (bound.stderr**2).mean() ** 0.5 / len(new) ** 0.5
    assert abs(gap) < 5 * error
    assert error < 0.1
    some = model.bound(new, num_steps=200)
    both = math.hypot(error, (some.stderr**2).mean() ** 0.5 / len(new) ** 0.5)
    assert abs(some.value.mean() - bound.value.mean()) < 5 * both


def test_a_chain_that_keeps_signal_starts_from_it():
    """scaled-linear ends with signal: no warning, and samples of the data's mean and spread."""
    model = DDPM(
        schedule="scaled-linear", num_steps=60, max_steps=400, width=48, blocks=1,
        learning_rate=5e-3, random_state=0,
    ).fit(X)  # fmt: skip
    drawn = model.sample(500)
    assert np.abs((drawn.mean(0) - [3.0, -1.0]) / [2.0, 0.5]).max() < 0.25
    assert np.abs(drawn.std(0) / [2.0, 0.5] - 1).max() < 0.25


def test_weights_of_the_edm_loss():
    """min_snr never weighs a level more than 5/scale^2; edm does at the lowest."""
    sigma = torch.tensor([0.01, 1.0])
    for named, most in (("edm", math.inf), ("min_snr", 5.0 + 1e-6)):
        model = EDM(weight=named, **QUICK).fit(X)
        objective = model._compose(model.model_, model.facts_).objective
        assert isinstance(objective, DenoisingLoss)
        assert float(objective.weight(sigma).max()) * model.facts_["sigma_data"] ** 2 <= most


def test_largest_level_too_small_is_said():
    """Far below the data's spread: a warning with the level to use."""
    with pytest.warns(UserWarning, match="the largest distance, is what it takes"):
        NCSN(sigma_max=0.1, sigma_min=0.01, **QUICK).fit(X)
    assert NCSN(levels=12, **QUICK).fit(X).levels_ == sorted(
        NCSN(levels=12, **QUICK).fit(X).levels_, reverse=True
    )


def test_pictures_are_clipped_in_sampling_alone():
    """auto clips estimates of pictures to [-1, 1], none does not; tables refuse to be clipped."""
    pictures = np.random.default_rng(0).integers(0, 17, (40, 6, 5), dtype=np.uint8)
    model = EDM(**QUICK).fit(pictures)
    assert float(model.sample_encoded(20, steps=3).abs().max()) <= 1.0
    model.set_params(clip="dynamic")
    assert float(model.sample_encoded(20, steps=3).abs().max()) <= 1.0
    model.set_params(clip="none")
    assert model._clip(None) is None
    model.set_params(clip="auto")
    assert model._clip(3.0) == "dynamic"
    with pytest.raises(ValueError, match="clip='static' is for pictures"):
        EDM(clip="static", **QUICK).fit(X)


def test_large_pictures_are_calibrated_in_bounded_work_and_scored_in_single_precision(monkeypatch):
    """Networks of pictures score in float32, to the same log-density but for rounding and to the
    same scores alone or among others; only so many pictures are calibrated on, with progress."""
    monkeypatch.setattr("energyscape.families.fitting._CALIBRATION_PICTURES", 5)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 12, 12), dtype=np.uint8)
    model = EDM(**QUICK, calibration_fraction=0.3).fit(pictures)
    assert model.info_["rows"]["calibration"] == len(model.calibration_["anomaly_scores"]) == 5
    scores = model.anomaly_score(pictures[:6])
    assert set(model._frozen) == {torch.float32}
    # A squared distance over six levels, about six: what rounding adds is a share of that.
    np.testing.assert_allclose(model.anomaly_score(pictures[:1]), scores[:1], atol=6e-5)
    single = model.score_samples(pictures[:2])
    np.testing.assert_allclose(model.score_samples(pictures[:1]), single[:1], atol=2e-3)
    monkeypatch.setattr(model, "_density_dtype", lambda: torch.float64)
    np.testing.assert_allclose(model.score_samples(pictures[:2]), single, atol=2e-3)
    seen = []
    model._surprise_rows(model.encode(pictures[:6]), seen.append, "calibrating")
    assert (seen[-1].phase, seen[-1].step, seen[-1].total) == ("calibrating", 6, 6)


class _Cells(torch.nn.Module):
    """Stands for a model whose density is known: a unit normal of every pixel."""

    def __init__(self):
        super().__init__()
        self.dtype = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_noise_within_grey_levels_bounds_the_probability_of_a_picture(monkeypatch):
    """400 seeds of 4 pixels of 2 levels, against the mean over the noise by quadrature and P itself."""
    pictures = np.random.default_rng(0).integers(0, 2, (60, 2, 2), dtype=np.uint8)
    model = EDM(**QUICK).fit(pictures)
    monkeypatch.setattr(model, "model_", _Cells())

    def normal(x):
        value = stats.norm.logpdf(x.numpy(), scale=0.5).reshape(len(x), -1).sum(1)
        return Values(value, "exact", np.zeros(len(x)))

    monkeypatch.setattr(model, "_log_density", normal)
    seen, edges, share = pictures[:6], np.asarray(model.codec_.edges), model.codec_.spread
    width, middle = np.diff(edges), (edges[1:] + edges[:-1]) / 2
    u = share * ((np.arange(1000) + 0.5) / 1000 - 0.5)
    cell = stats.norm.logpdf(middle[:, None] + width[:, None] * u, scale=0.5).mean(1)
    bound = (cell + np.log(share * width))[seen].reshape(6, -1).sum(1)
    truth = np.log(np.diff(stats.norm.cdf(edges, scale=0.5)))[seen].reshape(6, -1).sum(1)
    drawn = np.stack([model.log_density(seen, random_state=k).value for k in range(400)])
    assert (np.abs(drawn.mean(0) - bound) < 4.5 * drawn.std(0) / 20).all()
    assert (bound < truth).all()
    again = model.log_density(seen, random_state=7).value
    assert np.array_equal(again, drawn[7])
    assert np.array_equal(model.log_density(seen).value, model.log_density(seen).value)


def test_guidance_without_classes_is_refused():
    for model in (EDM(**QUICK).fit(X), EBM(chain_steps=1, **QUICK).fit(X)):
        with pytest.raises(ValueError, match=r"guidance needs a model with classes.*label=COLUMN"):
            model.sample(2, guidance=2.0)


def test_guided_chains_keep_their_learned_variance():
    """A learned variance beside labels and guidance: trains with the bound, samples, reloads."""
    y = np.arange(300) % 2
    model = DDPM(label="y", loss="hybrid", variance="learned", num_steps=30, **QUICK).fit(X, y)
    assert isinstance(model._denoiser(torch.tensor([0, 1]), 2.0), LearnedRange)
    assert model.sample(2, label=[0, 1], guidance=2.0).shape == (2, 2)
    assert model.sample(2, label=1, steps=5, sampler="dpmpp_2m").shape == (2, 2)


def test_hidden_labels():
    """Every label hidden, or none; what stands below is called with the rest unchanged."""
    got = []

    def objective(model, x, aux, rng, *, label=None):
        got.append(label)
        return x, aux, {}

    label, rng = torch.arange(4), torch.Generator().manual_seed(0)
    for probability in (0.0, 1.0):
        HiddenLabels(objective, probability)(None, torch.zeros(4), None, rng, label=label)
    HiddenLabels(objective)(None, torch.zeros(4), None, rng)
    assert got[0].tolist() == [0, 1, 2, 3]
    assert got[1].tolist() == [-1] * 4
    assert got[2] is None
    assert HiddenLabels(objective).init(None, torch.zeros(4), rng) is None
    assert not HiddenLabels(objective).needs_double_backward


def test_levels_are_a_number_or_a_ladder():
    """A ladder given is the ladder walked and trained; words of the command line are read."""
    assert NCSN(levels="4", **QUICK).fit(X).facts_["levels"] == 4
    assert NCSN(levels="9, 0.5", **QUICK).fit(X).levels_ == pytest.approx([9.0, 0.5])
    model = NCSN(levels=[9.0, 3.0, 1.0, 0.5], **QUICK).fit(X)
    assert np.allclose(model.levels_, [9.0, 3.0, 1.0, 0.5])
    objective = model._compose(model.model_, model.facts_).objective
    drawn = objective.schedule.sample(400, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.unique(), torch.tensor([0.5, 1.0, 3.0, 9.0]).double())
    assert model.sample(2, steps=1).shape == (2, 2)
    assert validate_settings(NCSN, {"levels": "9, 3,0.5"}) == {"levels": [9.0, 3.0, 0.5]}
    assert validate_settings(NCSN, {"levels": "12"}) == {"levels": 12}
    for bad in ([1.0, 2.0], "0.1,0.5,1", [1.0, 1.0], [2.0, 0.0], [math.inf, 1.0], [3.0]):
        with pytest.raises(SettingError, match="levels must fall from the largest sigma"):
            validate_settings(NCSN, {"levels": bad})
    with pytest.raises(SettingError, match="possible: levels are numbers"):
        validate_settings(NCSN, {"levels": "a,b"})
    for bad in (True, 1, "1", "-3", 2.5, "2.5", "many", "3;1", math.inf):
        with pytest.raises(SettingError, match="possible: give how many levels, 2 or more"):
            validate_settings(NCSN, {"levels": bad})
    with pytest.raises(ValueError, match="leave sigma_min"):
        NCSN(levels=[9.0, 0.5], sigma_max=9.0, **QUICK).fit(X)


def test_a_setting_called_none_is_that_and_no_blank() -> None:
    assert validate_settings(DDPM, {"clip": "none"}) == {"clip": "none"}
    assert validate_settings(DDPM, {"patience": "none"}) == {"patience": None}


def test_a_family_without_a_constructor_of_its_own_has_the_settings_of_its_parent() -> None:
    class Own(EDM):
        pass

    assert validate_settings(Own, {"max_steps": "7"}) == {"max_steps": 7}
    assert [s.name for s in settings_of(Own)] == [s.name for s in settings_of(EDM)]


@pytest.mark.parametrize("how", [{"sigma_max": 0.5}, {"levels": [0.5, 0.1]}])
def test_a_largest_level_far_below_the_spread_is_told_with_the_one_to_use(how):
    """The number told is the largest distance between encoded rows, by brute force."""
    with pytest.warns(UserWarning, match="far below the spread of the data") as told:
        model = NCSN(**how, **QUICK).fit(X)
    x = model.encode(X).flatten(1)
    widest = float(torch.cdist(x, x).max())
    found = re.search(r"between modes; ([\d.]+), the largest distance", str(told[0].message))
    assert found
    # Of the training rows alone, with noise of their own where values repeat.
    assert 0.8 * widest < float(found[1]) < 1.1 * widest


def test_a_smallest_level_as_wide_as_the_data_is_told():
    with pytest.warns(UserWarning, match="what is drawn will be blurred"):
        NCSN(sigma_min=2.0, **QUICK).fit(X)


def test_pictures_of_former_runs_find_their_network_again(tmp_path):
    """Runs whose facts name no network had two blocks and two resolutions at 28 x 28."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    settings = {"max_steps": 1, "calibration_fraction": 0.0, "random_state": 0}
    model = EDM(**settings).fit(pictures)
    assert model.facts_["picture_network"] == 2
    assert model._habits() == {"batch_size": 64, "warmup": 0.1}
    assert EDM(batch_size=8, **settings).fit(pictures)._habits()["batch_size"] == 8
    assert EDM(**QUICK | {"batch_size": None}).fit(X)._habits() == {"batch_size": 128}
    del model.facts_["picture_network"]
    model.model_ = model._build(model.facts_)
    assert sum(p.numel() for p in model.model_.parameters()) == 482_436
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(
        again.sample(2, steps=2, random_state=1), model.sample(2, steps=2, random_state=1)
    )
    narrow = DDPM(variance="learned", loss="hybrid", **settings)
    assert narrow.fit(pictures).info_["parameters"] < 2_500_000
    small = DDPM(variance="learned", loss="hybrid", **settings).fit(pictures[:, :8, :8])
    assert max(p.shape[0] for p in small.model_.range_network.parameters()) >= 64


def test_grey_levels_may_have_a_network_of_their_own(tmp_path):
    """It learns with batches of a single row, is found again, and is refused where it has no place."""
    pictures = np.random.default_rng(0).integers(0, 256, (30, 12, 11, 3), dtype=np.uint8)
    how = {"grey_network": True, "calibration_fraction": 0.0, "random_state": 0}
    model = EDM(max_steps=30, batch_size=1, **how).fit(pictures)
    assert bool((model.model_.network.low.output.weight != 0).any())
    assert EDM(max_steps=1, **how).fit(pictures)._habits()["batch_size"] == 80
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(
        again.log_density(pictures[:2]).value, model.log_density(pictures[:2]).value
    )
    for other in (X, pictures // 32, pictures[:, :5, :5]):
        with pytest.raises(ValueError, match="256 grey levels"):
            EDM(max_steps=1, **how).fit(other)


@pytest.mark.parametrize(("cls", "name"), [(NCSN, "sigma_max"), (ScoreModel, "noise_level")])
@pytest.mark.parametrize("value", ["inf", "nan", math.inf])
def test_numbers_that_are_not_finite_are_refused(cls, name, value):
    with pytest.raises(SettingError, match=f"{name}=.*finite number"):
        validate_settings(cls, {name: value})


def test_the_setting_that_is_wrong_is_the_one_that_is_named():
    with pytest.raises(ValueError, match="architecture='picture' needs pictures"):
        ScoreModel(architecture="picture", **QUICK).fit(X)
    with pytest.raises(ValueError, match="network='picture' needs pictures"):
        NCSN(network="picture", **QUICK).fit(X)


@pytest.mark.parametrize("face", ["edm", "score"])
def test_a_perfect_network_of_ncsn_gives_the_score_of_a_gaussian(face):
    """N(1, s^2 I) with s twice the scale that was measured: the network's answer, worked out by hand,
    gives denoiser and score to rounding times the condition number, at every level."""
    model = NCSN(parametrisation=face, **QUICK).fit(X)
    denoiser = model._build(model.facts_ | {"sigma_data": 0.7}).double()
    s2, d2 = 1.4**2, 0.7**2
    sigma = torch.logspace(-2, 2, 21, dtype=torch.float64)
    x = torch.randn(21, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = sigma[:, None]
    score = (1 - x) / (s2 + level**2)
    root = (d2 + level**2).sqrt()
    published = level * score
    balanced = (x + level**2 * score - d2 / root**2 * x) / (level * 0.7 / root)

    class Perfect(torch.nn.Module):
        def forward(self, z, c_noise, label):
            torch.testing.assert_close(z, x / root)
            return published if face == "score" else balanced

    denoiser.network = Perfect()
    found = denoiser.score(x, sigma)
    # D - x cancels where sigma^2 score is far smaller than x.
    spread = (x.abs() + level * x.abs() + 1) / level**2
    assert bool(((found - score).abs() <= 8 * torch.finfo(torch.float64).eps * spread).all())
    assert bool(((denoiser(x, sigma) - x - level**2 * score).abs() < 1e-13 * (1 + level)).all())


def test_an_untrained_ncsn_knows_the_score_far_out():
    """With the skip that vanishes, the first score is that of a Gaussian of the data's scale, hence
    right to second order in scale/sigma; the published network starts from no score at all."""
    for face, share in (("edm", 1.0), ("score", 0.0)):
        model = NCSN(parametrisation=face, **QUICK).fit(X)
        scale = model.facts_["sigma_data"]
        fresh, x = model._build(model.facts_), model.encode(X)[:5].float()
        for sigma in model.levels_[:4]:
            expected = -share * x / (scale**2 + sigma**2)
            torch.testing.assert_close(fresh.score(x, sigma), expected, atol=1e-6, rtol=1e-4)


def test_few_columns_are_seen_through_waves_and_at_lower_levels():
    """Up to four with rows enough, 80 times 2^D; runs from before have no such fact and keep their
    network."""
    rng = np.random.default_rng(0)
    for columns, rows, wanted in (
        (2, 400, True),
        (2, 390, False),
        (4, 400, False),
        (5, 9000, False),
    ):
        model = EDM(**QUICK, calibration_fraction=0.0, validation_fraction=0.2)
        model.fit(rng.normal(size=(rows, columns)))
        few = model.facts_["few"]
        assert few == wanted
        assert (model.model_.network.waves is not None) == few
        scale = model.facts_["sigma_data"] / 0.5
        law = model._schedule(model.facts_).log_mean - math.log(scale)
        assert law == pytest.approx(-2.0 if few or rows > 1200 else -1.2)
    facts = {name: value for name, value in model.facts_.items() if name != "few"}
    assert model._build(facts).network.waves is None


def test_a_run_from_before_there_was_a_choice_predicts_the_score(tmp_path):
    """A folder whose settings lack the parametrisation loads as what it was trained as."""
    model = NCSN(parametrisation="score", **QUICK).fit(X)
    model.save(tmp_path / "new")
    kept = read_artifact(tmp_path / "new")
    assert kept.config["settings"].pop("parametrisation") == "score"
    write_artifact(tmp_path / "old", kept)
    loaded = energyscape.load(tmp_path / "old")
    assert loaded.get_params()["parametrisation"] == "score"
    assert np.array_equal(*(m.sample(3, steps=1, random_state=0) for m in (model, loaded)))


def test_the_classic_set_up(monkeypatch):
    """Ten levels over two decades below the widest range, 100 tested-by-none steps, weights as they
    are at the end, no step without noise; a setting given stands."""
    seen = {}

    def walk(at, levels, x0, **how):
        seen.update(how, levels=levels)
        return Annealed(x0, None, [])

    monkeypatch.setattr("energyscape.families.denoiser_walks.annealed_langevin", walk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = NCSN(setup="classic", **QUICK).fit(X)
        assert NCSN(setup="classic", levels=5, **QUICK).fit(X).facts_["levels"] == 5
    x = model.encode(X)
    assert len(model.levels_) == 10
    # The level is measured on training rows, whose range is at most that of all.
    assert 0.5 < model.levels_[0] / float((x.amax(0) - x.amin(0)).max()) <= 1
    assert model.levels_[0] / model.levels_[-1] == pytest.approx(100)
    model.sample(3)
    assert seen["steps_per_level"] == 100
    assert seen["denoise"] is False
    assert seen["step_size"] == pytest.approx(0.1 * model.levels_[-1] ** 2)
    model.sample(3, steps=7)
    assert seen["steps_per_level"] == 7
    assert model._habits()["ema_decay"] == 0.0
    NCSN(**QUICK).fit(X).sample(3)
    assert seen["steps_per_level"] == 10


def test_levels_are_drawn_lower_where_a_table_has_many_rows():
    """Detail far below the data's scale pays only where rows are many; the run keeps which."""
    rng = np.random.default_rng(0)
    few, many = (EDM(max_steps=1, random_state=0).fit(rng.normal(size=(n, 6))) for n in (300, 1400))
    means = [
        m._schedule(m.facts_).log_mean - math.log(2 * m.facts_["sigma_data"]) for m in (few, many)
    ]
    assert means == pytest.approx([-1.2, -2.0])
    old = {k: v for k, v in many.facts_.items() if k != "log_mean"}
    kept = many._schedule(old).log_mean - math.log(2 * many.facts_["sigma_data"])
    assert kept == pytest.approx(-1.2)
