"""The loop: what it minimises, when it stops, what it refuses to do."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from energyscape.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    FallingNoise,
    FiniteDifferenceScoreMatching,
    Perturbed,
    SlicedScoreMatching,
)
from energyscape.training import CheckpointError, TrainConfig, TrainingDiverged, checkpoint, train
from energyscape.training.plan import Plan
from energyscape.training.rows import EncodedRows, PermutationStream, PictureRows
from energyscape.training.run import Run


class Location(nn.Module):
    """One parameter vector."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(dim))


def squared_distance(model, x, aux, rng, *, label=None):
    loss = (x - model.centre).square().sum(1)
    return loss, aux, {"mean_x": x.mean()}


def data(n: int = 200) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(3)) + torch.tensor([3.0, -1.0])


def config(**changes) -> TrainConfig:
    return TrainConfig(
        **{"max_steps": 400, "batch_size": 50, "learning_rate": 0.05, "device": "cpu"} | changes
    )


def test_minimiser_is_reached():
    """The minimiser of the mean squared distance is the mean."""
    run = train(Location(), squared_distance, data(), config=config(max_steps=1500))
    assert torch.allclose(run.model.centre, data().mean(0), atol=0.02)
    assert run.stop_reason == "finished"
    assert run.step == 1500


def test_progress_of_a_time_limit_tells_what_fits_from_the_first_line():
    """Not the endless plan that stands until the speed is known; what is left is left of the limit."""
    seen = []
    train(Location(), squared_distance, data(), config=config(time_limit=0.6), progress=seen.append)
    assert len(seen) >= 2
    assert all(p.step <= p.total < 10**7 for p in seen)
    assert all(0 <= p.eta <= 0.6 for p in seen)


def test_rows_come_in_permutations_and_any_position_can_be_asked_for():
    """Each epoch visits every row once; asking in pieces or at once gives the same rows."""
    stream = PermutationStream(7, seed=1)
    whole = stream.take(0, 21)
    for epoch in whole.reshape(3, 7):
        assert sorted(epoch.tolist()) == list(range(7))
    assert not torch.equal(whole[:7], whole[7:14])
    pieces = torch.cat([stream.take(14, 3), stream.take(17, 4)])
    assert torch.equal(pieces, whole[14:])


def test_non_finite_loss_stops_before_the_weights_change(tmp_path):
    """The error names step, rate and the last checkpoint; the weights stay finite."""
    calls = []

    def breaks(model, x, aux, rng, *, label=None):
        calls.append(1)
        loss = (x - model.centre).square().sum(1)
        return loss * (math.nan if len(calls) > 20 else 1.0), aux, {}

    model = Location()
    with pytest.raises(TrainingDiverged, match=r"step 21: loss nan.*learning rate.*step-000000"):
        train(model, breaks, data(), config=config(checkpoint_seconds=1e-9), out=tmp_path)
    assert model.centre.isfinite().all()


