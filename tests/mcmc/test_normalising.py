"""log Z against closed forms: bounds on both sides, and refusals of what has none.

The bounds are moved outwards by three standard errors each: a miss has a chance of about 0.3 %.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.mcmc import (
    HMC,
    GaussianBase,
    GeometricPath,
    MixtureBase,
    Tempered,
    ais,
    normalising,
)
from energyscape.mcmc.normalising import _bennett, _require_normalised
from energyscape.targets import FunctionTarget, ScoreTarget


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Shifted:
    def __init__(self, mixture: GaussianMixture, log_z: float) -> None:
        self.mixture, self.log_z = mixture, log_z

    def value(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x) + self.log_z

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, score = self.mixture.value_and_score(x)
        return value + self.log_z, score


def triangle(dim: int) -> GaussianMixture:
    means = torch.zeros(3, dim, dtype=torch.float64)
    means[1, 0] = 4.0
    means[2, 0], means[2, 1] = 2.0, 12.0**0.5
    return GaussianMixture.isotropic(means, 1.0)


@pytest.mark.parametrize("dim", [2, 8])
def test_bounds_bracket_a_mixture_whose_constant_is_known(dim: int) -> None:
    rng, p = generator(1), triangle(dim)
    base = GaussianBase.fit(p.sample(4000, rng))
    found = ais(Shifted(p, 7.5), base, rng=rng, samples=p.sample(800, rng), num_chains=800)
    assert found.upper is not None
    assert found.gap is not None
    assert found.lower <= 7.5 <= found.upper
    assert found.gap < 0.15
    assert abs(found.estimate - 7.5) < 4 * found.stderr
    assert found.trustworthy


@pytest.mark.parametrize("resample_below", [0.0, 0.5])
def test_a_gaussian_with_hmc_and_resampling(resample_below: float) -> None:
    variance = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    target = FunctionTarget(lambda x: -0.5 * (x.square() / variance).sum(1))
    truth = 0.5 * float((2 * math.pi * variance).log().sum())
    base = GaussianBase(torch.zeros(3, dtype=torch.float64), 4 * torch.eye(3).double())
    found = ais(
        target,
        base,
        rng=generator(),
        kernel=HMC(0.3, 3),
        num_chains=640,
        steps_per_level=2,
        resample_below=resample_below,
    )
    assert abs(found.estimate - truth) < 0.15
    assert found.upper is None
    assert found.lower < found.estimate


def test_a_base_that_is_the_target_gives_the_constant_exactly() -> None:
    mean, covariance = torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    base = GaussianBase(mean, covariance.double())

    class Plus:
        def value(self, x: Tensor) -> Tensor:
            return base.value(x) + 3.0

        def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
            value, score = base.value_and_score(x)
            return value + 3.0, score

    found = ais(Plus(), base, rng=generator(), samples=base.sample(50, generator(1)), num_chains=50)
    assert found.lower == pytest.approx(3.0)
    assert found.upper == pytest.approx(3.0)
    assert found.betas == (0.0, 1.0)


def test_jensen_puts_few_chains_below() -> None:
    """E[log Zhat] <= log Z: the mean over many small runs lies below, that of reverse ones above."""
    torch_rng = generator(3)
    log_w = torch.randn(400, 5, generator=torch_rng, dtype=torch.float64) - 0.5  # mean weight is 1
    forward = (torch.logsumexp(log_w, 1) - math.log(5)).mean()
    assert float(forward) < -0.05


def test_bennett_joins_both_directions() -> None:
    """Forward log-weights N(c - s^2/2, s^2) and reverse N(c + s^2/2, s^2) belong to log Z = c."""
    rng, s = generator(), 1.0
    forward = 2.0 - s**2 / 2 + s * torch.randn(20_000, generator=rng, dtype=torch.float64)
    reverse = 2.0 + s**2 / 2 + s * torch.randn(10_000, generator=rng, dtype=torch.float64)
    estimate, stderr = _bennett(forward, reverse)
    assert stderr < 0.02
    assert abs(estimate - 2.0) < 4 * stderr


def test_gaussian_base_is_normalised_and_samples_itself() -> None:
    x = 2 * torch.randn(4000, 1, 2, generator=generator(), dtype=torch.float64) + 1
    base = GaussianBase.fit(x)
    axis = torch.linspace(-14, 16, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 2)
    assert float(base.value(grid).exp().sum() * 0.01) == pytest.approx(1.0, abs=1e-6)
    value, score = FunctionTarget(base.value).value_and_score(x[:5])
    assert torch.allclose(base.value_and_score(x[:5])[1], score)
    assert torch.allclose(base.value_and_score(x[:5])[0], value)
    drawn = base.sample(4000, generator(1))
    assert drawn.shape == x.shape
    assert torch.allclose(drawn.mean(0), x.mean(0), atol=0.2)
    with pytest.raises(ValueError, match="improper"):
        GaussianBase(torch.zeros(2), torch.zeros(2, 2))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="mean of the base is not finite"):
            GaussianBase(torch.tensor([0.0, bad]), torch.eye(2))
        with pytest.raises(ValueError, match="covariance of the base is not finite"):
            GaussianBase(torch.zeros(2), torch.diag(torch.tensor([1.0, bad])))
        with pytest.raises(ValueError, match="leave out rows"):
            GaussianBase.fit(torch.tensor([[1.0, 2.0], [0.0, bad], [3.0, 1.0]]))


class Student:
    """Independent draws of Student's t in several dimensions, the tails as heavy as wanted."""

    def __init__(self, freedom: float, dim: int, dtype: torch.dtype) -> None:
        self.freedom, self.dim, self.dtype = freedom, dim, dtype

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        shape = torch.full((n, 1), self.freedom / 2, dtype=torch.float64)
        rate = torch._standard_gamma(shape, generator=rng) / (self.freedom / 2)
        eps = torch.randn(n, self.dim, generator=rng, dtype=torch.float64)
        return (eps / rate.sqrt()).to(self.dtype)

    def value(self, x: Tensor) -> Tensor:
        nu, dim = self.freedom, self.dim
        norm = math.lgamma((nu + dim) / 2) - math.lgamma(nu / 2) - dim / 2 * math.log(nu * math.pi)
        return norm - 0.5 * (nu + dim) * (x.square().sum(1) / nu).log1p()

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return FunctionTarget(self.value).value_and_score(x)


