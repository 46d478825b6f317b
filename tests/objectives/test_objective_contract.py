"""What every objective promises; new ones join through ``__all__``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape import objectives
from energyscape.models import (
    EDMPreconditioning,
    Energy,
    EnergyDenoiser,
    NetworkEnergy,
    PreconditionedDenoiser,
    PreconditionedEnergy,
)
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    LossOutput,
    Objective,
    Perturbed,
    SlicedScoreMatching,
    fit_gaussian,
    needs_double_backward,
    require_smooth_energy,
)
from energyscape.schedules import Geometric

DIM, BATCH = 3, 6


def jitter(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
    return start + 0.1 * torch.randn(start.shape, generator=rng, dtype=start.dtype)


def rows(seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, DIM, generator=rng, dtype=torch.float64)


def energy() -> nn.Module:
    return NetworkEnergy(MLP((DIM,), width=8, depth=2, scalar=True))


def denoiser() -> nn.Module:
    net = MLP((DIM,), width=8, depth=2, noise=True)
    return PreconditionedDenoiser(net, EDMPreconditioning(1.0))


def level_energy() -> nn.Module:
    return PreconditionedEnergy(MLP((DIM,), width=8, depth=2, scalar=True, noise=True), 1.0)


# How each member of __all__ that is an objective is built, and a model it trains.
CASES = {
    "Contrastive": (lambda cls: cls(jitter, buffer_size=16), energy),
    "DenoisingLoss": (lambda cls: cls(Geometric(0.1, 2.0)), denoiser),
    "DenoisingScoreMatching": (lambda cls: cls(0.5), energy),
    "ExactScoreMatching": (lambda cls: cls(), energy),
    "FallingNoise": (lambda cls: cls(DenoisingScoreMatching, 1.0, 0.5), energy),
    "FiniteDifferenceScoreMatching": (lambda cls: cls(), energy),
    "NoiseContrastive": (lambda cls: cls(fit_gaussian(rows()), nu=2), energy),
    "Perturbed": (lambda cls: cls(SlicedScoreMatching(), 0.1), energy),
    "RatioContrastive": (lambda cls: cls([0.5, 2.0], fit_gaussian(rows())), level_energy),
    "SlicedScoreMatching": (lambda cls: cls(probes=2), energy),
}
MEMBERS = [
    name
    for name in objectives.__all__
    if inspect.isclass(getattr(objectives, name))
    and hasattr(getattr(objectives, name), "__call__")  # noqa: B004
    and dataclasses.is_dataclass(getattr(objectives, name))
    and "init" in vars(getattr(objectives, name))
]


def build(name: str) -> tuple[Objective, nn.Module]:
    make_objective, make_model = CASES[name]
    torch.manual_seed(1)
    return make_objective(getattr(objectives, name)), make_model().double()


def run(name: str, seed: int = 3) -> tuple[nn.Module, LossOutput]:
    objective, model = build(name)
    rng = torch.Generator().manual_seed(seed)
    aux = objective.init(model, rows(), rng)
    return model, objective(model, rows(), aux, rng)


def test_every_objective_has_a_case() -> None:
    assert sorted(MEMBERS) == sorted(CASES)


def test_all_is_sorted_and_resolves() -> None:
    assert objectives.__all__ == sorted(objectives.__all__)
    assert all(hasattr(objectives, name) for name in objectives.__all__)


@pytest.mark.parametrize("name", MEMBERS)
class TestContract:
    def test_one_finite_loss_a_row_with_a_graph(self, name: str) -> None:
        model, out = run(name)
        assert out.loss.shape == (BATCH,)
        assert out.loss.dtype == torch.float64
        assert bool(out.loss.isfinite().all())
        out.loss.mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in grads) > 0

    def test_metrics_are_detached_scalars(self, name: str) -> None:
        _, out = run(name)
        for value in out.metrics.values():
            assert float(value) == float(value)
            assert not (isinstance(value, Tensor) and value.requires_grad)

    def test_same_generator_same_bits(self, name: str) -> None:
        assert torch.equal(run(name)[1].loss, run(name)[1].loss)
        assert not torch.equal(run(name)[1].loss, run(name, seed=4)[1].loss) or name.startswith(
            "Exact"
        )

    def test_frozen_settings_and_protocol(self, name: str) -> None:
        objective, model = build(name)
        assert isinstance(objective, Objective)
        assert isinstance(needs_double_backward(objective, model), bool)
        with pytest.raises(dataclasses.FrozenInstanceError):
            objective.anything = 1  # type: ignore[attr-defined]

    def test_without_gradients_the_value_is_the_same(self, name: str) -> None:
        _, out = run(name)
        with torch.no_grad():
            _, held = run(name)
        assert not held.loss.requires_grad
        torch.testing.assert_close(held.loss, out.loss.detach(), rtol=1e-12, atol=1e-12)

    def test_gradient_agrees_with_finite_differences(self, name: str) -> None:
        """Central differences along one random direction of all weights, float64."""
        objective, model = build(name)
        weights = [p for p in model.parameters() if p.requires_grad]
        direction = [
            torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
            for i, p in enumerate(weights)
        ]

        def loss() -> Tensor:
            rng = torch.Generator().manual_seed(5)
            aux = objective.init(model, rows(), rng)
            return objective(model, rows(), aux, rng).loss.mean()

        grads = torch.autograd.grad(loss(), weights, allow_unused=True)
        slope = sum(
            float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None
        )
        h, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p.add_(sign * h * d)
            values.append(float(loss().detach()))
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p.sub_(sign * h * d)
        # The jitter of the contrastive case does not depend on the weights, so its negatives stay.
        assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-8)

    def test_gradients_reach_only_the_parameters(self, name: str) -> None:
        objective, model = build(name)
        x = rows().requires_grad_()
        rng = torch.Generator().manual_seed(3)
        aux = objective.init(model, x.detach(), rng)
        state = [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters()]
        objective(model, x, aux, rng)
        assert state == [
            (p.requires_grad, m.training) for m in model.modules() for p in m.parameters()
        ]


class Own(Energy):
    """An energy somebody wrote, whose output may have any shape."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.reduce = reduce
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        return self.scale * self.reduce(x)


