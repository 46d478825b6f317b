"""What a fitted family says of rows: how probable they are, and whether they belong."""

from __future__ import annotations

import abc
import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from energyscape import detection
from energyscape.data import TableCodec
from energyscape.detectors import TableRows
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.deciding import Decides
from energyscape.families.drifting import DriftFound, measure_drift
from energyscape.families.explaining import as_rows
from energyscape.families.fitted import Fitted

__all__ = ["Judging", "NoLogDensityError", "Values"]

_UNNORMALISED = (
    "these values are minus an energy, not a log-density: log Z is not known, or not to be trusted "
    "(notes in info_ say why where it was tried). They rank rows of this model, and say nothing in "
    "nats or beside another model's; log_density(X).kind tells 'unnormalised'. For nats take the "
    "family edm, which has them for pictures too, or fit a table with normalise=True or for longer"
)


class NoLogDensityError(ValueError):
    """The model has no log-density; the message names what it has."""


class Values(NamedTuple):
    """One number a row, what kind of number it is, and its standard error (nats)."""

    value: NDArray[np.float64]
    kind: str
    stderr: NDArray[np.float64]


class Judging(Fitted, Decides, abc.ABC):
    """The faces that judge; a family says how encoded rows are scored."""

    # -- what a family adds --------------------------------------------------------------------

    @abc.abstractmethod
    def _log_density(self, x: Tensor) -> Values:
        """Of encoded rows in float64, before the codec's Jacobian."""

    @abc.abstractmethod
    def _surprise(self, x: Tensor) -> Tensor:
        """The anomaly score of encoded rows in float64 split over dimensions, shape of x."""

    # -- densities -----------------------------------------------------------------------------

    def log_density(self, X: Any, *, random_state: int | None = None) -> Values:
        """log p of each row in nats and original units, with its kind and standard error.

        Parameters
        ----------
        X : array, DataFrame, pictures or Dataset
        random_state : int, optional
            Draws the noise that makes whole values continuous, as training does: of a discrete row P
            the mean over that noise is no larger than log P (1511.01844 section 3.1), which is what
            bits/dim are quoted by. Without it every value stands in the middle of its cell, so that a
            row has one number.

        Raises
        ------
        NoLogDensityError
            If the model has none; the message names the alternatives.
        """
        noise = None if random_state is None else np.random.default_rng(random_state)
        encoded = self.codec_.encode(self._conform(X), noise)
        device = next(self.model_.parameters()).device
        values = self._log_density(torch.from_numpy(encoded.x).to(device))
        return values._replace(value=values.value + encoded.log_abs_det)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """log p of each row in nats; see `log_density` for its kind and standard error.

        Warns
        -----
        UserWarning
            If the values are unnormalised, which `log_density` tells by their kind.
        """
        return self._told_values(X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log p over rows, in nats per row; warns as `score_samples` does."""
        return float(self._told_values(X).mean())

    def _told_values(self, X: Any) -> NDArray[np.float64]:
        """The values alone; without their kind beside them, what they are not is said."""
        found = self.log_density(X)
        if found.kind == "unnormalised":
            warnings.warn(_UNNORMALISED, UserWarning, stacklevel=3)
        return found.value

    # -- anomalies -----------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, larger = more anomalous."""
        return self._surprise_rows(self.encode(X)).sum(1)

    def _surprise_rows(
        self,
        x: Tensor,
        progress: ProgressCallback | None = None,
        phase: str = "anomaly scores",
        *,
        seconds: float = math.inf,
        least: int = 0,
    ) -> NDArray[np.float64]:
        """Surprise of each row and coordinate; of the first rows alone, `least` at least, where all
        would take longer than `seconds`."""
        if not len(x):
            return np.zeros((0, math.prod(x.shape[1:])))
        device = next(self.model_.parameters()).device
        chunk = max(1, 65536 // max(x[0].numel(), 1))
        shown, parts, done = as_steps(progress, phase), [], 0
        began = time.monotonic()
        for part in x.split(chunk):
            parts.append(self._surprise(part.to(device)).flatten(1).cpu())
            done += len(part)
            if shown is not None:
                shown(done, len(x))
            if done >= least and time.monotonic() - began > seconds:
                break
        return torch.cat(parts).numpy()

    def column_contributions(self, X: Any) -> tuple[list[str], NDArray[np.float64]]:
        """Which columns drive the anomaly score: names, and shares of shape (n, columns)."""
        return self.scores_and_contributions(X)[1:]

    def scores_and_contributions(
        self, X: Any
    ) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
        """`anomaly_score` and `column_contributions` in the time of one.

        Raises
        ------
        ValueError
            For pictures, which have no columns.
        """
        check_is_fitted(self)
        if not isinstance(self.codec_, TableCodec):
            raise ValueError("pictures have no columns")
        parts = self._surprise_rows(self.encode(X))
        names = [name for name, _ in self.codec_.groups]
        sums = np.stack([parts[:, where].sum(1) for _, where in self.codec_.groups], axis=1)
        shares = np.abs(sums)
        return parts.sum(1), names, shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)

    def _calibration_scores(self) -> NDArray[np.float64]:
        check_is_fitted(self)
        scores = self.calibration_["anomaly_scores"]
        if len(scores) == 0:
            raise ValueError(
                "no rows were set aside for calibration: fit with calibration_fraction > 0"
            )
        return np.asarray(scores, dtype=np.float64)

    @property
    def offset_(self) -> float:
        """Minus the anomaly score above which `predict` says -1."""
        return -detection.threshold(self._calibration_scores(), self._false_alarm_rate())

    def _false_alarm_rate(self) -> float:
        return float(self.get_params()["false_alarm_rate"])

    def drift(self, X: Any, *, scores: NDArray[np.float64] | None = None) -> DriftFound:
        """Whether these rows as a whole come from another law than those learned from; what moved.

        Anomaly scores are compared with those of the calibration rows by a two-sample test, and the
        columns of a table with the calibration rows kept, 1,000 at most.

        Parameters
        ----------
        X : array, DataFrame, pictures or Dataset
        scores : array of shape (n,), optional
            Their anomaly scores, where they are known.

        Returns
        -------
        DriftFound
            Of pictures without columns.

        Raises
        ------
        ValueError
            If no rows were set aside for calibration.

        Examples
        --------
        >>> import numpy as np
        >>> from energyscape import EDM
        >>> X = np.random.default_rng(0).normal(size=(400, 2))
        >>> model = EDM(max_steps=20, random_state=0).fit(X[:300])
        >>> found = model.drift(X[300:] + [0.0, 3.0])
        >>> found.scores.p_value < 0.01, [moved.column for moved in found.moved()]
        (True, ['x1'])
        """
        known = self._calibration_scores()
        return self._drift(X, known, self.anomaly_score(X) if scores is None else scores)

    def _drift(self, X: Any, known: NDArray[np.float64], scores: NDArray[np.float64]) -> DriftFound:
        """By scores of any kind, of calibration rows and of these."""
        if self.data_kind_ == "pictures":
            return DriftFound(detection.drift_test(known, scores), ())

        def rows(data: Any) -> TableRows:
            return as_rows(self._conform(data), self.schema_)

        # Numbers of both through the same door and back: ties must stay ties. Names have none to lose.
        before, new = rows(self.decode(self._kept()[0])), rows(self.decode(self.encode(X)))
        after = TableRows(new.numbers, rows(X).codes)
        return measure_drift(self.schema_, before, after, known, scores, stranger=False)

    def _kept(self) -> tuple[Tensor, NDArray[np.float64]]:
        """Calibration rows kept, encoded, and the codec's Jacobian of each."""
        x = torch.from_numpy(np.asarray(self.calibration_["rows"], dtype=np.float64))
        if "log_abs_det" in self.calibration_:
            return x, self.calibration_["log_abs_det"]
        if not len(x):
            return x, np.empty(0)
        again = self.codec_.encode(self._conform(self.decode(x)), None)  # of earlier versions
        return torch.from_numpy(again.x), again.log_abs_det
