"""The moving average of weights: its recursion in closed form, warm-up, and giving weights back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from energyscape.nn import EMA


def follow(decay: float, steps: int) -> tuple[float, float]:
    """Average and expected average of a weight that equals the number of the step."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = EMA(model, decay)
    expected = 0.0
    for t in range(1, steps + 1):
        with torch.no_grad():
            model.weight.fill_(float(t))
        ema.update(t)
        kept = min(decay, (1 + t) / (10 + t))
        expected = kept * expected + (1 - kept) * t
    return float(ema.shadow[0]), expected


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_it_follows_its_recursion_with_warm_up(decay: float) -> None:
    average, expected = follow(decay, 50)
    assert average == pytest.approx(expected, rel=1e-12)


def test_warm_up_forgets_the_initial_weights() -> None:
    """While (1+t)/(10+t) rules, the start keeps the share prod (1+t)/(10+t) = 10!/prod(t+2..t+10)."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = EMA(model, 0.9999)
    with torch.no_grad():
        model.weight.fill_(0.0)
    share = 1.0
    for t in range(1, 101):
        ema.update(t)
        share *= (1 + t) / (10 + t)
    assert float(ema.shadow[0]) == pytest.approx(share, rel=1e-10)
    assert share < 1e-9


def test_without_decay_it_is_the_model() -> None:
    assert follow(0.0, 7)[0] == 7.0


def test_applied_lends_the_averages_and_gives_the_weights_back_even_after_an_error() -> None:
    model = nn.Linear(2, 2)
    ema = EMA(model)
    own = model.weight.detach().clone()
    for average in ema.shadow:
        average.fill_(3.0)
    with ema.applied():
        assert bool((model.weight == 3).all())
    assert torch.equal(model.weight, own)
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        raise RuntimeError("inside")
    assert torch.equal(model.weight, own)


def test_its_state_is_restored_by_name_and_of_its_own_model_only() -> None:
    model = nn.Linear(2, 2)
    ema = EMA(model)
    for average in ema.shadow:
        average.fill_(2.0)
    state = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    other = EMA(nn.Linear(2, 2))
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(other.shadow, ema.shadow, strict=True))
    other.copy_to_model()
    with pytest.raises(ValueError, match="parameter names differ"):
        EMA(nn.Linear(2, 2, bias=False)).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(nn.Linear(1, 1), decay)
