"""Losses that need the chain's steps: simple, the variational bound, and both together.

With a step i drawn for each row and terms L_i as in `energyscape.diffusion.bound`,

    simple   ||eps - eps_hat||^2 / dim            or ||mu~ - mu||^2 / dim for a predicted mean
    bound    N L_i / dim                          its mean over steps is the bound without L_T
    hybrid   simple + lambda bound                the bound trains the variance alone there

(2006.11239 eq. 14, 2102.09672 eq. 16.) Gradients of the bound are noisy because L_i spans orders of
magnitude; drawing i with probability ``p_i ~ sqrt(E[L_i^2])`` from a running record and dividing by
``N p_i`` leaves the mean as it is (2102.09672 eq. 18). The record is the explicit `aux`.

All are called as ``loss(model, x, aux, rng, label=...)`` and give one value a row, in nats per
dimension where they are bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from energyscape.diffusion.bound import gaussian_kl, gaussian_log_prob
from energyscape.diffusion.chain import Chain, Reverse, Variance
from energyscape.diffusion.parametrisation import LearnedRange, MeanPrediction
from energyscape.models import Denoiser

__all__ = ["BoundLoss", "ChainLossOutput", "HybridLoss", "SimpleLoss"]

_HISTORY = 10
_UNIFORM_SHARE = 1e-3

Aux = dict[str, Tensor] | None


class ChainLossOutput(NamedTuple):
    """Loss of each row, shape (batch,); the new auxiliary state; numbers to log."""

    loss: Tensor
    aux: Aux
    metrics: dict[str, Tensor | float]


def _uniform_steps(n: int, num_steps: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """One step a row, stratified: uniform each, and spread evenly over the batch."""
    u = torch.rand(n, generator=rng, device=device, dtype=torch.float64)
    order = torch.randperm(n, generator=rng, device=device)
    return ((order + u) / n * num_steps).long().clamp(max=num_steps - 1)


def _draw(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)


def _mean(t: Tensor) -> Tensor:
    return t.flatten(1).mean(1)


def _simple(
    chain: Chain, model: nn.Module, x: Tensor, i: Tensor, eps: Tensor, label: Tensor | None
) -> Tensor:
    if isinstance(model, MeanPrediction):
        x_t = chain.noise(x, i, eps)
        mean = chain.posterior(x, x_t, i)[0]
        return _mean((chain.reverse(model, x_t, i, label=label).mean - mean).square())
    if not isinstance(model, Denoiser):
        raise ValueError(
            f"a chain's loss takes a Denoiser or a MeanPrediction, not {type(model).__name__}"
        )
    return _noise_error(chain, model, x, i, eps, label)[1]


def _noise_error(
    chain: Chain, model: nn.Module, x: Tensor, i: Tensor, eps: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A denoiser's estimate of x_0, and the mean square of the error of the noise in each row."""
    sigma = chain.sigmas.to(x.device)[i].to(x.dtype)
    wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
    x0_hat = model(x + wide * eps, sigma, label)
    return x0_hat, _mean(((x0_hat - x) / wide).square())


def _bound_term(chain: Chain, x: Tensor, i: Tensor, reverse: Reverse, x_t: Tensor) -> Tensor:
    """L_i of each row per dimension, with a Gaussian decoder at index 0."""
    mean, var = chain.posterior(x, x_t, i)
    first = i == 0
    wide = first.reshape(-1, *[1] * (x.ndim - 1))
    kl = gaussian_kl(mean, torch.where(wide, 1.0, var).log(), reverse)
    return torch.where(first, -gaussian_log_prob(x, reverse), kl) / x[0].numel()


