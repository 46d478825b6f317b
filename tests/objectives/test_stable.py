"""Targets of less variance: the formula, the mean left as it is, classes, and small levels."""

from __future__ import annotations

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.models import (
    EDMPreconditioning,
    FunctionDenoiser,
    FunctionEnergy,
    PreconditionedDenoiser,
)
from energyscape.nn import MLP
from energyscape.objectives import DenoisingLoss, DenoisingScoreMatching, unit_weight
from energyscape.objectives.stable import origin_moves


def origin_means(x, eps, sigma, **given):
    """The means themselves."""
    return x + origin_moves(x, eps, sigma, **given)


class OneLevel:
    """A law of levels that draws one."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def sample(self, n, rng, device=None):
        return torch.full((n,), self.sigma, dtype=torch.float64)


def slow(x, eps, sigma, label=None, given=None):
    """The definition, row by row."""
    out = []
    for i in range(len(x)):
        y = x[i] + sigma[i] * eps[i]
        log_w = -((y - x).flatten(1).square().sum(1)) / (2 * sigma[i] ** 2)
        if label is not None and given[i] != -1:
            log_w = log_w.masked_fill(label != given[i], -torch.inf)
        out.append(torch.tensordot(log_w.softmax(0), x, 1))
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(1,), (3,), (40,), (1, 6, 6)])
@pytest.mark.parametrize("far", [0.0, 50.0])
def test_the_mean_of_possible_origins(shape, far):
    """By differences and by products, near the origin and far from it, in both precisions."""
    rng = torch.Generator().manual_seed(0)
    x = far + torch.randn(30, *shape, generator=rng, dtype=torch.float64)
    eps = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    sigma = torch.logspace(-2, 1, 30, dtype=torch.float64)
    expected = slow(x, eps, sigma)
    torch.testing.assert_close(origin_means(x, eps, sigma), expected, rtol=1e-9, atol=1e-9)
    found = origin_means(x.float(), eps.float(), sigma.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 64])
@pytest.mark.parametrize("low", [0.05, 0.5])
def test_levels_at_which_float32_is_exact_enough(columns, low):
    """The fused kernel, under autocast too; near duplicates, of which a level reaches two or three."""
    rng = torch.Generator().manual_seed(6)
    x = torch.randn(20, columns, generator=rng).repeat(2, 1)
    x = 0.3 + x / columns**0.5 + low * torch.randn(40, columns, generator=rng)
    eps = torch.randn(40, columns, generator=rng)
    sigma = torch.linspace(low, 2 * low, 40)
    expected = slow(x.double(), eps.double(), sigma.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = origin_means(x, eps, sigma)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 1e-3 * low


@pytest.mark.parametrize("low", [0.05, 2, 1e-4])
@pytest.mark.parametrize("rows", [40, 300])
def test_one_level_for_all_rows_is_as_that_level_for_each(low, rows):
    """Given as a number, by either way and in parts."""
    rng = torch.Generator().manual_seed(7)
    x, eps = torch.randn(2, rows, 3, generator=rng)
    x = 0.2 + x
    each = origin_moves(x, eps, torch.full((rows,), float(low)))
    assert float(each.abs().max()) > 0 or low < 0.01
    torch.testing.assert_close(origin_moves(x, eps, low), each, rtol=1e-4, atol=1e-5 * low)


def test_a_row_alone_is_its_own_origin_to_the_last_bit():
    """Far below the distances, and in a batch of one."""
    rng = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 50, 20, generator=rng)
    assert torch.equal(origin_means(x, eps, torch.full((50,), 1e-3)), x)
    assert torch.equal(origin_means(x[:1], eps[:1], torch.ones(1)), x[:1])


def test_a_batch_of_no_rows_has_no_origins():
    assert origin_means(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0)).shape == (0, 3)


@pytest.mark.parametrize(("rows", "cuts"), [(259, (0, 130, 259)), (516, (0, 172, 344, 516))])
def test_large_batches_are_looked_through_in_even_parts(rows: int, cuts: tuple[int, ...]):
    """Each part of at most 256 rows has its own origins, and none is left with a few rows."""
    rng = torch.Generator().manual_seed(2)
    x, eps = torch.randn(2, rows, 2, generator=rng)
    sigma, label = torch.ones(rows), torch.arange(rows) % 2
    parts = [
        origin_means(x[part], eps[part], sigma[part], label=label[part])
        for part in map(slice, cuts[:-1], cuts[1:])
    ]
    assert torch.equal(origin_means(x, eps, sigma, label=label), torch.cat(parts))


@pytest.mark.parametrize(("rows", "most"), [(256, 128), (300, 100), (301, 128), (7, 1)])
@pytest.mark.parametrize("one", [True, False])
def test_parts_in_float32_have_the_origins_of_their_own_rows(rows, most, one):
    """As training takes them: the definition within each even part; a part of one row does not move."""
    rng = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, rows, 2, generator=rng)
    sigma = torch.full((rows,), 0.3) if one else torch.linspace(0.2, 2.0, rows)
    found = origin_means(x, eps, torch.tensor(0.3) if one else sigma, most=most)
    pieces = [t.double().tensor_split(-(-rows // most)) for t in (x, eps, sigma)]
    expected = torch.cat([slow(*part) for part in zip(*pieces, strict=True)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("far", [1e3, 1e4])
def test_a_row_far_away_costs_the_others_nothing(far):
    """Near rows at a small level in float32, beside one so far away that it moves the mean."""
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(20, 20, generator=rng).repeat(2, 1) + 0.003 * torch.randn(40, 20, generator=rng)
    x[0] = far
    eps, sigma = torch.randn(40, 20, generator=rng), torch.full((40,), 0.002)
    expected = slow(x.double(), eps.double(), sigma.double())
    error = (origin_means(x, eps, sigma)[1:].double() - expected[1:]).square().sum(1) / 0.002**2
    assert float(error.max()) < 1e-6


def test_origins_are_of_the_class_that_is_told():
    """A hidden class leaves all rows possible, whatever theirs and whether those are hidden."""
    rng = torch.Generator().manual_seed(3)
    x, eps = torch.randn(2, 12, 2, generator=rng, dtype=torch.float64)
    label = torch.arange(12) % 3
    given = torch.where(torch.arange(12) < 5, -1, label)
    sigma = torch.full((12,), 3.0, dtype=torch.float64)
    found = origin_means(x, eps, sigma, label=label, given=given, hidden=0.4)
    torch.testing.assert_close(found, slow(x, eps, sigma, label, given), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hidden", [0.0, 0.25])
def test_rows_without_a_class_have_their_own_origins(hidden):
    """A row told no class has none, or is one of the others with the probability of hiding."""
    x = torch.tensor([[0.0], [0.0], [4.0]], dtype=torch.float64)
    label, given = torch.tensor([0, 0, -1]), torch.tensor([0, -1, -1])
    if not hidden:
        given = label
    y_to_4 = (
        torch.tensor([[2.0], [2.0], [-2.0]], dtype=torch.float64) / 2
    )  # all y = 2, in the middle
    sigma = torch.full((3,), 2.0, dtype=torch.float64)
    found = origin_means(x, y_to_4, sigma, label=label, given=given, hidden=hidden)
    told_none = 4.0 / (1 + 2 * hidden)
    expected = [0.0, told_none if hidden else 0.0, told_none]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_unlabelled_rows_leave_the_mean_loss_as_it_is():
    """Classes, some missing, hidden with probability 0.2, a model that answers a constant."""
    torch.manual_seed(0)
    values = [[], []]
    for seed in range(300):
        rng = torch.Generator().manual_seed(seed)
        label = torch.randint(2, (32,), generator=rng) - 1
        x = torch.where(label < 0, 4.0, 0.0)[:, None].double()
        for kept, stable in zip(values, (False, True), strict=True):
            loss = DenoisingLoss(OneLevel(2.0), unit_weight, 0.2, stable)
            model = FunctionDenoiser(lambda y, sigma: torch.full_like(y, 1.7))
            model.forward = lambda y, sigma, label=None: torch.full_like(y, 1.7)  # knows no class
            own = torch.Generator().manual_seed(1000 + seed)
            kept.append(loss(model, x, None, own, label=label).loss.mean())
    apart = torch.stack(values[0]) - torch.stack(values[1])
    assert float(apart.std()) > 0.01
    assert float(apart.mean().abs()) < 4 * float(apart.std()) / 300**0.5


def batches(n: int, size: int, seed: int):
    """Batches without replacement from eleven fixed rows, in random order."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.tensor(
        [[-3.0], [-2.5], [-1.0], [-0.9], [-0.2], [0.1], [0.4], [1.5], [2.0], [2.1], [4.0]]
    )
    for _ in range(n):
        yield rows.double()[torch.randperm(11, generator=rng)[:size]], rng


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("size", [2, 5])
def test_targets_have_the_same_mean_given_the_noisy_row(sigma, size):
    """``E[t h(y)] = E[x_0 h(y)]`` for any h, batches of any size: six functions, four errors each.

    Over all cases at most 0.3 % of seeds fail though it holds; the seed is fixed.
    """
    kept = []
    for x, rng in batches(4000, size, 5):
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        y = x + sigma * eps
        t = origin_means(x, eps, torch.full((size,), sigma, dtype=x.dtype))
        h = torch.cat([y**0, y, y**2, torch.sin(y), (y > 0).double(), (y > 1.5).double()], 1)
        kept.append(((t - x) * h).mean(0))
    difference = torch.stack(kept)
    error = difference.std(0) / len(difference) ** 0.5
    assert bool((difference.mean(0).abs() < 4 * error).all()), (difference.mean(0), error)


