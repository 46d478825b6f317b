"""The contract between data and density: ``x = codec.encode(data)``, ``data = codec.decode(x)``.

A model's density lives on encoded ``x in R^D``; what a user asks for is the probability of a row in
its own units. A codec bridges the two,

    log p(row) = log p(x) + log_abs_det,

where ``log_abs_det`` collects the log-derivative of every affine or monotone transform and, for
discrete values, the dequantisation: a value v becomes ``x = c(v) + noise`` with noise density q,
and ``log P(v) >= E_q[log p(x) - log q(x|v)]``, with equality when p is itself such a mixture
(Theis et al. 1511.01844, section 3.1; Ho et al. 1902.00275, equation 4).

``encode(data, rng)`` draws that noise (training). ``encode(data, None)`` takes its centre with the
same ``-log q`` accounted, so that a row's log-probability is a function of the row alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

__all__ = ["Codec", "Encoded"]


class Encoded(NamedTuple):
    """``x`` float64 [N, *event_shape] and ``log_abs_det`` float64 [N] (nats)."""

    x: np.ndarray
    log_abs_det: np.ndarray


@runtime_checkable
class Codec(Protocol):
    """What every codec does; the state is arrays (safetensors) and plain values (JSON)."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one encoded row."""
        ...

    def fit(self, data: Any, rng: np.random.Generator | None = None) -> Self:
        """Measure scales on training rows; returns self."""
        ...

    def prepare(self, data: Any) -> Any:
        """Checked rows that can be indexed and encode fast: ``encode(prepared[rows], rng)``."""
        ...

    def encode(self, data: Any, rng: np.random.Generator | None = None) -> Encoded:
        """Rows to numbers; noise is drawn with ``rng``, its centre taken without."""
        ...

    def decode(self, x: np.ndarray) -> Any:
        """Numbers back to rows in the original units and types."""
        ...

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and JSON-able values that :meth:`from_state` takes."""
        ...

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Self:
        """The codec again."""
        ...
