r"""Values drawn as often as they were seen.

A `MixedDenoiser` knows the share f_k of each value of a column and learns what the rest of the row
says. Small errors of what it learned add up along a walk, most for rare values: blanks of one row in
two hundred came once in five hundred, or once in a hundred. The law of the same model in which value k
is weighed by ``w_k``,

    p'(x)  ~  w_k(x) p(x),    has    P'(k | x_sigma)  ~  w_k P(k | x_sigma)    at every level,

so that adding ``log w_k`` to ``log f_k`` moves a share and leaves what else is known of rows with the
value as it was (exactly for one column; others follow by what the network ties them with). Weights
come from counting draws, in a few rounds, each by half of the way and by less the more of a count's
distance may be chance: iterative proportional fitting (Deming and Stephan 1940) of the drawn table's
margins, with the shrinkage of James and Stein (1961).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyscape.data.atoms import Atoms
from energyscape.models import MixedDenoiser

__all__ = ["match_shares", "rows_to_match"]

_ROUNDS = 3
_HALF_WAY = 0.5
#: Rows of a round, and how many fewer are no measure.
_MOST, _LEAST = 4096, 256
#: Expected of a value in a round before its count says anything.
_FEWEST = 2.0
#: A row drawn costs about 35 evaluations, a row trained on about 3; a tenth of the training is spent.
_TRAINED_A_DRAW = 117


def rows_to_match(trained: int) -> int:
    """Rows that a round may draw after training on so many, 0 where they would tell nothing.

    >>> rows_to_match(512_000), rows_to_match(10_000)
    (1458, 0)
    """
    rows = min(trained // (_TRAINED_A_DRAW * _ROUNDS), _MOST)
    return rows if rows >= _LEAST else 0


@torch.no_grad()
def match_shares(
    denoiser: MixedDenoiser,
    columns: Sequence[tuple[int, Atoms]],
    shares: Sequence[Sequence[float]],
    draw: Callable[[int], Tensor],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Weigh the values of a denoiser, in place, until they are drawn as often as `shares` says.

    Parameters
    ----------
    denoiser : MixedDenoiser
    columns : sequence of (int, Atoms)
        First dimension and values of each of its columns.
    shares : sequence of sequences of K positive numbers
        How often each value of each column was seen.
    draw : callable
        The number of a round to encoded rows drawn from the denoiser as it is, shape (n, D).
    progress : callable, optional
        Told rounds done, and of how many.
    """
    held = denoiser.get_buffer("log_share")
    wanted = np.concatenate([np.asarray(share, dtype=np.float64) for share in shares])
    for k in range(_ROUNDS):
        if progress is not None:
            progress(k, _ROUNDS)
        x = draw(k).double().cpu().numpy()
        seen = np.concatenate([a.counts(x[:, s : s + len(a.origin)]) for s, a in columns])
        move = weights(seen, wanted, len(x))
        held += torch.as_tensor(move, dtype=held.dtype, device=held.device)[:, None]
    if progress is not None:
        progress(_ROUNDS, _ROUNDS)


def weights(seen: NDArray[np.int64], wanted: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """What logarithms of shares are moved by, ``(1 - 1/z^2) / 2`` of what they lack, 0 for ``|z| < 1``.

    Here z is a count's distance from what was wanted in standard deviations. Values that were wanted
    less than twice stay: of them no count says too few, and some would say too many.

    >>> weights(np.array([20, 80]), np.array([0.5, 0.5]), 100).round(2).tolist()
    [0.43, -0.22]
    >>> weights(np.array([46, 54]), np.array([0.5, 0.5]), 100).tolist()
    [0.0, 0.0]
    """
    expected = rows * wanted
    square = (seen - expected) ** 2 / (expected * np.maximum(1 - wanted, 1e-12))
    sure = np.where(expected < _FEWEST, 0.0, 1 - 1 / np.maximum(square, 1.0))
    return np.asarray(_HALF_WAY * sure * np.log((expected + 1) / (seen + 1)) + 0.0)
