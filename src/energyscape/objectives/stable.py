"""Denoising targets of less variance: the mean of a noisy row's possible origins, not its origin.

A noisy row ``y_i = x_i + sigma_i eps_i`` may have come from any row of its batch. Its origin, given y_i
and the batch B as a set, is j with probability

    w_ij = N(y_i; x_j, sigma_i^2 I) / sum_k N(y_i; x_k, sigma_i^2 I),
    t_i  = sum_j w_ij x_j = E[ x_0 | y_i, B ],

for rows of a batch come in random order. So ``E[t_i | y_i] = E[x_0 | y_i]``: the loss has the same
minimiser, for batches of any size, and by Rao and Blackwell its gradient has no larger a variance. That
falls to nearly nothing at levels as wide as the data, where all origins are possible, and stays where
levels are too small to reach another row. Targets of this form: Xu, Tong and Jaakkola 2302.00670
equation 5, there from a reference batch that holds the origin.

Of rows with a class, origins are of that class; of rows whose class is hidden, any.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["origin_means"]

#: Origins that are looked through: what it costs grows as their number, what it gains does not.
_MOST = 256


@torch.no_grad()
def origin_means(
    x: Tensor,
    eps: Tensor,
    sigma: Tensor,
    *,
    label: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """``E[x_0 | x + sigma eps, B]`` of each row, B the batch or its part of 256 rows.

    Parameters
    ----------
    x, eps : Tensor of shape (batch, ...)
        Rows in random order, and their noise of unit variance.
    sigma : Tensor of shape (batch,)
        Levels in data units.
    label : Tensor of shape (batch,), optional
        The class of each row.
    given : Tensor of shape (batch,), optional
        The class that is told, -1 where it is hidden; `label` by default.

    Returns
    -------
    Tensor, shape of x

    Examples
    --------
    >>> import torch
    >>> x, eps = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)
    >>> origin_means(x, eps, torch.tensor([0.01, 100.0]))
    tensor([[0.0000],
            [0.5000]])
    """
    given = label if given is None else given
    if len(x) > _MOST:
        parts = [
            [None] * -(-len(x) // _MOST) if t is None else t.split(_MOST) for t in (label, given)
        ]
        batches = zip(x.split(_MOST), eps.split(_MOST), sigma.split(_MOST), *parts, strict=True)
        return torch.cat(
            [origin_means(a, b, c, label=own, given=told) for a, b, c, own, told in batches]
        )
    with torch.autocast(x.device.type, enabled=False):
        rows = (x - x.mean(0)).flatten(1)
        noisy = torch.addcmul(rows, sigma[:, None], eps.flatten(1))
        # log w_ij but for what is common to a row. At levels so small that rounding shows here another
        # row is in reach only if it is the same.
        log_w = torch.addmm(-0.5 * rows.square().sum(1), noisy, rows.t()).div_(
            sigma.square()[:, None]
        )
        if label is not None and given is not None:
            possible = (given[:, None] == -1) | (given[:, None] == label)
            log_w.masked_fill_(~possible, -torch.inf)
        # Added to the row as a difference: a row alone is its own origin to the last bit.
        return x + (log_w.softmax(1) @ rows - rows).view(x.shape)
