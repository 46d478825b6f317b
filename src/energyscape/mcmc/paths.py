"""Ladders between densities: tempered targets, geometric paths, and the Gaussian they start from.

``f_b = f_0^(1-b) f_1^b`` leads from a normalised base f_0 at b = 0 to the target f_1 at b = 1;
``p^b`` alone is the target at temperature 1/b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from energyscape.mcmc.kernel import rows
from energyscape.targets import Target

__all__ = ["Base", "GaussianBase", "GeometricPath", "MixtureBase", "Tempered"]


@runtime_checkable
class Base(Protocol):
    """A normalised density that can be sampled exactly: where importance sampling starts."""

    def value(self, x: Tensor) -> Tensor:
        """Normalised log-density of each row, shape (n,)."""
        ...

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density and its gradient."""
        ...

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n independent draws."""
        ...


class Tempered:
    """The target at inverse temperature `beta`: ``log p`` and score times beta.

    Parameters
    ----------
    target : Target
    beta : float or Tensor of shape (chains,)
        One for all chains or one each.

    Examples
    --------
    >>> import torch
    >>> from energyscape.targets import FunctionTarget
    >>> normal = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    >>> Tempered(normal, 0.5).value(torch.tensor([[2.0]]))
    tensor([-1.])
    """

    def __init__(self, target: Target, beta: float | Tensor) -> None:
        self.target = target
        self.beta = beta
        self.box = getattr(target, "box", None)

    def value(self, x: Tensor) -> Tensor | None:
        """beta log p, shape (chains,)."""
        value = self.target.value(x)
        return None if value is None else self.beta * value

    def value_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """beta log p and its gradient."""
        value, score = self.target.value_and_score(x)
        beta = rows(self.beta, x) if isinstance(self.beta, Tensor) else self.beta
        return None if value is None else self.beta * value, beta * score


class GeometricPath:
    """``(1 - beta) log f_0 + beta log f_1``: a rung between a base and a target."""

    def __init__(self, base: Target, target: Target, beta: float) -> None:
        self.base, self.target, self.beta = base, target, beta
        self.box = getattr(target, "box", None)

    def value(self, x: Tensor) -> Tensor | None:
        """The mixed log-density, shape (chains,); None where one end has none."""
        start, end = self.base.value(x), self.target.value(x)
        return None if start is None or end is None else torch.lerp(start, end.to(start), self.beta)

    def value_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The mixed log-density and its gradient."""
        (start, score0), (end, score1) = (
            self.base.value_and_score(x),
            self.target.value_and_score(x),
        )
        score = torch.lerp(score0, score1.to(score0), self.beta)
        if start is None or end is None:
            return None, score
        return torch.lerp(start, end.to(start), self.beta), score