class Bursts:
    """A distance whose state counts calls; it breaks at some of them, or wherever it is steep."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.calls = at, 0

    def init(self, model, x, rng):
        return {"seen": torch.zeros(())}

    def __call__(self, model, x, aux, rng, *, label=None):
        self.calls += 1
        loss = (x - model.centre).square().sum(1)
        return loss * (math.nan if self.calls in self.at else 1.0), {"seen": aux["seen"] + 1}, {}


def test_a_run_that_rolls_back_goes_on_at_half_the_rate_and_says_so(tmp_path):
    """Weights, averages, optimizer and state go back together; the mean is still reached."""
    settings = config(max_steps=1500, on_divergence="rollback", decay="constant", warmup=0.0)
    run = train(Location(), Bursts({400}), data(), config=settings, out=tmp_path)
    (entry,) = [h for h in run.history if "diverged_at" in h]
    assert entry["diverged_at"] == 400
    assert 400 - 2 * 30 <= entry["step"] < 400 - 30
    assert "loss nan" in entry["reason"]
    assert run.step == 1500
    assert run.aux["seen"] == 1500
    assert torch.allclose(run.model.centre, data().mean(0), atol=0.02)
    rates = {h["learning_rate"] for h in run.history if "learning_rate" in h}
    assert rates == {0.05, 0.025}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entry in lines
    assert checkpoint.latest(tmp_path / "train").name == "step-00001500"


def test_a_run_that_cannot_be_saved_ends_with_the_reason():
    """Six divergences are one too many; without asking, one is."""
    with pytest.raises(TrainingDiverged, match="loss nan"):
        train(Location(), Bursts({9}), data(), config=config())
    objective = Bursts(set(range(30, 10_000)))
    with pytest.raises(TrainingDiverged, match=r"learning rate 0\.00156"):
        train(
            Location(),
            objective,
            data(),
            config=config(on_divergence="rollback", decay="constant", warmup=0.0),
        )
    with pytest.raises(ValueError, match="stop or rollback"):
        config(on_divergence="pray")


def test_wrong_shape_of_loss_is_named():
    """A loss summed over the batch is refused."""

    def scalar(model, x, aux, rng, *, label=None):
        return (x - model.centre).square().mean(), aux, {}

    with pytest.raises(ValueError, match="one loss a row"):
        train(Location(), scalar, data(), config=config())


def test_early_stopping_keeps_the_best_weights():
    """Validation rows elsewhere get worse as training goes on; the best averaged weights are kept."""
    run = train(
        Location(),
        squared_distance,
        data(),
        validation=-data(),
        config=config(max_steps=1000, patience=3, validations=50),
    )
    assert "no better validation loss" in run.stop_reason
    assert run.step < 200
    values = [h["validation_loss"] for h in run.history if "validation_loss" in h]
    final = (-data() - run.model.centre.detach()).square().sum(1).mean()
    assert final == pytest.approx(min(values), rel=1e-5)


def test_a_short_run_validates_seldom_and_a_long_one_as_asked():
    """Held-out rows cost at most about a tenth of the training, but for four checks at the least."""

    def checks(steps: int, rows: int) -> int:
        held_out = torch.randn(rows, 2, generator=torch.Generator().manual_seed(1))
        run = train(
            Location(),
            squared_distance,
            data(),
            validation=held_out,
            config=config(max_steps=steps),
        )
        return sum("validation_loss" in entry for entry in run.history)

    assert checks(20, 2000) <= 5
    assert checks(400, 60) == 20


@pytest.mark.parametrize("scale", [0.1, 1e4])
def test_gradients_are_clipped_to_the_norm(scale):
    """One step of plain momentum-free AdamW in float64 agrees with clipping written out."""
    torch.manual_seed(0)
    start = torch.randn(2)

    def loss(model, x, aux, rng, *, label=None):
        return scale * (x - model.centre).square().sum(1), aux, {}

    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        model = Location()
        model.centre.data = start.clone()
        x = data().to(dtype)
        settings = config(max_steps=3, batch_size=200, precision=precision, decay="constant")
        train(model, loss, x, config=replace(settings, warmup=0.0, ema_decay=0.0))
        found = model.centre.detach().double()
        weights = start.double().clone().requires_grad_()
        optimizer = torch.optim.AdamW([weights], lr=0.05, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            (scale * (data().double() - weights).square().sum(1)).mean().backward()
            torch.nn.utils.clip_grad_norm_([weights], 1.0)
            optimizer.step()
        torch.testing.assert_close(found, weights.detach(), rtol=1e-5, atol=1e-6)


def test_time_limit_is_kept_and_the_rate_lands():
    """A second of training takes about a second, and ends at rate zero."""
    run = train(
        Location(), squared_distance, data(), config=config(time_limit=1.0, max_steps=10**9)
    )
    assert 0.5 < run.seconds < 2.5
    rates = [h["learning_rate"] for h in run.history if "learning_rate" in h]
    assert rates[-1] < 1e-3 * max(rates)


def test_a_run_limited_by_time_learns_before_its_first_plan():
    """Until its speed is known the rate warms up by the clock: 2 % of 45 minutes is a minute."""
    limited = config(time_limit=1000.0, max_steps=10**9, warmup=0.02)
    run = Run(Location(), squared_distance, data(), None, None, limited, None)
    run.start(resume=False)
    run.elapsed = 10.0
    run.advance()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(limited.learning_rate / 2)


def test_plan_reaches_one_whatever_the_speed():
    """After plans at changing speeds, the fraction still rises to exactly one at the last step."""
    plan = Plan(10**9)
    step, elapsed, limit, plans = 0, 0.0, 20.0, 0
    fractions = []
    while step < plan.total:
        step += 1
        elapsed += 1.0 if step < 4 else (0.002 if elapsed < 8 else 0.01)
        if plan.due(step, elapsed, limit):
            plan.replan(step, elapsed, limit)
            plans += 1
        fractions.append(plan.fraction(step))
    assert elapsed == pytest.approx(limit, rel=0.08)
    assert fractions[-1] == pytest.approx(1.0)
    assert plans < 40


def test_resume_refuses_other_settings(tmp_path):
    """A checkpoint of another learning rate is not continued."""
    train(Location(), squared_distance, data(), config=config(max_steps=10), out=tmp_path)
    with pytest.raises(CheckpointError, match=r"learning_rate=0\.05 \(now 0\.1\)"):
        train(
            Location(),
            squared_distance,
            data(),
            config=config(max_steps=10, learning_rate=0.1),
            out=tmp_path,
            resume=True,
        )


def test_damaged_checkpoint_is_named(tmp_path):
    """A flipped byte, in the header or in a weight, is an error with the file's name."""
    settings = config(max_steps=10)
    train(Location(), squared_distance, data(), config=settings, out=tmp_path)
    file = tmp_path / "train" / "step-00000010" / "rank0.safetensors"
    whole = file.read_bytes()
    for place in (0, -1):
        content = bytearray(whole)
        content[place] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="checksum differs"):
            train(Location(), squared_distance, data(), config=settings, out=tmp_path, resume=True)


