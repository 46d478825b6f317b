"""The denoiser face: ``D(x, sigma) = E[x_0 | x_0 + sigma eps = x]``.

By Tweedie's formula ``D = x + sigma^2 score``, so a denoiser knows the score at every level. Guided,
labelled and conditioned denoisers wrap a `Denoiser` and are one, so every sampler takes them as they
are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from energyscape.models.energy import Energy
from energyscape.models.preconditioning import Preconditioning, per_row
from energyscape.targets import ScoreTarget

__all__ = [
    "Denoiser",
    "EnergyDenoiser",
    "FunctionDenoiser",
    "Labelled",
    "PreconditionedDenoiser",
]


class Denoiser(nn.Module, abc.ABC):
    """A map from a noisy point and its level to the expected clean point."""

    @abc.abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x] for x of shape (batch, ...).

        Parameters
        ----------
        x : Tensor of shape (batch, ...)
            In the sigma frame, ``x_0 + sigma eps``.
        sigma : float or Tensor of shape (batch,)
            In data units.
        label : Tensor of shape (batch,), optional
            Integer classes; -1 stands for no label.
        """

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """grad log p_sigma(x) = (D - x)/sigma^2, shape of x."""
        return (self(x, sigma, label) - x) / per_row(sigma, x).square()

    def at(self, sigma: float, label: Tensor | None = None) -> ScoreTarget:
        """The score at one level as a target for Markov chains; it has no log-density."""
        return ScoreTarget(lambda x: self.score(x, sigma, label))


class FunctionDenoiser(Denoiser):
    """A denoiser from any function of (x, sigma), such as a closed form.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> denoiser = FunctionDenoiser(eight_gaussians().denoise)
    >>> denoiser(torch.zeros(1, 2), 10.0).abs().max() < 1e-9
    tensor(True)
    """

    def __init__(self, function: Callable[[Tensor, float | Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """`function(x, sigma)`; a label is refused."""
        if label is not None:
            raise ValueError("this denoiser was built from a function of (x, sigma) without labels")
        return self.function(x, sigma)


class PreconditionedDenoiser(Denoiser):
    """``D = c_skip x + c_out F(c_in x, c_noise)`` around a network F.

    Parameters
    ----------
    network : Module
        Called as ``network(x, c_noise, label)`` with c_noise of shape (batch,); its output has the
        shape of x.
    preconditioning : Preconditioning

    Raises
    ------
    ValueError
        When the network's output has another shape, or sigma is not a number or one a row.
    """

    def __init__(self, network: nn.Module, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x], shape of x."""
        level = per_row(sigma, x)
        c = self.preconditioning.coefficients(level)
        out = self.network(c.c_in * x, c.c_noise.flatten(), label)
        if out.shape != x.shape:
            raise ValueError(
                f"a denoiser's network keeps the shape of x, {tuple(x.shape)}; this one gave "
                f"{tuple(out.shape)}"
            )
        return c.c_skip * x + c.c_out * out


class EnergyDenoiser(Denoiser):
    """The denoiser of a noise-conditional energy: ``D = x - sigma^2 grad E(x, sigma)``.

    Differentiable in the parameters while gradients are on, where the score's own graph is kept
    (double backward); samplers run under ``no_grad`` and keep none.
    """

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x], shape of x; given labels where the energy has ``given(label)``."""
        create_graph = torch.is_grad_enabled()
        score = self._energy(label).score(x, sigma, create_graph=create_graph)
        return x + per_row(sigma, x).square() * score

    def at(self, sigma: float, label: Tensor | None = None) -> object:  # type: ignore[override]
        """The energy at one level: unlike other denoisers it knows its log-density."""
        return self._energy(label).at(sigma)

    def _energy(self, label: Tensor | None) -> Energy:
        if label is None:
            return self.energy
        given = getattr(self.energy, "given", None)
        if given is None:
            raise ValueError(f"labels were given, but {type(self.energy).__name__} takes none")
        return cast(Energy, given(label))


class Labelled(Denoiser):
    """A denoiser given one class, or one class a row: ``p(x | label)``.

    Parameters
    ----------
    denoiser : Denoiser
    label : int or Tensor of shape (batch,)
    """

    def __init__(self, denoiser: Denoiser, label: int | Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("label", torch.as_tensor(label), persistent=False)

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x, label]."""
        own = self.get_buffer("label") if label is None else label
        return self.denoiser(x, sigma, own.to(x.device).expand(x.shape[0]))
