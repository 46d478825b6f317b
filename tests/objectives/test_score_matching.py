"""Score matching: the true score is the minimiser, slices average to the exact trace."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from energyscape.densities import GaussianMixture
from energyscape.models import (
    Energy,
    EnergyDenoiser,
    ExponentialFamily,
    FunctionDenoiser,
    FunctionEnergy,
    MixtureOfGaussians,
    NetworkEnergy,
    ScoreField,
)
from energyscape.nn import MLP
from energyscape.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    ExactScoreMatching,
    FiniteDifferenceScoreMatching,
    SlicedScoreMatching,
    model_score,
)
from energyscape.schedules import Geometric

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_energy(dim: int = 4) -> Energy:
    torch.manual_seed(0)
    return NetworkEnergy(MLP((dim,), width=12, depth=2, scalar=True)).double()


def small_field(dim: int = 4) -> ScoreField:
    torch.manual_seed(0)
    return ScoreField(MLP((dim,), width=12, depth=2)).double()


def jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """ds/dx of each row by torch.autograd.functional, which shares no code with the losses."""
    one = torch.autograd.functional
    if isinstance(model, Energy):
        return -torch.stack([one.hessian(lambda z: model(z[None])[0], row) for row in x])
    return torch.stack([one.jacobian(lambda z: model(z[None])[0], row) for row in x])


MODELS = [pytest.param(small_energy, id="energy"), pytest.param(small_field, id="field")]


@pytest.mark.parametrize("make", MODELS)
def test_exact_loss_is_half_square_plus_trace(make) -> None:  # type: ignore[no-untyped-def]
    model, x = make(), torch.randn(5, 4, generator=generator(), dtype=F64)
    score = model_score(model, x).detach()
    expected = 0.5 * score.square().sum(1) + jacobians(model, x).diagonal(dim1=1, dim2=2).sum(1)
    out = ExactScoreMatching()(model, x, None, generator())
    torch.testing.assert_close(out.loss.detach(), expected)


def test_exact_trace_in_chunks_equals_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_energy(7), torch.randn(3, 7, generator=generator(), dtype=F64)
    whole = ExactScoreMatching()(model, x, None, generator()).loss
    monkeypatch.setattr("energyscape.objectives.score_matching._CHUNK_ELEMENTS", 2 * x.numel())
    torch.testing.assert_close(ExactScoreMatching()(model, x, None, generator()).loss, whole)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_sliced_averages_to_exact_with_the_predicted_variance(make, law) -> None:  # type: ignore[no-untyped-def]
    """4,000 probes. With the rest fixed the variance is Hutchinson's; tolerances are 5 standard
    errors of the mean (failure 6e-7 a case) and 15 % of the variance (over 4 of its errors)."""
    n, dim = 4000, 4
    model, x = make(), torch.randn(1, dim, generator=generator(1), dtype=F64)
    jac = jacobians(model, x)[0]
    a = 0.5 * (jac + jac.T)
    off = a.square().sum() - a.diagonal().square().sum()
    predicted = {
        "gaussian": 2 * a.square().sum(),
        "rademacher": 2 * off,
        "sphere": 2 * dim / (dim + 2) * (a.square().sum() - a.trace().square() / dim),
    }[law]
    rows = x.expand(n, dim)
    exact = ExactScoreMatching()(model, x, None, generator()).loss.item()
    loss = SlicedScoreMatching(law=law)(model, rows, None, generator(2)).loss.detach()
    assert abs(loss.mean().item() - exact) < 5 * math.sqrt(predicted.item() / n)
    assert loss.var().item() == pytest.approx(predicted.item(), rel=0.15)
    plain = SlicedScoreMatching(law=law, variance_reduced=False)
    loss = plain(model, rows, None, generator(3)).loss.detach()
    assert abs(loss.mean().item() - exact) < 5 * loss.std().item() / math.sqrt(n)


@pytest.mark.parametrize("make", MODELS)
def test_probes_in_one_pass_equal_probes_one_by_one(make) -> None:  # type: ignore[no-untyped-def]
    """The batched products of P probes are the mean of P losses with one probe each."""
    model, x = make(), torch.randn(3, 4, generator=generator(), dtype=F64)
    together = SlicedScoreMatching(probes=5, law="gaussian")(model, x, None, generator(7)).loss
    v = torch.randn(5, 3, 4, generator=generator(7), dtype=F64)
    jac, score = jacobians(model, x), model_score(model, x).detach()
    each = torch.einsum("pbi,bij,pbj->pb", v, jac, v)
    torch.testing.assert_close(together.detach(), 0.5 * score.square().sum(1) + each.mean(0))


@pytest.mark.parametrize("make", MODELS)
def test_finite_differences_converge_at_second_order(make) -> None:  # type: ignore[no-untyped-def]
    """With one set of probes, halving the step divides the distance to the sliced loss by 4."""
    model, x = make(), torch.randn(6, 4, generator=generator(), dtype=F64)
    reduced = isinstance(model, ScoreField)
    target = SlicedScoreMatching(variance_reduced=reduced)(model, x, None, generator(5)).loss
    errors = [
        (FiniteDifferenceScoreMatching(step=h)(model, x, None, generator(5)).loss - target)
        .detach()
        .norm()
        .item()
        for h in (0.2, 0.1, 0.05)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def expected_difference(model: nn.Module, x: Tensor, h: float) -> Tensor:
    """The finite-difference loss at one row in the mean over all signs of a probe, written out."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=x.shape[1])), dtype=F64)
    move = h / math.sqrt(x.shape[1])
    if not isinstance(model, Energy):
        ahead, behind = model_score(model, x + move * signs), model_score(model, x - move * signs)
        along = ((ahead - behind) * signs).sum(1) / (2 * move)
        return (0.5 * (0.5 * (ahead + behind)).square().sum(1) + along).mean().detach()
    ahead, behind, here = model(x + move * signs), model(x - move * signs), model(x)
    along = (behind - ahead) / (2 * move)
    return (0.5 * along.square() + (2 * here - ahead - behind) / move**2).mean().detach()


