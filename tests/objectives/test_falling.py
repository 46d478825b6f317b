"""Noise that falls: the level asked for, at every moment of a run, and what it is for."""

from __future__ import annotations

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.families.labels import HiddenLabels
from energyscape.models import ConfinedEnergy, NetworkEnergy
from energyscape.nn import MLP
from energyscape.objectives import DenoisingScoreMatching, FallingNoise, Objective, Perturbed
from energyscape.objectives import SlicedScoreMatching as Sliced
from energyscape.training import TrainConfig, train


def network(dim: int = 1) -> ConfinedEnergy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConfinedEnergy(NetworkEnergy(MLP((dim,), width=64, depth=3, scalar=True)), 4.0)


def test_the_level_falls_geometrically_and_stays():
    """The levels at shares of the run are the formula's, and never below the last."""
    falling = FallingNoise(DenoisingScoreMatching, first=2.0, last=0.02, share=0.8)
    found = [falling.during(t).sigma for t in (0.0, 0.2, 0.4, 0.8, 1.0)]
    assert found == pytest.approx([2.0, 2.0 * 0.01**0.25, 0.2, 0.02, 0.02], rel=1e-12)
    assert isinstance(falling, Objective)
    assert falling.needs_double_backward


def test_called_as_it_is_it_is_the_last_level():
    """Validation measures what training ends with."""
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    falling = FallingNoise(lambda s: Perturbed(Sliced(), s), first=1.0, last=0.1)
    model, losses = network(), []
    for objective in (falling, Perturbed(Sliced(), 0.1), falling.during(1.0)):
        losses.append(objective(model, x, None, torch.Generator().manual_seed(1)).loss)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert falling.init(model, x, torch.Generator()) is None


def test_wrappers_hand_the_moment_on():
    """Noise added and labels hidden around an objective that changes do not stop it."""
    falling = FallingNoise(DenoisingScoreMatching, first=1.0, last=0.01, share=0.5)
    assert Perturbed(falling, 0.1).during(0.25).objective.sigma == pytest.approx(0.1)
    assert HiddenLabels(falling).during(0.25).objective.sigma == pytest.approx(0.1)
    still = Perturbed(Sliced(), 0.1)
    assert still.during(0.25) is still


@pytest.mark.parametrize(
    "given",
    [
        {"first": 0.1, "last": 1.0},
        {"first": 1.0, "last": 0.0},
        {"first": float("inf")},
        {"share": 0.0},
    ],
)
def test_levels_that_do_not_fall_are_refused(given):
    """By name and number."""
    with pytest.raises(ValueError, match="first=|share must"):
        FallingNoise(DenoisingScoreMatching, **({"first": 1.0, "last": 0.1} | given))


def test_the_loop_asks_for_the_objective_of_the_moment():
    """Every step of a run trains at the level of its share, the last ones at the last level."""
    seen: list[float] = []

    class Watched(FallingNoise):
        def during(self, done: float) -> Objective:
            objective = super().during(done)
            seen.append(objective.sigma)
            return objective

    rows = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    falling = Watched(DenoisingScoreMatching, first=1.0, last=0.01, share=0.5)
    train(network(), falling, rows, config=TrainConfig(max_steps=10, device="cpu"))
    assert seen == pytest.approx([0.01 ** min(k / 5, 1) for k in range(1, 11)], rel=1e-9)


def test_no_mass_is_left_between_the_modes():
    """At one level an energy is free where there are no rows; noise that fell leaves it high there.

    KL(p || model) of four Gaussians, by integration on a grid. How probable modes are relative to one
    another it does not keep when they are many deviations apart: these are equal.
    """
    means = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    p = GaussianMixture.isotropic(means, 0.15)
    x = p.sample(4000, torch.Generator().manual_seed(0)).float()
    axis = torch.linspace(-4, 4, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_p = p.log_prob(grid, 0.1)
    mass = torch.softmax(log_p, 0)
    found = []
    for first in (0.1, 1.0):
        objective = FallingNoise(DenoisingScoreMatching, first=first, last=0.1)
        config = TrainConfig(max_steps=300, batch_size=128, learning_rate=4e-3, device="cpu")
        model = train(network(2), objective, x, config=config).model
        with torch.no_grad():
            log_q = torch.log_softmax(-model(grid.float()).double(), 0)
        found.append(float((mass * (torch.log_softmax(log_p, 0) - log_q)).sum()))
    assert found[1] < 0.3, found
    assert found[0] > 3 * found[1], found
