"""Gaussian mixtures blurred at every noise level, in closed form: the oracle of the library.

For ``p = sum_k w_k N(mu_k, S_k)`` the density blurred with noise of standard deviation ``sigma`` is
again a mixture, ``p_sigma = sum_k w_k N(mu_k, S_k + sigma^2 I)``. With ``S_k = U_k diag(l_k) U_k'``
and ``y_k = U_k'(x - mu_k)``, everything is diagonal::

    log N_k(x)  = -1/2 sum_d [ y_kd^2 / (l_kd + sigma^2) + log(2 pi (l_kd + sigma^2)) ]
    r_k(x)      = w_k N_k(x) / sum_j w_j N_j(x)                            (responsibilities)
    score(x)    = -sum_k r_k U_k [ y_k / (l_k + sigma^2) ]                 (gradient of log p_sigma)
    denoiser(x) =  sum_k r_k ( mu_k + U_k [ l_k / (l_k + sigma^2) y_k ] )  (E[x_0 | x], Tweedie)

so ``sigma`` may differ from row to row. The density is normalised: ``log Z = 0`` at every level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["BlurredMixture", "GaussianMixture", "eight_gaussians", "twenty_five_gaussians"]


class GaussianMixture:
    """A mixture of ``K`` Gaussians on ``R^D`` with exact blurred marginals.

    Parameters
    ----------
    weights : Tensor of shape (K,)
        Positive; normalised to sum to one.
    means : Tensor of shape (K, D)
    covariances : Tensor of shape (K, D, D)
        Symmetric positive semi-definite. A zero covariance is a point mass, which has a density
        only once blurred.
    dtype : torch.dtype, default float64

    Raises
    ------
    ValueError
        If shapes do not fit, a weight is not positive or a covariance is not positive semi-definite;
        from the methods, if x or a level has the wrong shape, a level is negative, or a density is
        asked of a singular covariance at level 0.

    Examples
    --------
    >>> import torch
    >>> p = GaussianMixture.isotropic(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, [0.2, 0.8])
    >>> x = torch.tensor([[5.0, 5.0]])
    >>> bool(torch.allclose(p.denoise(x, 2.0), x.double() + 4.0 * p.score(x, 2.0)))
    True
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor,
        covariances: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.weights = torch.as_tensor(weights, dtype=dtype)
        self.means = torch.as_tensor(means, dtype=dtype)
        self.covariances = torch.as_tensor(covariances, dtype=dtype)
        if self.means.ndim != 2:
            raise ValueError(f"means must have shape (K, D), got {tuple(self.means.shape)}")
        k, d = self.means.shape
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            raise ValueError(
                f"{k} means in {d} dimensions need weights ({k},) and covariances ({k}, {d}, {d}), "
                f"got {tuple(self.weights.shape)} and {tuple(self.covariances.shape)}"
            )
        if not bool(((self.weights > 0) & self.weights.isfinite()).all()):
            raise ValueError(
                "mixture weights must be positive and finite; leave out components of weight 0"
            )
        self.weights = self.weights / self.weights.sum()
        skew = (self.covariances - self.covariances.transpose(1, 2)).abs().max()
        if not bool(skew <= 1e-6 * self.covariances.abs().max()):
            raise ValueError("covariances must be finite and symmetric")
        self.covariances = 0.5 * (self.covariances + self.covariances.transpose(1, 2))
        eigenvalues, self._vectors = torch.linalg.eigh(self.covariances)
        if bool((eigenvalues < -1e-9 * eigenvalues.abs().max().clamp(min=1e-300)).any()):
            raise ValueError("covariances must be positive semi-definite")
        self._eigenvalues = eigenvalues.clamp(min=0.0)

    @classmethod
    def isotropic(
        cls,
        means: Tensor,
        std: float | Sequence[float] | Tensor,
        weights: Sequence[float] | Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> GaussianMixture:
        """A mixture with covariances ``std_k^2 I``; equal weights unless given."""
        means = torch.as_tensor(means, dtype=dtype)
        if means.ndim != 2:
            raise ValueError(f"means must have shape (K, D), got {tuple(means.shape)}")
        k, d = means.shape
        stds = torch.as_tensor(std, dtype=dtype).expand(k)
        covariances = stds.square()[:, None, None] * torch.eye(d, dtype=dtype)
        if weights is None:
            weights = torch.ones(k, dtype=dtype)
        return cls(weights, means, covariances, dtype=dtype)

    @property
    def dim(self) -> int:
        """The dimension ``D``."""
        return int(self.means.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The type all results are computed in."""
        return self.means.dtype

    @property
    def mean(self) -> Tensor:
        """The mean, shape (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """The covariance, shape (D, D)."""
        centred = self.means - self.mean
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + between

    def _parts(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated residuals y [B, K, D], variances [B, K, D] and joint log-densities [B, K]."""
        x = torch.as_tensor(x, dtype=self.dtype)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (batch, {self.dim}), got {tuple(x.shape)}")
        level = torch.as_tensor(sigma, dtype=self.dtype)
        if level.ndim > 0:
            if level.shape != x.shape[:1]:
                raise ValueError(
                    f"sigma must be a number or one per row, shape ({len(x)},), "
                    f"got {tuple(level.shape)}"
                )
            level = level[:, None, None]
        if not bool((level >= 0).all()):
            raise ValueError(f"sigma must not be negative, got {level.min():g}")
        y = torch.einsum("kij,bki->bkj", self._vectors, x[:, None, :] - self.means)
        variance = (self._eigenvalues + level.square()).expand_as(y)
        if not bool((variance > 0).all()):
            raise ValueError(
                "a singular covariance has a density only once blurred: give sigma > 0"
            )
        log_joint = self.weights.log() - 0.5 * (
            (y.square() / variance + variance.log()).sum(-1) + self.dim * math.log(2 * math.pi)
        )
        return y, variance, log_joint

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p_sigma(x) in nats, shape (batch,); `sigma` is a number or has shape (batch,)."""
        return torch.logsumexp(self._parts(x, sigma)[2], dim=1)

    def energy(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """The energy ``-log p_sigma(x)``, whose log Z is 0; shape (batch,)."""
        return -self.log_prob(x, sigma)

    def responsibilities(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Posterior component probabilities given the noisy point, shape (batch, K)."""
        return torch.softmax(self._parts(x, sigma)[2], dim=1)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """The score, gradient of log p_sigma at x, shape (batch, D)."""
        return self.value_and_score(x, sigma)[1]

    def value_and_score(self, x: Tensor, sigma: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
        """log p_sigma(x) of shape (batch,) and its gradient of shape (batch, D) in one pass."""
        y, variance, log_joint = self._parts(x, sigma)
        r = torch.softmax(log_joint, dim=1)
        # Weighted first: a three-way contraction would build a (batch, K, D, D) tensor.
        score = -torch.einsum("kij,bkj->bi", self._vectors, r[:, :, None] * (y / variance))
        return torch.logsumexp(log_joint, dim=1), score

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The posterior mean ``E[x_0 | x_0 + sigma eps = x]``, shape (batch, D)."""
        y, variance, log_joint = self._parts(x, sigma)
        r = torch.softmax(log_joint, dim=1)
        shrunk = torch.einsum("kij,bkj->bki", self._vectors, self._eigenvalues / variance * y)
        return torch.einsum("bk,bki->bi", r, self.means + shrunk)

    def sample(self, n: int, rng: torch.Generator, sigma: float = 0.0) -> Tensor:
        """`n` independent draws from p_sigma, shape (n, D)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        eps = torch.randn(n, self.dim, generator=rng, dtype=self.dtype)
        scaled = (self._eigenvalues[which] + sigma**2).sqrt() * eps
        return self.means[which] + torch.einsum("bij,bj->bi", self._vectors[which], scaled)

    def at(self, sigma: float) -> BlurredMixture:
        """The density at one level as a target for Markov chains."""
        return BlurredMixture(self, sigma)

    def blurred(self, sigma: float) -> GaussianMixture:
        """The mixture ``p_sigma`` itself, as a new mixture."""
        eye = torch.eye(self.dim, dtype=self.dtype)
        covariances = self.covariances + sigma**2 * eye
        return GaussianMixture(self.weights, self.means, covariances, dtype=self.dtype)

    def marginal(self, indices: Sequence[int]) -> GaussianMixture:
        """The marginal density of the coordinates `indices`."""
        i = self._columns(indices)
        covariances = self.covariances[:, i][:, :, i]
        return GaussianMixture(self.weights, self.means[:, i], covariances, dtype=self.dtype)

    def conditional(self, indices: Sequence[int], values: Tensor) -> GaussianMixture:
        """The density of the other coordinates given ``x[indices] = values``.

        Parameters
        ----------
        indices : sequence of int
            The known coordinates.
        values : Tensor of shape (len(indices),)
        """
        known = self._columns(indices)
        free = torch.as_tensor([i for i in range(self.dim) if i not in set(known.tolist())])
        values = torch.as_tensor(values, dtype=self.dtype)
        if len(free) == 0 or values.shape != known.shape:
            raise ValueError(
                f"{len(known)} of {self.dim} coordinates are given, with values of shape "
                f"{tuple(values.shape)}: give one value each, and leave at least one coordinate free"
            )
        weights = self.marginal(known.tolist())._parts(values[None], 0.0)[2][0].softmax(0)
        s_kk = self.covariances[:, known][:, :, known]
        s_fk = self.covariances[:, free][:, :, known]
        gain = torch.linalg.solve(s_kk, s_fk.transpose(1, 2)).transpose(1, 2)
        means = self.means[:, free] + torch.einsum(
            "kij,kj->ki", gain, values - self.means[:, known]
        )
        covariances = self.covariances[:, free][:, :, free] - gain @ s_fk.transpose(1, 2)
        covariances = 0.5 * (covariances + covariances.transpose(1, 2))
        kept = weights > 0
        return GaussianMixture(weights[kept], means[kept], covariances[kept], dtype=self.dtype)

    def _columns(self, indices: Sequence[int]) -> Tensor:
        """The coordinates `indices`, in the order given."""
        chosen = [int(i) for i in indices]
        inside = all(0 <= i < self.dim for i in chosen)
        if not chosen or not inside or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"indices must be different coordinates from 0 to {self.dim - 1}, got {chosen}"
            )
        return torch.as_tensor(chosen)

    def __repr__(self) -> str:
        return f"GaussianMixture(components={len(self.weights)}, dim={self.dim})"


class BlurredMixture:
    """A `GaussianMixture` at one noise level, seen as a target of Markov chains."""

    def __init__(self, mixture: GaussianMixture, sigma: float) -> None:
        self.mixture = mixture
        self.sigma = sigma

    def value(self, x: Tensor) -> Tensor:
        """log p_sigma(x), shape (batch,)."""
        return self.mixture.log_prob(x, self.sigma)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p_sigma(x), shape (batch,), and its gradient, shape (batch, D)."""
        return self.mixture.value_and_score(x, self.sigma)


def eight_gaussians(radius: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """Eight equal Gaussians on a circle.

    >>> eight_gaussians()
    GaussianMixture(components=8, dim=2)
    """
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    return GaussianMixture.isotropic(means, std)


def twenty_five_gaussians(spacing: float = 1.0, std: float = 0.1) -> GaussianMixture:
    """Twenty-five equal Gaussians on a 5 by 5 grid.

    >>> twenty_five_gaussians()
    GaussianMixture(components=25, dim=2)
    """
    axis = spacing * torch.arange(-2, 3, dtype=torch.float64)
    means = torch.cartesian_prod(axis, axis)
    return GaussianMixture.isotropic(means, std)
