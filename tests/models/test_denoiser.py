"""The denoiser face: Tweedie at every level, wrappers that are denoisers, an energy's own denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.models import (
    Denoiser,
    EDMPreconditioning,
    EnergyDenoiser,
    FunctionDenoiser,
    Labelled,
    MixtureOfGaussians,
    PreconditionedDenoiser,
    PreconditionedEnergy,
)
from energyscape.nn import MLP
from energyscape.targets import Target

F64 = torch.float64
P = eight_gaussians()
LEVELS = torch.tensor([0.05, 0.4, 2.0, 30.0], dtype=F64)


def points(n: int = 4) -> Tensor:
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def network(*, scalar: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP((2,), width=8, depth=2, noise=True, scalar=scalar).double()


DENOISERS: dict[str, Denoiser] = {
    "function": FunctionDenoiser(P.denoise),
    "preconditioned": PreconditionedDenoiser(network(), EDMPreconditioning(1.3)),
    "energy": EnergyDenoiser(MixtureOfGaussians(P)),
    "energy network": EnergyDenoiser(PreconditionedEnergy(network(scalar=True), 1.3)),
}
each = pytest.mark.parametrize("name", DENOISERS)


@each
def test_denoiser_and_score_are_tweedies(name: str) -> None:
    denoiser, x = DENOISERS[name], points()
    clean, score = denoiser(x, LEVELS), denoiser.score(x, LEVELS)
    torch.testing.assert_close(clean, x + LEVELS.square()[:, None] * score)
    assert isinstance(denoiser.at(0.4), Target)
    row = denoiser.at(0.4).value_and_score(x[1:2])[1]  # type: ignore[attr-defined]
    torch.testing.assert_close(row, score[1:2].detach())


@each
def test_a_level_a_row_is_row_by_row_and_numbers_are_levels(name: str) -> None:
    denoiser, x = DENOISERS[name], points()
    together = denoiser(x, LEVELS)
    alone = torch.cat([denoiser(x[i : i + 1], float(LEVELS[i])) for i in range(4)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(denoiser(x, 0.4), denoiser(x, torch.full((4,), 0.4, dtype=F64)))


@pytest.mark.parametrize("name", ["function", "energy"])
def test_exact_denoisers_are_the_mixtures(name: str) -> None:
    x = points()
    found = DENOISERS[name](x, LEVELS)
    torch.testing.assert_close(found, P.denoise(x, LEVELS))


def test_an_energys_denoiser_knows_its_log_density_and_others_do_not() -> None:
    x = points()
    known = DENOISERS["energy"].at(0.4)
    torch.testing.assert_close(known.value(x), P.log_prob(x, 0.4))
    assert DENOISERS["function"].at(0.4).value(x) is None


def test_an_energys_denoiser_trains_by_double_backward() -> None:
    """The gradient of ||D - x_0||^2 in a weight, against central differences; no graph in a sampler."""
    energy = PreconditionedEnergy(network(scalar=True), 1.3)
    denoiser, x, x0 = EnergyDenoiser(energy), points(), points() * 0.5
    weight = next(iter(energy.network.parameters()))

    def loss() -> Tensor:
        return (denoiser(x, LEVELS) - x0).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    h, at = 1e-5, (0, 0)
    with torch.no_grad():
        weight[at] += h
        above = loss()
        weight[at] -= 2 * h
        below = loss()
        weight[at] += h
    assert float(gradient[at]) == pytest.approx(float((above - below) / (2 * h)), rel=1e-6)
    with torch.no_grad():
        assert not denoiser(x, LEVELS).requires_grad


class Classes(Denoiser):
    """One Gaussian a class; all of them without a label."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.mixture.denoise(x, sigma)
        own = self.mixture.means[label]
        variance = self.mixture.covariances[label].diagonal(dim1=1, dim2=2)
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1).square()
        return own + variance / (variance + level) * (x - own)


def test_a_labelled_denoiser_is_that_of_its_class() -> None:
    """One label or one a row; weighed by responsibilities the classes give the whole back."""
    model, x, sigma = Classes(P), points(), 0.7
    single = torch.stack([Labelled(model, k)(x, sigma) for k in range(8)], dim=1)
    for k in range(8):
        component = GaussianMixture([1.0], P.means[k : k + 1], P.covariances[k : k + 1])
        torch.testing.assert_close(single[:, k], component.denoise(x, sigma))
    rows = torch.tensor([3, 0, 7, 3])
    torch.testing.assert_close(Labelled(model, rows)(x, sigma), single[torch.arange(4), rows])
    whole = (P.responsibilities(x, sigma)[:, :, None] * single).sum(1)
    torch.testing.assert_close(whole, model(x, sigma))
    # A label of the caller's goes before the wrapper's own.
    torch.testing.assert_close(Labelled(model, 0)(x, sigma, rows), single[torch.arange(4), rows])
    torch.testing.assert_close(
        model.at(sigma, rows).value_and_score(x)[1], Labelled(model, rows).score(x, sigma)
    )
    assert not Labelled(model, 1).state_dict()


def test_shapes_and_labels_are_refused_by_name() -> None:
    x, one = points(), torch.zeros(4, dtype=torch.int64)
    wide = PreconditionedDenoiser(network(scalar=True), EDMPreconditioning(1.0))
    with pytest.raises(ValueError, match=r"keeps the shape of x, \(4, 2\); this one gave \(4,\)"):
        wide(x, 1.0)
    with pytest.raises(ValueError, match=r"a number or one per row \(4\)"):
        DENOISERS["preconditioned"](x, torch.ones(3))
    for name in ("function", "energy"):
        with pytest.raises(ValueError, match="labels"):
            DENOISERS[name](x, 1.0, one)
    with pytest.raises(ValueError, match="labels"):
        DENOISERS["energy"].at(1.0, one)
    with pytest.raises(ValueError, match="labels"):
        DENOISERS["preconditioned"](x, 1.0, one)
