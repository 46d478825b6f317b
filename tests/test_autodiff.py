"""Gradients, divergences and probes: exact against Jacobians, random ones by their closed variances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from energyscape.autodiff import (
    ProbeLaw,
    divergence,
    draw_probes,
    unit_probes,
    value_and_grad,
    vjp,
)

F64 = torch.float64
LAWS: tuple[ProbeLaw, ...] = get_args(ProbeLaw)
each_law = pytest.mark.parametrize("law", LAWS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


W1, W2 = randn(3, 7, seed=1), randn(7, 3, seed=2)


def field(x: Tensor) -> Tensor:
    """A field that is no gradient: its Jacobian is not symmetric."""
    return torch.tanh(x @ W1) @ W2


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.jacobian(lambda r: f(r[None])[0], r) for r in x])


def test_value_and_grad_is_the_gradient_of_each_row() -> None:
    x = randn(5, 3)
    value, grad = value_and_grad(lambda z: (z**3).sum(1), x)
    torch.testing.assert_close(value, (x**3).sum(1))
    torch.testing.assert_close(grad, 3 * x**2)
    assert not value.requires_grad
    assert not grad.requires_grad
    assert not x.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(value_and_grad(lambda z: (z**3).sum(1), x)[1], grad)


def test_a_gradient_with_its_graph_is_differentiated_again() -> None:
    """In a parameter, and in x itself where x asks for it: the Hessian of a cubic."""
    a, x = torch.tensor(2.0, dtype=F64, requires_grad=True), randn(4, 3)
    _, grad = value_and_grad(lambda z: a * (z**3).sum(1), x, create_graph=True)
    (by_a,) = torch.autograd.grad(grad.square().sum(), a)
    torch.testing.assert_close(by_a, 2 * 2.0 * (3 * x**2).square().sum())
    x.requires_grad_()
    _, grad = value_and_grad(lambda z: (z**3).sum(1), x, create_graph=True)
    (hessian,) = torch.autograd.grad(grad.sum(), x)
    torch.testing.assert_close(hessian, 6 * x.detach())


@pytest.mark.parametrize("function", [lambda z: z.sum(), lambda z: z.sum(1, keepdim=True)])
def test_a_sum_over_the_batch_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"one value a row.*never over the batch"):
        value_and_grad(function, randn(4, 3))


def test_vjp_is_a_row_of_the_jacobian() -> None:
    x, v = randn(4, 3).requires_grad_(), randn(4, 3, seed=5)
    product = vjp(field(x), x, v)
    expected = torch.einsum("bi,bij->bj", v, jacobian(field, x.detach()))
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)])
def test_the_exact_divergence_is_the_trace_of_the_jacobian(shape: tuple[int, ...]) -> None:
    """Rows and pictures alike; and for a linear field the trace of its matrix."""
    d = math.prod(shape)
    a = randn(d, d, seed=3)

    def f(x: Tensor) -> Tensor:
        return (x.flatten(1).sin() @ a.T).reshape(x.shape)

    x = randn(4, *shape)
    value, div = divergence(f, x)
    torch.testing.assert_close(value, f(x))
    expected = (x.flatten(1).cos() * a.diagonal()).sum(1)
    torch.testing.assert_close(div, expected)
    assert not div.requires_grad
    linear = divergence(lambda z: (z.flatten(1) @ a.T).reshape(z.shape), x)[1]
    torch.testing.assert_close(linear, a.trace().expand(4))


def test_a_divergence_with_its_graph_trains_and_is_differentiated_in_x() -> None:
    scale = torch.tensor(0.7, dtype=F64, requires_grad=True)
    x = randn(4, 3).requires_grad_()
    _, div = divergence(lambda z: scale * z**3, x, create_graph=True)
    by_scale, by_x = torch.autograd.grad(div.sum(), (scale, x))
    torch.testing.assert_close(by_scale, (3 * x**2).sum().detach())
    torch.testing.assert_close(by_x, 0.7 * 6 * x.detach())


def test_divergence_does_not_leak_between_rows_or_into_the_caller() -> None:
    x = randn(6, 3)
    whole = divergence(field, x)[1]
    alone = torch.cat([divergence(field, row[None])[1] for row in x])
    torch.testing.assert_close(whole, alone)
    with torch.no_grad():
        torch.testing.assert_close(divergence(field, x)[1], whole)
    assert divergence(field, torch.empty(0, 3, dtype=F64))[1].shape == (0,)


def test_the_estimate_is_the_mean_of_its_quadratic_forms() -> None:
    """Against v' J v by the whole Jacobian; unit vectors as probes give D times the mean, the trace."""
    x = randn(4, 3)
    j = jacobian(field, x)
    v = draw_probes("gaussian", 5, x, generator(7))
    expected = torch.einsum("pbi,bij,pbj->b", v, j, v) / 5
    torch.testing.assert_close(divergence(field, x, v)[1], expected)
    torch.testing.assert_close(3 * divergence(field, x, unit_probes(x))[1], divergence(field, x)[1])