class Offset:
    """A base whose log-density is off by some nats, or is a constant."""

    def __init__(self, base: GaussianBase, nats: float, factor: float = 1.0) -> None:
        self.base, self.nats, self.factor = base, nats, factor

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        return self.base.sample(n, rng)

    def value(self, x: Tensor) -> Tensor:
        return self.factor * self.base.value(x) + self.nats

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, score = self.base.value_and_score(x)
        return self.factor * value + self.nats, self.factor * score


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 8, 64])
def test_a_base_must_be_the_normalised_density_of_its_draws(dim: int, dtype: torch.dtype) -> None:
    eye, mix = (
        torch.eye(dim, dtype=dtype),
        torch.randn(dim, dim, generator=generator(), dtype=dtype),
    )
    zero, far = torch.zeros(dim, dtype=dtype), torch.full((dim,), 9.0, dtype=dtype)
    plain = GaussianBase(far, mix @ mix.T / dim + 0.01 * eye)
    proper = [
        plain,
        MixtureBase([GaussianBase(zero, eye), GaussianBase(zero, 16 * eye)], [0.8, 0.2]),
        MixtureBase([GaussianBase(zero, 0.01 * eye), GaussianBase(far, 0.2 * eye)], [0.5, 0.5]),
        Student(1.0, dim, dtype),
        Student(4.0, dim, dtype),
    ]
    for base in proper:
        _require_normalised(base, base.sample(2, generator()))
    for nats, factor in ((0.0, 0.0), (0.3, 1.0), (-0.3, 1.0), (5.0, 1.0), (-5.0, 1.0)):
        bad = Offset(plain, nats, factor)
        with pytest.raises(ValueError, match=r"no normalised density .* exp\(-?\d+\.\d\d\)"):
            _require_normalised(bad, zero[None])
    far_off = Offset(proper[1], -200.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"exp\(-\d+\.\d\d\)"):
        _require_normalised(far_off, zero[None])


