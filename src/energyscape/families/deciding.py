"""From anomaly scores and those of calibration rows to decisions with a stated error rate."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyscape import detection

__all__ = ["Decides"]


class Decides(abc.ABC):
    """What an estimator can decide that has ``anomaly_score`` and calibration scores."""

    @abc.abstractmethod
    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, shape (n,)."""

    @abc.abstractmethod
    def _calibration_scores(self) -> NDArray[np.float64]:
        """Scores of rows that trained nothing, one at least."""

    @property
    @abc.abstractmethod
    def offset_(self) -> float:
        """Minus the anomaly score above which `predict` says -1."""

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Positive for rows that belong, negative for anomalies, at the stated false-alarm rate."""
        return -self.anomaly_score(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for rows that belong, -1 for anomalies."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that the calibration rows can give."""
        return detection.smallest_p_value(len(self._calibration_scores()))

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Conformal p-values: the chance that an ordinary row scores at least as high.

        Raises
        ------
        ValueError
            If no rows were set aside for calibration.
        """
        return detection.conformal_p_values(self._calibration_scores(), self.anomaly_score(X))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The p-value, and one minus it, shape (n, 2).

        The second column is the share of ordinary rows that are less strange. It is not the probability
        that a row is an anomaly, which depends on how many there are.
        """
        p = self.p_values(X)
        return np.stack([p, 1.0 - p], axis=1)

    def flag(self, X: Any, fdr: float = 0.1) -> NDArray[np.bool_]:
        """Rows of a batch to look at, with at most a share `fdr` of false alarms expected among them.

        Raises
        ------
        ValueError
            If `fdr` is not between 0 and 1.
        """
        return detection.benjamini_hochberg(self.p_values(X), fdr)

    def threshold(self, false_alarm_rate: float) -> float:
        """The anomaly score that ordinary rows exceed at most so often; infinite if there is none."""
        return detection.threshold(self._calibration_scores(), false_alarm_rate)
