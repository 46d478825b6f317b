"""AdamW with its kernel called at once: torch's own steps to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from energyscape.nn import MLP
from energyscape.training.optimizer import FusedAdamW


def trained(optimizer_of, steps, *, scale=None, halfway=None):
    """Weights after a few steps; in `halfway` the optimizer goes through what it is given."""
    torch.manual_seed(0)
    net = MLP((3,), width=8)
    # One that never has a gradient, as an unused class of a conditional network.
    net.register_parameter("idle", nn.Parameter(torch.ones(2)))
    optimizer = optimizer_of(list(net.parameters()))
    optimizer.grad_scale = None if scale is None else torch.tensor(scale)
    x = torch.randn(16, 3)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + i)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if i == steps // 2 and halfway is not None:
            halfway(optimizer)
    return [p.detach().clone() for p in net.parameters()]


def torchs(parameters):
    return torch.optim.AdamW(parameters, betas=(0.8, 0.95), weight_decay=0.1, fused=True)


def ours(parameters):
    return FusedAdamW(parameters, betas=(0.8, 0.95), weight_decay=0.1)


@pytest.mark.parametrize("scale", [None, 3.0])
def test_the_same_steps_as_torchs(scale):
    for a, b in zip(trained(torchs, 7, scale=scale), trained(ours, 7, scale=scale), strict=True):
        assert torch.equal(a, b)


def test_a_state_put_back_is_gone_on_with():
    """As a resumed or rolled-back run does."""

    def put_back(optimizer):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    for a, b in zip(trained(torchs, 7), trained(ours, 7, halfway=put_back), strict=True):
        assert torch.equal(a, b)


def test_several_groups_and_a_closure_are_left_to_torch():
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = FusedAdamW([a], lr=0.1, weight_decay=0.0)
    optimizer.add_param_group({"params": [b], "lr": 0.2})
    for _ in range(2):
        a.grad, b.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
    torch.testing.assert_close(a.detach(), torch.full((2,), 0.8))
    torch.testing.assert_close(b.detach(), torch.full((2,), 0.6))
    assert FusedAdamW([a]).step(lambda: 7.0) == 7.0
    a.grad = None
    assert FusedAdamW([a]).step() is None