@pytest.mark.parametrize("name", [n for n in MEMBERS if n != "DenoisingLoss"])
@pytest.mark.parametrize("shape", ["sum over the batch", "one a cell", "too few"])
def test_an_own_energy_of_the_wrong_shape_is_named(name: str, shape: str) -> None:
    reduce: Callable[[Tensor], Tensor] = {
        "sum over the batch": lambda x: x.square().sum(),
        "one a cell": lambda x: x.square(),
        "too few": lambda x: x.square().sum(1)[1:],
    }[shape]
    objective, rng = build(name)[0], torch.Generator().manual_seed(0)
    model = Own(reduce)

    def train() -> LossOutput:
        return objective(model, rows(), objective.init(model, rows(), rng), rng)

    with pytest.raises(ValueError, match="one value a row"):
        train()


@pytest.mark.parametrize("name", ["Exact", "Sliced", "FiniteDifference"])
@pytest.mark.parametrize("kink", ["relu", "leaky_relu", "hardtanh", "hardswish", "rrelu", "prelu"])
def test_kinks_called_as_functions_are_found(name: str, kink: str) -> None:
    """A ReLU that is no module hides in forward; fields may have it, and smooth energies pass."""
    objective, rng = build(f"{name}ScoreMatching")[0], torch.Generator()
    call = getattr(F, kink)
    slope = (torch.tensor(0.2, dtype=torch.float64),) if kink == "prelu" else ()
    model = Own(lambda x: call(x, *slope).square().sum(1))
    with pytest.raises(ValueError, match=f"calls {kink},.*SiLU"):
        objective.init(model, rows(), rng)
    assert objective.init(Own(lambda x: F.silu(x).sum(1)), rows(), rng) is None
    if name != "FiniteDifference":
        assert objective.init(nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU()), rows(), rng) is None


