r"""A denoiser of mixed rows: numbers, and columns that hold one of a few values.

A column of few values, encoded with a little noise, is a mixture of narrow Gaussians. Whatever the
joint law of the row, if its dimensions are ``N(c_k, tau_k^2 I)`` given the value k and independent
of the other columns, then at level sigma

    P(k | x)  ~  P(k | the rest of x) N(x_col; c_k, (sigma^2 + tau_k^2) I),
    E[x_0,col | x] = sum_k P(k | x) (s_k x_col + (1 - s_k) c_k),    s_k = tau_k^2 / (tau_k^2 + sigma^2).

The second factor is known in closed form, and so is the first where columns are independent: the share
f_k of the value. What is left to the network is one number a value,

    P(k | x) = softmax_k( log f_k + log N(x_col; c_k, (sigma^2 + tau_k^2) I) + F_k(c_in x, c_noise) ),

the pointwise mutual information of the value with the rest of the row. A network that says nothing
gives every column its exact marginal law (a column and the indicator of its blanks are two, which the
network has to tie). One that must draw the steps between values itself (the
posterior turns over within tau) leaves draws between them, which are read as the commoner value.

All other coordinates are ``c_skip x + c_out F`` as in `PreconditionedDenoiser`. That a continuous
diffusion of names needs a posterior over them was seen in 2211.15089 (CDCD), where all of it is
learned; here the local evidence is exact, and the loss stays the denoising one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from energyscape.models.denoiser import Denoiser
from energyscape.models.preconditioning import Preconditioning, per_row

__all__ = ["FewValues", "MixedDenoiser"]


class FewValues(NamedTuple):
    """A column of K values in d dimensions, the first of which is `start`.

    Value k is ``N(anchored_k origin + step_k e_axis_k, noise_k^2 I)``, and ``share_k`` of the rows have
    it.

    Attributes
    ----------
    start : int
    origin : sequence of d float
    axis, step, anchored, noise, share : sequences of K numbers
    """

    start: int
    origin: Sequence[float]
    axis: Sequence[int]
    step: Sequence[float]
    anchored: Sequence[float]
    noise: Sequence[float]
    share: Sequence[float]


class MixedDenoiser(Denoiser):
    """Numbers by a preconditioning, columns of few values by the posterior over their values.

    Parameters
    ----------
    network : Module
        Called as ``network(c_in x, c_noise, label)`` with rows of shape (batch, dim); gives (batch,
        `outputs(dim, columns)`): first the coordinates that belong to none of `columns`, then one
        number for each value of each column.
    preconditioning : Preconditioning
    dim : int
        Of a row.
    columns : sequence of FewValues
        At least one; their dimensions do not overlap.

    Raises
    ------
    ValueError
        For columns that overlap or reach beyond the row, noise or shares that are not positive, or a
        network of another number of outputs.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import EDMPreconditioning
    >>> yes_or_no = FewValues(1, [0.0], [0, 0], [-1.0, 1.0], [1.0, 1.0], [0.1, 0.1], [0.5, 0.5])
    >>> silent = lambda x, c_noise, label: x.new_zeros(len(x), 3)
    >>> denoiser = MixedDenoiser(silent, EDMPreconditioning(1.0), 2, [yes_or_no])
    >>> denoiser(torch.tensor([[0.0, 0.8]]), 0.3)
    tensor([[0.0000, 0.9800]])
    """

    def __init__(
        self,
        network: nn.Module,
        preconditioning: Preconditioning,
        dim: int,
        columns: Sequence[FewValues],
    ) -> None:
        super().__init__()
        self.network, self.preconditioning, self.dim = network, preconditioning, dim
        own = _own_dimensions(dim, columns)
        whole = [torch.tensor(list(ids)) for ids in (range(len(columns)), own)]
        widths = torch.tensor([len(c.origin) for c in columns])
        values = torch.tensor([len(c.step) for c in columns])
        covered = set(own)
        layout = {
            # Of each value its column and its coordinate, of each coordinate its column.
            "column": whole[0].repeat_interleave(values),
            "axis": torch.tensor([c.start + i for c in columns for i in c.axis]),
            "dimension": whole[1],
            "column_of_dimension": whole[0].repeat_interleave(widths),
            "rest": torch.tensor([d for d in range(dim) if d not in covered], dtype=torch.long),
        }
        numbers = {
            "origin": [v for c in columns for v in c.origin],
            "step": [v for c in columns for v in c.step],
            "anchored": [v for c in columns for v in c.anchored],
            "noise_square": [v**2 for c in columns for v in c.noise],
            "log_share": [math.log(v) for c in columns for v in c.share],
            "norm_square": [v for c in columns for v in _norm_squares(c)],
            "width": [float(len(c.origin)) for c in columns for _ in c.step],
        }
        for name, ids in layout.items():
            self.register_buffer(name, ids, persistent=False)
        for name, value in numbers.items():
            held = torch.tensor(value, dtype=torch.get_default_dtype())[:, None]
            # Weights of a plain denoiser, of as many outputs perhaps, are not this one's.
            self.register_buffer(name, held, persistent=name == "log_share")
        self.num_columns = len(columns)
        self.num_outputs = self.outputs(dim, columns)

    @staticmethod
    def outputs(dim: int, columns: Sequence[FewValues]) -> int:
        """Numbers a row that the network gives: one for each other coordinate and for each value."""
        return dim + sum(len(c.step) - len(c.origin) for c in columns)

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x], shape of x, (batch, dim)."""
        level = per_row(sigma, x)
        c = self.preconditioning.coefficients(level)
        out = self.network(c.c_in * x, c.c_noise.flatten(), label)
        if out.shape != (len(x), self.num_outputs):
            raise ValueError(
                f"this denoiser's network gives {self.num_outputs} numbers a row, one for each "
                f"coordinate and value; this one gave {tuple(out.shape)}"
            )
        rest = self.get_buffer("rest")
        numbers, logits = out.split([len(rest), out.shape[1] - len(rest)], 1)
        # Row by coordinate to coordinate by row: what is picked and summed lies together.
        restored = self._restored(x.t().contiguous(), level.square().t(), logits.t())
        if len(rest):
            continuous = c.c_skip * x.index_select(1, rest) + c.c_out * numbers
            restored = restored.index_add(0, rest, continuous.t().to(restored.dtype))
        return restored.t().contiguous()

    def posterior(self, x: Tensor, sigma: float | Tensor, logits: Tensor) -> Tensor:
        """P(value | x) for each value of each column, shape (batch, values).

        Parameters
        ----------
        x : Tensor of shape (batch, dim)
        sigma : float or Tensor of shape (batch,)
        logits : Tensor of shape (batch, values)
            What the rest of the row says, up to a constant for each column.
        """
        return self._posterior(x.t(), per_row(sigma, x).square().t(), logits.t()).t()

    def _restored(self, x: Tensor, square: Tensor, logits: Tensor) -> Tensor:
        """The dimensions of few values, and 0 in all others; as all below (dim or values, batch)."""
        values = self._posterior(x, square, logits)
        noise = self.get_buffer("noise_square")
        kept = noise / (noise + square)
        moved = values * (1 - kept)
        dimension, column = self.get_buffer("dimension"), self.get_buffer("column_of_dimension")
        step, anchored = self.get_buffer("step"), self.get_buffer("anchored")
        out = torch.zeros_like(x).index_add(0, self.get_buffer("axis"), moved * step)
        stay = self._sums(values * kept).index_select(0, column) * x.index_select(0, dimension)
        origin = self._sums(moved * anchored).index_select(0, column) * self.get_buffer("origin")
        return out.index_add(0, dimension, stay + origin)

    def _posterior(self, x: Tensor, square: Tensor, logits: Tensor) -> Tensor:
        """Softmax over the values of each column of evidence and logits."""
        logits = self._evidence(x, square) + logits
        column = self.get_buffer("column")
        lowest = logits.new_full((self.num_columns, logits.shape[1]), -math.inf)
        index = column[:, None].expand_as(logits)
        top = lowest.scatter_reduce(0, index, logits.detach(), "amax")
        weight = (logits - top.index_select(0, column)).exp()
        return weight / self._sums(weight).index_select(0, column)

    def _evidence(self, x: Tensor, square: Tensor) -> Tensor:
        """``log f_k + log N(x_col; c_k, (square + tau_k^2) I)`` but for a constant."""
        here, column = x.index_select(0, self.get_buffer("dimension")), self.get_buffer("column")
        by_column = self.get_buffer("column_of_dimension")
        size = self._sums(here.square(), by_column).index_select(0, column)
        origin = self._sums(here * self.get_buffer("origin"), by_column).index_select(0, column)
        along = self.get_buffer("step") * x.index_select(0, self.get_buffer("axis"))
        along = along + self.get_buffer("anchored") * origin
        total = square + self.get_buffer("noise_square")
        distance = size - 2 * along + self.get_buffer("norm_square")
        width = self.get_buffer("width")
        return self.get_buffer("log_share") - 0.5 * (distance / total + width * total.log())

    def _sums(self, value: Tensor, column: Tensor | None = None) -> Tensor:
        """Over the values (or dimensions) of each column, shape (columns, batch)."""
        column = self.get_buffer("column") if column is None else column
        return value.new_zeros(self.num_columns, value.shape[1]).index_add(0, column, value)


def _own_dimensions(dim: int, columns: Sequence[FewValues]) -> list[int]:
    """The dimensions of all columns in turn, checked."""
    own = list(
        itertools.chain.from_iterable(range(c.start, c.start + len(c.origin)) for c in columns)
    )
    if not columns or len(set(own)) < len(own) or not all(0 <= d < dim for d in own):
        raise ValueError(
            f"columns of few values need dimensions of their own among {dim}, got {own}"
        )
    for c in columns:
        if len({len(v) for v in c[2:]}) > 1 or not all(0 <= i < len(c.origin) for i in c.axis):
            raise ValueError(f"a column of few values has one axis, step, ... a value, got {c}")
        if not all(v > 0 for v in (*c.noise, *c.share)):
            raise ValueError(f"noise and shares of values must be positive, got {c}")
    return own


def _norm_squares(c: FewValues) -> list[float]:
    """``|c_k|^2`` of each value."""
    origin = sum(v * v for v in c.origin)
    return [
        h * h * origin + 2 * h * u * c.origin[i] + u * u
        for i, u, h in zip(c.axis, c.step, c.anchored, strict=True)
    ]