def gradients(stable: bool, sigma: float):
    """The gradient of a small network's loss over 400 batches, shape (400, parameters)."""
    torch.manual_seed(0)
    model = PreconditionedDenoiser(MLP((1,), width=4, depth=1, noise=True), EDMPreconditioning(2.0))
    model.double()
    loss = DenoisingLoss(OneLevel(sigma), unit_weight, stable=stable)
    out, values = [], []
    for x, rng in batches(400, 8, 7):
        value = loss(model, x, None, rng).loss.mean()
        grads = torch.autograd.grad(value, list(model.parameters()))
        out.append(torch.cat([g.flatten() for g in grads]))
        values.append(float(value.detach()))
    return torch.stack(out), torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 6.0])
def test_gradient_and_loss_have_the_same_mean_and_the_gradient_less_variance(sigma):
    """Against the plain loss on the same noise, for batches of 8 of 11 rows."""
    plain, value = gradients(False, sigma)
    stable, other = gradients(True, sigma)
    error = (plain - stable).std(0) / len(plain) ** 0.5
    assert bool(((plain - stable).mean(0).abs() <= 4 * error + 1e-12).all())
    assert float((value - other).mean().abs()) < 4 * float((value - other).std()) / 20
    ratio = float(stable.var(0).sum() / plain.var(0).sum())
    assert ratio < {0.5: 0.5, 2.0: 0.5, 6.0: 0.9}[sigma], ratio


