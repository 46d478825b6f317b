"""Score matching without noise: the trace of a Jacobian, exact or by random slices.

Integrating the Fisher divergence ``1/2 E||s - grad log p||^2`` by parts (Hyvarinen 2005; it needs
``p s -> 0`` at the boundary, which fails on data with a hard edge) leaves the data's score out:

    exact      E[ 1/2 ||s||^2 + tr(ds/dx) ]               D vector-Jacobian products
    sliced     E[ 1/2 (v's)^2 + v'(ds/dx)v ]              1905.07088 eq. 7
    SSM-VR     E[ 1/2 ||s||^2 + v'(ds/dx)v ]              1905.07088 eq. 8, variance reduced

for probes with ``E[vv'] = I``. One forward pass serves all probes; their products are batched. For
an energy ``s = -grad E`` and the product is one with its Hessian.

The finite-difference form (2007.03317) reads both terms off three energies, or two scores, along a
short step ``h v``: no derivative of the network inside the loss of an energy, at a bias O(h^2).

At noise levels the rows are blurred first and the loss is multiplied by sigma^2, which makes it of
the same order at every level (1907.05600 section 4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn

from energyscape.autodiff import ProbeLaw, draw_probes, probe_products, slices
from energyscape.models import Energy, per_row
from energyscape.objectives.base import (
    Aux,
    LossOutput,
    conditioned,
    energies_of,
    model_score,
    require_smooth_energy,
)
from energyscape.objectives.denoising import LevelLaw

__all__ = ["ExactScoreMatching", "FiniteDifferenceScoreMatching", "SlicedScoreMatching"]

# Elements of one batch of unit-vector products: bounds the memory of the exact trace.
_CHUNK_ELEMENTS = 1 << 24


def _check_probes(num_probes: int, law: ProbeLaw) -> None:
    if law not in get_args(ProbeLaw):
        raise ValueError(
            "sliced score matching needs probes with E[vv'] = I: choose one of "
            f"{', '.join(get_args(ProbeLaw))}, not {law!r}"
        )
    if num_probes < 1:
        raise ValueError(f"sliced score matching needs at least 1 probe, got {num_probes}")


def _blurred(
    x: Tensor, levels: LevelLaw | None, rng: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """The rows, with noise where there are levels, and the level of each row."""
    if levels is None:
        return x.detach(), None
    sigma = levels.sample(len(x), rng, str(x.device)).to(x.dtype)
    eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    return torch.addcmul(x.detach(), per_row(sigma, x), eps), sigma


def _trace(score: Tensor, x: Tensor, create_graph: bool) -> Tensor:
    """``tr(ds/dx)`` of each row by one product per coordinate, several at a time."""
    dim = x[0].numel()
    chunk = max(1, min(dim, _CHUNK_ELEMENTS // x.numel()))
    eye = torch.eye(dim, dtype=score.dtype, device=score.device)
    total = torch.zeros(len(x), dtype=score.dtype, device=score.device)
    for first in range(0, dim, chunk):
        rows = eye[first : first + chunk].reshape(-1, 1, *x.shape[1:])
        v = rows.expand(-1, *x.shape)
        block = probe_products(score, x, v, create_graph=create_graph).flatten(2)[
            ..., first : first + len(v)
        ]
        total = total + block.diagonal(dim1=0, dim2=2).sum(1)
    return total


def _finish(
    half_square: Tensor, trace: Tensor, sigma: Tensor | None, aux: Aux, training: bool
) -> LossOutput:
    loss = half_square + trace
    if sigma is not None:
        loss = loss * sigma.square()
    metrics: dict[str, Tensor | float] = {
        "squared_score": 2 * half_square.detach().mean(),
        "trace": trace.detach().mean(),
    }
    return LossOutput(loss if training else loss.detach(), aux, metrics)


@dataclass(frozen=True)
class ExactScoreMatching:
    """``1/2 ||s||^2 + tr(ds/dx)``, exact and O(D) backward passes (Hyvarinen 2005).

    Parameters
    ----------
    levels : LevelLaw, optional
        Blur the rows to these levels, tell the model, weight with sigma^2.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> rng = torch.Generator()
    >>> ExactScoreMatching()(energy, torch.tensor([[1.0, 1.0]]), None, rng).loss.detach()
    tensor([-1.])
    """

    levels: LevelLaw | None = None
    needs_double_backward = True
    validates_without_graph = True

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses an energy with kinked activations."""
        require_smooth_energy(model, x, None if self.levels is None else 1.0)
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row, shape (batch,)."""
        training = torch.is_grad_enabled()
        x, sigma = _blurred(x, self.levels, rng)
        model = conditioned(model, label)
        dim = x[0].numel()
        with torch.enable_grad():
            if isinstance(model, Energy) and x.numel() * dim <= _CHUNK_ELEMENTS:
                axes = torch.eye(dim, dtype=x.dtype, device=x.device).reshape(dim, 1, *x.shape[1:])
                v = axes.expand(-1, *x.shape)
                score, along = model.score_and_slices(x, v, sigma, create_graph=training)
                trace = along.sum(0)
            else:
                x = x.requires_grad_()
                score = model_score(model, x, sigma, create_graph=True)
                trace = _trace(score, x, training)
            half_square = 0.5 * score.square().flatten(1).sum(1)
            return _finish(half_square, trace, sigma, aux, training)


@dataclass(frozen=True)
class SlicedScoreMatching:
    """``1/2 ||s||^2 + v'(ds/dx)v`` or ``1/2 (v's)^2 + v'(ds/dx)v`` (1905.07088 eq. 7 and 8).

    Parameters
    ----------
    probes : int
        Random directions per row; the variance falls with their number.
    law : {"rademacher", "gaussian", "sphere"}
        All have ``E[vv'] = I`` (the sphere has radius sqrt(D)).
    variance_reduced : bool
        Use ``||s||^2`` in the place of ``(v's)^2``, which it is the mean of.
    levels : LevelLaw, optional
        Blur the rows to these levels, tell the model, weight with sigma^2.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> rng = torch.Generator().manual_seed(0)
    >>> SlicedScoreMatching()(energy, torch.tensor([[1.0, 1.0]]), None, rng).loss.detach()
    tensor([-1.])
    """

    probes: int = 1
    law: ProbeLaw = "rademacher"
    variance_reduced: bool = True
    levels: LevelLaw | None = None
    needs_double_backward = True
    validates_without_graph = True

    def __post_init__(self) -> None:
        _check_probes(self.probes, self.law)

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses an energy with kinked activations."""
        require_smooth_energy(model, x, None if self.levels is None else 1.0)
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row, shape (batch,)."""
        training = torch.is_grad_enabled()
        x, sigma = _blurred(x, self.levels, rng)
        v = draw_probes(self.law, self.probes, x, rng)
        model = conditioned(model, label)
        with torch.enable_grad():
            if isinstance(model, Energy):
                score, trace = model.score_and_slices(x, v, sigma, create_graph=training)
            else:
                x = x.requires_grad_()
                score = model_score(model, x, sigma, create_graph=True)
                trace = slices(score, x, v, create_graph=training)
            if self.variance_reduced:
                half_square = 0.5 * score.square().flatten(1).sum(1)
            else:
                along = (score * v).flatten(2).sum(2)
                half_square = 0.5 * along.square().mean(0)
            return _finish(half_square, trace.mean(0), sigma, aux, training)


@dataclass(frozen=True)
class FiniteDifferenceScoreMatching:
    """Sliced score matching by central differences along probes (2007.03317 section 3).

    With ``u = h v/sqrt(D)``, for an energy, at the cost of three evaluations and no derivative::

        v's       ~  (E(x-u) - E(x+u)) / (2 h) sqrt(D)
        v'(ds/dx)v ~ (2 E(x) - E(x+u) - E(x-u)) / h^2 D

    and for a field, ``1/2 ||s||^2`` from the mean of the two scores at ``x +- u``. Exact for a
    quadratic energy and a linear field, else biased by O(h^2).

    Parameters
    ----------
    step : float
        The displacement ``h``, in data units. Rounding grows as 1/h^2: in float32 stay above 0.01
        of the data scale.
    probes : int
    law : {"rademacher", "gaussian", "sphere"}
    levels : LevelLaw, optional
        Blur the rows to these levels, tell the model, weight with sigma^2. The displacement is then
        ``step sigma`` at level sigma, the scale on which the blurred density varies.

    Under bfloat16 autocast the loss is computed without it: the second difference of energies rounded
    to three digits is noise.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> rng, x = torch.Generator().manual_seed(0), torch.zeros(1, 2, dtype=torch.float64)
    >>> FiniteDifferenceScoreMatching()(energy, x, None, rng).loss.round(decimals=6)
    tensor([-2.], dtype=torch.float64)
    """

    step: float = 0.05
    probes: int = 1
    law: ProbeLaw = "rademacher"
    levels: LevelLaw | None = None
    needs_double_backward = False

    def __post_init__(self) -> None:
        _check_probes(self.probes, self.law)
        if not self.step > 0:
            raise ValueError(f"the finite-difference step must be positive, got {self.step}")

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses an energy with kinked activations."""
        require_smooth_energy(model, x, None if self.levels is None else 1.0)
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row, shape (batch,)."""
        x, sigma = _blurred(x, self.levels, rng)
        v = draw_probes(self.law, self.probes, x, rng)
        scale = x.new_full((len(x),), self.step / math.sqrt(x[0].numel()))
        scale = scale if sigma is None else scale * sigma
        with torch.autocast(x.device.type, enabled=False):
            parts = self._energies if isinstance(model, Energy) else self._scores
            half_square, trace = parts(model, x, v, scale, sigma, label)
        return _finish(half_square, trace, sigma, aux, torch.is_grad_enabled())

    def _energies(
        self, model: nn.Module, x: Tensor, v: Tensor, scale: Tensor, *given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both terms from the energies at x and at both ends of each probe."""
        move = per_row(scale, x) * v
        points = torch.cat([x + move, x - move, x[None]]).flatten(0, 1)
        sigma, label = (None if g is None else g.repeat(2 * self.probes + 1) for g in given)
        energy = energies_of(cast(Energy, conditioned(model, label)), points, sigma)
        energy = energy.reshape(2 * self.probes + 1, len(x))
        ahead, behind, centre = energy[: self.probes], energy[self.probes : -1], energy[-1]
        half_square = 0.5 * ((behind - ahead) / (2 * scale)).square().mean(0)
        return half_square, (2 * centre - ahead - behind).mean(0) / scale.square()

    def _scores(
        self, model: nn.Module, x: Tensor, v: Tensor, scale: Tensor, *given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both terms from the scores at both ends of each probe."""
        move = per_row(scale, x) * v
        points = torch.cat([x + move, x - move]).flatten(0, 1)
        sigma, label = (None if g is None else g.repeat(2 * self.probes) for g in given)
        with torch.enable_grad():  # for a model whose own score differentiates
            scores = model_score(conditioned(model, label), points, sigma)
        ahead, behind = scores.reshape(2, *v.shape)
        half_square = 0.125 * (ahead + behind).square().flatten(2).sum(2).mean(0)
        return half_square, ((ahead - behind) * v).flatten(2).sum(2).mean(0) / (2 * scale)