KINKED = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.RReLU(), nn.Threshold(0.1, 0.0),
    nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardshrink(), nn.Softshrink(),
]  # fmt: skip
SMOOTH = [
    nn.SiLU(), nn.Softplus(), nn.ELU(), nn.CELU(0.5), nn.GELU(), nn.Mish(), nn.Tanh(), nn.Sigmoid(),
    nn.LogSigmoid(), nn.Tanhshrink(),
]  # fmt: skip


@pytest.mark.parametrize("module", [*KINKED, *SMOOTH], ids=lambda m: type(m).__name__)
def test_activations_of_straight_pieces_are_refused_and_smooth_ones_pass(module: nn.Module) -> None:
    model = NetworkEnergy(nn.Sequential(nn.Linear(DIM, 4), module, nn.Linear(4, 1))).double()
    if module in SMOOTH:
        require_smooth_energy(model, rows())
        return
    with pytest.raises(ValueError, match=f"'network.1' is a {type(module).__name__}, .*SiLU"):
        require_smooth_energy(model, rows())


def test_maxima_over_windows_are_refused() -> None:
    """Smooth activations do not help where the largest of a window changes."""
    line = nn.Unflatten(1, (1, DIM))
    pools: list[nn.Module] = [nn.MaxPool1d(2), nn.AdaptiveMaxPool1d(2)]
    for pool in pools:
        network = nn.Sequential(nn.Linear(DIM, DIM), nn.SiLU(), line, pool, nn.Flatten())
        model = NetworkEnergy(
            nn.Sequential(network, nn.LazyLinear(1, dtype=torch.float64)).double()
        )
        with pytest.raises(ValueError, match=f"is a {type(pool).__name__}, .*AvgPool"):
            require_smooth_energy(model, rows())
    for call, name in ((F.max_pool1d, "max_pool"), (F.adaptive_max_pool1d, "adaptive_max_pool")):
        with pytest.raises(ValueError, match=f"it calls {name}, .*AvgPool"):
            require_smooth_energy(
                Own(lambda x, c=call: c(x.square()[:, None], 2).sum((1, 2))), rows()
            )
    require_smooth_energy(Own(lambda x: F.avg_pool1d(x.square()[:, None], 2).sum((1, 2))), rows())


def test_denoising_warns_of_a_piecewise_constant_score() -> None:
    objective, rng = DenoisingScoreMatching(0.5), torch.Generator()
    with pytest.warns(UserWarning, match="piecewise constant, since it calls relu"):
        objective.init(Own(lambda x: F.relu(x).sum(1)), rows(), rng)
    with pytest.warns(UserWarning, match="'network.1' is a ReLU"):
        objective.init(NetworkEnergy(nn.Sequential(nn.Linear(DIM, 4), nn.ReLU())), rows(), rng)
    assert objective.init(energy(), rows().float(), rng) is None


def test_a_denoiser_made_of_an_energy_needs_double_backward() -> None:
    loss = DenoisingLoss(Geometric(0.1, 2.0))
    assert not needs_double_backward(loss, denoiser())
    assert needs_double_backward(loss, EnergyDenoiser(level_energy()))  # type: ignore[arg-type]


def test_perturbed_refuses_negative_noise_and_zero_changes_nothing() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Perturbed(SlicedScoreMatching(), -1.0)
    model = energy().double()
    plain = SlicedScoreMatching()(model, rows(), None, torch.Generator().manual_seed(0))
    same = Perturbed(SlicedScoreMatching(), 0.0)(
        model, rows(), None, torch.Generator().manual_seed(0)
    )
    assert torch.equal(plain.loss, same.loss)
