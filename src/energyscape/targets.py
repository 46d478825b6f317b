"""What a Markov kernel walks on: an unnormalised log-density with its gradient.

A `Target` answers ``value_and_score(x) -> (log_prob or None, score)`` and ``value(x)``. An energy
at a fixed level knows both; a free score field or a denoiser knows only the score and answers
``None``, which kernels with an acceptance test refuse when they start. Values are per row and never
summed over the batch: one bad chain cannot touch its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["FunctionTarget", "ScoreTarget", "Target"]


@runtime_checkable
class Target(Protocol):
    """An unnormalised log-density on R^D, or only its score."""

    def value(self, x: Tensor) -> Tensor | None:
        """Unnormalised log-density of each row, shape (batch,), or None where it has none."""
        ...

    def value_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """`value(x)` and its gradient in x, shape of x; neither carries a graph."""
        ...


class FunctionTarget:
    """A target from a function that gives the log-density of each row, differentiated by autograd.

    Parameters
    ----------
    log_prob : callable
        Maps (batch, ...) to (batch,), each row on its own.

    Raises
    ------
    ValueError
        When evaluated, if the function does not give one value a row.

    Examples
    --------
    >>> import torch
    >>> target = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    >>> value, score = target.value_and_score(torch.tensor([[3.0, 4.0]]))
    >>> value.tolist(), score.tolist()
    ([-12.5], [[-3.0, -4.0]])
    """

    def __init__(self, log_prob: Callable[[Tensor], Tensor]) -> None:
        self.log_prob = log_prob

    def value(self, x: Tensor) -> Tensor:
        """The log-density of each row, shape (batch,)."""
        with torch.no_grad():
            return self._checked(self.log_prob(x), x)

    @staticmethod
    def _checked(value: Tensor, x: Tensor) -> Tensor:
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"a log-density gives one value a row, shape ({len(x)},), got {tuple(value.shape)}"
            )
        return value

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density, shape (batch,), and its gradient, shape of x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self._checked(self.log_prob(x), x)
            (score,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), score


class ScoreTarget:
    """A target that knows only its score; `value` is None.

    Raises
    ------
    ValueError
        When evaluated, if the score does not have the shape of x.

    Examples
    --------
    >>> import torch
    >>> target = ScoreTarget(lambda x: -x)
    >>> target.value_and_score(torch.ones(1, 2))
    (None, tensor([[-1., -1.]]))
    """

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        self.score = score

    def value(self, x: Tensor) -> None:
        """None: a score alone has no log-density."""
        return

    def value_and_score(self, x: Tensor) -> tuple[None, Tensor]:
        """None and the score, shape of x."""
        with torch.no_grad():
            score = self.score(x)
        if score.shape != x.shape:
            raise ValueError(
                f"a score has the shape of its point, {tuple(x.shape)}, got {tuple(score.shape)}"
            )
        return None, score
