"""Contrastive learning: the likelihood's gradient, and a buffer whose slots are kept in order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from energyscape.models import ClassEnergy, Energy, ExponentialFamily, NetworkEnergy
from energyscape.nn import MLP, ResidualMLP
from energyscape.objectives import ChainsDiverged, Contrastive, ImprovedStep, frozen

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add_one(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
    return start + 1


def stay(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
    return start


def zeros(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.zeros_like(like)


def small(dim: int = 2) -> Energy:
    torch.manual_seed(0)
    return NetworkEnergy(MLP((dim,), width=8, depth=2, scalar=True)).double()


def test_with_exact_negatives_it_is_the_likelihoods_gradient() -> None:
    """Negatives from the model N(0, 1): the gradient is E_p[T] - E_data[T] up to its sign, known in
    closed form; 100,000 rows, 5 standard errors (failure 1e-6)."""
    n, mean, std = 100_000, 0.5, 1.3
    energy = ExponentialFamily.normal(0.0, 1.0).double()

    def exact(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(start.shape, generator=rng, dtype=start.dtype)

    x = mean + std * torch.randn(n, 1, generator=generator(1), dtype=F64)
    loss = Contrastive(exact, start="data")(energy, x, None, generator(2)).loss.mean()
    (grad,) = torch.autograd.grad(loss, energy.theta)
    expected = torch.tensor([-mean, 1 - mean**2 - std**2], dtype=F64)
    spread = torch.tensor([math.sqrt(1 + std**2), 4.0], dtype=F64) * 5 / math.sqrt(n)
    assert bool(((grad - expected).abs() < spread).all())


def test_on_a_grid_in_the_plane_it_is_the_exact_gradient() -> None:
    """The gradient of the mean log-likelihood, log Z by summing a grid, is the contrast of a network.

    With the expectation under the model taken over the grid itself both agree to rounding; with
    exact draws of that law as negatives, 40 times 1,000, every weight within 6 standard errors of the
    repeats (below 1e-4 over some 100 weights).
    """
    model = small()
    axis = torch.linspace(-6, 6, 121, dtype=F64)
    grid, step = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0])
    n, weights = 1000, list(model.parameters())[:-1]  # the last is the free constant

    def confined(x: Tensor) -> Tensor:
        return 4.0 * model(x) + 0.5 * x.square().sum(1)

    class Confined(Energy):
        def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
            return confined(x)

    x = torch.randn(n, 2, generator=generator(1), dtype=F64) * 0.5 + 1.0
    log_z = torch.logsumexp(-confined(grid), 0) + 2 * math.log(step)
    likelihood = (-confined(x) - log_z).mean()
    exact = torch.autograd.grad(likelihood, weights)
    p = (-confined(grid)).detach().softmax(0)
    contrast = -confined(x).mean() + (p * confined(grid)).sum()
    for a, b in zip(exact, torch.autograd.grad(contrast, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)

    def draw(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        return grid[torch.multinomial(p, len(start), replacement=True, generator=rng)]

    objective, rng, runs = Contrastive(draw, start="data"), generator(2), []
    for _ in range(40):
        loss = objective(Confined(), x, None, rng).loss.mean()
        runs.append(torch.autograd.grad(-loss, weights))
    for a, found in zip(exact, zip(*runs, strict=True), strict=True):
        several = torch.stack(found)
        error = several.std(0) / math.sqrt(len(runs))
        assert bool(((several.mean(0) - a).abs() <= 6 * error + 1e-12).all())


def test_the_truth_is_a_fixed_point_of_an_invariant_chain() -> None:
    """CD-1 with a Metropolis step from data of the model itself: mean gradient 0 within 5 standard
    errors over 100,000 rows (failure 2e-6)."""
    energy = ExponentialFamily.normal(0.0, 1.0).double()

    def metropolis(target: Any, x: Tensor, rng: torch.Generator) -> Tensor:
        proposal = x + torch.randn(x.shape, generator=rng, dtype=x.dtype)
        log_u = torch.rand(len(x), generator=rng, dtype=x.dtype).log()
        accept = log_u < target.value(proposal) - target.value(x)
        return torch.where(accept[:, None], proposal, x)

    x = torch.randn(100_000, 1, generator=generator(3), dtype=F64)
    loss = Contrastive(metropolis, start="data")(energy, x, None, generator(4)).loss.mean()
    (grad,) = torch.autograd.grad(loss, energy.theta)
    assert float(grad.abs().max()) < 5 * 2 / math.sqrt(100_000)


def test_slots_are_written_back_where_they_were_drawn() -> None:
    """Each visit adds one to its own slot: the buffer equals the count of visits, slot by slot."""
    objective = Contrastive(add_one, buffer_size=20, restart_fraction=0.0, base=zeros)
    model, x, rng = small(), torch.zeros(8, 2, dtype=F64), generator()
    aux = objective.init(model, x, rng)
    for _ in range(7):
        aux = objective(model, x, aux, rng).aux
    assert aux is not None
    assert torch.equal(aux["buffer"], aux["visits"][:, None].expand(20, 2).to(F64))
    assert int(aux["visits"].sum()) == 56
    assert int(aux["restarts"]) == 0


def test_restarts_are_counted_and_begin_at_the_base() -> None:
    """Every chain restarts: each visited slot holds base + 1, and 5 * 8 restarts were counted; at a
    fraction of 0.25 the count of 4,000 is binomial (5 deviations, failure 6e-7)."""
    model, x, rng = small(), torch.zeros(8, 2, dtype=F64), generator()
    objective = Contrastive(add_one, buffer_size=20, restart_fraction=1.0, base=zeros)
    aux = objective.init(model, x, rng)
    for _ in range(5):
        aux = objective(model, x, aux, rng).aux
    assert aux is not None
    assert int(aux["restarts"]) == 40
    assert aux["buffer"].max() == 1
    objective = Contrastive(stay, buffer_size=4000, restart_fraction=0.25, base=zeros)
    x = torch.zeros(4000, 2, dtype=F64)
    aux = objective(model, x, objective.init(model, x, rng), rng).aux
    assert aux is not None
    assert abs(int(aux["restarts"]) - 1000) < 5 * math.sqrt(750)


def test_labels_stay_with_their_slots() -> None:
    """Chains move to 10 * label: whatever batches come, a visited slot holds its own label's point."""
    torch.manual_seed(0)
    net = ResidualMLP((2,), width=8, blocks=1, scalar=True, noise=False, num_labels=3)
    model = ClassEnergy(net).double()

    def to_label(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        label = target.energy.get_buffer("label")
        moved = torch.full_like(start, 0.0) + 10.0 * label[:, None]
        fresh = (start == 0).all(1)
        assert bool((fresh | (start == moved).all(1)).all())  # a chain never changes its class
        return moved

    objective = Contrastive(to_label, buffer_size=32, restart_fraction=0.1, base=zeros)
    rng, x = generator(), torch.zeros(16, 2, dtype=F64)
    aux = objective.init(model, x, rng)
    for _ in range(6):
        label = torch.randint(0, 3, (16,), generator=rng)
        out = objective(model, x, aux, rng, label=label)
        aux = out.aux
    assert aux is not None
    seen = aux["labels"] >= 0
    assert bool((seen == (aux["visits"] > 0)).all())
    expected = 10.0 * aux["labels"][seen][:, None].expand(-1, 2)
    assert torch.equal(aux["buffer"][seen], expected.to(F64))


def test_chains_see_a_frozen_network_in_eval_mode_and_it_is_restored() -> None:
    model = NetworkEnergy(
        nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Dropout(0.5), nn.Linear(4, 1))
    )
    next(model.parameters()).requires_grad_(False)
    model.network[2].eval()  # type: ignore[index]
    before = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]

    def look(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        return start

    Contrastive(look, start="data")(model, torch.zeros(3, 2), None, generator())
    assert before == (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )
    with pytest.raises(RuntimeError, match="boom"), frozen(model):
        raise RuntimeError("boom")
    assert before[1] == [p.requires_grad for p in model.parameters()]


def test_negatives_carry_no_gradient() -> None:
    """A sampler that leaks a graph through the weights changes nothing in the gradient."""
    model, x = small(), torch.randn(5, 2, generator=generator(), dtype=F64)

    def leaky(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        shift: Tensor = model.network.layers[0].bias.sum()  # type: ignore[union-attr, assignment]
        return start + shift

    shift = float(model.network.layers[0].bias.detach().sum())  # type: ignore[union-attr, operator]
    leak = Contrastive(leaky, start="data")(model, x, None, generator()).loss.mean()
    clean = Contrastive(lambda t, s, r: s + shift, start="data")
    expected = clean(model, x, None, generator()).loss.mean()
    for a, b in zip(
        torch.autograd.grad(leak, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_validation_reads_the_buffer_without_writing() -> None:
    objective = Contrastive(add_one, buffer_size=16, base=zeros)
    model, x, rng = small(), torch.zeros(8, 2, dtype=F64), generator()
    aux = objective.init(model, x, rng)
    assert aux is not None
    before = {k: v.clone() for k, v in aux.items()}
    with torch.no_grad():
        objective(model, x, aux, rng)
    assert all(torch.equal(aux[k], before[k]) for k in before)


def test_default_base_follows_the_rows() -> None:
    """Mean and spread of 20,000 slots against those of the rows, 5 standard errors (1e-6)."""
    x = torch.tensor([3.0, -1.0]) + torch.tensor([2.0, 0.5]) * torch.randn(
        5000, 2, generator=generator(), dtype=F64
    )
    aux = Contrastive(stay, buffer_size=20_000).init(small(), x, generator(1))
    assert aux is not None
    buffer = aux["buffer"]
    error = 5 * x.std(0) / math.sqrt(20_000)
    assert bool(((buffer.mean(0) - x.mean(0)).abs() < error).all())
    torch.testing.assert_close(buffer.std(0), x.std(0), rtol=0.03, atol=0)


def test_regulariser_and_metrics() -> None:
    model, x = small(), torch.randn(6, 2, generator=generator(), dtype=F64)
    plain = Contrastive(add_one, start="data")(model, x, None, generator())
    pinned = Contrastive(add_one, start="data", regulariser=0.1)(model, x, None, generator())
    high, low = model(x).detach(), model(x + 1).detach()
    torch.testing.assert_close(plain.loss.detach(), high - low)
    torch.testing.assert_close(
        pinned.loss.detach(), high - low + 0.1 * (high.square() + low.square())
    )
    assert plain.metrics["energy_gap"] == pytest.approx(float((high - low).mean()))


def test_improved_step_has_the_gradient_of_the_moved_points_energy() -> None:
    """d/dtheta E_sg(x - h grad E_theta + noise) by central differences of the inner theta only."""
    h, x = 0.1, torch.randn(4, 2, generator=generator(), dtype=F64)
    model = small()
    term, moved = ImprovedStep(h, entropy=0.0).loss(model, x, generator(1))
    weight = model.network.layers[0].weight  # type: ignore[union-attr, index]
    (grad,) = torch.autograd.grad(term.sum(), weight)  # type: ignore[arg-type]
    noise = math.sqrt(2 * h) * torch.randn(x.shape, generator=generator(1), dtype=F64)
    torch.testing.assert_close(moved, x + h * model.score(x) + noise)
    outer, step, values = small(), 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step  # type: ignore[index, operator]
        values.append(outer(x + h * model.score(x) + noise).sum().item())
        with torch.no_grad():
            weight[0, 0] -= sign * step  # type: ignore[index, operator]
    assert grad[0, 0].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("start", ["data", "noise", "persistent"])
def test_the_improved_step_needs_a_smooth_energy(start: Any) -> None:
    """It differentiates the score, which of straight pieces is constant but for jumps."""
    x, rng = torch.randn(8, 2, generator=generator()), generator()
    kinked = NetworkEnergy(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)))
    improved = Contrastive(stay, start=start, buffer_size=8, improved=ImprovedStep(0.1))
    with pytest.raises(ValueError, match="improved step needs a smooth energy.*1' is a ReLU.*SiLU"):
        improved.init(kinked, x, rng)
    improved.init(small().float(), x, rng)
    Contrastive(stay, start=start, buffer_size=8).init(kinked, x, rng)


def test_entropy_term_spreads_the_chains() -> None:
    """For E = a ||x||^2/2 the entropy term alone falls as a falls: its gradient in a is positive."""

    class Bowl(Energy):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(1.0, dtype=F64))

        def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
            return 0.5 * self.a * x.square().sum(1)

    model, x = Bowl(), torch.randn(400, 2, generator=generator(), dtype=F64)
    with_entropy, _ = ImprovedStep(0.05, entropy=1.0).loss(model, x, generator(1))
    without, _ = ImprovedStep(0.05, entropy=0.0).loss(model, x, generator(1))
    (grad,) = torch.autograd.grad((with_entropy - without).mean(), model.a)
    # Shrinking all distances by (1 - h da) costs h D nats per unit of a, less what noise hides.
    assert 0 < grad.item() <= 1.5 * 0.05 * 2
    improved = Contrastive(stay, start="data", improved=ImprovedStep(0.05))
    assert improved.needs_double_backward
    assert improved(model, x, None, generator()).loss.shape == (400,)


def test_without_negatives_energies_collapse() -> None:
    """Minimising E(data) alone has no lower bound: with the contrast the loss of a constant is 0."""
    model, x = small(), torch.randn(64, 2, generator=generator(), dtype=F64)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
    assert model(x).mean().item() < -5
    assert Contrastive(stay, start="data")(model, x, None, generator()).loss.abs().max() == 0


def test_bad_input_is_named() -> None:
    model, x, rng = small(), torch.zeros(8, 2, dtype=F64), generator()

    def burst(target: Any, start: Tensor, rng: torch.Generator) -> Tensor:
        return torch.where(torch.arange(len(start))[:, None] < 3, math.nan, start)

    with pytest.raises(ChainsDiverged, match=r"3 of 8 .* lower the sampler's step size"):
        Contrastive(burst, start="data")(model, x, None, rng)
    with pytest.raises(ValueError, match="shape of its start"):
        Contrastive(lambda t, s, r: s[:1], start="data")(model, x, None, rng)
    small_buffer = Contrastive(stay, buffer_size=4)
    aux = small_buffer.init(model, x, rng)
    with pytest.raises(ValueError, match="buffer"):
        small_buffer(model, x, aux, rng)
    with pytest.raises(ValueError, match="data, noise, persistent"):
        Contrastive(stay, start="nowhere")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="restart_fraction"):
        Contrastive(stay, restart_fraction=1.5)
    with pytest.raises(ValueError, match="NetworkEnergy"):
        Contrastive(stay).init(nn.Linear(2, 1), x, rng)
    with pytest.raises(ValueError, match="step_size > 0"):
        ImprovedStep(0.0)