@pytest.mark.parametrize("make", MODELS)
def test_finite_differences_average_to_their_expectation(make) -> None:  # type: ignore[no-untyped-def]
    """Over 20,000 rows of 2 probes the mean is that over all 16 signs, within 5 standard errors
    (failure 6e-7 each), which the exact loss is not; that is its limit, at second order in the step."""
    model, x = make(), torch.randn(1, 4, generator=generator(1), dtype=F64)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    exact = ExactScoreMatching()(model, x, None, generator()).loss.detach()
    step = 1.5
    objective = FiniteDifferenceScoreMatching(step=step, probes=2)
    loss = objective(model, x.expand(20_000, 4), None, generator(2)).loss.detach()
    error = 5 * float(loss.std()) / math.sqrt(len(loss))
    assert abs(float(loss.mean() - expected_difference(model, x, step))) < error
    assert abs(float(loss.mean() - exact)) > error
    away = [float((expected_difference(model, x, h) - exact).abs()) for h in (0.1, 0.05, 0.025)]
    assert away[0] / away[1] == pytest.approx(4, rel=0.1)
    assert away[1] / away[2] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("step", [0.05, 1.0])
def test_finite_differences_of_a_quadratic_have_the_exact_mean(law: Any, step: float) -> None:
    """At any step, of any probes: 40,000 rows, 5 standard errors (failure 6e-7 each)."""
    factor = torch.randn(4, 4, generator=generator(3), dtype=F64)
    energy = FunctionEnergy(lambda x: 0.5 * (x @ factor).square().sum(1) + x.sum(1))
    x = torch.randn(1, 4, generator=generator(1), dtype=F64)
    exact = ExactScoreMatching()(energy, x, None, generator()).loss.detach()
    objective = FiniteDifferenceScoreMatching(step=step, law=law)
    loss = objective(energy, x.expand(40_000, 4), None, generator(4)).loss.detach()
    assert abs(float(loss.mean() - exact)) < 5 * float(loss.std()) / math.sqrt(len(loss))
    assert 0 < float(loss.std()) < 10 * float(exact.abs())


