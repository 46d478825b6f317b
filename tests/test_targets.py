"""Targets say what they know: a value and its gradient, or a score alone; per row, without a graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from energyscape.densities import eight_gaussians
from energyscape.models import EnergyDenoiser, FunctionDenoiser, MixtureOfGaussians
from energyscape.targets import FunctionTarget, ScoreTarget, Target

F64 = torch.float64
P, SIGMA = eight_gaussians(), 0.6


def points() -> Tensor:
    return 2 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


KNOWING: dict[str, Target] = {
    "function": FunctionTarget(lambda x: P.log_prob(x, SIGMA)),
    "mixture": P.at(SIGMA),
    "energy": MixtureOfGaussians(P).at(SIGMA),
    "energy's denoiser": EnergyDenoiser(MixtureOfGaussians(P)).at(SIGMA),  # type: ignore[dict-item]
}
BLIND: dict[str, Target] = {
    "score": ScoreTarget(lambda x: P.score(x, SIGMA)),
    "denoiser": FunctionDenoiser(P.denoise).at(SIGMA),
}


@pytest.mark.parametrize("name", KNOWING | BLIND)
def test_all_ways_to_the_same_density_agree(name: str) -> None:
    """One density, six targets: the same score, the same value where there is one."""
    target, x = (KNOWING | BLIND)[name], points()
    assert isinstance(target, Target)
    value, score = target.value_and_score(x)
    torch.testing.assert_close(score, P.score(x, SIGMA))
    assert not score.requires_grad
    if name in BLIND:
        assert value is None
        assert target.value(x) is None
    else:
        torch.testing.assert_close(value, P.log_prob(x, SIGMA))
        torch.testing.assert_close(target.value(x), value)
        assert value is not None
        assert not value.requires_grad


@pytest.mark.parametrize("name", KNOWING | BLIND)
def test_rows_do_not_touch_each_other(name: str) -> None:
    """A row that is not a number leaves its neighbours as they were, to the bit."""
    target, x = (KNOWING | BLIND)[name], points()
    _, before = target.value_and_score(x)
    broken = x.clone()
    broken[3] = float("nan")
    value, after = target.value_and_score(broken)
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(before[others], after[others])
    assert bool(after[3].isnan().all())
    assert value is None or value.isnan().tolist() == [i == 3 for i in range(7)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (FunctionTarget(lambda x: x.sum()).value, r"one value a row, shape \(7,\), got \(\)"),
        (
            FunctionTarget(lambda x: x).value_and_score,
            r"one value a row, shape \(7,\), got \(7, 2\)",
        ),
        (
            ScoreTarget(lambda x: x.sum(1)).value_and_score,
            r"shape of its point, \(7, 2\), got \(7,\)",
        ),
    ],
)
def test_other_shapes_are_refused_by_name(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(points())
