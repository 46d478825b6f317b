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

**Contaminated training rows.** ``trim=0.1`` leaves the most suspect tenth of the training rows out of
the reference, twice over, so that anomalies do not vouch for one another, nor hide in a group
(`EmpiricalDetector.suspicion`; ``benchmarks/anomaly_contamination.py``). They still calibrate: some
anomalies among the calibration rows make p-values larger, never smaller.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from energyscape import detection
from energyscape.data import DataError, Dataset, Schema
from energyscape.detectors import EmpiricalDetector, Reasons, TableRows
from energyscape.families import settings as s
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.deciding import Decides
from energyscape.families.drifting import DriftFound, measure_drift
from energyscape.families.explaining import (
    Explanation,
    as_rows,
    column_names,
    explain_known,
    explain_rows,
)
from energyscape.families.fitted import DataIn
from energyscape.families.fitting import data_fingerprint, versions
from energyscape.families.reference import Learning, learn_across, learn_apart, score_rows
from energyscape.families.storage import load_detector, save_detector

__all__ = ["AnomalyDetector"]

_CROSS_ROWS = 10_000


class AnomalyDetector(OutlierMixin, Decides, DataIn):
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
    reference_, sample_ : TableRows
        The rows it compares with, and training rows as they came, the same unless trimmed.
    calibration_scores_ : array of shape (c,)
        Sorted.
    training_scores_ : array of shape (n,)
        Each training row's score by a detector that did not know it. Of more than 100,000 rows, NaN
        for those that neither calibrate nor are compared with; `known_scores` gives theirs.
    calibrated_by_ : {"cross", "split"}
    notes_ : list of str
    info_ : dict
        Seed, rows, seconds, where the data came from, versions.
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
    calibration_scores_: NDArray[np.float64]
    training_scores_: NDArray[np.float64]
    calibrated_by_: str
    notes_: list[str]
    detector_: EmpiricalDetector
    reference_: TableRows
    info_: dict[str, Any]
    _reasons: Reasons | None

    #: What it is for, in a line; shown by the command line.
    purpose: ClassVar[str] = (
        "finds rows of a table that do not belong, in seconds and without a network; learns no density"
    )

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
        self._learn(self._training_data(X), None, {})
        for said in self.notes_:
            warnings.warn(said, UserWarning, stacklevel=2)
        return self

    def fit_run(
        self,
        dataset: Dataset,
        out: str | os.PathLike[str],
        *,
        progress: ProgressCallback | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> Self:
        """Learn from a data set and leave a folder; ``source`` says where the data came from.

        What would be warned of stands in `notes_`.
        """
        self._learn(self._training_data(dataset), progress, dict(source or {}))
        self.save(out)
        return self

    def _learn(
        self, dataset: Dataset, progress: ProgressCallback | None, source: Mapping[str, Any]
    ) -> None:
        began = time.perf_counter()
        settings = s.validate_settings(type(self), self.get_params())
        if dataset.kind != "table":
            raise DataError("anomalies are found in tables; pictures need a family, such as EDM")
        self.data_kind_, self.schema_ = "table", _measured(dataset.schema)
        self.frame_kind_ = (
            "" if self._template is None else type(self._template).__module__.split(".")[0]
        )
        rows = self._rows(dataset.array if dataset.array is not None else dataset.raw)
        seed = settings["random_state"]
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        mode = settings["calibration"]
        if mode == "auto":
            mode = "cross" if len(rows) <= _CROSS_ROWS else "split"
        how = Learning(settings["trim"], settings["max_rows"], np.random.default_rng(seed))
        learn = learn_across if mode == "cross" else learn_apart
        found = learn(rows, how, as_steps(progress, "learning"))
        self.detector_, self.reference_, self.training_scores_ = found[:3]
        self.sample_ = found.sample
        self.calibrated_by_, self.calibration_scores_ = mode, np.sort(found.calibration)
        self._reasons = None
        self._decide(settings["false_alarm_rate"])
        counts = {"train": len(rows), "reference": len(found.reference)}
        self.info_ = {
            "seed": seed,
            "rows": counts | {"calibration": len(found.calibration)},
            "seconds": round(time.perf_counter() - began, 3),
            "fingerprint": data_fingerprint(dataset),
            "rows_checksum": f"{rows.checksum():016x}",
            "data": {"name": dataset.name, **source},
            "notes": list(dataset.notes),
            "versions": versions(),
        }

    def _rows(self, data: Any) -> TableRows:
        return as_rows(data, self.schema_)

    # -- scores --------------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs: mean surprise in nats, larger = stranger, shape (n,).

        A row that was trained on finds itself among the rows it is compared with; `training_scores_`
        has the scores of training rows without that.
        """
        rows = self._rows(self._conform(X))
        return score_rows(self.detector_, rows)

    def _calibration_scores(self) -> NDArray[np.float64]:
        check_is_fitted(self)
        return self.calibration_scores_

    def _decide(self, rate: float) -> None:
        """The threshold, and a word where the rate cannot be had."""
        self.notes_ = []
        threshold = self.threshold(rate)
        if np.isinf(threshold):
            threshold = float(self.calibration_scores_[-1])
            self.notes_ = [
                f"{len(self.calibration_scores_)} calibration rows cannot give a false-alarm rate of "
                f"{rate:g}: the lowest is {self.smallest_p_value:.3g}, and predict uses it"
            ]
        self._offset = -threshold

    @property
    def offset_(self) -> float:
        """`score_samples` at which `predict` turns."""
        check_is_fitted(self)
        return self._offset

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

    def known_scores(self, X: Any) -> NDArray[np.float64]:
        """`training_scores_` of the rows it was fitted on, all of them, shape (n,)."""
        scores = self.training_scores_.copy()
        gaps = np.flatnonzero(np.isnan(scores))
        if gaps.size:
            scores[gaps] = score_rows(self.detector_, self._rows(self._conform(X)).take(gaps))
        return scores

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Minus the anomaly score: larger = more ordinary (no log-density)."""
        return -self.anomaly_score(X)

    def knows(self, X: Any) -> bool:
        """Whether these are the rows it was fitted on, whose scores are `training_scores_`."""
        return self.knows_sum(self.checksum(X), len(X))

    def checksum(self, X: Any, start: int = 0) -> int:
        """Of rows that stand at ``start`` in their table; those of its parts add up modulo 2^64."""
        return self._rows(self._conform(X)).checksum(start)

    def knows_sum(self, checksum: int, count: int) -> bool:
        """`knows`, of ``count`` rows with a checksum."""
        same = f"{checksum:016x}" == self.info_.get("rows_checksum")
        return same and count == len(self.training_scores_)

    def drift(self, X: Any, *, scores: NDArray[np.float64] | None = None) -> DriftFound:
        """Whether these rows as a whole come from another law than those learned from; what moved.

        Anomaly scores are compared with those of the calibration rows by a two-sample test, one-sided
        where the calibration is ``cross``: there ordinary new rows score a little lower than
        calibration rows, and only stranger ones are asked for. Columns are compared with `sample_`.
        Training rows themselves are no new rows: what is found on them means nothing.

        Parameters
        ----------
        X : array, DataFrame or Dataset
        scores : array of shape (n,), optional
            Their anomaly scores, where they are known.

        Returns
        -------
        DriftFound

        Examples
        --------
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(600, 2))
        >>> detector = AnomalyDetector(random_state=0).fit(X[:300])
        >>> found = detector.drift(X[300:] + [0.0, 1.0])
        >>> found.scores.p_value < 0.01, [moved.column for moved in found.moved()]
        (True, ['x1'])
        """
        rows = self._rows(self._conform(X))
        scores = score_rows(self.detector_, rows) if scores is None else scores
        stranger = self.calibrated_by_ == "cross"
        known = self.calibration_scores_
        return measure_drift(self.schema_, self.sample_, rows, known, scores, stranger=stranger)

    # -- reasons -------------------------------------------------------------------------------

    def explain(self, X: Any, most: int = 3, *, trained_on: bool = False) -> list[Explanation]:
        """Why each row is strange: which cells do not go with the rest, and what was expected.

        Parameters
        ----------
        X : array, DataFrame or Dataset
        most : int
            Cells blamed at most; the worst always, further ones only if they stand out.
        trained_on : bool
            Whether these are training rows: each is then compared with the others.

        Returns
        -------
        list of n `Explanation`
            See `energyscape.detectors.reasons` for what is computed, and
            ``benchmarks/anomaly_reasons.py`` for how often it is right. Intervals hold 90 % of
            ordinary cells.

        Examples
        --------
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(400, 1))
        >>> detector = AnomalyDetector(random_state=0).fit(np.hstack([x, 2 * x, -x]))
        >>> found = detector.explain([[1.0, 2.0, 1.0]])[0].blamed[0]
        >>> found.column, found.low < -1.0 < found.high
        ('x2', True)
        """
        data = self._conform(X)
        of = (self.schema_, self.detector_, self._why(), most, self.reference_)
        return explain_rows(data, *of, among=trained_on)

    def strangest(self, count: int = 20, most: int = 3) -> list[tuple[dict[str, Any], Explanation]]:
        """The reference rows that fit least, the worst first, each judged by the others."""
        check_is_fitted(self)
        order = np.argsort(-self.detector_.own_scores, kind="stable")[:count]
        rows = self.reference_.take(order)
        return explain_known(rows, self.schema_, self.detector_, self._why(), most, self.reference_)

    def column_contributions(self, X: Any) -> tuple[list[str], NDArray[np.float64]]:
        """Which columns drive the anomaly score: names, and shares of shape (n, columns).

        The shares are of the odds (in nats, from 0 up) that the cell does not go with its row.
        """
        rows = self._rows(self._conform(X))
        odds = np.maximum(self._why().odds(rows), 0.0)
        plain = bool(self.schema_.array)
        names = column_names(self.schema_, rows.numbers.shape[1], plain)
        return names, odds / np.maximum(odds.sum(axis=1, keepdims=True), 1e-300)

    def _why(self) -> Reasons:
        """What is usual in each column, measured when it is first asked for."""
        if self._reasons is None:
            self._reasons = Reasons.fit(self.reference_, self.detector_.views)
        return self._reasons

    # -- keeping -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector as a folder, without pickle; it holds the reference rows."""
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
        return load_detector(path, cls)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")


def _measured(schema: Schema | None) -> Schema:
    """Whole numbers as measurements: a value between two of them is strange, and no mistake.

    A column that never changed is one of names, of which it has one: another one is strange.
    """
    assert schema is not None
    if schema.array:
        return schema
    columns = []
    for column in schema:
        if column.kind == "integer":
            column = replace(column, kind="numeric", dtype="Float64", decimals=0)
        elif column.kind == "constant":
            column = replace(column, kind="category")
        columns.append(column)
    return replace(schema, columns=tuple(columns))
