"""The variational bound of a chain, term by term, in nats.

    -log p(x_0) <= L_T + sum over i > 0 of L_i + L_0                (2006.11239 eq. 5)

    L_T = KL( q(x_T | x_0) || N(0, I) )                             no parameters
    L_i = E KL( q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i) )         index i = 1 .. N-1
    L_0 = E[ -log p(x_0 | x_1) ]                                    depends on the model too

`path_log_ratio` evaluates ``log q(x_{1:T} | x_0) - log p(x_{0:T})`` on one drawn path; its
expectation is the same sum, by telescoping (Bayes' rule at every step).

L_0 is a Gaussian's for continuous data, and for 8-bit pictures on [-1, 1] the mass of the pixel's bin,
open at both edges (eq. 13); any other ``log p(x_0 | x_1)`` can be given as a function. All arithmetic
but the network's is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from energyscape.diffusion.chain import Chain, Reverse, Variance
from energyscape.diffusion.samplers import Clip

__all__ = [
    "Bound",
    "BoundByStep",
    "Decoder",
    "bound_by_step",
    "cell_log_prob",
    "discretised_log_prob",
    "gaussian_kl",
    "gaussian_log_prob",
    "path_log_ratio",
    "step_probabilities",
    "variational_bound",
]

#: ``log p(x_0 | x_1)`` of each row, by name or as a function of x_0 and the last reverse kernel.
Decoder: TypeAlias = Literal["gaussian", "discretised"] | Callable[[Tensor, Reverse], Tensor]


class Bound(NamedTuple):
    """The negative evidence lower bound of each row and its parts, in nats, shapes (batch,).

    `stderr` is the Monte-Carlo error of `value`. `per_step` has L_1 .. L_{N-1}, shape
    (batch, N - 1), where all steps were evaluated, and is None where they were sampled.
    """

    value: Tensor
    stderr: Tensor
    terminal: Tensor
    transitions: Tensor
    decoder: Tensor
    per_step: Tensor | None

    def bits_per_dim(self, dim: int) -> Tensor:
        """`value` in bits per dimension."""
        return self.value / (dim * math.log(2))


def _rows(t: Tensor) -> Tensor:
    return t.flatten(1).sum(1)


def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, p: Reverse) -> Tensor:
    """KL(N(mean_q, e^log_var_q) || p) of each row in nats, shape (batch,)."""
    gap = (mean_q - p.mean).square() * (-p.log_var).exp()
    ratio = log_var_q - p.log_var
    return 0.5 * _rows(gap + torch.expm1(ratio) - ratio)


def gaussian_log_prob(x: Tensor, p: Reverse) -> Tensor:
    """log N(x; mean, e^log_var) of each row in nats, shape (batch,)."""
    square = (x - p.mean).square() * (-p.log_var).exp()
    return -0.5 * _rows(square + p.log_var + math.log(2 * math.pi))


def discretised_log_prob(x: Tensor, p: Reverse, *, bins: int = 256) -> Tensor:
    """log of the mass of each pixel's bin on [-1, 1], summed over a row (2006.11239 eq. 13).

    `bins` levels lie evenly over [-1, 1], its ends among them.

    Examples
    --------
    The masses of all bins add up to one.

    >>> import torch
    >>> grid = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    >>> p = Reverse(torch.zeros(256, 1, dtype=torch.float64), torch.tensor(-1.0))
    >>> round(float(discretised_log_prob(grid, p).exp().sum()), 12)
    1.0
    """
    if bins < 2:
        raise ValueError(f"a discretised decoder has at least 2 bins, got {bins}")
    half = 1 / (bins - 1)
    upper = torch.where(x > 1 - half, math.inf, x + half)
    lower = torch.where(x < -1 + half, -math.inf, x - half)
    return cell_log_prob(lower, upper, p)


def cell_log_prob(lower: Tensor, upper: Tensor, p: Reverse) -> Tensor:
    """log of the mass that N(mean, e^log_var) has between two ends, summed over a row, (batch,).

    Examples
    --------
    >>> p = Reverse(torch.zeros(1, 1), torch.tensor(0.0))
    >>> ends = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    >>> round(float(cell_log_prob(*ends, p).exp()), 4)
    0.6827
    """
    scale = (-0.5 * p.log_var).exp()
    lower, upper = (lower - p.mean) * scale, (upper - p.mean) * scale
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): taken in the lower tail, where no digits are lost.
    flip = lower + upper > 0
    low, high = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_high = torch.special.log_ndtr(high)
    return _rows(log_high + torch.log1p(-(torch.special.log_ndtr(low) - log_high).exp()))


def _decode(x0: Tensor, p: Reverse, decoder: Decoder) -> Tensor:
    if callable(decoder):
        return -decoder(x0, p)
    if decoder == "gaussian":
        return -gaussian_log_prob(x0, p)
    if decoder == "discretised":
        return -discretised_log_prob(x0, p)
    raise ValueError(f"decoder is 'gaussian' or 'discretised', not {decoder!r}")


def terminal_kl(chain: Chain, x0: Tensor) -> Tensor:
    """L_T of each row in nats, shape (batch,)."""
    log_abar = chain._log_alphas_bar[-1].to(x0.device)
    signal = log_abar.exp()
    return 0.5 * _rows(signal * x0.square() - signal - (-torch.expm1(log_abar)).log())


def transition_kl(
    chain: Chain,
    model: nn.Module,
    x0: Tensor,
    i: int | Tensor,
    eps: Tensor,
    *,
    label: Tensor | None = None,
    variance: Variance | None = None,
    clip: Clip | None = None,
) -> Tensor:
    """L_i of each row at one noise draw, for steps i >= 1, shape (batch,)."""
    x_t = chain.noise(x0, i, eps)
    mean, var = chain.posterior(x0, x_t, i)
    reverse = chain.reverse(model, x_t, i, label=label, variance=variance, clip=clip)
    return gaussian_kl(mean, var.log(), reverse)


def step_probabilities(chain: Chain) -> Tensor:
    """A proposal for sampling L_1 .. L_{N-1}, shape (N - 1,).

    Under the exact denoiser of unit Gaussian data, ``L_i`` is proportional to
    ``(sigma_i^2/sigma_{i-1}^2 - 1) / (1 + sigma_i^2)``. What an error of the noise that is the same at
    every step adds is proportional to ``sigma_i^2/sigma_{i-1}^2 - 1``, which where betas are near 1 is
    far more. The first has seven tenths, the second two, and one is spread evenly for safety.
    """
    s2 = chain.sigmas.square()
    growth = s2[1:] / s2[:-1] - 1
    size = growth / (1 + s2[1:])
    return 0.7 * size / size.sum() + 0.2 * growth / growth.sum() + 0.1 / len(size)


@torch.no_grad()
def variational_bound(
    chain: Chain,
    model: nn.Module,
    x0: Tensor,
    rng: torch.Generator,
    *,
    num_steps: int | None = None,
    probabilities: Tensor | None = None,
    decoder: Decoder = "gaussian",
    decoder_draws: int = 4,
    label: Tensor | None = None,
    variance: Variance | None = None,
    clip: Clip | None = None,
) -> Bound:
    """The negative evidence lower bound of each row, ``-log p(x_0) <= value``.

    Parameters
    ----------
    chain : Chain
    model : Denoiser or MeanPrediction
    x0 : Tensor of shape (batch, ...)
        In the chain's units; [-1, 1] for the discretised decoder.
    rng : torch.Generator
    num_steps : int, optional
        Sample this many steps a row, at least 2, instead of evaluating all N - 1.
    probabilities : Tensor of shape (N - 1,), optional
        Of the sampled steps, all positive; `step_probabilities` by default.
    decoder : {"gaussian", "discretised"} or callable
        "discretised" is for 256 levels, evenly over [-1, 1]. A function of x_0 and a `Reverse` gives
        ``log p(x_0 | x_1)`` of each row, shape (batch,): `discretised_log_prob` of other `bins`, say.
    decoder_draws : int
        Draws of x_1 that L_0 is averaged over, at least 2, for its standard error.
    label, variance, clip
        As in `Chain.reverse`: the bound is that of the chain which draws with them. Of rows within a
        clip to fixed ends no term but L_0 of 8-bit pictures grows, since each estimate of x_0 comes
        nearer to x_0; in its outermost bins, which are open, an estimate beyond the ends is better.

    Returns
    -------
    Bound
        With all steps, each at one noise draw, the error of their sum is estimated from the
        differences of neighbouring steps, which errs on the large side. The only transition of a
        chain of two steps has `decoder_draws`.

    Raises
    ------
    ValueError
        For fewer than 2 draws, or probabilities of another shape or not all positive.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionDenoiser
    >>> normal = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))
    >>> x0 = torch.zeros(1, 1, dtype=torch.float64)
    >>> b = variational_bound(Chain.linear(), normal, x0, torch.Generator().manual_seed(0))
    >>> bool(b.value > 0.9189)  # -log N(0; 0, 1)
    True
    """
    if decoder_draws < 2 or (num_steps is not None and num_steps < 2):
        raise ValueError("decoder_draws and num_steps must be at least 2, for a standard error")
    x0 = x0.to(torch.float64)
    if len(x0) == 0:
        none = x0.new_zeros(0)
        return Bound(none, none, none, none, none, None)

    def draw() -> Tensor:
        return torch.randn(x0.shape, generator=rng, dtype=torch.float64, device=x0.device)

    settings: dict[str, Any] = {"label": label, "variance": variance, "clip": clip}
    first = []
    for _ in range(decoder_draws):
        reverse = chain.reverse(model, chain.noise(x0, 0, draw()), 0, **settings)
        first.append(_decode(x0, reverse, decoder))
    decoded = torch.stack(first, 1)
    error2 = decoded.var(1) / decoder_draws
    steps = range(1, chain.num_steps)
    per_step: Tensor | None = None
    if len(steps) == 1:  # no neighbour to compare with
        drawn = [transition_kl(chain, model, x0, 1, draw(), **settings) for _ in first]
        per_step = torch.stack(drawn, 1).mean(1, keepdim=True)
        transitions = per_step.sum(1)
        error2 = error2 + torch.stack(drawn, 1).var(1) / decoder_draws
    elif num_steps is None or len(steps) == 0:
        terms = [transition_kl(chain, model, x0, i, draw(), **settings) for i in steps]
        per_step = torch.stack(terms, 1) if terms else x0.new_zeros(len(x0), 0)
        transitions = per_step.sum(1)
        if len(terms) > 1:
            # The two ends have one neighbour each, so their difference counts twice.
            steps2 = per_step.diff(dim=1).square()
            error2 = error2 + 0.5 * (steps2.sum(1) + steps2[:, 0] + steps2[:, -1])
    else:
        p = step_probabilities(chain) if probabilities is None else torch.as_tensor(probabilities)
        if p.shape != (len(steps),) or not bool((p > 0).all() and p.isfinite().all()):
            raise ValueError(
                f"the {len(steps)} transitions need as many probabilities, all positive and finite"
            )
        p = (p / p.sum()).to(x0)
        estimates = []
        for _ in range(num_steps):
            i = torch.multinomial(p, len(x0), replacement=True, generator=rng)
            kl = transition_kl(chain, model, x0, i + 1, draw(), **settings)
            estimates.append(kl / p[i])
        sampled = torch.stack(estimates, 1)
        transitions = sampled.mean(1)
        error2 = error2 + sampled.var(1) / num_steps
    terminal = terminal_kl(chain, x0)
    value = terminal + transitions + decoded.mean(1)
    return Bound(value, error2.sqrt(), terminal, transitions, decoded.mean(1), per_step)


class BoundByStep(NamedTuple):
    """Terms of the bound at some steps of a chain, in nats; shapes (batch,) and (batch, S).

    `steps` are indices, increasing, each drawn from `counts` neighbours which it stands for.
    """

    steps: Tensor
    counts: Tensor
    per_step: Tensor
    terminal: Tensor
    decoder: Tensor

    @property
    def transitions(self) -> Tensor:
        """An unbiased estimate of L_1 + .. + L_{N-1}, shape (batch,)."""
        return (self.per_step * self.counts).sum(1)


@torch.no_grad()
def bound_by_step(
    chain: Chain,
    model: nn.Module,
    x0: Tensor,
    rng: torch.Generator,
    *,
    most: int = 120,
    shared_noise: bool = False,
    decoder: Decoder = "gaussian",
    label: Tensor | None = None,
    variance: Variance | None = None,
    clip: Clip | None = None,
) -> BoundByStep:
    """The terms of the bound along the chain, where evaluating every step takes too long.

    The steps are cut into at most `most` runs of neighbours and one is drawn from each. Terms change
    fast near the data and near the other end, where a chain's betas may rise to 1, and slowly in
    between: runs are even in the logarithm of the index, but for a tenth of them, which are so in that
    of the distance from the end.

    Parameters
    ----------
    chain, model, x0, rng, decoder, label, variance, clip
        As for `variational_bound`; L_0 is of one draw.
    most : int
        The most steps to evaluate.
    shared_noise : bool
        Whether all rows are noised alike, which makes a row's terms a function of the row and of `rng`.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionDenoiser
    >>> normal = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))
    >>> x0 = torch.zeros(3, 1, dtype=torch.float64)
    >>> by_step = bound_by_step(Chain.linear(), normal, x0, torch.Generator().manual_seed(0), most=50)
    >>> len(by_step.steps) <= 50, int(by_step.counts.sum())
    (True, 999)
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    x0 = x0.to(torch.float64)
    n = chain.num_steps
    late = max(most // 10, min(1, most - 1))
    ahead = torch.linspace(0, math.log(n), most - late + 1, dtype=torch.float64).exp()
    behind = n - torch.linspace(0, math.log(n / 2), late, dtype=torch.float64).exp()
    edges = torch.cat([ahead, behind]).round().long().unique()
    if n - 1 <= most:
        edges = torch.arange(1, n + 1)
    counts = edges.diff()
    u = torch.rand(len(counts), generator=rng, dtype=torch.float64, device=x0.device).cpu()
    steps = edges[:-1] + (u * counts).long()
    settings: dict[str, Any] = {"label": label, "variance": variance, "clip": clip}

    shape = (1, *x0.shape[1:]) if shared_noise else x0.shape

    def draw() -> Tensor:
        noise = torch.randn(shape, generator=rng, dtype=torch.float64, device=x0.device)
        return noise.expand(x0.shape)

    terms = [transition_kl(chain, model, x0, i, draw(), **settings) for i in steps.tolist()]
    per_step = torch.stack(terms, 1) if terms else x0.new_zeros(len(x0), 0)
    reverse = chain.reverse(model, chain.noise(x0, 0, draw()), 0, **settings)
    decoded = _decode(x0, reverse, decoder)
    return BoundByStep(steps, counts.to(x0.device), per_step, terminal_kl(chain, x0), decoded)


@torch.no_grad()
def path_log_ratio(
    chain: Chain,
    model: nn.Module,
    x0: Tensor,
    rng: torch.Generator,
    *,
    decoder: Decoder = "gaussian",
    label: Tensor | None = None,
    variance: Variance | None = None,
    clip: Clip | None = None,
) -> tuple[Tensor, Tensor]:
    """The bound's integrand on one path, written forwards and telescoped, each (batch,) in nats.

    A path x_1 .. x_T is drawn step by step. The first value is
    ``sum log q(x_i | x_{i-1}) - log p(x_{0:T})``; the second replaces the forward kernels by
    ``log q(x_T | x_0) + sum log q(x_{i-1} | x_i, x_0)``. They are equal up to rounding, and the mean
    of either over paths is the bound.
    """
    x0 = x0.to(torch.float64)
    x = x0
    forward, telescoped = x0.new_zeros(len(x0)), x0.new_zeros(len(x0))
    model_part = x0.new_zeros(len(x0))
    for i in range(chain.num_steps):
        eps = torch.randn(x0.shape, generator=rng, dtype=torch.float64, device=x0.device)
        ahead = chain.forward_step(x, i, eps)
        beta = chain.betas[i].to(x0.device)
        kernel = Reverse((1 - beta).sqrt() * x, beta.log())
        forward += gaussian_log_prob(ahead, kernel)
        reverse = chain.reverse(model, ahead, i, label=label, variance=variance, clip=clip)
        if i == 0:
            model_part -= _decode(x0, reverse, decoder)
        else:
            model_part += gaussian_log_prob(x, reverse)
            mean, var = chain.posterior(x0, ahead, i)
            telescoped += gaussian_log_prob(x, Reverse(mean, var.log()))
        x = ahead
    log_abar = chain._log_alphas_bar[-1].to(x0.device)
    jump = Reverse((0.5 * log_abar).exp() * x0, (-torch.expm1(log_abar)).log())
    telescoped += gaussian_log_prob(x, jump)
    model_part += gaussian_log_prob(x, Reverse(torch.zeros_like(x), torch.zeros_like(log_abar)))
    return forward - model_part, telescoped - model_part