@each_law
def test_probes_have_the_identity_as_second_moment(law: ProbeLaw) -> None:
    """E[v] = 0 and E[v v'] = I over 100,000 probes in 5 dimensions: each entry within 5 standard errors
    (20 numbers a law: false failures 1e-5). Shapes, and the same bits from the same seed."""
    n, d = 100_000, 5
    v = draw_probes(law, n, torch.zeros(1, d, dtype=F64), generator(1))
    assert v.shape == (n, 1, d)
    assert v.dtype == F64
    v = v[:, 0]
    assert bool((v.mean(0).abs() < 5 / math.sqrt(n)).all())
    second = v[:, :, None] * v[:, None, :]
    error = second.std(0) / math.sqrt(n)
    eye = torch.eye(d, dtype=F64)
    assert bool(((second.mean(0) - eye).abs() <= 5 * error + 1e-12).all())
    again = draw_probes(law, n, torch.zeros(1, d, dtype=F64), generator(1))[:, 0]
    assert torch.equal(v, again)
    if law == "rademacher":
        assert bool((v.abs() == 1).all())
    if law == "sphere":
        torch.testing.assert_close(v.square().sum(1), torch.full((n,), 5.0, dtype=F64))


@each_law
def test_hutchinsons_variance_is_the_closed_form(law: ProbeLaw) -> None:
    """Of v' A v, S = (A + A')/2: Gaussian 2 |S|_F^2, Rademacher 2 sum_{i != j} S_ij^2, sphere of
    radius sqrt(D) 2D/(D+2) (|S|_F^2 - tr(S)^2/D). 200,000 draws; mean within 5 errors, variance
    within 5 of its own (1e-6 each)."""
    d, n = 4, 200_000
    a = randn(d, d, seed=4)
    s = 0.5 * (a + a.T)
    square, diagonal = float(s.square().sum()), float(s.diagonal().square().sum())
    expected = {
        "gaussian": 2 * square,
        "rademacher": 2 * (square - diagonal),
        "sphere": 2 * d / (d + 2) * (square - float(s.trace()) ** 2 / d),
    }[law]
    v = draw_probes(law, n, torch.zeros(1, d, dtype=F64), generator(2))[:, 0]
    estimates = torch.einsum("ni,ij,nj->n", v, a, v)
    mean, variance = float(estimates.mean()), float(estimates.var())
    assert abs(mean - float(a.trace())) < 5 * math.sqrt(expected / n)
    fourth = (estimates - mean).pow(4).mean()
    assert abs(variance - expected) < 5 * math.sqrt(float(fourth - variance**2) / n)


def test_rademacher_probes_are_exact_on_a_diagonal_jacobian() -> None:
    """Their variance there is zero, so one probe is the trace."""
    x = randn(6, 4)
    v = draw_probes("rademacher", 1, x, generator())
    torch.testing.assert_close(divergence(lambda z: z**2, x, v)[1], 2 * x.sum(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: draw_probes("unit", 1, x, None), "rademacher, gaussian, sphere, not 'unit'"),  # type: ignore[arg-type]
        (lambda x: draw_probes("sphere", 0, x, None), "num_probes must be at least 1"),
        (lambda x: divergence(lambda z: z.sum(1), x), r"shape of its point, \(2, 3\), got \(2,\)"),
        (lambda x: divergence(field, x, x), r"probes must have shape \(P, 2, 3\), got \(2, 3\)"),
        (
            lambda x: divergence(field, x, torch.zeros(1, 2, 4)),
            r"probes must have shape \(P, 2, 3\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(randn(2, 3))
