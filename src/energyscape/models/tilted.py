"""A known density tilted by an energy, ``p(x) = q(x) exp(-f(x)) / Z``.

The reference q is a Gaussian mixture fitted to the data; f is what a network adds to it. Where there is
little to learn f stays near 0 and p near q, and far from the data, where f grows like a line and
``-log q`` like a parabola, the energy rises as q falls: it cannot fall outwards. Exponential tilting of
a reference is as old as the name; for networks see Xie et al. 1602.03264 section 3.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from energyscape.densities import GaussianMixture
from energyscape.models.confined import given
from energyscape.models.energy import Energy

__all__ = ["TiltedEnergy"]


class TiltedEnergy(Energy):
    """``E = f - log q`` with q a Gaussian mixture over the flattened rows.

    Parameters
    ----------
    energy : Energy
        f, of rows of any shape.
    reference : GaussianMixture
        q, in as many dimensions as a row has; it is kept as buffers of the module.

    Raises
    ------
    ValueError
        If a covariance is singular, so that q has no density.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import FunctionEnergy
    >>> q = GaussianMixture([1.0], torch.zeros(1, 2), torch.eye(2)[None])
    >>> tilted = TiltedEnergy(FunctionEnergy(lambda x: -x[:, 0]), q)  # the mean goes from 0 to 1
    >>> tilted.score(torch.tensor([[1.0, 0.0]])).abs()
    tensor([[0., 0.]])
    """

    def __init__(self, energy: Energy, reference: GaussianMixture) -> None:
        super().__init__()
        self.energy = energy
        factors, info = torch.linalg.cholesky_ex(reference.covariances)
        if bool((info > 0).any()):
            raise ValueError("the reference of a tilted energy needs covariances of full rank")
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * reference.dim * math.log(2 * math.pi)
        self.register_buffer("weights", reference.weights)
        self.register_buffer("means", reference.means)
        self.register_buffer("factors", factors)
        eye = torch.eye(reference.dim, dtype=factors.dtype)
        self.register_buffer("whiteners", torch.linalg.solve_triangular(factors, eye, upper=False))
        self.register_buffer("heights", reference.weights.log() - volumes - constant)

    @property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """That of the energy within."""
        return self.energy.box

    def given(self, label: int | Tensor) -> Energy:
        """The same reference tilted given one class, or one class a row."""
        other = TiltedEnergy.__new__(TiltedEnergy)
        Energy.__init__(other)
        other.energy = given(self.energy, label)
        other.training = self.training
        for name, buffer in self.named_buffers(recurse=False):
            other.register_buffer(name, buffer)
        return other

    def tilt(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """f alone, which is ``-log p/q`` up to a constant, shape (batch,)."""
        return cast(Tensor, self.energy(x, sigma))

    def _parts(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``log w_k N_k(x)`` of shape (batch, K), and ``L_k^-1 (x - mu_k)``, (batch, D) each."""
        flat, whitened, logs = x.flatten(1), [], []
        pairs = zip(self.get_buffer("means"), self.get_buffer("whiteners"), strict=True)
        for height, (mean, whitener) in zip(self.get_buffer("heights"), pairs, strict=True):
            z = (flat - mean.to(x.dtype)) @ whitener.to(x.dtype).mT
            logs.append(height.to(x.dtype) - 0.5 * z.square().sum(1))
            whitened.append(z)
        return torch.stack(logs, 1), whitened

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """``f - log q``, shape (batch,)."""
        return cast(Tensor, self.energy(x, sigma) - self._parts(x)[0].logsumexp(1))

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """E and the score: those of f, and the mixture's in closed form."""
        if create_graph:
            return super().energy_and_score(x, sigma, create_graph=True)
        x = x.detach()
        energy, score = self.energy.energy_and_score(x, sigma)
        logs, whitened = self._parts(x)
        shares = logs.softmax(1)
        for k, (z, whitener) in enumerate(zip(whitened, self.get_buffer("whiteners"), strict=True)):
            score = score - (shares[:, k, None] * (z @ whitener.to(x.dtype))).view(x.shape)
        return energy - logs.logsumexp(1), score

    def sample_reference(self, n: int, like: Tensor, rng: torch.Generator) -> Tensor:
        """`n` independent draws of q, in the dtype of `like` and the shape of its rows."""
        weights, means = self.get_buffer("weights"), self.get_buffer("means")
        which = torch.multinomial(weights, n, replacement=True, generator=rng).sort()[0]
        counts = torch.bincount(which, minlength=len(weights)).tolist()
        eps = torch.randn(n, means.shape[1], generator=rng, dtype=like.dtype, device=like.device)
        parts = [
            mean.to(like.dtype) + part @ factor.to(like.dtype).mT
            for mean, factor, part in zip(
                means, self.get_buffer("factors"), eps.split(counts), strict=True
            )
        ]
        mixed = torch.randperm(n, generator=rng, device=like.device)
        return torch.cat(parts)[mixed].reshape(n, *like.shape[1:])