NORMAL_LOSSES = {
    "exact": ExactScoreMatching(),
    "sliced": SlicedScoreMatching(variance_reduced=False),
    "sliced-vr": SlicedScoreMatching(probes=3, law="sphere"),
    "finite-difference": FiniteDifferenceScoreMatching(step=0.05),
    "denoising": DenoisingScoreMatching(0.5),
}


@pytest.mark.parametrize("name", NORMAL_LOSSES)
def test_the_optimum_over_normal_energies_is_the_truth(name: str) -> None:
    """E = -theta . (x, x^2): the loss is quadratic in theta, so one Newton step is the optimum.

    40,000 rows of N(1, 0.8^2): the mean and variance found are within 0.03 of the truth, over 4
    standard errors for the noisiest of these estimators (failure below 1e-4 in total). The
    denoising loss finds the blurred variance.
    """
    mean, std, n = 1.0, 0.8, 40_000
    x = mean + std * torch.randn(n, 1, generator=generator(11), dtype=F64)
    energy = ExponentialFamily.normal(0.0, 1.0).double()

    def gradient() -> Tensor:
        loss = NORMAL_LOSSES[name](energy, x, None, generator(12)).loss.mean()
        return torch.autograd.grad(loss, energy.theta)[0]

    base = energy.theta.detach().clone()
    g0, columns = gradient(), []
    for i in range(2):
        with torch.no_grad():
            energy.theta.copy_(base)
            energy.theta[i] += 1.0
        columns.append(gradient() - g0)
    theta = base - torch.linalg.solve(torch.stack(columns, 1), g0)
    variance = -0.5 / theta[1].item()
    blur = 0.25 if name == "denoising" else 0.0
    assert variance == pytest.approx(std**2 + blur, abs=0.03)
    assert theta[0].item() * variance == pytest.approx(mean, abs=0.03)


class _Bent(Energy):
    """The energy of a mixture at any level, bent by theta . T(x)."""

    def __init__(self, mixture: GaussianMixture, theta: Tensor) -> None:
        super().__init__()
        self.truth, self.theta = MixtureOfGaussians(mixture), theta

    def _bend(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sin(), (x[:, 0] * x[:, 1]).tanh(), x[:, 1].square()], 1)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        return self.truth(x, sigma) + self._bend(x) @ self.theta


LEVELS = Geometric(0.3, 1.5)
MIXTURE_LOSSES = {
    "exact": ExactScoreMatching(),
    "exact, levels": ExactScoreMatching(levels=LEVELS),
    "sliced": SlicedScoreMatching(variance_reduced=False),
    "sliced-vr": SlicedScoreMatching(probes=2, law="sphere"),
    "sliced-vr, levels": SlicedScoreMatching(levels=LEVELS),
    "finite-difference": FiniteDifferenceScoreMatching(step=0.01),
    "finite-difference, levels": FiniteDifferenceScoreMatching(step=0.01, levels=LEVELS),
    "denoising": DenoisingScoreMatching(0.5, conditional=True),
    "denoising, opposite noise": DenoisingScoreMatching(0.5, conditional=True, antithetic=True),
    "denoising, levels": DenoisingLoss(LEVELS),
}