@dataclass(frozen=True)
class SimpleLoss:
    """The simple loss on the chain's steps; its unweighted mean error for a predicted mean.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionDenoiser
    >>> loss = SimpleLoss(Chain.linear())
    >>> never = FunctionDenoiser(lambda x, sigma: x)  # eps_hat = 0, so the loss is E[eps^2] = 1
    >>> rng = torch.Generator().manual_seed(0)
    >>> out = loss(never, torch.zeros(4000, 2), None, rng)
    >>> bool((out.loss.mean() - 1).abs() < 0.1)
    True
    """

    chain: Chain
    needs_double_backward: bool = False

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state."""
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> ChainLossOutput:
        """The loss of each row at one random step."""
        i = _uniform_steps(len(x), self.chain.num_steps, rng, x.device)
        loss = _simple(self.chain, model, x, i, _draw(x, rng), label)
        return ChainLossOutput(loss, aux, {})


@dataclass(frozen=True)
class BoundLoss:
    """The variational bound without L_T, in nats per dimension, at one random step a row.

    Parameters
    ----------
    chain : Chain
    variance : {"fixed_small", "fixed_large", "learned_range"}, optional
        As in `Chain.reverse`.
    importance : bool
        Draw steps by the running record of their size, once each has been seen ten times.
    """

    chain: Chain
    variance: Variance | None = None
    importance: bool = False
    needs_double_backward: bool = False

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The record of each step's last ten losses, or None without importance sampling."""
        if not self.importance:
            return None
        n = self.chain.num_steps
        return {"history": torch.zeros(n, _HISTORY), "seen": torch.zeros(n, dtype=torch.long)}

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> ChainLossOutput:
        """The loss of each row, with the record it leaves behind."""
        n = self.chain.num_steps
        if self.importance and aux is None:
            aux = self.init(model, x, rng)
        p = _proposal(aux, n)
        if p is None:
            i, weight = (
                _uniform_steps(len(x), n, rng, x.device),
                torch.ones(len(x), device=x.device),
            )
        else:
            p = p.to(x.device)
            i = torch.multinomial(p, len(x), replacement=True, generator=rng)
            weight = 1 / (n * p[i])
        eps = _draw(x, rng)
        x_t = self.chain.noise(x, i, eps)
        reverse = self.chain.reverse(model, x_t, i, label=label, variance=self.variance)
        term = _bound_term(self.chain, x, i, reverse, x_t)
        metrics: dict[str, Tensor | float] = {"bound": (weight * n * term).detach().mean()}
        return ChainLossOutput(weight.to(term) * n * term, _recorded(aux, i, term), metrics)


@dataclass(frozen=True)
class HybridLoss:
    """The simple loss for the mean plus a little of the bound for the variance (2102.09672 eq. 16).

    Parameters
    ----------
    chain : Chain
    weight : float
        lambda; the mean is held fixed inside the bound, so lambda moves the variance alone.
    """

    chain: Chain
    weight: float = 1e-3
    needs_double_backward: bool = False

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state."""
        return None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> ChainLossOutput:
        """The loss of each row at one random step; the model must be a `LearnedRange`."""
        if not isinstance(model, LearnedRange):
            raise ValueError("the hybrid loss trains a variance: it needs a LearnedRange model")
        i = _uniform_steps(len(x), self.chain.num_steps, rng, x.device)
        eps = _draw(x, rng)
        x0_hat, simple = _noise_error(self.chain, model, x, i, eps, label)
        x_t = self.chain.noise(x, i, eps)
        mean = self.chain.posterior(x0_hat.detach(), x_t, i)[0]
        fixed = Reverse(mean, self.chain.learned_log_variance(model, x_t, i, label=label))
        bound = self.chain.num_steps * _bound_term(self.chain, x, i, fixed, x_t)
        metrics: dict[str, Tensor | float] = {
            "simple": simple.detach().mean(),
            "bound": bound.detach().mean(),
        }
        return ChainLossOutput(simple + self.weight * bound, aux, metrics)


def _proposal(aux: Aux, num_steps: int) -> Tensor | None:
    """Probabilities of the steps, or None until each has a full record."""
    if aux is None or int(aux["seen"].min()) < _HISTORY:
        return None
    size = aux["history"].double().square().mean(1).sqrt()
    if not float(size.sum()) > 0:
        return None
    return (1 - _UNIFORM_SHARE) * size / size.sum() + _UNIFORM_SHARE / num_steps


def _recorded(aux: Aux, i: Tensor, term: Tensor) -> Aux:
    """A new record with these terms in the oldest places."""
    if aux is None:
        return None
    history, seen = aux["history"].clone(), aux["seen"].clone()
    for step, value in zip(i.tolist(), term.detach().float().tolist(), strict=True):
        history[step, int(seen[step]) % _HISTORY] = value
        seen[step] += 1
    return {"history": history, "seen": seen}
