"""Quadrature of log Z: closed forms in float64, honest errors, refusals by name."""

from __future__ import annotations

import math

import pytest
import torch

from energyscape.densities import GaussianMixture, eight_gaussians
from energyscape.mcmc import quadrature
from energyscape.targets import FunctionTarget, ScoreTarget


def rows(dim: int, n: int = 200) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_gaussian_has_its_log_z(dim):
    target = FunctionTarget(lambda x: 700.0 - 0.5 * x.square().sum(1))
    found = quadrature(target, rows(dim), 24.0)
    assert abs(found.estimate - 700.0 - 0.5 * dim * math.log(2 * math.pi)) < 1e-6
    assert found.lower <= found.estimate <= found.upper
    assert found.stderr < 1e-4
    assert found.border < 1e-30
    assert math.isclose(float(found.shares.sum()), 1.0, rel_tol=1e-12)


def test_the_poles_of_a_cauchy_density_cost_points_not_digits():
    """Not a polynomial, heavy tails: log of 2 atan(L) on a line."""
    target = FunctionTarget(lambda x: -(1 + x[:, 0].square()).log())
    found = quadrature(target, rows(1) * 0, 50.0, rtol=1e-8)
    assert abs(found.estimate - math.log(2 * math.atan(50.0))) < 1e-7
    assert found.border > 1e-6


@pytest.mark.parametrize("std", [0.2, 0.02])
def test_narrow_modes_are_refined_where_rows_lie(std):
    """25 modes, the narrow ones a thirtieth of a first cell wide; rows tell where to look."""
    cell = torch.arange(25)
    means = torch.stack([cell // 5 - 2, cell % 5 - 2], 1).double()
    p = GaussianMixture([1 / 25] * 25, means, std**2 * torch.eye(2).double().repeat(25, 1, 1))
    some = p.sample(1000, torch.Generator().manual_seed(0))
    found = quadrature(p.at(0.0), some, 36.0)
    assert abs(found.estimate) < 3e-4
    finer = quadrature(p.at(0.0), some, 36.0, rtol=1e-7)
    assert abs(finer.estimate) < 1e-4
    assert finer.points > found.points


def test_a_jump_is_told_in_the_error():
    """A disc of constant density: the error that is told is no less than the error made."""
    target = FunctionTarget(lambda x: torch.where(x.square().sum(1) < 1, 0.0, -math.inf).double())
    rough = quadrature(target, rows(2), 24.0, rtol=1e-3)
    assert abs(math.expm1(rough.estimate - math.log(math.pi))) < rough.stderr
    few = quadrature(target, rows(2), 24.0, rtol=1e-6, max_points=300_000)
    assert few.points <= 300_000
    assert few.stderr > 1e-6
    assert abs(math.expm1(few.estimate - math.log(math.pi))) < few.stderr


def test_mass_in_the_cells_beside_those_that_hold_it_is_not_lost():
    """A narrow ridge along one axis, rows in its middle only: the error made is within that stated."""
    target = FunctionTarget(lambda x: -0.5 * ((x[:, 0] / 4) ** 2 + (x[:, 1] / 0.02) ** 2))
    found = quadrature(target, 0.01 * rows(2), 24.0)
    truth = math.log(2 * math.pi * 4 * 0.02)
    assert abs(found.estimate - truth) < max(found.stderr, 1e-5)


def test_single_precision_and_any_shape_of_row():
    p = eight_gaussians()
    some = p.sample(500, torch.Generator().manual_seed(0)).float().reshape(-1, 1, 2)
    target = FunctionTarget(lambda x: p.log_prob(x.flatten(1).double()).float())
    assert abs(quadrature(target, some, 30.0).estimate) < 1e-4


def test_refusals():
    target = FunctionTarget(lambda x: -x.square().sum(1))
    with pytest.raises(ValueError, match="one or two dimensions, got rows of 3"):
        quadrature(target, rows(3), 1.0)
    with pytest.raises(ValueError, match="half_width and rtol must be positive"):
        quadrature(target, rows(2), 0.0)
    with pytest.raises(ValueError, match="knows only its score"):
        quadrature(ScoreTarget(lambda x: -x), rows(2), 1.0)
    with pytest.raises(ValueError, match="not a number"):
        quadrature(FunctionTarget(lambda x: x.sum(1).sqrt()), rows(2), 1.0)
    with pytest.raises(ValueError, match="minus infinity everywhere"):
        quadrature(FunctionTarget(lambda x: x.sum(1) * 0 - math.inf), rows(2), 1.0)
    with pytest.raises(ValueError, match="infinite somewhere"):
        quadrature(FunctionTarget(lambda x: x.sum(1) * 0 + math.inf), rows(2), 1.0)
