"""Densities that an energy is told from, and the one that an energy of many columns starts from.

In many columns, and from few rows, chains end worse than the Gaussian fitted to the rows: held-out
log-density in nats, 12 columns of whole numbers and 120 rows, -16.8 of the Gaussian and -22.5 after 500
steps of persistent chains that start from it. So such a density is where the energy starts, and what
training adds is kept as far as held-out rows gain by it.

Rows held out choose how many components there are and how far each covariance is drawn towards a round
one, which a handful of rows in many columns needs (Ledoit and Wolf 2004). A tenth of the mass is a
Gaussian twice as wide as the rows: the surroundings of the data are told from them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.objectives import fit_gaussian, fit_gaussian_mixture

__all__ = ["covering_mixture", "empty_reference", "fitted_reference"]

_ROWS = 4096
_COMPONENTS = (1, 2, 4, 8, 16)
_SHRINKAGE = (0.0, 0.03, 0.1, 0.3)
#: Rows a component needs, as a multiple of the columns.
_ROWS_PER_COLUMN = 3
_WIDE, _SHARE = 2.0, 0.1


def covering_mixture(x: Tensor, noise: float) -> GaussianMixture:
    """A mixture that covers the (blurred) rows of few columns, for an energy learned from nothing."""
    rng = torch.Generator().manual_seed(0)
    x = x + noise * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    components = max(1, min(8, len(x) // (10 * x[0].numel())))
    near = fit_gaussian_mixture(x, components, rng, steps=30, inflate=1.2)
    # Where there is no noise the energy is free to fall: a wide component covers the surroundings.
    wide = fit_gaussian(x, inflate=2.0)
    parts = (
        (0.7 * near.weights, 0.3 * wide.weights),
        *zip((near.means, near.covariances), (wide.means, wide.covariances), strict=True),
    )
    return GaussianMixture(*(torch.cat(part) for part in parts))


def fitted_reference(x: Tensor, noise: float) -> GaussianMixture:
    """The mixture whose held-out log-density is largest, with a wide component.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Encoded rows, flattened.
    noise : float
        Standard deviation of the noise added to them, in units of x.

    Returns
    -------
    GaussianMixture
        The last component is the wide one.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> x = eight_gaussians().sample(2000, torch.Generator().manual_seed(0))
    >>> len(fitted_reference(x, 0.02).weights) > 4
    True
    """
    rng = torch.Generator().manual_seed(0)
    flat = x.flatten(1).double().cpu()
    flat = flat[torch.randperm(len(flat), generator=rng)[:_ROWS]]
    flat = flat + noise * torch.randn(flat.shape, generator=rng, dtype=flat.dtype)
    n, dim = flat.shape
    held = max(1, n // 10)
    best, chosen = -torch.inf, (1, _SHRINKAGE[-1])
    for k in _COMPONENTS if n - held >= 2 else ():
        if k > 1 and n - held < _ROWS_PER_COLUMN * dim * k:
            break
        near = _near(flat[held:], k)
        for amount in _SHRINKAGE:
            value = float(_widened(_shrunk(near, amount), flat[held:]).log_prob(flat[:held]).mean())
            if value > best:
                best, chosen = value, (k, amount)
    return _widened(_shrunk(_near(flat, chosen[0]), chosen[1]), flat)


def empty_reference(components: int, dim: int) -> GaussianMixture:
    """A mixture of the same size, to be filled from a file."""
    eye = torch.eye(dim, dtype=torch.float64).expand(components, dim, dim)
    return GaussianMixture([1.0] * components, torch.zeros(components, dim), eye)


def _near(x: Tensor, components: int) -> GaussianMixture:
    rng = torch.Generator().manual_seed(1)
    return fit_gaussian_mixture(x, min(components, len(x)), rng, steps=30)


def _shrunk(mixture: GaussianMixture, amount: float) -> GaussianMixture:
    round_ = mixture.covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(mixture.dim, dtype=mixture.dtype)
    covariances = (1 - amount) * mixture.covariances + amount * round_ * eye
    return GaussianMixture(mixture.weights, mixture.means, covariances)


def _widened(near: GaussianMixture, x: Tensor) -> GaussianMixture:
    """A share of the mass for a wider Gaussian of all rows, no flatter than the components are."""
    whole = fit_gaussian(x, inflate=_WIDE)
    floor = 1e-2 * whole.covariances.diagonal(dim1=1, dim2=2).mean()
    eye = torch.eye(near.dim, dtype=near.dtype)
    return GaussianMixture(
        torch.cat([(1 - _SHARE) * near.weights, _SHARE * whole.weights]),
        torch.cat([near.means, whole.means]),
        torch.cat([near.covariances, whole.covariances + floor * eye]),
    )
