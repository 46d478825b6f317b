"""The energy families: kernels of random length, every objective, a log Z that earns its trust."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.model_selection import GridSearchCV

import energyscape
from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.families import (
    EBM,
    NoLogDensityError,
    ScoreModel,
    TrainingDiverged,
    energies,
    log_z,
    settings_of,
)
from energyscape.families.walks import ScatteredMALA, settled, walker
from energyscape.families.watching import Watched
from energyscape.mcmc import MALA, GaussianBase, LogZ, compilation, run_chains
from energyscape.models import FunctionEnergy
from energyscape.objectives import ChainsDiverged, Contrastive, LossOutput
from energyscape.targets import FunctionTarget

QUICK = {"max_steps": 4, "batch_size": 32, "width": 8, "blocks": 1, "random_state": 0}


def choices(cls: type, name: str) -> list[str]:
    """The values a setting may take."""
    return next(s for s in settings_of(cls) if s.name == name).type.split(" | ")


def gaussian(n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 5 + rng.normal(size=(n, 2)) @ np.array([[1.0, 0.8], [0.0, 0.5]])


@pytest.fixture(scope="module")
def fitted() -> EBM:
    """An energy of a correlated Gaussian after 150 steps."""
    return EBM(max_steps=150, batch_size=64, width=16, random_state=0).fit(gaussian())


def thick(n: int = 400) -> np.ndarray:
    """A third column, with which log Z is estimated by chains."""
    rng = np.random.default_rng(1)
    return np.column_stack([gaussian(n), rng.normal(size=n)])


@pytest.fixture(scope="module")
def solid() -> EBM:
    return EBM(max_steps=150, batch_size=64, width=16, random_state=0).fit(thick())


# -- kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_share", [0.0, 0.5])
def test_scattered_steps_leave_the_density_unchanged(jump_share):
    """From equilibrium both coordinates keep their law; false-failure rate 4e-4 in all."""
    p, rng = eight_gaussians(), torch.Generator().manual_seed(0)
    kernel = ScatteredMALA(0.1, jump_share=jump_share, reach=4.0)
    chains = run_chains(kernel, p.at(0.0), p.sample(3000, rng), 40, rng=rng, keep="last")
    fresh = p.sample(3000, rng)
    for j in range(2):
        assert stats.ks_2samp(chains.x[:, j], fresh[:, j]).pvalue > 1e-4
    assert 0.2 < float(chains.info.acceptance.mean()) < 0.95


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_scattered_steps_trace_into_one_graph(monkeypatch):
    """Without generating code; the path is the plain one."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setattr(compilation, "CHUNK", 3)
    kernel = ScatteredMALA(0.1, jump_share=0.25, reach=4.0)
    target = FunctionTarget(lambda x: -x.square().square().sum(1))
    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, traced = (
        run_chains(
            kernel, target, x0, 8, rng=torch.Generator().manual_seed(1), compile=compiled
        ).draws
        for compiled in (False, True)
    )
    assert torch.allclose(plain, traced, atol=1e-12)


def test_jumps_cross_between_modes_where_langevin_does_not():
    """From one mode of eight, jumps reach all of them in the same number of moves; without, a chain in
    a hundred finds its way to a neighbour and none any further."""
    p, x0 = eight_gaussians(), torch.tensor([[2.0, 0.0]]).expand(200, 2).double()
    reached = {}
    for share in (0.0, 0.25):
        rng = torch.Generator().manual_seed(0)
        kernel = ScatteredMALA(0.05, jump_share=share, reach=3.0)
        x = run_chains(kernel, p.at(0.0), x0, 200, rng=rng, keep="last").x
        angle = torch.atan2(x[:, 1], x[:, 0]) * 4 / math.pi
        reached[share] = {int(mode) for mode in angle.round().remainder(8).unique()}
    assert reached[0.0] <= {7, 0, 1}
    assert reached[0.25] == set(range(8))