class Bounded:
    """Independent uniform or exponential numbers: no density outside the support."""

    def __init__(self, dim: int, waits: bool, nats: float = 0.0) -> None:
        self.dim, self.waits, self.nats = dim, waits, nats

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, self.dim, generator=rng, dtype=torch.float64)
        return -(-u).log1p() if self.waits else u

    def value(self, x: Tensor) -> Tensor:
        inside = (x >= 0).all(1) & (True if self.waits else (x <= 1).all(1))
        log_prob = -x.sum(1) if self.waits else torch.zeros(len(x), dtype=x.dtype)
        return torch.where(inside, log_prob, -math.inf) + self.nats

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(x), torch.full_like(x, -1.0 if self.waits else 0.0)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 8, 64])
def test_a_base_may_have_no_density_in_places(dim: int, waits: bool) -> None:
    """Draws of the fitted Gaussian outside the support are worth nothing, not left out."""
    base = Bounded(dim, waits)
    _require_normalised(base, base.sample(100, generator()))
    if dim <= 8:
        with pytest.raises(ValueError, match=r"exp\(0\.\d\d\)"):
            _require_normalised(Bounded(dim, waits, 0.5), base.sample(100, generator()))


def test_the_check_of_a_base_knows_its_failures_and_changes_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = GaussianBase(torch.zeros(2).double(), torch.eye(2).double())
    with pytest.raises(ValueError, match="Offset is no normalised density"):
        ais(base, Offset(base, 0.0, 0.0), rng=generator())
    broken = Offset(base, 0.0)
    broken.sample = lambda n, rng: torch.full((n, 2), math.nan)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="draws numbers that are not finite"):
        _require_normalised(broken, torch.zeros(1, 2))
    pictures = GaussianBase(torch.zeros(1, 18, 18), torch.eye(324))
    _require_normalised(pictures, pictures.sample(1, generator()))
    with pytest.raises(ValueError, match=r"exp\(0\.5"):
        _require_normalised(Offset(pictures, 0.5), pictures.sample(1, generator()))
    runs = [ais(triangle(2).at(0.0), base, rng=generator(), num_chains=20, pilot_chains=20)]
    monkeypatch.setattr(normalising, "_require_normalised", lambda base, like: None)
    runs.append(ais(triangle(2).at(0.0), base, rng=generator(), num_chains=20, pilot_chains=20))
    assert runs[0].estimate == runs[1].estimate


def test_paths_and_temperatures_scale_value_and_score_alike() -> None:
    p, x = triangle(2), torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    base = GaussianBase(torch.zeros(2, dtype=torch.float64), 9 * torch.eye(2).double())
    for target in (Tempered(p.at(0.0), 0.3), GeometricPath(base, p.at(0.0), 0.7)):
        value, score = target.value_and_score(x)
        expected = FunctionTarget(target.value).value_and_score(x)  # type: ignore[arg-type]
        assert value is not None
        assert torch.allclose(value, expected[0])
        assert torch.allclose(score, expected[1])


def test_what_has_no_constant_is_refused() -> None:
    base = GaussianBase(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="improper"):
        ais(base, FunctionTarget(lambda x: x.sum(1)), rng=generator())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="knows only its score"):
        ais(ScoreTarget(lambda x: -x), base, rng=generator())
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        ais(base, base, rng=generator(), betas=[0.5, 1.0])
    hole = FunctionTarget(lambda x: x.square().sum(1) ** 2)
    with pytest.raises(ValueError, match="unbounded below"):
        ais(hole, base, rng=generator(), pilot_chains=16, max_rungs=10)
