"""Denoising targets of less variance: the mean of a noisy row's possible origins, not its origin.

A noisy row ``y_i = x_i + sigma_i eps_i`` may have come from any row of its batch. Its origin, given y_i
and the batch B as a set, is j with probability

    w_ij = N(y_i; x_j, sigma_i^2 I) / sum_k N(y_i; x_k, sigma_i^2 I),
    t_i  = sum_j w_ij x_j = E[ x_0 | y_i, B ].

For any fixed batch ``sum_i E[(t(y_i) - x_i) h(y_i)] = 0``, whatever the function h, by the definition
of t, as long as every row draws its level from the same law. So the mean loss of a batch has the same
minimiser, for batches of any size, and each row's target less variance: next to none at levels as wide
as the data, where all origins are possible, all of it at levels too small to reach another row. The
gradient of a batch usually has less too, but not always: rows drawn without replacement balance one
another, which their means do no longer. Nor is it a gain for pairs of opposite noises, which tell their
origin between them. Targets of this form: Xu, Tong and Jaakkola 2302.00670, there from a reference
batch that holds the origin.

Of rows with a class, origins are of that class. Where classes are hidden with probability p, a row
without one may be a row that has none, or one of the others with weight p.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["origin_moves"]

#: Origins that are looked through. With half as many an energy of all levels learned less in as
#: many steps.
_MOST = 256
#: Largest length of a row, in units of the smallest level, at which float32 gives the
#: logarithms of the weights to less than a hundredth; and columns up to which that is looked for.
_NEAR = 256
_NARROW = 64
#: Columns are padded to a multiple of these, which the fused kernel is faster with.
_COLUMNS = 16


@torch.no_grad()
def origin_moves(
    x: Tensor,
    eps: Tensor,
    sigma: Tensor | float,
    *,
    label: Tensor | None = None,
    given: Tensor | None = None,
    hidden: float = 0.0,
    most: int = _MOST,
) -> Tensor:
    """``E[x_0 | x + sigma eps, B] - x`` of each row, B the batch or an even part of `most` rows.

    Parameters
    ----------
    x, eps : Tensor of shape (batch, ...)
        Rows, and their noise of unit variance.
    sigma : Tensor of shape (batch,), or float
        Levels in data units, or one for all.
    label : Tensor of shape (batch,), optional
        The class of each row, -1 where it has none.
    given : Tensor of shape (batch,), optional
        The class that is told, -1 where there is none or it is hidden; `label` by default.
    hidden : float
        Probability with which classes were hidden.
    most : int
        Origins that are looked through for a row, at most.

    Returns
    -------
    Tensor, shape of x

    Examples
    --------
    >>> import torch
    >>> x, eps = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)
    >>> x + origin_moves(x, eps, torch.tensor([0.01, 100.0]))
    tensor([[0.0000],
            [0.5000]])
    """
    if isinstance(sigma, Tensor) and sigma.ndim == 0:
        sigma = float(sigma)
    given = label if given is None else given
    pieces = -(-len(x) // most)
    narrow = label is None and x.device.type == "cpu" and x.dtype == torch.float32
    if narrow and pieces and len(x) % pieces == 0:
        with torch.autocast(x.device.type, enabled=False):
            near = _near(x.flatten(1), eps.flatten(1), sigma, pieces)
        if near is not None:
            return near.view(x.shape)
    if pieces > 1:
        held = (x, eps, sigma, label, given)
        parts = [t.tensor_split(pieces) if isinstance(t, Tensor) else [t] * pieces for t in held]
        moves = [
            origin_moves(a, b, level, label=known, given=told, hidden=hidden, most=most)
            for a, b, level, known, told in zip(*parts, strict=True)
        ]
        return torch.cat(moves)
    # In float64: the logarithms are small differences of large numbers at small levels.
    exact = x.dtype if x.device.type == "mps" else torch.float64
    with torch.autocast(x.device.type, enabled=False):
        rows = x.flatten(1).to(exact)
        rows = rows - rows.mean(0)
        level = torch.as_tensor(sigma, dtype=exact, device=x.device).view(-1, 1)
        noisy = torch.addcmul(rows, level, eps.flatten(1).to(exact))
        # log w_ij but for what is common to a row.
        log_w = torch.addmm(-0.5 * rows.square().sum(1), noisy, rows.t()).div_(level.square())
        if label is not None and given is not None:
            told = given[:, None] >= 0
            log_w.masked_fill_(told & (given[:, None] != label), -torch.inf)
            weight = log_w.new_tensor(hidden).log()
            log_w += torch.where(told | (label < 0), log_w.new_zeros(()), weight)
        # As a difference: a row alone is its own origin to the last bit.
        return (log_w.softmax(1) @ rows - rows).view(x.shape).to(x.dtype)


def _near(rows: Tensor, noise: Tensor, sigma: Tensor | float, pieces: int) -> Tensor | None:
    """What each row moves by in its piece, where float32 is exact enough for all; None where not.

    But for what is common to a row ``log w_ij = (y_i . x_j - |x_j|^2 / 2) / sigma_i^2``: softmax
    attention with one column more than the rows have, whose fused kernel keeps no table of weights.
    """
    columns = rows.shape[1]
    exact = torch.get_float32_matmul_precision() == "highest"
    if columns > _NARROW or rows.numel() == 0 or not exact:
        return None
    farthest = float(torch.linalg.vector_norm(rows, math.inf)) * math.sqrt(columns)
    if not farthest <= _NEAR * (float(sigma.min()) if isinstance(sigma, Tensor) else sigma):
        return None
    width = columns + 1 + -(columns + 1) % _COLUMNS
    query, key = rows.new_zeros(2, len(rows), width).unbind()
    noisy, known, scale = query[:, :columns], key[:, :columns], 1.0
    known.copy_(rows)
    torch.linalg.vecdot(rows, rows, out=key[:, columns]).mul_(-0.5)
    query[:, columns] = 1.0
    if isinstance(sigma, Tensor):
        level = sigma[:, None].to(rows.dtype)
        torch.addcmul(rows, level, noise, out=noisy)
        query /= level.square()
    else:
        torch.add(rows, noise, alpha=sigma, out=noisy)
        scale = sigma**-2
    query, key = (t.view(pieces, 1, -1, width) for t in (query, key))
    found = F.scaled_dot_product_attention(query, key, key, scale=scale)
    return found.view(len(rows), width)[:, :columns] - rows