def test_settled_draws_have_the_weights_of_the_modes():
    """From a Gaussian, a mode of weight 0.2 far from one of 0.8 gets its share within 4.5 errors."""
    p = GaussianMixture.isotropic(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]), 0.5, [0.2, 0.8])
    rng = torch.Generator().manual_seed(0)
    base = GaussianBase(p.mean, 1.5 * p.covariance)
    x = settled(p.at(0.0), base, walker("mala", 2.0, 9), 2000, 200, rng)
    share = float((x[:, 0] < 0).double().mean())
    # Resampling makes draws dependent: four times the binomial variance.
    assert abs(share - 0.2) < 4.5 * 2 * math.sqrt(0.16 / 2000)


def test_settled_draws_leave_no_weight_unused():
    """With steps too short to move, weights alone turn the base into the target.

    Variance of 4,000 draws within 6 standard errors of 1 (left at the base's 1.3, 19 away)."""
    p = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    rng = torch.Generator().manual_seed(0)
    base = GaussianBase(p.mean, 1.3 * p.covariance)
    x = settled(p.at(0.0), base, MALA(1e-9), 4000, 10, rng)
    assert abs(float(x.square().mean()) - 1.0) < 6 * math.sqrt(2 / 8000)


def test_walkers_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'nuts'.*ula, mala, hmc"):
        walker("nuts", 1.0, 2)
    with pytest.raises(ValueError, match="positive finite"):
        ScatteredMALA(0.0)
    with pytest.raises(ValueError, match="jump_share"):
        ScatteredMALA(0.1, jump_share=1.0)


def test_a_small_buffer_is_taken_in_rounds():
    """No chain is a start once oftener than another."""
    found = energies._in_rounds(5, 12, torch.Generator().manual_seed(0))
    assert len(found) == 12
    assert set(found.bincount(minlength=5).tolist()) == {2, 3}


# -- objectives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", choices(EBM, "objective"))
def test_every_objective_of_ebm_finds_the_data(objective):
    """After a few steps rows have lower energy than points five deviations away."""
    model = EBM(objective=objective, **QUICK | {"max_steps": 40, "learning_rate": 0.01})
    model.set_params(normalise=False, chain_steps=3).fit(gaussian(200))
    x = gaussian(50)
    assert model.anomaly_score(x).mean() < model.anomaly_score(x + 5.0).mean()
    assert np.isfinite(model.sample(3, steps=5)).all()


def test_what_is_left_open_follows_the_objective_and_the_dimension():
    """Noise by the objective, chains and restarts by the dimension; what is given stays."""
    shape = {"scale": 1.0, "event_shape": [2]}
    assert EBM(objective="exact")._noise(shape) == 0.05
    assert EBM(objective="nce")._noise(shape) == 0.02
    assert EBM(objective="exact", noise_level=0.0)._noise(shape) == 0.0
    assert EBM()._noise(shape) == 0.02
    assert EBM()._noise({"scale": 2.0, "event_shape": [1, 8, 8]}) == 0.2
    assert EBM()._lesson(shape)._contrastive(2).buffer_size == 256
    assert EBM()._lesson(shape)._contrastive(2).restart_fraction == 0.01
    assert EBM(batch_size=1000)._lesson(shape)._contrastive(2).buffer_size == 1000
    assert EBM(restart_fraction=0.2)._lesson(shape)._contrastive(2).restart_fraction == 0.2
    assert EBM()._lesson(shape | {"event_shape": [64]})._contrastive(64).buffer_size == 256
    pictures = shape | {"event_shape": [1, 8, 8]}
    assert EBM()._lesson(pictures)._contrastive(64).buffer_size == 4096
    assert EBM()._lesson(pictures)._contrastive(64).restart_fraction == 0.05


@pytest.mark.parametrize("sampler", choices(EBM, "sampler"))
def test_every_sampler_trains_and_samples(sampler):
    model = EBM(sampler=sampler, normalise=False, **QUICK).fit(gaussian(100))
    assert model.sample(5, steps=8, sampler=sampler).shape == (5, 2)


