"""Any fitted family as a detector, by the evidence that is asked for.

===================  =======================================================  ======================
``by``               what it says of a row, larger = stranger                 families
===================  =======================================================  ======================
``own``              `anomaly_score`, what the family itself goes by          all
``energy``           the energy, at each level where there are levels         ebm, score
``log_density``      minus the log-density, of `log_density`'s kind           those that have one
``bound``            minus its lower bound by the chain, noised alike, with   ddpm
                     a Gaussian last step, nats
``denoising_error``  how badly the noised row is restored, at each level      ncsn, ddpm, edm; ebm
                                                                              of levels
``score_norm``       ``sigma |score|``, how steep it is there, at each level  all
===================  =======================================================  ======================

The exact energy of the data themselves at a noise level is no family's:
`energyscape.detectors.empirical_energies`, which `AnomalyDetector` is made of.

Several kinds of evidence, or one at several levels, become one score by their mean surprise
(`energyscape.detectors.TailLaw`), read from every other calibration row; the p-values are then those of
the rows between, which read nothing. No label is looked at.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from energyscape import detection
from energyscape.detectors import TailLaw
from energyscape.families.base import DensityEstimator
from energyscape.families.ddpm import DDPM
from energyscape.families.deciding import Decides
from energyscape.families.drifting import DriftFound
from energyscape.families.edm import EDM
from energyscape.families.evidence import denoising_errors, energies, score_norms
from energyscape.families.levels import LevelEnergy
from energyscape.models import Denoiser, Energy, EnergyDenoiser, ScoreField

__all__ = ["Evidence", "ModelDetector"]

Evidence = Literal["own", "energy", "log_density", "bound", "denoising_error", "score_norm"]

#: In units of the data's scale: from detail to what is left of the whole.
_LEVELS = (0.1, 0.2, 0.4, 0.8)
_CELLS = 65536


class ModelDetector(OutlierMixin, Decides, BaseEstimator):
    """Finds rows that do not belong by what a family's model says of them.

    `of` takes a family as it was fitted, or loaded; `fit` fits a copy of one.

    Parameters
    ----------
    model : DensityEstimator, optional
        What `fit` fits a copy of; `EDM` by default.
    by : str, or sequence of str
        Kinds of evidence; see the module's opening lines.
    levels : sequence of positive numbers, optional
        Noise levels in units of the data's scale, for evidence that has levels; 0.1, 0.2, 0.4, 0.8 by
        default. Without effect on evidence that has none.
    false_alarm_rate : float
        Share of ordinary rows that `predict` may call anomalous.

    Attributes
    ----------
    model_ : DensityEstimator
        Fitted.
    calibration_scores_ : array of shape (c,)
        Sorted, of rows that trained nothing.
    kinds_ : list of str
        Evidence that it was calibrated by.
    laws_ : tuple of TailLaw
        What several numbers a row are read by; empty where there is one.

    Examples
    --------
    >>> import numpy as np
    >>> from energyscape import EDM
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> fitted = EDM(max_steps=50, random_state=0).fit(X)
    >>> detector = ModelDetector.of(fitted, by="log_density")
    >>> detector.predict([[0.0, 0.0], [9.0, -9.0]])
    array([ 1, -1])
    """

    model_: DensityEstimator
    calibration_scores_: NDArray[np.float64]
    kinds_: list[Evidence]
    laws_: tuple[TailLaw, ...]
    _levels: tuple[float, ...]

    def __init__(
        self,
        model: DensityEstimator | None = None,
        *,
        by: Evidence | Sequence[Evidence] = "own",
        levels: Sequence[float] | None = None,
        false_alarm_rate: float = 0.05,
    ) -> None:
        self.model = model
        self.by = by
        self.levels = levels
        self.false_alarm_rate = false_alarm_rate

    @classmethod
    def of(
        cls,
        model: DensityEstimator,
        *,
        by: Evidence | Sequence[Evidence] = "own",
        levels: Sequence[float] | None = None,
        false_alarm_rate: float = 0.05,
    ) -> Self:
        """A fitted family as a detector, calibrated on the rows that it set aside and kept.

        These are 1,000 at most, so that no p-value is below 1/1,001, or 1/501 of several numbers a row.

        Raises
        ------
        ValueError
            If the family has no such evidence, or set no rows aside.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_is_fitted(model)
        detector = cls(model, by=by, levels=levels, false_alarm_rate=false_alarm_rate)
        detector._calibrate(model)
        return detector

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit a copy of `model`, which sets rows aside to calibrate on.

        Parameters
        ----------
        X : array, DataFrame, pictures or Dataset
            What the family takes.
        y : ignored

        Raises
        ------
        ValueError
            If the family has no such evidence.
        """
        kinds = self._kinds()
        model = EDM() if self.model is None else clone(self.model)
        if "bound" in kinds:  # told before training; of other kinds the trained model knows
            _of_chain(model)
        self._calibrate(model.fit(X))
        return self

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, shape (n,): the evidence, or the mean surprise of several.

        A function of the row alone.
        """
        check_is_fitted(self, "model_")
        return self._combine(self.evidence(X))

    def evidence(self, X: Any) -> NDArray[np.float64]:
        """Each kind at each level, larger = stranger, shape (n, K); `columns` names them."""
        check_is_fitted(self, "model_")
        encoded = self.model_.codec_.encode(self.model_._conform(X), None)
        return self._measure(torch.from_numpy(encoded.x), encoded.log_abs_det)

    def _measure(self, x: Tensor, log_abs_det: NDArray[np.float64]) -> NDArray[np.float64]:
        found = [source.measure(x, log_abs_det) for source in self._sources()]
        return np.concatenate(found, axis=1)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `evidence`."""
        check_is_fitted(self, "model_")
        return [name for source in self._sources() for name in source.names]

    @property
    def offset_(self) -> float:
        """`score_samples` at which `predict` turns; of few calibration rows the strangest one's."""
        known = self._calibration_scores()
        return -min(detection.threshold(known, self.false_alarm_rate), float(known[-1]))

    @property
    def n_features_in_(self) -> int:
        """As the family's."""
        check_is_fitted(self, "model_")
        return self.model_.n_features_in_

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """As the family's, where columns had names."""
        if not hasattr(self, "model_"):
            raise AttributeError("feature_names_in_")
        return self.model_.feature_names_in_

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Minus the anomaly score: larger = more ordinary."""
        return -self.anomaly_score(X)

    def drift(self, X: Any, *, scores: NDArray[np.float64] | None = None) -> DriftFound:
        """Whether these rows as a whole come from another law; arguments as a family's `drift`."""
        known = self._calibration_scores()
        return self.model_._drift(X, known, self.anomaly_score(X) if scores is None else scores)

    # -- how -----------------------------------------------------------------------------------

    def _kinds(self) -> list[Evidence]:
        kinds = [self.by] if isinstance(self.by, str) else list(self.by)
        known = get_args(Evidence)
        if not kinds or any(kind not in known for kind in kinds):
            raise ValueError(f"by={self.by!r}: evidence is one or several of {', '.join(known)}")
        if self.levels is not None and (not len(self.levels) or min(self.levels) <= 0):
            raise ValueError(f"noise levels must be positive numbers, got {list(self.levels)}")
        if not 0.0 < self.false_alarm_rate < 1.0:
            raise ValueError(f"false_alarm_rate must lie in (0, 1), got {self.false_alarm_rate}")
        return kinds

    def _sources(self) -> list[_Source]:
        return [_source(self.model_, kind, self._levels) for kind in self.kinds_]

    def _calibrate(self, model: DensityEstimator) -> None:
        # What is asked for now is what stands, whatever is set later.
        self.kinds_ = self._kinds()
        self._levels = tuple(_LEVELS if self.levels is None else self.levels)
        kept, log_abs_det = model._kept()
        self.model_, self.laws_ = model, ()
        several = len(self.columns) > 1
        if len(kept) < 1 + several:
            raise ValueError(
                f"{len(kept)} rows were set aside for calibration, and {1 + several} are needed at "
                "least: fit with calibration_fraction > 0"
            )
        found = self._measure(kept, log_abs_det)
        if several:
            self.laws_ = tuple(TailLaw.fit(column) for column in found[::2].T)
            found = found[1::2]
        self.calibration_scores_ = np.sort(self._combine(found))
        if self.smallest_p_value > self.false_alarm_rate:
            warnings.warn(
                f"{len(found)} calibration rows cannot give a false-alarm rate of "
                f"{self.false_alarm_rate:g}: the lowest is {self.smallest_p_value:.3g}, and predict "
                "uses it",
                UserWarning,
                stacklevel=3,
            )

    def _combine(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """One score a row, to single precision: ties must not hang on the batch a row came in."""
        if not self.laws_:
            return found[:, 0].astype(np.float32).astype(np.float64)
        parts = [law.surprise(column) for law, column in zip(self.laws_, found.T, strict=True)]
        return np.mean(parts, axis=0).astype(np.float32).astype(np.float64)

    def _calibration_scores(self) -> NDArray[np.float64]:
        check_is_fitted(self, "model_")
        return self.calibration_scores_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(EDM() if self.model is None else self.model).input_tags
        tags.non_deterministic = self.model is None
        return tags


class _Source(NamedTuple):
    """A kind of evidence: its columns, and how encoded rows are measured, (n, K)."""

    names: list[str]
    measure: Callable[[Tensor, NDArray[np.float64]], NDArray[np.float64]]


def _source(estimator: DensityEstimator, kind: Evidence, levels: Sequence[float]) -> _Source:
    """What a fitted family has of one kind.

    Raises
    ------
    ValueError
        If it has none.
    """
    device = next(estimator.model_.parameters()).device
    if kind == "own":
        return _Source([kind], lambda x, inner: estimator._surprise_rows(x).sum(1, keepdims=True))
    if kind == "log_density":
        return _Source(
            [kind],
            # What the network rounds differs between batches by 1e-6 nats; ties must not.
            lambda x, inner: (
                -(estimator._log_density(x.to(device)).value + inner)[:, None].round(4)
            ),
        )
    if kind == "bound":
        chain = _of_chain(estimator)
        return _Source(
            [kind],
            lambda x, inner: -(chain._bound_of_row(x.to(device)).cpu().numpy() + inner)[:, None],
        )
    dtype = getattr(estimator, "_scoring_dtype", lambda: torch.float64)()
    names, see = _look(estimator._scorer(dtype), kind, levels, _scale(estimator))
    if not names:
        raise _nothing(estimator, kind, _LACKS[kind])

    def measure(x: Tensor, inner: NDArray[np.float64]) -> NDArray[np.float64]:
        x = x.to(device, dtype)
        size = max(1, _CELLS // max(math.prod(x.shape[1:]), 1))
        found = [see(part).detach().cpu().double() for part in x.split(size)]
        return torch.cat(found).numpy().reshape(len(x), len(names))

    return _Source(names, measure)


_LACKS = {
    "energy": "its model has no energy",
    "denoising_error": "its model is no denoiser",
    "score_norm": "its model has no score",
}


def _of_chain(estimator: DensityEstimator) -> DDPM:
    """The family, if it has a chain; raises ValueError where it has none."""
    if not isinstance(estimator, DDPM):
        raise _nothing(estimator, "bound", "a bound is that of ddpm's chain")
    return estimator


def _nothing(estimator: DensityEstimator, kind: str, why: str) -> ValueError:
    return ValueError(f"{type(estimator).__name__} has no evidence {kind!r}: {why}")


def _look(
    model: Any, kind: str, levels: Sequence[float], scale: float
) -> tuple[list[str], Callable[[Tensor], Tensor]]:
    """Names, and encoded rows to numbers (n, K); no names where the model has no such evidence."""
    sigmas = [float(level * scale) for level in levels]
    at_levels = [f"{kind} at {level:g}" for level in levels]
    energy, denoiser = _by_level(model)
    if kind == "energy" and energy is not None:
        return at_levels, lambda x: energies(energy, x, sigmas)
    if kind == "energy" and isinstance(model, Energy):
        return [kind], lambda x: energies(model, x)
    if kind == "denoising_error" and denoiser is not None:
        return at_levels, lambda x: denoising_errors(denoiser, x, sigmas).flatten(2).sum(2).T
    if kind == "score_norm" and denoiser is not None:
        return at_levels, lambda x: score_norms(denoiser, x, sigmas)
    if kind == "score_norm" and isinstance(model, Energy | ScoreField):
        return [kind], lambda x: scale * model.score(x).flatten(1).norm(dim=1, keepdim=True)
    return [], torch.clone


def _by_level(model: Any) -> tuple[Energy | None, Denoiser | None]:
    """The noise-conditional energy and the denoiser that a model is, or implies."""
    if isinstance(model, LevelEnergy):
        return model, EnergyDenoiser(model)
    if isinstance(model, EnergyDenoiser):
        return model.energy, model
    return None, model if isinstance(model, Denoiser) else None


def _scale(estimator: DensityEstimator) -> float:
    """One standard deviation of encoded rows."""
    facts = estimator.facts_
    return float(facts["sigma_data"] if "sigma_data" in facts else facts["scale"])
