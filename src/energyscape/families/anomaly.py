"""Which rows do not belong: scores without a network, decisions with a stated error rate.

    fit     rows -> views -> energies of the data themselves -> calibration scores
    score   rows -> mean surprise of three members, in nats (`energyscape.detectors.ensemble`)
    decide  score -> conformal p-value -> false-alarm rate, or false-discovery rate over a batch

**Calibration.** A p-value compares a row's score with scores of rows that did not help to make it.

- ``split``: some rows are set aside. Exchangeable with new ones, they give ``P(p <= a) <= a`` exactly
  (Bates et al. 2104.08279).
- ``cross``: every row is scored by a detector fitted without its fold, and new rows by the one of
  all rows (cross-conformal; Vovk 2015, and for outliers Hennhöfer & Preisach 2402.16388). All n rows
  calibrate, so that p-values reach ``1/(n + 1)``. The detector of all rows has closer neighbours to
  offer than those of the folds, so that new ordinary rows score a little lower: p-values err towards
  caution, which is measured (``benchmarks/anomaly_p_values.py``), not guaranteed.

``auto`` takes cross up to 10,000 rows, where every row is wanted, and split above.

**Contaminated training rows.** ``trim=0.1`` leaves the strangest tenth of the training rows out of the
reference, twice over, so that anomalies do not vouch for one another. They still calibrate: some
anomalies among the calibration rows make p-values larger, never smaller.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from energyscape import detection
from energyscape.data import DataError, Schema, TableCodec
from energyscape.data.values import refuse_infinities
from energyscape.detectors import EmpiricalDetector, TableRows
from energyscape.families import settings as s
from energyscape.families.fitted import DataIn

__all__ = ["AnomalyDetector"]

_CROSS_ROWS = 10_000
_FOLDS = 5
_CHUNK = 8192


class AnomalyDetector(OutlierMixin, DataIn):
    """Finds rows that do not belong, and says how sure it is; no settings to tune.

    Parameters
    ----------
    calibration : {"auto", "cross", "split"}
        See the module's opening lines.
    false_alarm_rate : float
        Share of ordinary rows that `predict` may call anomalous.
    trim : float
        Share of the training rows, the strangest, that is not learned from; 0 for clean rows.
    max_rows : int
        Rows to compare with; of more, a random part.
    random_state : int, optional
        Seed of the folds, the split and the part.

    Attributes
    ----------
    detector_ : EmpiricalDetector
    reference_ : TableRows
        The rows it compares with.
    calibration_scores_ : array of shape (c,)
        Sorted.
    training_scores_ : array of shape (n,)
        Each training row's score by a detector that did not know it.
    calibrated_by_ : {"cross", "split"}
    offset_ : float
        `score_samples` at which `predict` turns.
    notes_ : list of str
    n_features_in_, feature_names_in_, schema_

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> detector = AnomalyDetector(random_state=0).fit(X)
    >>> detector.predict([[0.0, 0.0], [6.0, -6.0]])
    array([ 1, -1])
    >>> bool(detector.p_values([[6.0, -6.0]])[0] == detector.smallest_p_value)
    True
    """

    # Set by fitting or loading.
    detector_: EmpiricalDetector
    reference_: TableRows
    calibration_scores_: NDArray[np.float64]
    training_scores_: NDArray[np.float64]
    calibrated_by_: str
    offset_: float
    notes_: list[str]

    def __init__(
        self,
        *,
        calibration: Annotated[
            Literal["auto", "cross", "split"],
            Field(description="rows that set the p-values: all by folds, or some set aside"),
        ] = "auto",
        false_alarm_rate: s.FalseAlarmRate = 0.05,
        trim: Annotated[
            float,
            Field(ge=0, le=0.5, description="share of suspect training rows not learned from"),
        ] = 0.0,
        max_rows: Annotated[int, Field(ge=2, description="rows to compare with at most")] = 20_000,
        random_state: s.RandomState = None,
    ) -> None:
        s.keep(self, locals())

    # -- fitting -------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what ordinary rows look like.

        Parameters
        ----------
        X : array of shape (n, features), DataFrame, or Dataset of a table
            Columns may be mixed; NaN and None are blanks.
        y : ignored

        Returns
        -------
        self
        """
        settings = s.validate_settings(type(self), self.get_params())
        dataset = self._training_data(X)
        if dataset.kind != "table":
            raise DataError("anomalies are found in tables; pictures need a family, such as EDM")
        self.data_kind_, self.schema_ = "table", _measured(dataset.schema)
        self.frame_kind_ = (
            "" if self._template is None else type(self._template).__module__.split(".")[0]
        )
        rows = self._rows(dataset.array if dataset.array is not None else dataset.raw)
        seed = settings["random_state"]
        rng = np.random.default_rng(np.random.SeedSequence().entropy if seed is None else seed)
        mode = settings["calibration"]
        if mode == "auto":
            mode = "cross" if len(rows) <= _CROSS_ROWS else "split"
        how = _Learning(settings["trim"], settings["max_rows"], rng)
        learn = _cross if mode == "cross" else _split
        self.detector_, self.reference_, self.training_scores_, scores = learn(rows, how)
        self.calibrated_by_, self.calibration_scores_ = mode, np.sort(scores)
        self._decide(settings["false_alarm_rate"])
        return self

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
            warnings.warn(self.notes_[0], UserWarning, stacklevel=3)
        self.offset_ = -threshold

    def _rows(self, data: Any) -> TableRows:
        """Checked rows as numbers and codes."""
        if isinstance(data, np.ndarray):
            plain = np.asarray(data, dtype=np.float64)
            for j in range(plain.shape[1]):
                refuse_infinities(plain[:, j], f"x{j}")
            return TableRows(plain, np.zeros((len(plain), 0), dtype=np.int64))
        columns = TableCodec(self.schema_).prepare(data).columns
        numbers = [column for column in columns if column.dtype.kind == "f"]
        codes = [column for column in columns if column.dtype.kind != "f"]
        n = len(columns[0])
        return TableRows(
            np.stack(numbers, axis=1) if numbers else np.zeros((n, 0)),
            np.stack(codes, axis=1) if codes else np.zeros((n, 0), dtype=np.int64),
        )

    # -- scores --------------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs: mean surprise in nats, larger = stranger, shape (n,).

        A row that was trained on finds itself among the rows it is compared with; `training_scores_`
        has the scores of training rows without that.
        """
        rows = self._rows(self._conform(X))
        return _score(self.detector_, rows)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Minus the anomaly score: larger = more ordinary (no log-density)."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Positive for rows that belong, negative for anomalies, at the stated false-alarm rate."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for rows that belong, -1 for anomalies."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    # -- decisions -----------------------------------------------------------------------------

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that the calibration rows can give."""
        return detection.smallest_p_value(len(self.calibration_scores_))

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Conformal p-values: the chance that an ordinary row scores at least as high."""
        scores = self.anomaly_score(X)
        return detection.conformal_p_values(self.calibration_scores_, scores)

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

    # -- keeping -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector as a folder, without pickle; it holds the reference rows."""
        from energyscape.families.storage import save_detector

        check_is_fitted(self)
        save_detector(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AnomalyDetector:
        """The detector that was saved in a folder.

        Raises
        ------
        ArtifactError
            One line that names what is wrong with the folder.
        """
        from energyscape.families.storage import load_detector

        return load_detector(path)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")


class _Learning(NamedTuple):
    """How detectors are made of rows."""

    trim: float
    max_rows: int
    rng: np.random.Generator

    def detector(self, rows: TableRows) -> tuple[EmpiricalDetector, NDArray[np.int64]]:
        """A detector, and which rows it compares with."""
        index = np.arange(len(rows))
        if len(rows) > self.max_rows:
            index = np.sort(self.rng.permutation(len(rows))[: self.max_rows])
        kept, fitted = index, EmpiricalDetector.fit(rows.take(index))
        stay = max(round((1 - self.trim) * len(index)), 2)
        # The second round judges by a reference that the first has cleaned.
        for _ in range(2 if stay < len(index) else 0):
            scores = _known_scores(fitted, rows, kept)[index]
            kept = np.sort(index[np.argsort(scores, kind="stable")[:stay]])
            fitted = EmpiricalDetector.fit(rows.take(kept))
        return fitted, kept


_Learned = tuple[EmpiricalDetector, TableRows, NDArray[np.float64], NDArray[np.float64]]


def _cross(rows: TableRows, how: _Learning) -> _Learned:
    """A detector of all rows, calibrated on each by one of the rows of the other folds."""
    folds = min(_FOLDS, len(rows))
    fold = how.rng.permutation(len(rows)) % folds
    scores = np.empty(len(rows))
    for k in range(folds):
        rest = np.flatnonzero(fold != k)
        if len(rest) < 2:
            raise DataError(f"{len(rows)} rows are too few to learn and calibrate; 3 are needed")
        held = np.flatnonzero(fold == k)
        scores[held] = _score(how.detector(rows.take(rest))[0], rows.take(held))
    detector, kept = how.detector(rows)
    return detector, rows.take(kept), scores, scores


def _split(rows: TableRows, how: _Learning) -> _Learned:
    """A detector of some rows, calibrated on the others."""
    n = len(rows)
    size = min(max(n // 10, min(1000, n // 4), 1), 20_000)
    order = how.rng.permutation(n)
    held, rest = order[:size], np.sort(order[size:])
    if len(rest) < 2:
        raise DataError(f"{n} rows are too few to learn and calibrate; 3 are needed")
    detector, kept = how.detector(rows.take(rest))
    scores = _known_scores(detector, rows, rest[kept])
    return detector, rows.take(rest[kept]), scores, scores[held]


def _known_scores(
    detector: EmpiricalDetector, rows: TableRows, reference: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Scores of all rows, those of the reference without themselves."""
    scores = np.empty(len(rows))
    others = np.setdiff1d(np.arange(len(rows)), reference)
    scores[reference] = detector.own_scores
    scores[others] = _score(detector, rows.take(others))
    return scores


def _score(detector: EmpiricalDetector, rows: TableRows) -> NDArray[np.float64]:
    parts = [
        detector.score(rows.take(np.arange(start, min(start + _CHUNK, len(rows)))))
        for start in range(0, len(rows), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _measured(schema: Schema | None) -> Schema:
    """Whole numbers as measurements: a value between two of them is strange, and no mistake."""
    assert schema is not None
    if schema.array:
        return schema
    columns = [
        replace(column, kind="numeric", dtype="Float64") if column.kind == "integer" else column
        for column in schema
    ]
    return replace(schema, columns=tuple(columns))