@pytest.mark.parametrize("face", choices(ScoreModel, "network"))
@pytest.mark.parametrize("objective", choices(ScoreModel, "objective"))
def test_every_objective_of_score_trains_both_faces(objective, face):
    """The score at the data's edge points inwards, for an energy and for a field."""
    settings = QUICK | {"max_steps": 60, "learning_rate": 0.02, "width": 16}
    model = ScoreModel(
        objective=objective, network=face, normalise=False, noise_level=0.3, **settings
    )
    model.fit(gaussian(300))
    mean = model.encode(gaussian(300)).mean(0)
    # Along the long axis of the data, two deviations out.
    x = mean + 2.0 * torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    inwards = (model._double().score(x).detach() * (mean - x)).sum(1)
    assert bool((inwards > 0).all())


def test_a_field_has_no_log_density():
    """The error names what to do; samples and anomaly scores work, also after loading."""
    X = gaussian(300)
    model = ScoreModel(network="field", **QUICK | {"max_steps": 80, "learning_rate": 0.02}).fit(X)
    with pytest.raises(NoLogDensityError, match=r"no log-density.*ebm.*edm"):
        model.score_samples(X)
    with pytest.raises(ValueError, match=r"'mala'.*ula"):
        model.sample(2, sampler="mala")
    assert np.isfinite(model.sample(5, steps=30)).all()
    assert model.anomaly_score(X).mean() < model.anomaly_score(X + 8.0).mean()


@pytest.mark.parametrize("cls", [EBM, ScoreModel])
def test_denoising_without_noise_is_refused(cls):
    with pytest.raises(ValueError, match="noise_level > 0"):
        cls(objective="denoising", noise_level=0.0, **QUICK).fit(gaussian(50))


# -- divergence ------------------------------------------------------------------------------------


class Fails:
    needs_double_backward = False

    def __init__(self, gap: float) -> None:
        self.gap = gap

    def init(self, model, x, rng):
        return None

    def __call__(self, model, x, aux, rng, *, label=None):
        if math.isnan(self.gap):
            raise ChainsDiverged("3 of 4 negative chains are not finite")
        return LossOutput(x.sum(1), aux, {"energy_gap": torch.tensor(self.gap)})


@pytest.mark.parametrize("gap, word", [(math.nan, "not finite"), (-1e4, "below"), (1e4, "above")])
def test_diverging_chains_end_training_with_a_reason(gap, word):
    energy, x = FunctionEnergy(lambda x: x.sum(1)), torch.zeros(4, 2)
    with pytest.raises(TrainingDiverged, match=word):
        Watched(Fails(gap), 2)(energy, x, None, torch.Generator())
    assert Watched(Fails(3.0), 2)(energy, x, None, torch.Generator()).loss.shape == (4,)


@pytest.mark.parametrize("objective", ["persistent", "nce", "sliced"])
def test_training_in_float64_ends_in_samples(objective):
    model = EBM(objective=objective, precision="float64", **QUICK).fit(gaussian(60))
    assert np.isfinite(model.sample(3, steps=2)).all()
    assert np.isfinite(model.score_samples(gaussian(4))).all()


def test_divergence_of_a_fit_is_an_error_of_the_run():
    """Unadjusted steps a million times too large throw the chains off; training stops and says so."""
    model = EBM(sampler="ula", step_size=1e6, **QUICK)
    with pytest.raises(TrainingDiverged, match="chains, which no longer follow the model"):
        model.fit(gaussian(100))


def test_a_fit_that_rolls_back_goes_on_and_says_so(monkeypatch):
    """Chains that break once cost a note; without asking, the run."""
    check, calls = Contrastive._check, []

    def breaks_once(negative, x):
        calls.append(1)
        if len(calls) == 30:
            raise ChainsDiverged("3 of 32 negative chains are not finite")
        check(negative, x)

    monkeypatch.setattr(Contrastive, "_check", staticmethod(breaks_once))
    settings = QUICK | {"max_steps": 60, "chain_steps": 2, "normalise": False}
    model = EBM(on_divergence="rollback", **settings).fit(gaussian(100))
    assert model.info_["steps"] == 60
    assert any("diverged at step 30 (back to 2" in note for note in model.info_["notes"])
    calls.clear()
    with pytest.raises(TrainingDiverged, match="3 of 32"):
        EBM(**settings).fit(gaussian(100))


