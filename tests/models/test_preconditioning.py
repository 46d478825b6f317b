"""The contract of every preconditioning, which new ones join through the room's ``__all__``.

For each, the network's target solves ``x_0 = c_skip x + c_out F``; its published meaning is checked
against ``x_0`` and ``eps`` themselves.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from energyscape.models import (
    EDMPreconditioning,
    EpsPreconditioning,
    PreconditionedDenoiser,
    Preconditioning,
    ScorePreconditioning,
    VPreconditioning,
    X0Preconditioning,
    per_row,
    preconditioning,
)

F64 = torch.float64
LEVELS = torch.logspace(-3, 3, 25, dtype=F64)
SD = 1.7

BUILT: dict[str, list[Preconditioning]] = {
    "EDMPreconditioning": [EDMPreconditioning(SD), EDMPreconditioning(0.01)],
    "ScorePreconditioning": [ScorePreconditioning(), ScorePreconditioning(SD)],
}

# What each network is asked for, in the words of its paper, from (x_0, eps, sigma).
MEANING: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "EpsPreconditioning": lambda x0, eps, s: eps,
    "X0Preconditioning": lambda x0, eps, s: x0,
    "VPreconditioning": lambda x0, eps, s: (eps - s * x0) / (1 + s.square()).sqrt(),
    "ScorePreconditioning": lambda x0, eps, s: -eps,
}


def members() -> list[Preconditioning]:
    found: list[Preconditioning] = []
    for name in preconditioning.__all__:
        cls = getattr(preconditioning, name)
        if not (inspect.isclass(cls) and name.endswith("Preconditioning")):
            continue
        if cls is not Preconditioning:
            found += BUILT.get(name) or [cls()]
    return found


def label(p: Preconditioning) -> str:
    return f"{type(p).__name__}{vars(p) or ''}"


each = pytest.mark.parametrize("p", members(), ids=label)


def draw(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


@each
def test_coefficients_have_the_shape_and_type_of_sigma(p: Preconditioning) -> None:
    for sigma in (LEVELS, LEVELS[:, None], LEVELS.float(), torch.tensor(0.3)):
        for c in p.coefficients(sigma):
            assert c.shape == sigma.shape
            assert c.dtype == sigma.dtype
            assert bool(c.isfinite().all())
    # Conditioning is a strictly increasing function of the level: no two levels look the same.
    assert bool((p.coefficients(LEVELS).c_noise.diff() > 0).all())
    assert bool((p.coefficients(LEVELS).c_out != 0).all())


@each
def test_a_perfect_network_gives_the_clean_point_back(p: Preconditioning) -> None:
    """To rounding times the condition number (|c_skip x| + |c_out F|)/|x_0|, at every level."""
    x0, eps = SD * draw(len(LEVELS)), draw(len(LEVELS), 1)
    sigma = LEVELS[:, None]
    x, c = x0 + sigma * eps, p.coefficients(sigma)
    target = MEANING.get(type(p).__name__, lambda a, b, s: (a - c.c_skip * x) / c.c_out)(
        x0, eps, sigma
    )

    class Perfect(torch.nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
            torch.testing.assert_close(z, c.c_in * x)
            torch.testing.assert_close(c_noise, c.c_noise[:, 0])
            return target

    found = PreconditionedDenoiser(Perfect(), p)(x, LEVELS)
    terms = (c.c_skip * x).abs() + (c.c_out * target).abs()
    assert bool(((found - x0).abs() <= 8 * torch.finfo(F64).eps * (terms + x0.abs())).all())


def test_the_table() -> None:
    s, one = LEVELS, torch.ones_like(LEVELS)
    vp, edm = (1 + s.square()).rsqrt(), (SD**2 + s.square()).rsqrt()
    table = {
        EpsPreconditioning(): (one, -s, vp, s.log()),
        X0Preconditioning(): (0 * one, one, vp, s.log()),
        VPreconditioning(): (vp.square(), -s * vp, vp, s.log()),
        # The published c_out is sigma^2 with the network divided by sigma: sigma.
        ScorePreconditioning(): (one, s, one, s.log()),
        ScorePreconditioning(SD): (one, s, edm, s.log()),
        EDMPreconditioning(SD): (SD**2 * edm.square(), s * SD * edm, edm, s.log() / 4),
    }
    assert {type(p) for p in table} == {type(p) for p in members()}
    for p, expected in table.items():
        torch.testing.assert_close(tuple(p.coefficients(s)), expected)


def test_v_is_edm_at_unit_data_scale_with_the_sign_turned() -> None:
    v, edm = VPreconditioning().coefficients(LEVELS), EDMPreconditioning(1.0).coefficients(LEVELS)
    torch.testing.assert_close(v.c_skip, edm.c_skip)
    torch.testing.assert_close(v.c_out, -edm.c_out)
    torch.testing.assert_close(v.c_in, edm.c_in)


def test_edm_inputs_and_targets_have_unit_variance() -> None:
    """For independent x_0 ~ (0, sd^2) and eps: by the algebra of variances, no sampling. c_skip is the
    one that makes c_out smallest (2206.00364 appendix B.6)."""
    c = EDMPreconditioning(SD).coefficients(LEVELS)
    total = SD**2 + LEVELS.square()
    torch.testing.assert_close(c.c_in.square() * total, torch.ones_like(LEVELS))
    noise = c.c_skip * LEVELS / c.c_out
    signal = (1 - c.c_skip) * SD / c.c_out
    torch.testing.assert_close(noise.square() + signal.square(), torch.ones_like(LEVELS))
    for other in (c.c_skip - 1e-3, c.c_skip + 1e-3):
        c_out = ((other * LEVELS).square() + ((1 - other) * SD).square()).sqrt()
        assert bool((c_out > c.c_out).all())


def test_a_linear_network_is_the_best_denoiser_of_a_gaussian() -> None:
    """For N(0, sd^2 I) EDM's skip alone is E[x_0 | x]: the network's optimum is zero at every level."""

    class Nothing(torch.nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
            return torch.zeros_like(z)

    x = draw(len(LEVELS))
    denoiser = PreconditionedDenoiser(Nothing(), EDMPreconditioning(SD))
    shrink = SD**2 / (SD**2 + LEVELS.square())
    torch.testing.assert_close(denoiser(x, LEVELS), shrink[:, None] * x)


def test_per_row_broadcasts_and_refuses() -> None:
    x = torch.zeros(3, 2, 4)
    assert per_row(0.5, x).shape == (3, 1, 1)
    assert per_row(torch.tensor(0.5), x)[:, 0, 0].tolist() == [0.5] * 3
    assert per_row(torch.arange(3.0), x)[:, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert per_row(torch.ones(3, dtype=F64), x).dtype == x.dtype
    for bad in (torch.ones(2), torch.ones(3, 1), torch.ones(1)):
        with pytest.raises(ValueError, match=r"a number or one per row \(3\)"):
            per_row(bad, x)


def test_a_data_scale_is_positive() -> None:
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma_data must be positive"):
            EDMPreconditioning(bad)
