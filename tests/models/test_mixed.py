"""The denoiser of mixed rows: exact where the law is known, and the marginal law without a network."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from energyscape.autodiff import vjp
from energyscape.densities import GaussianMixture
from energyscape.models import EDMPreconditioning, FewValues, MixedDenoiser

#: A name of three values that may be blank (dimensions 1 to 3), and a yes or no (4); 0 is free.
NAME = FewValues(
    1,
    [-0.6, -0.4, -0.2],
    [0, 1, 2, 0],
    [1.3, 1.3, 1.3, 0.0],
    [1.0, 1.0, 1.0, 0.0],
    [0.13, 0.13, 0.13, 1.0],
    [0.4, 0.3, 0.2, 0.1],
)
SIGN = FewValues(4, [0.0], [0, 0], [-0.8, 1.2], [1.0, 1.0], [0.15, 0.15], [0.6, 0.4])
DIM, PRECONDITIONING = 5, EDMPreconditioning(1.0)
LEVELS = [1e-3, 0.05, 0.3, 1.0, 5.0, 80.0]


@pytest.fixture(autouse=True)
def _in_double(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def centres(column: FewValues) -> Tensor:
    out = torch.tensor(column.anchored)[:, None] * torch.tensor(column.origin)
    out[torch.arange(len(out)), torch.tensor(column.axis)] += torch.tensor(column.step)
    return out


def mixture(joint: Tensor) -> GaussianMixture:
    """Of name and sign, with these probabilities of each pair, as a mixture in four dimensions."""
    means, covariances, weights = [], [], []
    for k, j in itertools.product(range(4), range(2)):
        means.append(torch.cat([centres(NAME)[k], centres(SIGN)[j]]))
        noise = [NAME.noise[k] ** 2] * 3 + [SIGN.noise[j] ** 2]
        covariances.append(torch.diag(torch.tensor(noise)))
        weights.append(float(joint[k, j]))
    return GaussianMixture(weights, torch.stack(means), torch.stack(covariances))


class Silent(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        return x.new_zeros(len(x), self.outputs)


def noisy(p: GaussianMixture, sigma: float, n: int = 40) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    few = p.sample(n, rng)
    free = torch.randn(n, 1, generator=rng)
    x = torch.cat([free, few], 1)
    return x + sigma * torch.randn(x.shape, generator=rng)


@pytest.mark.parametrize("sigma", LEVELS)
def test_without_a_network_independent_columns_are_exact(sigma):
    """The denoiser of the product of the columns' laws, one of them with a wide value for blanks."""
    joint = torch.tensor(NAME.share)[:, None] * torch.tensor(SIGN.share)
    p = mixture(joint)
    model = MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [NAME, SIGN])
    x = noisy(p, sigma)
    found = model(x, sigma)
    assert torch.allclose(found[:, 1:], p.denoise(x[:, 1:], sigma), atol=1e-9, rtol=1e-9)
    assert torch.allclose(found[:, 0], x[:, 0] / (1 + sigma**2))


@pytest.mark.parametrize("sigma", LEVELS)
def test_with_what_the_rest_of_the_row_says_a_joint_law_is_exact(sigma):
    """Logits ``log P(k | other columns) / f_k`` give the denoiser of a law with dependent columns."""
    joint = torch.tensor([[0.35, 0.05], [0.02, 0.28], [0.1, 0.1], [0.08, 0.02]])
    p = mixture(joint)
    shares = [joint.sum(1), joint.sum(0)]
    columns = [NAME._replace(share=shares[0].tolist()), SIGN._replace(share=shares[1].tolist())]

    def evidence(x: Tensor, column: FewValues) -> Tensor:
        here = x[:, column.start : column.start + len(column.origin)]
        total = torch.tensor(column.noise).square() + sigma**2
        square = (here[:, None] - centres(column)).square().sum(2)
        return -0.5 * (square / total + len(column.origin) * total.log())

    class Knowing(nn.Module):
        def forward(self, scaled: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
            x = scaled * math.sqrt(1 + sigma**2)
            name, sign = (evidence(x, c) for c in (NAME, SIGN))
            of_name = (joint.log() + sign[:, None]).logsumexp(2) - shares[0].log()
            of_sign = (joint.log() + name[:, :, None]).logsumexp(1) - shares[1].log()
            return torch.cat([x.new_zeros(len(x), 1), of_name, of_sign], 1)

    model = MixedDenoiser(Knowing(), PRECONDITIONING, DIM, columns)
    x = noisy(p, sigma)
    assert torch.allclose(model(x, sigma)[:, 1:], p.denoise(x[:, 1:], sigma), atol=1e-8, rtol=1e-8)


def test_the_posterior_sums_to_one_in_every_column_and_ignores_constants():
    model = MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [NAME, SIGN])
    x, logits = torch.randn(6, DIM), torch.randn(6, 6)
    found = model.posterior(x, torch.full((6,), 0.7), logits)
    assert torch.allclose(found[:, :4].sum(1), torch.ones(6))
    assert torch.allclose(found[:, 4:].sum(1), torch.ones(6))
    moved = logits + torch.tensor([3.0] * 4 + [-900.0] * 2)
    assert torch.allclose(model.posterior(x, 0.7, moved), found)


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(DIM + 1, 16), nn.SiLU(), nn.Linear(16, outputs))

        def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
            return self.layers(torch.cat([x, c_noise[:, None].to(x.dtype)], 1))

    return Plain()


def test_gradients_are_those_of_differences_and_double_backward_works():
    model = MixedDenoiser(network(7), PRECONDITIONING, DIM, [NAME, SIGN])
    x = torch.randn(3, DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, 0.4), x)
    value = vjp(model(x, 0.4), x, torch.ones_like(x), create_graph=True)
    (second,) = torch.autograd.grad(value.square().sum(), x)
    assert second.isfinite().all()


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1e3, 1e6])
def test_single_precision_stays_finite_far_from_all_values_and_a_row_is_alone(sigma):
    torch.set_default_dtype(torch.float32)
    model = MixedDenoiser(network(7), PRECONDITIONING, DIM, [NAME, SIGN])
    x = 30 * torch.randn(64, DIM)
    together = model(x, sigma)
    assert together.isfinite().all()
    assert together.dtype == torch.float32
    alone = torch.cat([model(row[None], sigma) for row in x])
    assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4)


def test_rows_of_few_values_alone_need_no_preconditioned_coordinate():
    model = MixedDenoiser(Silent(2), PRECONDITIONING, 1, [SIGN._replace(start=0)])
    found = model(torch.tensor([[1.19], [-0.7]]), 0.05)
    assert torch.allclose(found, torch.tensor([[1.191], [-0.71]]), atol=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match="dimensions of their own"):
        MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [NAME, SIGN._replace(start=2)])
    with pytest.raises(ValueError, match="dimensions of their own"):
        MixedDenoiser(Silent(7), PRECONDITIONING, 4, [SIGN])
    with pytest.raises(ValueError, match="dimensions of their own"):
        MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [])
    with pytest.raises(ValueError, match="one axis, step"):
        MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [SIGN._replace(step=[1.0])])
    with pytest.raises(ValueError, match="must be positive"):
        MixedDenoiser(Silent(7), PRECONDITIONING, DIM, [SIGN._replace(share=[1.0, 0.0])])
    wrong = MixedDenoiser(Silent(6), PRECONDITIONING, DIM, [NAME, SIGN])
    with pytest.raises(ValueError, match="gives 7 numbers a row"):
        wrong(torch.zeros(2, DIM), 1.0)