def test_steps_at_which_nothing_is_accepted_are_told():
    """Hamiltonian steps a million times too long leave every chain where it was."""
    settings = QUICK | {"max_steps": 30, "normalise": False}
    model = EBM(sampler="hmc", step_size=1e6, **settings).fit(gaussian(100))
    assert any("accepted 0 % of their moves" in note for note in model.info_["notes"])


@pytest.mark.parametrize(("step_size", "fits"), [(1e9, False), (None, True)])
def test_random_walks_do_not_hide_langevin_moves_that_fail(step_size, fits):
    """A quarter of the moves are random walks, which are accepted whatever the step size."""
    settings = QUICK | {"max_steps": 30, "normalise": False}
    model = EBM(step_size=step_size, **settings).fit(gaussian(100))
    told = any("accepted 0 % of their Langevin moves" in note for note in model.info_["notes"])
    assert told != fits
    seen = [entry["acceptance"] for entry in model.history_ if "acceptance" in entry]
    assert 0.3 < seen[-1] <= 1.02 if fits else seen[-1] < 0.01


def test_the_acceptance_of_langevin_moves_is_told_by_itself():
    """Told with the random walks and without, on the same moves."""
    p, rng = eight_gaussians(), torch.Generator().manual_seed(0)
    x, kernel = p.sample(4000, rng), ScatteredMALA(0.1, jump_share=0.4, reach=4.0)
    noise = kernel.draw(1, x, rng)
    noise = type(noise)(*(part[0] for part in noise))
    target, drifts = p.at(0.0), noise.drift > 0
    both = kernel.step(kernel.init(x, target), target, noise)[1].acceptance
    alone = replace(kernel, tells_jumps=False)
    told = alone.step(alone.init(x, target), target, noise)[1].acceptance
    assert torch.allclose(told[drifts] * 0.6, both[drifts])
    assert bool((told[~drifts] == 0).all())
    assert abs(float(told.mean() - both[drifts].mean())) < 0.05
    assert float(both[~drifts].mean()) < 0.5 * float(both[drifts].mean())


def test_settings_of_chains_without_chains_are_told():
    model = EBM(objective="nce", sampler="hmc", chain_steps=3, normalise=False, **QUICK)
    notes = model.fit(gaussian(100)).info_["notes"]
    assert "sampler, chain_steps had no effect: objective=nce trains without chains" in notes


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:these values are minus an energy")
def test_spectral_normalisation_is_a_setting_that_survives_saving(tmp_path):
    X = gaussian(200)
    model = EBM(spectral=True, normalise=False, **QUICK | {"max_steps": 40}).fit(X)
    layers = [m for m in model.model_.modules() if isinstance(m, torch.nn.Linear)]
    tops = [float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in layers[:-1]]
    assert all(0.7 < top < 1.4 for top in tops)
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run")
    assert np.array_equal(again.score_samples(X), model.score_samples(X))
    ratio = EBM(spectral=True, objective="ratio", normalise=False, **QUICK).fit(X)
    assert np.isfinite(ratio.score_samples(X)).all()


# -- log Z and chains ------------------------------------------------------------------------------


