"""`AnomalyDetector` as a detector of PyOD, for code that speaks PyOD. Needs ``pip install pyod``.

PyOD's conventions hold: larger scores are stranger, labels are 0 and 1, and the threshold is set by a
guessed share of anomalies among the training rows, `contamination`. Training scores are those of a
detector that did not know the row. For decisions with a stated error rate use `detector_`, the
`AnomalyDetector` inside.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from energyscape.families import AnomalyDetector

__all__ = ["EnergyscapeDetector"]


class _Missing:
    """Stands where PyOD's base class would, and says so when it is needed."""

    def __init__(self, contamination: float = 0.1) -> None:
        raise ModuleNotFoundError("energyscape.pyod needs PyOD: pip install pyod")


def _base() -> Any:
    if importlib.util.find_spec("pyod") is None:
        return _Missing
    from pyod.models.base import BaseDetector

    return BaseDetector


_Base: Any = _base()


class EnergyscapeDetector(_Base):
    """The default detector with PyOD's interface.

    Parameters
    ----------
    contamination : float
        Share of the training rows labelled 1, in (0, 0.5].
    trim : float
        Share of the training rows, the strangest, that is not learned from.
    max_rows : int
        Rows to compare with at most.
    random_state : int, optional

    Attributes
    ----------
    detector_ : AnomalyDetector
    decision_scores_, threshold_, labels_
        As PyOD defines them.
    """

    detector_: AnomalyDetector

    def __init__(
        self,
        contamination: float = 0.1,
        trim: float = 0.0,
        max_rows: int = 20_000,
        random_state: int | None = None,
    ) -> None:
        super().__init__(contamination=contamination)
        self.trim = trim
        self.max_rows = max_rows
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> EnergyscapeDetector:
        """Learn what ordinary rows look like; `y` is ignored."""
        from energyscape.families import AnomalyDetector

        self._set_n_classes(y)
        self.detector_ = AnomalyDetector(
            trim=self.trim, max_rows=self.max_rows, random_state=self.random_state
        ).fit(X)
        self.decision_scores_ = self.detector_.known_scores(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, larger = stranger, shape (n,)."""
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, ["detector_"])
        return self.detector_.anomaly_score(X)
