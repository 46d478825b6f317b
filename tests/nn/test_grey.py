"""The network of a few grey levels of noise, and which of two networks a row goes through."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from energyscape.nn import ByLevel, GreyNet, PictureNet
from energyscape.objectives import WithLowLevels
from energyscape.schedules import EDM

CELL = 2 / 256


def rows(shape: tuple[int, ...], n: int = 6) -> tuple[Tensor, Tensor]:
    """Pictures, and levels below and above 0.05 in turn."""
    rng = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.01, 0.5]).repeat(n // 2)
    return torch.randn((n, *shape), generator=rng), sigma.log() / 4


def drawn(network: torch.nn.Module) -> torch.nn.Module:
    """Every weight drawn: no zero start hides a dependence."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(std=(p[0].numel() if p.ndim > 1 else 4) ** -0.5)
    return network


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 22), (2, 1, 3)])
def test_pictures_of_any_size_come_back_in_their_shape_row_by_row(shape: tuple[int, ...]) -> None:
    x, c_noise = rows(shape)
    network = drawn(GreyNet(shape, cell=CELL, width=8))
    together = network(x, c_noise)
    assert together.shape == x.shape
    for i in range(2):
        alone = network(x[i : i + 1], c_noise[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    assert not GreyNet(shape, cell=CELL)(x, c_noise).any()  # it starts at zero
    with pytest.raises(ValueError, match="pass c_noise"):
        network(x)


def test_half_a_grey_level_is_another_value_even_in_bfloat16() -> None:
    """Where bfloat16 rounds a pixel near 1 to steps of half a level, the waves still tell them apart:
    a quarter of a level changes the field by more than a tenth of its size."""
    x, c_noise = rows((1, 6, 6), 2)
    x = x.clamp(-1, 1)
    network = drawn(GreyNet((1, 6, 6), cell=CELL, width=8))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        near, far = network(x, c_noise), network(x + CELL / 4, c_noise)
    assert float((near - far).abs().mean()) > 0.1 * float(near.abs().mean())


def test_each_row_goes_through_the_network_of_its_level() -> None:
    shape = (1, 6, 7)
    x, c_noise = rows(shape)
    low, high = drawn(GreyNet(shape, cell=CELL, width=8)), drawn(PictureNet(shape, width=6))
    both = ByLevel(low, high, math.log(0.05) / 4)
    out = both(x, c_noise)
    torch.testing.assert_close(out[::2], low(x[::2], c_noise[::2]))
    torch.testing.assert_close(out[1::2], high(x[1::2], c_noise[1::2]))
    both.eval()
    for some, network in ((slice(0, None, 2), low), (slice(1, None, 2), high)):
        torch.testing.assert_close(both(x[some], c_noise[some]), network(x[some], c_noise[some]))
    both.train()
    both(x[::2], c_noise[::2]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in both.parameters())
    assert any(p.grad is not None and p.grad.any() for p in low.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in high.parameters())
    with pytest.raises(ValueError, match="pass c_noise"):
        both(x)


def test_labels_reach_the_network_that_has_them() -> None:
    shape = (1, 6, 7)
    x, c_noise = rows(shape)
    high = drawn(PictureNet(shape, width=6, num_labels=3))
    both = ByLevel(drawn(GreyNet(shape, cell=CELL, width=8)), high, math.log(0.05) / 4)
    first = both(x, c_noise, torch.zeros(6, dtype=torch.long))
    other = both(x, c_noise, torch.tensor([1, 1, 0, 0, 0, 0]))
    assert not torch.allclose(first[1], other[1])
    torch.testing.assert_close(first[[0, 2, 3, 4, 5]], other[[0, 2, 3, 4, 5]])


def test_low_levels_have_their_share_of_the_smallest_batches_too() -> None:
    """A fifth of 4,000 batches of one and of two rows, within 4.5 standard errors."""
    law, rng = WithLowLevels(EDM(), 0.002, 0.0021, 0.2), torch.Generator().manual_seed(0)
    for n in (1, 2):
        drawn = torch.stack([law.sample(n, rng) for _ in range(4000)])
        assert drawn.shape == (4000, n)
        share = float((drawn < 0.0021).double().mean())
        assert abs(share - 0.2) < 4.5 * (0.2 * 0.8 / 4000) ** 0.5
    with pytest.raises(ValueError, match="0 < low < high"):
        WithLowLevels(EDM(), 0.1, 0.1, 0.2)