def test_the_log_density_integrates_to_one(fitted):
    """Quadrature against the midpoint rule on a grid in original units."""
    axis = np.linspace(-5.0, 15.0, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    values = fitted.log_density(grid)
    assert values.kind == "quadrature"
    integral = np.exp(values.value).sum() * (axis[1] - axis[0]) ** 2
    assert abs(math.log(integral)) < 1e-3
    assert values.stderr[0] < 1e-3


def test_chains_and_the_grid_agree_on_log_z(fitted):
    """The path of more dimensions, on the same energy: within four standard errors, and 0.1 nats."""
    rows = fitted.encode(gaussian()).float()
    rng = torch.Generator().manual_seed(0)
    draws = torch.from_numpy(fitted.calibration_["chains"])
    found = log_z._by_chains(fitted.model_.at(None), rows, draws, rng)
    assert found.kind == "ais"
    assert found.trusted, found.reason
    assert abs(found.found.estimate - fitted.info_["log_z"]["estimate"]) < 4 * found.found.stderr
    assert found.found.stderr < 0.025


def test_bounds_and_chains_are_on_record(fitted, solid):
    found, chains = fitted.info_["log_z"], fitted.info_["chains"]
    assert found["trusted"]
    assert found["kind"] == "quadrature"
    assert found["lower"] <= found["estimate"] <= found["upper"]
    by_chains = solid.info_["log_z"]
    assert by_chains["kind"] == "ais"
    assert by_chains["lower"] <= by_chains["estimate"] <= by_chains["upper"]
    assert by_chains["ess"] > 10
    assert solid.log_density(thick(5)).kind == "ais"
    assert {"rhat", "ess_bulk", "acceptance", "verdict", "energy_data"} <= set(chains)
    assert "chains" in chains["verdict"] or "mixing" in chains["verdict"]
    assert 0 < chains["acceptance"] < 1


def test_log_z_survives_saving(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    loaded = energyscape.load(tmp_path / "run")
    X = gaussian(10)
    assert np.array_equal(loaded.log_density(X).value, fitted.log_density(X).value)
    assert np.array_equal(loaded.log_density(X).stderr, fitted.log_density(X).stderr)
    assert loaded.info_["log_z"] == fitted.info_["log_z"]


def test_without_normalising_nothing_is_claimed():
    values = EBM(normalise=False, **QUICK).fit(gaussian(60)).log_density(gaussian(5))
    assert values.kind == "unnormalised"
    assert np.isnan(values.stderr).all()


def test_values_without_their_kind_are_told_to_be_unnormalised(fitted, monkeypatch):
    """Once a call, by what gives the number alone; what tells its kind, and what is normalised, is
    silent."""
    X, model = gaussian(60), EBM(normalise=False, **QUICK)
    model.fit(X)
    for face in (model.score_samples, model.score):
        with pytest.warns(
            UserWarning, match=r"minus an energy.*log_density.*'unnormalised'"
        ) as told:
            face(X)
        assert len(told) == 1
        assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_density(X)
        model.anomaly_score(X)
        model.predict(X)
        assert np.isfinite(fitted.score_samples(X)).all()
        fitted.score(X)
        monkeypatch.delitem(fitted.facts_, "log_z")
        with pytest.raises(UserWarning, match="not to be trusted"):
            fitted.score(X)


def disagreeing(*args, **kwargs):
    return LogZ(1.0, 0.3, 1.0, 4.0, 0.5, 4.5, 4.0, 3.0, (0.0, 1.0))


def impossible(*args, **kwargs):
    raise ValueError("the ladder reached 200 rungs")


@pytest.mark.parametrize("ais, word", [(disagreeing, "do not agree"), (impossible, "200 rungs")])
def test_an_estimate_that_cannot_be_trusted_is_said(monkeypatch, ais, word):
    """The density stays unnormalised and the record says why."""
    monkeypatch.setattr(log_z, "ais", ais)
    model = EBM(**QUICK).fit(thick(60))
    assert model.log_density(thick(5)).kind == "unnormalised"
    assert any(word in note for note in model.info_["notes"])


def test_samples_follow_the_model(fitted):
    """Chains have the mean energy that the settled ones have; every sampler agrees on it."""
    reference = -fitted.info_["chains"]["energy_chains"] - fitted.facts_["log_z"]
    for sampler in ("mala", "hmc", "tempering"):
        x = fitted.sample_encoded(600, steps=60, sampler=sampler, random_state=1)
        value = fitted._log_density(x.double()).value
        assert abs(value.mean() - reference) < 5 * value.std() / math.sqrt(len(value))
    with pytest.raises(ValueError, match=r"'gibbs'.*tempering"):
        fitted.sample(2, sampler="gibbs")


def test_grid_search_by_likelihood():
    """The search prefers the rate that trains."""
    grid = {"learning_rate": [1e-9, 2e-3]}
    model = EBM(max_steps=60, batch_size=32, width=16, chain_steps=4, random_state=0)
    search = GridSearchCV(model, grid, cv=2).fit(gaussian(200))
    assert search.best_params_ == {"learning_rate": 2e-3}
