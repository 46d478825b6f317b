"""What a trained model can say against a row: functions of a model and encoded rows, larger = stranger.

======================  ==================================================================
`denoising_errors`      how badly noised rows are restored, at each level of a ladder
`score_norms`           how steep the landscape is there, ``sigma |score(x, sigma)|``
`energies`              the energy itself, at one or several levels
======================  ==================================================================

They see models (`Denoiser`, `Energy`), no estimator, and can be read on one scale and averaged by
`energyscape.detectors.TailLaw`. The exact energy of the data themselves, which a denoiser tends to, is
`energyscape.detectors.empirical_energies`; log-densities are `DensityEstimator.log_density`. On 18
tables a denoiser's errors were weaker evidence than that energy and added nothing to it (see the log).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from energyscape.models import Denoiser, Energy

__all__ = ["denoising_errors", "energies", "score_norms"]


@torch.no_grad()
def denoising_errors(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[float],
    *,
    probes: int = 4,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``mean over probes of (D(x + sigma eps, sigma) - x)^2 / sigma^2``, dimension by dimension.

    The same probes, in pairs ``+-eps``, for every row: a row's errors are a function of the row.

    Parameters
    ----------
    denoiser : Denoiser
    x : Tensor of shape (n, ...)
    levels : sequence of L positive numbers
        Noise levels sigma, in the units of x.
    probes : int
        An even number.
    seed : int
        Of the probes.
    dtype : torch.dtype, optional
        What the model computes in; that of x by default.

    Returns
    -------
    Tensor of shape (L, n, ...)

    Raises
    ------
    ValueError
        If `probes` is odd or a level is not positive.

    References
    ----------
    Livernoche et al. 2305.18593 compare such scores.

    Examples
    --------
    >>> from energyscape.models import FunctionDenoiser
    >>> perfect = FunctionDenoiser(lambda x, sigma: torch.zeros_like(x))    # of data at 0
    >>> denoising_errors(perfect, torch.tensor([[0.0], [2.0]]), [1.0]).flatten().tolist()
    [0.0, 4.0]
    """
    if probes < 2 or probes % 2:
        raise ValueError(f"probes come in pairs, got {probes}")
    _check_levels(levels)
    rng = torch.Generator().manual_seed(seed)
    shape = (len(levels), probes // 2, *x.shape[1:])
    half = torch.randn(shape, generator=rng, dtype=torch.float64)
    noise = torch.cat([half, -half], dim=1).to(x.device, x.dtype)
    out = torch.zeros((len(levels), *x.shape), dtype=x.dtype, device=x.device)
    for i, sigma in enumerate(levels):
        for eps in noise[i]:
            restored = denoiser((x + sigma * eps).to(dtype or x.dtype), float(sigma))
            out[i] += (restored - x).square() / (sigma**2 * probes)
    return out


def score_norms(model: Denoiser | Energy, x: Tensor, levels: Sequence[float]) -> Tensor:
    """``sigma |score(x, sigma)|`` at each level, without added noise: shape (n, L).

    Examples
    --------
    >>> from energyscape.models import FunctionDenoiser
    >>> gaussian = FunctionDenoiser(lambda x, sigma: x / (1 + sigma**2))    # of N(0, 1)
    >>> score_norms(gaussian, torch.tensor([[2.0]]), [1.0]).item()
    1.0
    """
    _check_levels(levels)
    norms = [float(s) * model.score(x, float(s)).detach().flatten(1).norm(dim=1) for s in levels]
    return torch.stack(norms, dim=1)


@torch.no_grad()
def energies(energy: Energy, x: Tensor, levels: Sequence[float] | None = None) -> Tensor:
    """The energy at each level, or of an energy without levels as it is: shape (n, L) or (n, 1).

    Examples
    --------
    >>> from energyscape.models import FunctionEnergy
    >>> energies(FunctionEnergy(lambda x: 0.5 * x.square().sum(1)), torch.tensor([[2.0]])).item()
    2.0
    """
    if levels is None:
        return energy(x)[:, None]
    _check_levels(levels)
    return torch.stack([energy(x, float(sigma)) for sigma in levels], dim=1)


def _check_levels(levels: Sequence[float]) -> None:
    if not len(levels) or min(levels) <= 0:
        raise ValueError(f"noise levels must be positive numbers, got {list(levels)}")
