"""Denoising: the loss behind DSM, NCSN, DDPM and EDM.

With ``x_sigma = x_0 + sigma eps`` and Tweedie's ``D = x + sigma^2 s``,

    ||D(x_sigma) - x_0||^2 = sigma^4 ||s(x_sigma) + eps/sigma||^2 = sigma^2 ||eps_hat - eps||^2,

so one loss, the weighted mean square error of the denoiser **per coordinate**,

    loss = weight(sigma) ||D(x_0 + sigma eps, sigma) - x_0||^2 / D,        sigma ~ schedule,

is each of them, told apart by the weight and the law of the level only:

=====================  ===========================  ===============================
method                 weight                       levels
=====================  ===========================  ===============================
NCSN (1907.05600)      ``simple_weight``, 1/s^2     a ladder, each as often
DDPM simple            ``simple_weight``            uniform in the schedule's time
EDM (2206.00364)       ``edm_weight``, 1/c_out^2    log-normal
min-SNR (2303.09556)   ``min_snr_weight``           any
=====================  ===========================  ===============================

Its minimiser is ``E[x_0 | x_sigma]`` at every level, whatever the weight. At one level,

    1/2 E||s(x_sigma) + eps/sigma||^2 = 1/2 E||s - grad log p_sigma||^2 + const,

with a constant that does not depend on the model (Vincent 2011): `DenoisingScoreMatching`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.models import Denoiser, Energy, Preconditioning, per_row
from energyscape.objectives.base import Aux, LossOutput, conditioned, kink, model_score
from energyscape.objectives.stable import origin_moves

__all__ = [
    "DenoisingLoss",
    "DenoisingScoreMatching",
    "LevelLaw",
    "Weight",
    "WithLowLevels",
    "edm_weight",
    "level_losses",
    "min_snr_weight",
    "natural_weight",
    "simple_weight",
    "unit_weight",
]

#: Origins that are looked through at a single level. In the plane twice as many make a divergence 3 %
#: lower and a step of training 3 % longer.
_ORIGINS = 128

Weight = Callable[[Tensor], Tensor]


class LevelLaw(Protocol):
    """Where training levels come from; every `Schedule` is one."""

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """`n` levels in data units, shape (n,)."""
        ...


@dataclass(frozen=True)
class WithLowLevels:
    """Levels of a law, a share of them even in log sigma over a range below it instead.

    Parameters
    ----------
    law : LevelLaw
    low, high : float
        The range, in data units.
    share : float
        Of the rows of a batch, rounded up or down at random so that it holds of small batches too.

    Raises
    ------
    ValueError
        For a range that does not rise, or a share outside (0, 1).

    Examples
    --------
    >>> import torch
    >>> from energyscape.schedules import EDM
    >>> law = WithLowLevels(EDM(), 0.002, 0.05, 0.5)
    >>> bool((law.sample(1000, torch.Generator().manual_seed(0)) < 0.05).sum() >= 500)
    True
    """

    law: LevelLaw
    low: float
    high: float
    share: float

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and 0 < self.share < 1):
            raise ValueError(
                f"low levels need 0 < low < high and a share in (0, 1), got {self.low}, {self.high} "
                f"and {self.share}"
            )

    def sample(self, n: int, rng: torch.Generator | None, device: str | None = None) -> Tensor:
        """`n` levels, the low ones first, float64, shape (n,)."""
        u = torch.rand(n + 1, generator=rng, dtype=torch.float64, device=device)
        count = int(self.share * n + u[n])
        low = self.low * (self.high / self.low) ** u[:count]
        return torch.cat([low, self.law.sample(n - count, rng, device)]) if count < n else low


def simple_weight(sigma: Tensor) -> Tensor:
    """``1/sigma^2``: the mean square error of eps (2006.11239 eq. 14), and NCSN's lambda.

    >>> import torch
    >>> simple_weight(torch.tensor([0.5, 2.0]))
    tensor([4.0000, 0.2500])
    """
    return sigma.square().reciprocal()


def unit_weight(sigma: Tensor) -> Tensor:
    """1: the mean square error of x_0, in data units."""
    return torch.ones_like(sigma)


def edm_weight(sigma_data: float) -> Weight:
    """``(sigma^2 + sd^2)/(sigma sd)^2 = 1/c_out^2`` (2206.00364 table 1).

    >>> import torch
    >>> edm_weight(1.0)(torch.tensor([1.0]))
    tensor([2.])
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, got {sigma_data}")

    def weight(sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal() + sigma_data**-2

    return weight


def min_snr_weight(gamma: float = 5.0, sigma_data: float = 1.0) -> Weight:
    """``min(SNR, gamma)`` in units of the data, ``SNR = (sd/sigma)^2`` (2303.09556 eq. 6).

    >>> import torch
    >>> min_snr_weight(5.0)(torch.tensor([0.1, 1.0]))
    tensor([5., 1.])
    """
    if not (gamma > 0 and sigma_data > 0):
        raise ValueError(f"gamma and sigma_data must be positive, got {gamma} and {sigma_data}")

    def weight(sigma: Tensor) -> Tensor:
        return (sigma_data / sigma).square().clamp(max=gamma) / sigma_data**2

    return weight


def natural_weight(preconditioning: Preconditioning) -> Weight:
    """``1/c_out^2``, which makes the loss ``||F - target||^2`` of the bare network.

    >>> import torch
    >>> from energyscape.models import EpsPreconditioning
    >>> natural_weight(EpsPreconditioning())(torch.tensor([2.0]))
    tensor([0.2500])
    """

    def weight(sigma: Tensor) -> Tensor:
        return preconditioning.coefficients(sigma).c_out.square().reciprocal()

    return weight


def _denoiser(model: nn.Module) -> Denoiser:
    if isinstance(model, Denoiser):
        return model
    if isinstance(model, Energy):
        raise ValueError(
            "a denoising loss trains a Denoiser: wrap a noise-conditional energy as "
            "EnergyDenoiser(energy)"
        )
    raise ValueError(
        f"a denoising loss trains a Denoiser, got {type(model).__name__}: wrap a network of "
        "(x, c_noise) in PreconditionedDenoiser"
    )


@dataclass(frozen=True)
class DenoisingLoss:
    """``weight(sigma) ||D(x_0 + sigma eps, sigma) - x_0||^2 / D`` at random levels.

    Parameters
    ----------
    schedule : LevelLaw
        Its ``sample(n, rng, device)`` draws the levels, in data units.
    weight : callable
        Maps levels of shape (batch,) to weights of shape (batch,).
    label_dropout : float
        Probability with which a row's label is replaced by -1, "no label", so that one network
        learns both densities that classifier-free guidance needs (2207.12598 algorithm 1).
    stable : bool
        Learn from the mean of the rows of the batch that a noisy row may have come from, instead of
        the one it came from: the same minimiser and mean loss of a batch, and targets of less variance
        at high levels (2302.00670), see `energyscape.objectives.stable`. A loss is then no function of
        its row alone.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.models import FunctionDenoiser
    >>> from energyscape.schedules import Geometric
    >>> rng, p = torch.Generator().manual_seed(0), eight_gaussians()
    >>> loss = DenoisingLoss(Geometric(0.01, 10.0), simple_weight)
    >>> loss(FunctionDenoiser(p.denoise), p.sample(4, rng), None, rng).loss.shape
    torch.Size([4])
    """

    schedule: LevelLaw
    weight: Weight = simple_weight
    label_dropout: float = 0.0
    stable: bool = False
    needs_double_backward = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {self.label_dropout}")

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; refuses a model that is no `Denoiser`."""
        _denoiser(model)
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
        """The weighted error of each row, shape (batch,)."""
        sigma = self.schedule.sample(len(x), rng, str(x.device))
        weight = self.weight(sigma).to(x.dtype)
        given = label
        if label is not None and self.label_dropout > 0:
            dropped = torch.rand(len(x), generator=rng, device=x.device) < self.label_dropout
            given = torch.where(dropped, -1, label)
        x0_hat, eps = _restored(_denoiser(model), x, sigma.to(x.dtype), rng, given)
        error = _per_coordinate(x0_hat - x)
        if self.stable:
            move = origin_moves(x, eps, sigma, label=label, given=given, hidden=self.label_dropout)
            # ||D - t||^2 + ||t - x_0||^2 has the mean of ||D - x_0||^2 over a batch.
            error = _per_coordinate(x0_hat - (x + move)) + _per_coordinate(move)
        return LossOutput(weight * error, aux, {"denoising_error": error.detach().mean()})


def _restored(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, rng: torch.Generator, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``D(x_0 + sigma eps, sigma)`` with fresh noise, and that noise."""
    eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    noisy = torch.addcmul(x, per_row(sigma, x), eps)
    x0_hat = denoiser(noisy, sigma) if label is None else denoiser(noisy, sigma, label)
    return x0_hat.to(x.dtype), eps


def _per_coordinate(error: Tensor) -> Tensor:
    """The mean square of each row."""
    return error.square().flatten(1).mean(1)


def level_losses(
    model: Denoiser,
    x: Tensor,
    levels: Sequence[float] | Tensor,
    rng: torch.Generator,
    *,
    weight: Weight = simple_weight,
    label: Tensor | None = None,
) -> Tensor:
    """The mean denoising loss at each of several levels, for reports; shape (levels,).

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.models import FunctionDenoiser
    >>> rng, p = torch.Generator().manual_seed(0), eight_gaussians()
    >>> level_losses(FunctionDenoiser(p.denoise), p.sample(50, rng), [0.1, 1.0], rng).shape
    torch.Size([2])
    """
    sigmas = torch.as_tensor(levels, dtype=torch.float64)
    weights = weight(sigmas).to(x.dtype)
    losses = []
    with torch.no_grad():
        for sigma in sigmas:
            rows = sigma.to(x).expand(len(x))
            losses.append(_per_coordinate(_restored(model, x, rows, rng, label)[0] - x).mean())
    return weights.to(x.device) * torch.stack(losses)


@dataclass(frozen=True)
class DenoisingScoreMatching:
    """``1/2 ||s(x + sigma eps) + eps/sigma||^2`` at one level (Vincent 2011 eq. 11).

    Equal to the Fisher divergence to ``p_sigma`` up to a constant free of the model, summed over
    coordinates. What is learned is the density blurred at this level.

    Parameters
    ----------
    sigma : float
        In data units.
    conditional : bool
        Whether the model is told the level: needed for a `Denoiser` and a noise-conditional energy;
        False for an energy or a field of x alone.
    antithetic : bool
        Take each row at ``x + sigma eps`` and at ``x - sigma eps``, for twice the cost. The same
        mean, but the term ``s . eps/sigma``, whose noise grows as 1/sigma, is then that of the
        difference of two near scores, and stays of order 1 as the level falls.
    stable : bool
        As in `DenoisingLoss`: the score's target is ``(t - x_sigma)/sigma^2``, t the mean of possible
        origins. Not with `antithetic`, whose pairs it would take apart.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> rng = torch.Generator().manual_seed(0)
    >>> DenoisingScoreMatching(0.5)(energy, torch.zeros(3, 2), None, rng).loss.shape
    torch.Size([3])
    """

    sigma: float
    conditional: bool = False
    antithetic: bool = False
    stable: bool = False
    needs_double_backward = True
    validates_without_graph = True

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(
                f"denoising score matching needs a positive noise level, got {self.sigma}; "
                "without noise use SlicedScoreMatching"
            )
        if self.antithetic and self.stable:
            raise ValueError(
                "antithetic pairs tell their origin between them, which stable targets would hide: "
                "choose one"
            )

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """No state; warns of an energy with kinked activations.

        Warns
        -----
        UserWarning
            Such an energy trains, but its score is constant on each piece of space.
        """
        found = kink(model, x, self.sigma if self.conditional else None)
        if found:
            warnings.warn(
                f"the score of this energy is piecewise constant, since {found}: it cannot follow a "
                "smooth density; use SiLU, Softplus or ELU",
                UserWarning,
                stacklevel=2,
            )
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
        eps = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        count, apart = len(x), None
        if self.antithetic:
            x, eps = torch.cat([x, x]), torch.cat([eps, -eps])
            label = None if label is None else label.repeat(2)
        noisy = torch.add(x, eps, alpha=self.sigma)
        level, training = self.sigma if self.conditional else None, torch.is_grad_enabled()
        with torch.enable_grad():  # for a model whose own score differentiates
            score = model_score(conditioned(model, label), noisy, level, create_graph=training)
        score = score if training else score.detach()
        if self.stable:
            # Both by way of the mean origin t: (t - x_sigma)/sigma^2, and |t - x_0|^2/sigma^4 apart.
            moved = origin_moves(x, eps, self.sigma, label=label, most=_ORIGINS)
            target = torch.sub(moved, eps, alpha=self.sigma).div_(self.sigma**2)
            apart = (moved / self.sigma**2).square().flatten(1).sum(1).mul_(0.5)
        else:
            target = eps / -self.sigma
        error = F.mse_loss(score.to(x.dtype), target, reduction="none").flatten(1).sum(1)
        loss = 0.5 * error if apart is None else torch.add(apart, error, alpha=0.5)
        if self.antithetic:
            loss = loss.reshape(2, count).mean(0)
        return LossOutput(loss, aux, {})
