"""The denoising loss: one loss, several methods, the posterior mean as its minimiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.models import (
    Denoiser,
    EDMPreconditioning,
    EnergyDenoiser,
    EpsPreconditioning,
    FunctionDenoiser,
    MixtureOfGaussians,
    PreconditionedDenoiser,
    ScorePreconditioning,
    per_row,
)
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    edm_weight,
    level_losses,
    min_snr_weight,
    natural_weight,
    simple_weight,
    unit_weight,
)
from energyscape.schedules import EDM, Geometric, Ladder, LinearBeta

F64 = torch.float64
MIXTURE = GaussianMixture.isotropic(torch.tensor([[-2.0, 0.0], [1.0, 1.0]]), 0.5, [0.3, 0.7])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WEIGHTS = {
    "simple": simple_weight,
    "unit": unit_weight,
    "edm": edm_weight(1.7),
    "min-snr": min_snr_weight(5.0, 1.7),
}
LAWS = [Geometric(0.05, 5.0), EDM.for_data(1.7), LinearBeta(), Ladder([3.0, 1.0, 0.3])]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_any_change_of_the_true_denoiser_costs(weight: str, law: object) -> None:
    """D* + c g(x): the loss is quadratic in c with its minimum at 0 under every weight and law.

    The slope at 0 is measured on 20,000 rows with its own standard error; the bound is 5 of them,
    over 16 cases a false failure of 1e-5.
    """

    class Bent(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.c = torch.zeros((), dtype=F64, requires_grad=True)

        def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            return MIXTURE.denoise(x, sigma) + self.c * torch.sin(x) * per_row(sigma, x)

    model, x = Bent(), MIXTURE.sample(20_000, generator(1))
    objective = DenoisingLoss(law, WEIGHTS[weight])  # type: ignore[arg-type]
    h, losses = 1e-4, []
    for c in (h, -h):
        with torch.no_grad():
            model.c.fill_(c)
        losses.append(objective(model, x, None, generator(2)).loss.detach())
    slopes = (losses[0] - losses[1]) / (2 * h)
    assert abs(slopes.mean().item()) < 5 * slopes.std().item() / math.sqrt(len(x))
    with torch.no_grad():
        model.c.fill_(0.3)
    bent = objective(model, x, None, generator(2)).loss.mean()
    with torch.no_grad():
        model.c.zero_()
    assert bent > objective(model, x, None, generator(2)).loss.mean()


def test_the_loss_is_the_published_one_in_other_words() -> None:
    """At one level: simple = ||eps_hat - eps||^2/D and = 2 sigma^2 DSM/D, to rounding."""
    sigma, x = 0.7, MIXTURE.sample(50, generator(1))
    denoiser = FunctionDenoiser(MIXTURE.denoise)
    law = Ladder([sigma, 2 * sigma])
    rng = generator(3)
    level = law.sample(50, rng)
    eps = torch.randn(50, 2, generator=rng, dtype=F64)
    noisy = x + level[:, None] * eps
    eps_hat = (noisy - MIXTURE.denoise(noisy, level)) / level[:, None]
    out = DenoisingLoss(law, simple_weight)(denoiser, x, None, generator(3))
    torch.testing.assert_close(out.loss, (eps_hat - eps).square().mean(1))
    dsm = DenoisingScoreMatching(sigma, conditional=True)(denoiser, x, None, generator(4))
    eps = torch.randn(50, 2, generator=generator(4), dtype=F64)
    error = (MIXTURE.denoise(x + sigma * eps, sigma) - x).square().sum(1)
    torch.testing.assert_close(dsm.loss, 0.5 * error / sigma**4)


def test_an_energy_is_trained_through_its_denoiser() -> None:
    energy = MixtureOfGaussians(MIXTURE)
    x, objective = MIXTURE.sample(20, generator(1)), DenoisingLoss(Geometric(0.1, 2.0))
    a = objective(EnergyDenoiser(energy), x, None, generator(2)).loss
    b = objective(FunctionDenoiser(MIXTURE.denoise), x, None, generator(2)).loss
    torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match=r"EnergyDenoiser\(energy\)"):
        objective.init(energy, x, generator())
    with pytest.raises(ValueError, match="PreconditionedDenoiser"):
        objective.init(MLP((2,)), x, generator())


def test_natural_weights_are_those_of_the_methods() -> None:
    sigma = torch.logspace(-2, 2, 9, dtype=F64)
    torch.testing.assert_close(natural_weight(EpsPreconditioning())(sigma), simple_weight(sigma))
    torch.testing.assert_close(natural_weight(ScorePreconditioning())(sigma), simple_weight(sigma))
    torch.testing.assert_close(
        natural_weight(EDMPreconditioning(0.5))(sigma), edm_weight(0.5)(sigma)
    )


def test_label_dropout_removes_the_stated_share() -> None:
    """4,000 rows at 0.25: within 5 binomial deviations (failure 6e-7); the others are untouched."""
    seen: list[Tensor] = []

    class Listening(Denoiser):
        def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            assert label is not None
            seen.append(label)
            return x

    label = torch.arange(4000) % 3
    objective = DenoisingLoss(Geometric(0.1, 1.0), label_dropout=0.25)
    objective(Listening(), torch.zeros(4000, 2), None, generator(), label=label)
    dropped = seen[0] == -1
    assert abs(int(dropped.sum()) - 1000) < 5 * math.sqrt(750)
    assert torch.equal(seen[0][~dropped], label[~dropped])


def test_level_losses_match_the_closed_form() -> None:
    """For N(0, I) the posterior variance is s^2/(1 + s^2), so the simple loss is 1/(1 + s^2);
    20,000 rows in 2-D, 5 standard errors of a mean of chi-squares."""
    denoiser = FunctionDenoiser(lambda x, s: x / (1 + per_row(s, x).square()))
    x = torch.randn(20_000, 2, generator=generator(), dtype=F64)
    levels = torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    found = level_losses(denoiser, x, levels, generator(1))
    expected = 1 / (1 + levels.square())
    assert bool(((found - expected).abs() < 5 * expected / math.sqrt(len(x))).all())


def test_float32_rows_stay_float32_and_bad_settings_are_named() -> None:
    net = MLP((2,), width=8, noise=True)
    model = PreconditionedDenoiser(net, EDMPreconditioning(1.0))
    out = DenoisingLoss(EDM())(model, torch.zeros(4, 2), None, generator())
    assert out.loss.dtype == torch.float32
    with pytest.raises(ValueError, match="label_dropout"):
        DenoisingLoss(EDM(), label_dropout=1.5)
    with pytest.raises(ValueError, match="sigma_data"):
        edm_weight(0.0)
    with pytest.raises(ValueError, match="positive"):
        min_snr_weight(-1.0)
