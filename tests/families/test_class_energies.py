"""Energies with classes: samples of a class, marginals without one, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import energyscape
from energyscape.families import EBM
from energyscape.families.networks import PerClass
from energyscape.mcmc import MALA, run_chains
from energyscape.models import ClassEnergy, ConfinedEnergy
from energyscape.objectives import Contrastive
from energyscape.objectives.contrastive import _class_weights

QUICK = {"random_state": 0, "normalise": False, "width": 24, "batch_size": 64}


def two_classes(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A quarter of the rows around +2 in the first column, the rest around -2."""
    rng = np.random.default_rng(0)
    y = (np.arange(n) % 4 == 0).astype(int)
    x = rng.normal(size=(n, 2)) * np.array([0.5, 1.5])
    x[:, 0] += np.where(y == 1, 2.0, -2.0)
    return x, y


def test_chains_learn_a_class():
    """After few steps the classes are told apart; of one law their means would differ by 0.3 or so."""
    X, y = two_classes(200)
    steps = {"max_steps": 60, "chain_steps": 3, "ema_decay": 0.9}
    model = EBM(label="y", objective="persistent", **steps, **QUICK).fit(X, y)
    low, high = (model.sample(60, label=label, steps=5)[:, 0].mean() for label in (0, 1))
    assert high - low > 1.5


def test_chains_from_the_data_learn_to_stay_with_their_class():
    """What cd promises: chains that start in a class are of that class after many times their length.

    Over eight seeds and two streams of noise the means were within 0.68 and the deviations below 1.7;
    an energy that has learned nothing leaves class 1 by 1.8, and has deviations of 2.5.
    """
    X, y = two_classes(400)
    steps = {"max_steps": 200, "chain_steps": 5, "ema_decay": 0.95}
    model = EBM(label="y", objective="cd", **steps, **QUICK).fit(X, y)
    for label, mean in ((0, -2.0), (1, 2.0)):
        start = model.encode(X[y == label]).float()
        target = model._given(torch.full((len(start),), label)).at(None)
        rng = torch.Generator().manual_seed(0)
        end = run_chains(model._kernel("mala"), target, start, 50, rng=rng, keep="last").x
        first = np.asarray(model.decode(end))[:, 0]
        assert abs(first.mean() - mean) < 0.9
        assert first.std() < 2.0


