"""From anomaly scores and those of calibration rows to decisions with a stated error rate."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from energyscape import detection

__all__ = ["Decides"]


class Decides(abc.ABC):
    """What an estimator can decide that has ``anomaly_score`` and calibration scores."""

    # Set by fitting or loading.
    calibration_scores_: NDArray[np.float64]
    training_scores_: NDArray[np.float64]
    calibrated_by_: str
    offset_: float
    notes_: list[str]

    @abc.abstractmethod
    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, shape (n,)."""

    def _decide(self, rate: float) -> None:
        """The threshold, and a word where the rate cannot be had."""
        self.notes_ = []
        threshold = detection.threshold(self.calibration_scores_, rate)
        if np.isinf(threshold):
            threshold = float(self.calibration_scores_[-1])
            self.notes_ = [
                f"{len(self.calibration_scores_)} calibration rows cannot give a false-alarm rate of "
                f"{rate:g}: the lowest is {self.smallest_p_value:.3g}, and predict uses it"
            ]
        self.offset_ = -threshold

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Positive for rows that belong, negative for anomalies, at the stated false-alarm rate."""
        return -self.anomaly_score(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for rows that belong, -1 for anomalies."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that the calibration rows can give."""
        return detection.smallest_p_value(len(self.calibration_scores_))

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Conformal p-values: the chance that an ordinary row scores at least as high."""
        scores = self.anomaly_score(X)
        return detection.conformal_p_values(self.calibration_scores_, scores)

    def training_p_values(self, scores: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """P-values of the training rows, each calibrated by the others, shape (n,).

        Where all rows calibrate (``cross``) they are the ranks of `training_scores_`: look at the
        smallest, but flag nothing by them, as some rank is always the first. ``scores`` stand in for
        `training_scores_` where those have gaps; p-values have the same gaps.
        """
        scores = self.training_scores_ if scores is None else scores
        p, there = np.full(len(scores), np.nan), ~np.isnan(scores)
        p[there] = detection.conformal_p_values(self.calibration_scores_, scores[there])
        n = len(self.calibration_scores_)
        return (np.rint(p * (n + 1)) - 1) / n if self.calibrated_by_ == "cross" else p

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
        check_is_fitted(self)
        return detection.threshold(self.calibration_scores_, false_alarm_rate)
