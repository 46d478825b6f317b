"""Classifier-free guidance: a denoiser pushed towards a class.

    D_w(x) = D(x) + w ( D(x | label) - D(x) )                        (2207.12598 eq. 6)

w = 0 ignores the label, w = 1 is the conditional denoiser, and w > 1 sharpens it. For w other than 0
and 1 it is not the denoiser of any one density: the samples are typical of the class, not a draw from
``p(x | label)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from energyscape.models import Denoiser, per_row

__all__ = ["Guided"]


class Guided(Denoiser):
    """A denoiser guided towards labels; it is a `Denoiser`, so every sampler takes it.

    Parameters
    ----------
    denoiser : Denoiser
        Trained with labels, of which some were dropped (-1).
    label : int or Tensor of shape (batch,)
    weight : float
        w; both halves are evaluated in one pass of twice the batch.
    interval : (float, float)
        Levels at which guidance acts; outside, w = 1 (2404.07724).

    Raises
    ------
    ValueError
        If the weight is negative or not finite, or a label is negative; and when called, if the
        denoiser takes no labels.

    Examples
    --------
    >>> import torch
    >>> from energyscape.models import Denoiser
    >>> class Two(Denoiser):
    ...     def forward(self, x, sigma, label=None):
    ...         return label[:, None] + 0 * x
    >>> Guided(Two(), 1, 2.0)(torch.zeros(1, 1), 1.0)  # from -1, twice the way to 1
    tensor([[3.]])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        label: int | Tensor,
        weight: float,
        *,
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the guidance weight must be finite and at least 0, got {weight}")
        classes = torch.as_tensor(label)
        if bool((classes < 0).any()):
            raise ValueError("guidance needs a class in each row; -1 stands for no label")
        self.denoiser = denoiser
        self.weight = weight
        self.interval = interval
        self.register_buffer("label", classes, persistent=False)

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """The guided estimate, shape of x; a label given here replaces the stored one."""
        level = per_row(sigma, x).flatten()
        own = self.get_buffer("label") if label is None else label
        own = own.to(x.device).expand(len(x))
        inside = (level >= self.interval[0]) & (level <= self.interval[1])
        if self.weight == 1 or not bool(inside.any()):
            conditional: Tensor = self.denoiser(x, level, own)
            return conditional
        both = self.denoiser(
            torch.cat([x, x]), torch.cat([level, level]), torch.cat([torch.full_like(own, -1), own])
        )
        free, conditional = both.chunk(2)
        weight = torch.where(inside, x.new_tensor(self.weight), x.new_tensor(1.0))
        return free + per_row(weight, x) * (conditional - free)
