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
from energyscape.objectives.stable import origin_means


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


def test_a_row_alone_is_its_own_origin_to_the_last_bit():
    """Far below the distances, and in a batch of one."""
    rng = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 50, 20, generator=rng)
    assert torch.equal(origin_means(x, eps, torch.full((50,), 1e-3)), x)
    assert torch.equal(origin_means(x[:1], eps[:1], torch.ones(1)), x[:1])


def test_large_batches_are_looked_through_in_parts():
    """Each part of 256 rows has its own origins."""
    rng = torch.Generator().manual_seed(2)
    x, eps = torch.randn(2, 300, 2, generator=rng)
    sigma = torch.ones(300)
    parts = [origin_means(a, b, c) for a, b, c in ((x[:256], eps[:256], sigma[:256]),
                                                   (x[256:], eps[256:], sigma[256:]))]  # fmt: skip
    assert torch.equal(origin_means(x, eps, sigma), torch.cat(parts))


def test_origins_are_of_the_class_that_is_told():
    """A hidden class leaves all rows possible, whatever theirs and whether those are hidden."""
    rng = torch.Generator().manual_seed(3)
    x, eps = torch.randn(2, 12, 2, generator=rng, dtype=torch.float64)
    label = torch.arange(12) % 3
    given = torch.where(torch.arange(12) < 5, -1, label)
    sigma = torch.full((12,), 3.0, dtype=torch.float64)
    found = origin_means(x, eps, sigma, label=label, given=given)
    torch.testing.assert_close(found, slow(x, eps, sigma, label, given), rtol=1e-10, atol=1e-10)


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

    The posterior mean of all eleven rows is known, and so is ``E[x_0 h(y)]`` on the very same draws
    up to noise. At most 0.3 % of runs would fail over all cases if it held; the seed is fixed.
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
    """Against the plain loss on the same noise; the less the higher the level."""
    plain, value = gradients(False, sigma)
    stable, other = gradients(True, sigma)
    error = (plain - stable).std(0) / len(plain) ** 0.5
    assert bool(((plain - stable).mean(0).abs() <= 4 * error + 1e-12).all())
    assert float((value - other).mean().abs()) < 4 * float((value - other).std()) / 20
    ratio = float(stable.var(0).sum() / plain.var(0).sum())
    assert ratio < {0.5: 0.5, 2.0: 0.5, 6.0: 0.9}[sigma], ratio


def test_score_matching_at_one_level_has_them_too():
    """The plain and the stable loss have the same mean, antithetic or not."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), 0.3)
    energy = FunctionEnergy(lambda x: x.square().sum(1))
    rng = torch.Generator().manual_seed(0)
    x = p.sample(20_000, rng)
    for antithetic in (False, True):
        losses = [
            DenoisingScoreMatching(0.8, stable=stable, antithetic=antithetic)(
                energy, x, None, torch.Generator().manual_seed(1)
            ).loss.detach()
            for stable in (False, True)
        ]
        apart = losses[0] - losses[1]
        assert float(apart.abs().max()) > 0.1
        assert float(apart.mean().abs()) < 4 * float(apart.std()) / len(apart) ** 0.5


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