@pytest.mark.parametrize("face", ["energy", "field"])
@pytest.mark.parametrize("name", MIXTURE_LOSSES)
def test_the_true_score_of_a_mixture_is_the_minimiser(name: str, face: str) -> None:
    """Bend the true energy by theta . T(x): every loss is quadratic in theta with its minimum at 0.

    Central differences are then exact row by row. Of 20,000 rows each slope at theta = 0 is within
    4.5 of its standard errors of 0 (failure 7e-6 each, 4e-4 in all), and the curvature is positive.
    """
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.2]], dtype=F64)
    p = GaussianMixture(
        [0.2, 0.5, 0.3],
        means,
        torch.diag_embed(torch.tensor([[0.5, 0.3], [0.8, 0.8], [0.4, 0.6]]).square()),
    )
    x, zero = p.sample(20_000, generator(1)), torch.zeros(3, dtype=F64)

    def losses(theta: Tensor) -> Tensor:
        energy = _Bent(p, theta)
        model: nn.Module = EnergyDenoiser(energy)
        if not isinstance(MIXTURE_LOSSES[name], DenoisingLoss):
            field = ScoreField(nn.Identity())
            field.forward = field.score = lambda x, s=None: energy.score(x, s, create_graph=True)  # type: ignore[method-assign]
            model = energy if face == "energy" else field
        return MIXTURE_LOSSES[name](model, x, None, generator(12)).loss.detach()

    least = losses(zero)
    for i in range(3):
        move = 0.5 * torch.eye(3, dtype=F64)[i]
        ahead, behind = losses(move), losses(-move)
        slope = ahead - behind
        assert abs(float(slope.mean())) < 4.5 * float(slope.std()) / math.sqrt(len(x))
        assert float((ahead + behind - 2 * least).mean()) > 0


def test_in_bfloat16_losses_stay_near_and_finite_differences_leave_it() -> None:
    """Under autocast gradients keep their direction; second differences are taken in float32."""
    x = torch.randn(64, 4, generator=generator())
    for objective in (
        SlicedScoreMatching(), ExactScoreMatching(), DenoisingScoreMatching(0.2),
        FiniteDifferenceScoreMatching(),
    ):  # fmt: skip
        model, found = small_energy().float(), []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = objective(model, x, None, generator(3)).loss.mean()
            assert loss.dtype == torch.float32
            parameters = [p for n, p in model.named_parameters() if n != "network.layers.4.bias"]
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        alike = torch.cosine_similarity(*found, dim=0).item()
        assert alike > (0.999999 if isinstance(objective, FiniteDifferenceScoreMatching) else 0.99)


def test_denoising_minus_fisher_is_the_same_for_every_model() -> None:
    """DSM(theta) = Fisher(theta; p_sigma) + C. Both by the same 200,000 points; the part of DSM that
    depends on theta has a standard error below 0.01, so gaps differ by less than 0.05 (5 errors)."""
    p, sigma, n = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.5]]), 0.5), 0.6, 200_000
    x = p.sample(n, generator(1))
    eps = torch.randn(n, 1, generator=generator(2), dtype=F64)
    noisy = x + sigma * eps
    truth, gaps = p.score(noisy, sigma), []
    for a in (0.0, 0.5, 1.0, 2.0):
        energy = FunctionEnergy(lambda z, a=a: 0.5 * a * z.square().sum(1) + (a * z).sin().sum(1))
        dsm = DenoisingScoreMatching(sigma)(energy, x, None, generator(2)).loss.mean()
        score = model_score(energy, noisy).detach()
        gaps.append((dsm.detach() - 0.5 * (score - truth).square().sum(1).mean()).item())
    assert max(gaps) - min(gaps) < 0.05


def test_opposite_noise_has_the_mean_of_the_two_and_less_variance() -> None:
    """The loss of a pair is the mean of both, and the spread of its part in the model falls: at a
    level of a hundredth of the data's by more than a hundred in variance."""
    energy, sigma, n = small_energy(), 0.01, 4000
    x = torch.randn(1, 4, generator=generator(1), dtype=F64).expand(n, 4)
    eps = torch.randn(n, 4, generator=generator(2), dtype=F64)

    def loss(signed: Tensor) -> Tensor:
        residual = model_score(energy, x + sigma * signed).detach() + signed / sigma
        return 0.5 * residual.square().sum(1)

    pair = DenoisingScoreMatching(sigma, antithetic=True)(energy, x, None, generator(2)).loss
    torch.testing.assert_close(pair.detach(), 0.5 * (loss(eps) + loss(-eps)))
    free = 0.5 * (eps / sigma).square().sum(1)
    assert (loss(eps) - free).var() > 100 * (pair.detach() - free).var()


