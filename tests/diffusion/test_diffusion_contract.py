"""Contracts over everything the room offers."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from energyscape import diffusion
from energyscape.diffusion import SAMPLERS, Conditioned, Guided, LearnedRange, sample
from energyscape.models import Denoiser

PUBLIC = [(name, getattr(diffusion, name)) for name in diffusion.__all__]
CLASSES = [(n, c) for n, c in PUBLIC if inspect.isclass(c)]
WALKS = [(n, c) for n, c in CLASSES if hasattr(c, "evaluations") and n != "Sampler"]


def test_all_is_sorted_as_ruff_sorts_and_complete():
    assert len(set(diffusion.__all__)) == len(diffusion.__all__)
    assert {type(make()) for make in SAMPLERS.values()} == {c for _, c in WALKS}


@pytest.mark.parametrize("name, member", PUBLIC, ids=[n for n, _ in PUBLIC])
def test_members_are_documented(name, member):
    if inspect.isclass(member) or inspect.isfunction(member):
        assert member.__doc__
        assert len(member.__doc__) > 20


class _Shrink(Denoiser):
    """Takes labels, keeps dtype and shape."""

    def forward(self, x, sigma, label=None):
        return 0.5 * x if label is None else 0.5 * x + 0.1 * label.to(x).reshape(-1, 1)


class _Zero(nn.Module):
    def forward(self, x, c_noise, label=None):
        return 0 * x


WRAPPED = {
    "Conditioned": lambda: Conditioned(_Shrink(), torch.tensor([True, False]), torch.ones(2)),
    "Guided": lambda: Guided(_Shrink(), 1, 2.0),
    "LearnedRange": lambda: LearnedRange(_Shrink(), _Zero()),
}


def test_every_denoiser_of_the_room_is_under_contract():
    assert set(WRAPPED) == {n for n, c in CLASSES if issubclass(c, Denoiser)}


@pytest.mark.parametrize("name", sorted(WRAPPED))
@pytest.mark.parametrize("walk", sorted(SAMPLERS))
def test_every_sampler_takes_every_denoiser(name, walk):
    """Levels as a number or one a row; dtype and shape kept; a row is its own affair."""
    model = WRAPPED[name]()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    out = model(x, 0.7)
    assert out.dtype == x.dtype
    assert out.shape == x.shape
    assert torch.allclose(model(x, torch.full((3,), 0.7)), out)
    assert torch.allclose(model(x[1:2], 0.7), out[1:2], atol=1e-6)
    rng = torch.Generator().manual_seed(0)
    ends = sample(model, x, sampler=walk, levels=[4.0, 1.0, 0.2], rng=rng, label=1)
    assert ends.shape == x.shape
    assert bool(ends.isfinite().all())