def test_short_runs_are_drawn_by_short_runs():
    """From the Gaussian of training by as many moves: from anywhere else the energy may lead astray."""
    X, y = two_classes(60)
    settings = QUICK | {"max_steps": 2, "chain_steps": 3}
    model = EBM(label="y", objective="short-run", **settings).fit(X, y)
    assert model._short_run() == 3
    assert EBM(label="y", objective="cd", **settings).fit(X, y)._short_run() is None
    classes, kernel = torch.arange(8) % 2, model._kernel("mala")
    found = model._class_starts(classes, kernel, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    start, target = model._round(8, rng), model._given(classes).at(None)
    assert torch.equal(found, run_chains(kernel, target, start, 3, rng=rng, keep="last").x)
    many = model._round(20_000, rng)
    facts = model.facts_
    assert torch.allclose(many.mean(0), torch.tensor(facts["mean"]).to(many), atol=0.05)
    assert torch.allclose(many.var(0), torch.tensor(facts["variance"]).to(many), rtol=0.05)


def test_samples_of_a_class_are_that_class_and_without_one_all(tmp_path):
    """The smaller class is a quarter of the rows, and of what is drawn without a label."""
    X, y = two_classes(2000)
    settings = QUICK | {"batch_size": 256, "max_steps": 400}
    model = EBM(label="y", objective="nce", **settings).fit(X, y)
    for label, sign in ((0, -1), (1, 1)):
        drawn = model.sample(200, label=label, steps=20)
        assert (np.sign(drawn[:, 0]) == sign).mean() > 0.9
        assert abs(drawn[:, 0].mean() - 2 * sign) < 0.4
        assert abs(drawn[:, 1].std() - 1.5) < 0.4
    share = (model.sample(600, steps=20)[:, 0] > 0).mean()
    assert 0.12 < share < 0.4
    wanted = np.arange(60) % 2
    each = model.sample(60, label=wanted, steps=20)
    assert ((each[:, 0] > 0) == wanted).mean() > 0.9
    for sampler in ("hmc", "ula", "tempering"):
        assert (model.sample(300, label=1, steps=4, sampler=sampler)[:, 0] > 0).mean() > 0.8
    held = model.sample(20, given={"x0": 2.0}, label=1, steps=20)
    assert np.allclose(held[:, 0], 2.0)
    model.save(tmp_path / "run")
    again = energyscape.load(tmp_path / "run").sample(5, label="1", steps=5, random_state=3)
    assert np.array_equal(again, model.sample(5, label="1", steps=5, random_state=3))


def test_pictures_of_a_class():
    """Dark and light pictures of 2 x 2 pixels, at every level of one energy."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = np.clip(rng.normal(60 + 130 * y[:, None, None], 10, (200, 2, 2)), 0, 255).astype(np.uint8)
    model = EBM(label="labels", max_steps=80, **QUICK).fit(X, y)
    assert model._objective(model.facts_) == "levels"
    dark, light = (model.sample(40, label=label, steps=20).mean() for label in (0, 1))
    assert dark < 100 < 150 < light


def test_what_takes_no_label_is_refused():
    X, y = two_classes(60)
    with pytest.raises(ValueError, match=r"objective='ratio' takes no label.*persistent"):
        EBM(label="y", objective="ratio", max_steps=2, **QUICK).fit(X, y)
    model = EBM(label="y", max_steps=2, **QUICK).fit(X, y)
    with pytest.raises(ValueError, match="guidance is for edm"):
        model.sample(2, label=1, guidance=2.0)
    with pytest.raises(ValueError, match="not in training"):
        model.sample(2, label=7)
    with pytest.raises(ValueError, match=r"model with classes.*ebm with label=COLUMN"):
        EBM(max_steps=2, **QUICK).fit(X).sample(2, label=1)


def test_rows_and_chains_of_a_class_weigh_the_same():
    """Whatever the slots hold, the gradient of a class's own constant vanishes."""
    label, chains = torch.tensor([0, 0, 0, 1, 2, -1]), torch.tensor([0, 1, 1, 1, 0, -1])
    up, down = _class_weights(label, chains)
    for one in (-1, 0, 1):
        assert torch.isclose(up[label == one].sum(), down[chains == one].sum())
    assert up[label == 2].sum() == 0  # no chain has it
    same = _class_weights(label, label)
    assert all(bool((part == 1).all()) for part in same)


def test_slots_keep_their_class_from_step_to_step():
    """After the first step a slot changes its class only where its chain restarts, which none does."""
    torch.manual_seed(0)
    energy = ConfinedEnergy(ClassEnergy(PerClass(torch.nn.Linear(2, 4))), 1.0)
    kernel, rng = MALA(0.1), torch.Generator().manual_seed(0)

    def chains(target, start, rng):
        return run_chains(kernel, target, start, 2, rng=rng, keep="last").x

    objective = Contrastive(chains, start="persistent", buffer_size=32, restart_fraction=0.0)
    x, label = torch.randn(32, 2, generator=rng), torch.arange(32) % 4
    aux = objective.init(energy, x, rng)
    assert aux is not None
    objective(energy, x, aux, rng, label=label)
    before = aux["labels"].clone()
    assert sorted(before.tolist()) == sorted(label.tolist())
    for _ in range(3):
        out = objective(energy, x, aux, rng, label=torch.zeros_like(label))
        assert out.loss.isfinite().all()
    assert torch.equal(aux["labels"], before)