def test_score_matching_gap_is_the_same_for_every_model() -> None:
    """Exact SM = Fisher - 1/2 E||grad log p||^2: integration by parts, on 200,000 points."""
    p, n = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.5]]), 0.7), 200_000
    x = p.sample(n, generator(3))
    truth, gaps = p.score(x), []
    for a in (0.0, 0.5, 1.0):
        energy = FunctionEnergy(lambda z, a=a: 0.5 * a * z.square().sum(1) + (a * z).sin().sum(1))
        loss = ExactScoreMatching()(energy, x, None, generator()).loss.detach().mean()
        score = model_score(energy, x).detach()
        gaps.append((loss - 0.5 * (score - truth).square().sum(1).mean()).item())
    assert gaps[0] == pytest.approx(-0.5 * truth.square().sum(1).mean().item(), abs=1e-12)
    assert max(gaps) - min(gaps) < 0.05


def test_energy_and_its_gradient_field_give_the_same_losses() -> None:
    energy = small_energy()
    x = torch.randn(4, 4, generator=generator(), dtype=F64)

    class Gradient(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return energy.score(z, create_graph=True)

    for objective in (ExactScoreMatching(), SlicedScoreMatching(2), DenoisingScoreMatching(0.3)):
        a = objective(energy, x, None, generator(1)).loss
        b = objective(Gradient(), x, None, generator(1)).loss
        torch.testing.assert_close(a, b)


def test_noise_conditional_losses_use_the_level() -> None:
    """On N(0, I) the exact score at each level is -x/(1 + s^2): the loss is known row by row."""
    denoiser = FunctionDenoiser(lambda x, s: x / (1 + torch.as_tensor(s).reshape(-1, 1) ** 2))
    x = torch.randn(2000, 3, generator=generator(), dtype=F64)
    out = ExactScoreMatching(levels=Geometric(0.5, 0.5001))(denoiser, x, None, generator(1))
    variance = 1.25
    # E[s^2 (||x_s||^2/(2 v^2) - D/v)] = -s^2 D/(2v); 5 standard errors of 2,000 rows is 0.05.
    assert out.loss.mean().item() == pytest.approx(-0.25 * 3 / (2 * variance), abs=0.05)
    with pytest.raises(ValueError, match="noise level"):
        ExactScoreMatching()(denoiser, x, None, generator())


def test_pictures_and_a_score_without_jacobian() -> None:
    field = ScoreField(MLP((1, 3, 2), width=8)).double()
    x = torch.randn(4, 1, 3, 2, generator=generator(), dtype=F64)
    flat = ScoreField(nn.Sequential(nn.Unflatten(1, (1, 3, 2)), field, nn.Flatten()))
    a = ExactScoreMatching()(field, x, None, generator()).loss
    torch.testing.assert_close(a, ExactScoreMatching()(flat, x.flatten(1), None, generator()).loss)
    weight = torch.ones(3, dtype=F64, requires_grad=True)
    linear = FunctionEnergy(lambda z: z @ weight)
    loss = SlicedScoreMatching(probes=2)(linear, torch.zeros(2, 3, dtype=F64), None, generator())
    assert loss.loss.tolist() == [1.5, 1.5]
    loss.loss.sum().backward()


def test_bad_settings_and_models_are_named() -> None:
    with pytest.raises(ValueError, match=r"E\[vv'\] = I.*'unit'"):
        SlicedScoreMatching(law="unit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 probe"):
        SlicedScoreMatching(probes=0)
    with pytest.raises(ValueError, match="positive"):
        FiniteDifferenceScoreMatching(step=0.0)
    with pytest.raises(ValueError, match="positive noise level"):
        DenoisingScoreMatching(0.0)
    kinked = NetworkEnergy(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)))
    with pytest.raises(ValueError, match="ReLU"):
        SlicedScoreMatching().init(kinked, torch.zeros(1, 2), generator())
    relu_field = ScoreField(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert SlicedScoreMatching().init(relu_field, torch.zeros(1, 2), generator()) is None
    with pytest.raises(ValueError, match="NetworkEnergy"):
        model_score(nn.Linear(2, 1), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="takes none"):
        SlicedScoreMatching()(
            small_field(2), torch.zeros(1, 2, dtype=F64), None, generator(), label=torch.zeros(1)
        )