def test_score_matching_at_one_level_has_them_too():
    """The plain and the stable loss have the same mean; pairs of opposite noises are refused them."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), 0.3)
    energy = FunctionEnergy(lambda x: x.square().sum(1))
    x = p.sample(20_000, torch.Generator().manual_seed(0))
    losses = [
        DenoisingScoreMatching(0.8, stable=stable)(
            energy, x, None, torch.Generator().manual_seed(1)
        ).loss.detach()
        for stable in (False, True)
    ]
    apart = losses[0] - losses[1]
    assert float(apart.abs().max()) > 0.1
    assert float(apart.mean().abs()) < 4 * float(apart.std()) / len(apart) ** 0.5
    with pytest.raises(ValueError, match="pairs tell their origin"):
        DenoisingScoreMatching(0.8, stable=True, antithetic=True)


def test_the_exact_denoiser_of_the_rows_is_still_the_best():
    """Batches that hold all rows: the loss above its floor is the distance to their exact denoiser."""
    rows = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)

    def exact(y, sigma):
        log_w = -((y[:, None] - rows).square().sum(2)) / (2 * sigma[:, None] ** 2)
        return log_w.softmax(1) @ rows

    loss = DenoisingLoss(OneLevel(0.7), unit_weight, stable=True)
    found = []
    for shift in (0.0, 0.3):
        model = FunctionDenoiser(lambda y, sigma, by=shift: exact(y, sigma) + by)
        rng = torch.Generator().manual_seed(2)
        found.append(loss(model, rows, None, rng).loss)
    torch.testing.assert_close(found[1] - found[0], torch.full((3,), 0.09, dtype=torch.float64))
