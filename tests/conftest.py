"""Shared settings of all tests."""

from __future__ import annotations

import os

# Small tensors gain nothing from threads, and tests run side by side. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(0)