def test_checkpoint_set_aside_for_its_successor_is_found(tmp_path):
    """Killed between the two renames of a step written twice, the run still has it."""
    train(Location(), squared_distance, data(), config=config(max_steps=10), out=tmp_path)
    folder = tmp_path / "train" / "step-00000010"
    aside = folder.rename(folder.with_name(folder.name + ".old"))
    assert checkpoint.latest(tmp_path / "train") == aside


def test_metrics_are_written_as_json_lines(tmp_path):
    """Every line of metrics.jsonl is one record of the history."""
    run = train(Location(), squared_distance, data(), config=config(max_steps=30), out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history
    assert {"step", "loss", "learning_rate", "grad_norm", "seconds", "mean_x"} <= set(lines[0])


def test_pictures_are_dequantised_afresh_within_their_grey_level(rng):
    """Noise differs between batches, and floor((x + 1) / 2 levels) gives the picture back."""
    pictures = torch.randint(0, 17, (6, 1, 3, 3), generator=rng, dtype=torch.uint8)
    rows = PictureRows(pictures, torch.linspace(-1, 1, 18))
    first, _ = rows.batch(torch.arange(6), 0, rng)
    second, _ = rows.batch(torch.arange(6), 0, rng)
    assert not torch.equal(first, second)
    assert torch.equal(((first + 1) / 2 * 17).floor().to(torch.uint8), pictures)


def test_dequantisation_noise_covers_the_stated_share_of_a_level(rng):
    """With spread w the noise is uniform within w/2 of the middle of the cell."""
    pictures = torch.full((200, 1, 4, 4), 3, dtype=torch.uint8)
    x, _ = PictureRows(pictures, torch.linspace(-1, 1, 18), spread=0.5).batch(
        torch.arange(200), 0, rng
    )
    u = (x + 1) / 2 * 17 - 3
    assert 0.25 - 1e-5 <= float(u.min()) < 0.26
    assert 0.74 < float(u.max()) <= 0.75 + 1e-5


def test_encoded_rows_refresh_by_step_alone():
    """The noise of a step is the same whatever came before it."""

    def encode(rng):
        return rng.normal(size=(5, 2))

    index = torch.arange(5)
    rng = torch.Generator()
    one = EncodedRows(encode, 5, seed=0, refresh=10)
    other = EncodedRows(encode, 5, seed=0, refresh=10)
    for step in (0, 3, 11):
        one.batch(index, step, rng)
    assert torch.equal(one.batch(index, 25, rng)[0], other.batch(index, 29, rng)[0])
    assert not torch.equal(one.batch(index, 25, rng)[0], one.batch(index, 31, rng)[0])


@pytest.mark.parametrize("name", ["max_steps", "batch_size", "learning_rate", "time_limit"])
def test_settings_out_of_range_are_named(name):
    """Zero is refused where it makes no sense."""
    with pytest.raises(ValueError, match=name):
        TrainConfig(**{name: 0})


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    """Whatever stops the writing, the folder holds whole checkpoints only."""
    from safetensors import SafetensorError

    from energyscape.training import checkpoint

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        checkpoint.write(tmp_path, 3, {"w": torch.zeros(2)}, {})
    assert list(tmp_path.iterdir()) == []


class OwnScore(nn.Module):
    """A score that differentiates for itself, as a user may write one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.score(x)

    def score(self, x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        energy = (0.5 * self.scale * x.square()).sum()
        return -torch.autograd.grad(energy, x, create_graph=True)[0]


@dataclass(frozen=True)
class Differentiating:
    """A user's objective that differentiates the model and turns nothing on."""

    needs_double_backward = True

    def init(self, model, x, rng):
        return None

    def __call__(self, model, x, aux, rng, *, label=None):
        x = x.detach().requires_grad_()
        value = (model.scale * x.square()).sum()
        slope = torch.autograd.grad(value, x, create_graph=True)[0]
        return (slope - x).square().sum(1), aux, {}


@pytest.mark.parametrize(
    "objective",
    [
        DenoisingScoreMatching(0.5),
        Perturbed(DenoisingScoreMatching(0.5, stable=True), 0.1),
        FallingNoise(DenoisingScoreMatching, 1.0, 0.5),
        SlicedScoreMatching(),
        FiniteDifferenceScoreMatching(),
        Perturbed(ExactScoreMatching(), 0.1),
        Differentiating(),
        Perturbed(Differentiating(), 0.1),
    ],
)
def test_objectives_that_differentiate_are_validated(objective):
    """With a graph where they rely on one, without where they say so."""
    run = Run(OwnScore(), objective, data(), data()[:50], None, config(max_steps=5), None)
    run.start(resume=False)
    run.advance()
    value = run.validate()
    assert math.isfinite(value)
    assert value == run.validate()


@pytest.mark.parametrize("name", ["decay", "precision", "keep", "on_divergence"])
def test_settings_that_are_no_choice_are_named(name):
    with pytest.raises(ValueError, match=f"{name} is .* or .*, got 'bst'"):
        TrainConfig(**{name: "bst"})


@pytest.mark.parametrize("warmup", [1.0, -0.5, math.nan])
def test_a_warm_up_is_a_part_of_the_run(warmup):
    with pytest.raises(ValueError, match="warmup is a fraction"):
        TrainConfig(warmup=warmup)


@pytest.mark.parametrize("slower", [2, 4, 10])
@pytest.mark.parametrize("at", [0.5, 0.86, 0.96])
@pytest.mark.parametrize("saving", [0.0, 3.0])
def test_a_machine_that_becomes_slow_late_keeps_the_time_limit(slower, at, saving):
    """Each plan is saved, which must not put the run so far behind that it plans again at once."""
    plan = Plan(10**9)
    step, elapsed, limit, plans = 0, 0.0, 100.0, 0
    while step < plan.total:
        step += 1
        elapsed += 0.02 * (slower if elapsed > at * limit else 1)
        if plan.due(step, elapsed, limit):
            plan.replan(step, elapsed, limit)
            plans += 1
            elapsed += saving
    assert elapsed < 1.01 * limit + saving
    assert plan.fraction(step) == pytest.approx(1.0)
    assert plans < 16


def test_a_fresh_run_is_not_gone_on_with_from_an_older_one(tmp_path):
    """Without resume the checkpoints of the run before go, so that none is taken for this one's."""
    train(Location(), squared_distance, data(), config=config(max_steps=10), out=tmp_path)
    fresh = Run(
        Location(), squared_distance, data() + 50, None, None, config(max_steps=10), tmp_path
    )
    fresh.start(resume=False)
    assert checkpoint.latest(tmp_path / "train") is None


class Remembered(nn.Module):
    """A parameter, and a buffer that moves with each step in training."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(()))


def test_the_best_weights_come_with_the_buffers_of_then(tmp_path):
    """Through a checkpoint as well: a layer's spectral norm is told by vectors that go on moving."""

    def counted(model, x, aux, rng, *, label=None):
        if model.training:
            model.seen += 1
        return squared_distance(model, x, aux, rng)

    settings = config(max_steps=400, validations=100)
    run = train(Remembered(), counted, data(), validation=-data(), config=settings, out=tmp_path)
    checks = [h for h in run.history if "validation_loss" in h]
    best = min(checks, key=lambda h: h["validation_loss"])
    assert best["step"] < 100
    assert float(run.model.seen) == best["step"]
    again = train(
        Remembered(),
        counted,
        data(),
        validation=-data(),
        config=settings,
        out=tmp_path,
        resume=True,
    )
    assert float(again.model.seen) == best["step"]