class GaussianBase:
    """A normalised Gaussian with any shape of x.

    Parameters
    ----------
    mean : Tensor, shape of one x
    covariance : Tensor of shape (D, D)
        Of the flattened x; positive definite.

    Raises
    ------
    ValueError
        If mean or covariance are not finite, or the covariance is not positive definite: the density
        would be improper.

    Examples
    --------
    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> base = GaussianBase.fit(torch.randn(1000, 2, generator=rng, dtype=torch.float64))
    >>> bool((base.value(torch.zeros(1, 2, dtype=torch.float64)) + 1.8379).abs() < 0.1)
    True
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        dim = mean.numel()
        if covariance.shape != (dim, dim):
            raise ValueError(
                f"a mean of {dim} numbers needs a covariance of shape ({dim}, {dim}), got "
                f"{tuple(covariance.shape)}"
            )
        for name, given in (("mean", mean), ("covariance", covariance)):
            if not bool(given.isfinite().all()):
                raise ValueError(
                    f"the {name} of the base is not finite (NaN or infinite in some entries): leave "
                    "out rows with blanks or infinite values before fitting it"
                )
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed) or not bool(factor.isfinite().all()):
            raise ValueError(
                "the covariance of the base is not positive definite, so the base is improper: leave "
                "out constant or dependent coordinates, fit it to more samples, or add jitter"
            )
        self.mean, self.covariance = mean, covariance
        self._factor = factor
        eye = torch.eye(dim, dtype=factor.dtype, device=factor.device)
        self._inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        self._log_norm = float(-factor.diagonal().log().sum() - 0.5 * dim * math.log(2 * math.pi))

    @classmethod
    def fit(cls, x: Tensor, *, jitter: float = 1e-6, widen: float = 1.0) -> GaussianBase:
        """Mean and covariance of samples.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
        jitter : float
            Added to the diagonal, as a fraction of the mean variance.
        widen : float
            Factor on the standard deviations; a base a little too wide is safer than one too narrow.
        """
        if x.ndim < 2 or x.shape[0] < 2:
            raise ValueError(f"a base is fitted to two rows or more, got shape {tuple(x.shape)}")
        flat = x.detach().flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        covariance = centred.T @ centred / (len(flat) - 1)
        covariance = covariance + jitter * covariance.diagonal().mean() * torch.eye(
            len(mean), dtype=flat.dtype, device=flat.device
        )
        return cls(mean.view(x.shape[1:]), widen**2 * covariance)

    def _white(self, x: Tensor) -> Tensor:
        return (x - self.mean).flatten(1) @ self._inverse.T

    def value(self, x: Tensor) -> Tensor:
        """Log-density in nats, shape (n,)."""
        return self._log_norm - 0.5 * self._white(x).square().sum(1)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and its gradient."""
        white = self._white(x)
        value = self._log_norm - 0.5 * white.square().sum(1)
        return value, -(white @ self._inverse).view(x.shape)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n draws, shape (n, ...)."""
        mean = self.mean
        eps = torch.randn(n, mean.numel(), generator=rng, dtype=mean.dtype, device=mean.device)
        return mean + (eps @ self._factor.T).view(n, *mean.shape)

    def sample_given(self, values: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
        """One draw for each row of `values`, given its coordinates where `mask` is true.

        A joint draw z is moved by the regression on the known, ``z_f + S_fk S_kk^-1 (y - z_k)``.

        Parameters
        ----------
        values : Tensor of shape (n, ...)
            What stands outside the mask is ignored.
        mask : bool Tensor, shape of one x
        """
        x, known = self.sample(len(values), rng).flatten(1), mask.flatten()
        if not bool(known.any()):
            return x.view(values.shape)
        off = values.flatten(1)[:, known] - x[:, known]
        weight = torch.linalg.solve(self.covariance[known][:, known], self.covariance[known])
        x = x + off @ weight
        x[:, known] = values.flatten(1)[:, known]
        return x.view(values.shape)


class MixtureBase:
    """A mixture of normalised bases, of which a wide one looks where the narrow ones do not.

    Importance weights stay exact with any base; one part of the chains starting far out is what finds
    mass there (a defensive mixture, Hesterberg 1995).

    Parameters
    ----------
    bases : sequence of Base
        On rows of the same shape.
    weights : sequence of float
        Positive, one each; normalised to sum to one.

    Raises
    ------
    ValueError
        For no base, or weights that are not as many positive numbers.

    Examples
    --------
    >>> import torch
    >>> near, wide = (GaussianBase(torch.zeros(1), v * torch.eye(1)) for v in (1.0, 16.0))
    >>> base = MixtureBase([near, wide], [0.75, 0.25])
    >>> grid = torch.linspace(-30, 30, 6001)[:, None]
    >>> bool((base.value(grid).exp().sum() * 0.01 - 1).abs() < 1e-4)
    True
    """

    def __init__(self, bases: Sequence[Base], weights: Sequence[float]) -> None:
        total = sum(weights)
        if not bases or len(bases) != len(weights) or not all(0 < w < math.inf for w in weights):
            raise ValueError(
                f"a mixture takes one positive weight a base, got {len(bases)} bases and {weights}"
            )
        self.bases, self.weights = tuple(bases), tuple(w / total for w in weights)

    def _joint(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack([v + math.log(w) for v, w in zip(values, self.weights, strict=True)])

    def value(self, x: Tensor) -> Tensor:
        """Log-density in nats, shape (n,)."""
        return self._joint([base.value(x) for base in self.bases]).logsumexp(0)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and its gradient: the parts' scores weighed by their responsibilities."""
        values, scores = zip(*(base.value_and_score(x) for base in self.bases), strict=True)
        joint = self._joint(values)
        share = joint.softmax(0).view(len(joint), -1, *(1,) * (x.ndim - 1))
        return joint.logsumexp(0), (share * torch.stack(scores)).sum(0)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n draws, shape (n, ...), in random order."""
        parts = torch.stack([base.sample(n, rng) for base in self.bases])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=parts.device)
        which = torch.multinomial(weights, n, replacement=True, generator=rng)
        return parts[which, torch.arange(n, device=parts.device)]
