"""The estimator every family is: data in, density out, by scikit-learn's contract.

A family says only what it is made of: which network and face (`_build`), which objective, how it
samples, and how it scores an encoded row. Everything else stands here once: reading data, splitting,
the codec, training, calibration, saving, and the faces that users call.

    fit     data -> split(train | validation | calibration) -> codec -> train -> calibrate
    sample  model -> codec.decode -> data
    score   codec.encode -> criterion (+ log |det|) -> calibrated p-value
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from energyscape import detection
from energyscape.data import (
    Dataset,
    TableCodec,
)
from energyscape.families import conditioning
from energyscape.families.bar import as_steps
from energyscape.families.fitted import Fitted
from energyscape.families.fitting import RunRecord, fit_estimator
from energyscape.families.settings import validate_settings
from energyscape.families.storage import save_estimator
from energyscape.training import Progress

__all__ = ["Composition", "DensityEstimator", "NoLogDensityError", "Values"]

ProgressCallback = Callable[[Progress], None]

_CHUNK = 4096


class NoLogDensityError(ValueError):
    """The model has no log-density; the message names what it has."""


class Values(NamedTuple):
    """One number a row, what kind of number it is, and its standard error (nats)."""

    value: NDArray[np.float64]
    kind: str
    stderr: NDArray[np.float64]


class Composition(NamedTuple):
    """What a family is made of: a model, what trains it, and what is measured on held-out rows."""

    model: nn.Module
    objective: Callable[..., Any]
    validation_objective: Callable[..., Any] | None = None


class DensityEstimator(Fitted, abc.ABC):
    """Base of the families; see `energyscape.families` for the five of them."""

    #: What the family is for, in a line; shown by the command line.
    purpose: ClassVar[str] = ""
    #: Whether `sample_conditional` works: any cell can be held fixed, any blank filled.
    conditional: ClassVar[bool] = False

    # -- what a family adds --------------------------------------------------------------------

    @abc.abstractmethod
    def _measure(self, x: Tensor) -> dict[str, Any]:
        """Facts of the encoded training rows that the model is built from (plain values)."""

    @abc.abstractmethod
    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        """The untrained model; also used to load a trained one."""

    @abc.abstractmethod
    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        """Model and objectives, ready to train."""

    @abc.abstractmethod
    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        """`n` encoded samples."""

    @abc.abstractmethod
    def _log_density(self, x: Tensor) -> Values:
        """Of encoded rows in float64, before the codec's Jacobian."""

    @abc.abstractmethod
    def _surprise(self, x: Tensor) -> Tensor:
        """The anomaly score of encoded rows in float64 split over dimensions, shape of x."""

    def _classes(
        self, n: int, label: Any, guidance: float | None, rng: torch.Generator
    ) -> Tensor | None:
        """The class of each sample, None where the model has no classes."""
        what = "label" if label is not None else "guidance"
        if label is not None or guidance is not None:
            raise ValueError(
                f"{what} needs a model with classes: fit edm, ddpm or ncsn with label=COLUMN (or "
                "label='labels'); for a value of a column there is given={column: value}"
            )
        return None

    def _sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        classes: Tensor | None,
        guidance: float | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        """Encoded rows with the known cells as they are and the others drawn."""
        raise ValueError(
            f"{type(self).__name__} cannot hold cells fixed or fill blanks: give a range of values, "
            "which is met by rejection"
        )

    def _habits(self) -> Mapping[str, Any]:
        """What of `TrainConfig` differs from its defaults, beside the settings; facts are known."""
        return {}

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        """Arrays to keep beside the calibration scores (a replay buffer, say)."""
        return {}

    # -- fitting -------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the density of `X`.

        Parameters
        ----------
        X : array of shape (n, features), DataFrame, pictures uint8 (n, H, W[, C]), or Dataset
            NaN and None are blanks, which are modelled, not filled in.
        y : array of shape (n,), optional
            Classes to condition on where the setting ``label`` is "labels"; ignored otherwise.

        Returns
        -------
        self
        """
        validate_settings(type(self), self.get_params())
        progress = _bar if self.__dict__.get("verbose") else None
        dataset = self._training_data(X)
        if y is not None and self.get_params().get("label") is not None:
            labels = np.asarray(y)
            if labels.shape != (len(dataset),):
                raise ValueError(f"{len(dataset)} rows need as many labels, got {labels.shape}")
            dataset = replace(dataset, labels=labels)
        with progress() if progress else _no_bar() as callback:
            fit_estimator(self, dataset, RunRecord(), progress=callback)
        return self

    def fit_run(
        self,
        dataset: Dataset,
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        time_limit: float | None = None,
        progress: ProgressCallback | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> Self:
        """Learn the density of a data set with checkpoints, and leave an artifact.

        Parameters
        ----------
        dataset : Dataset
        out : path
            The run's folder, made by `energyscape.artifact.prepare` or new.
        resume : bool
            Go on from the last checkpoint of the same data and settings.
        time_limit : float, optional
            Seconds; sets the setting of that name.
        progress : callable, optional
        source : mapping, optional
            Where the data came from, for the record.
        """
        if time_limit is not None:
            self.set_params(time_limit=time_limit)
        validate_settings(type(self), self.get_params())
        record = RunRecord(Path(out), resume, dict(source or {}))
        fit_estimator(self, self._training_data(dataset), record, progress=progress)
        self.save(out)
        return self

    # -- sampling ------------------------------------------------------------------------------

    def sample(
        self,
        n_samples: int = 1,
        *,
        given: Mapping[Any, Any] | None = None,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Draw new records.

        Parameters
        ----------
        n_samples : int
        given : mapping, optional
            Columns and what holds for them: a value, ``(">=", 60)`` (also ``> < <= != =``), or a list
            of these. Rows come from the model's conditional law, with given values exact; see
            `energyscape.families.conditioning` for how, and what is guaranteed.
        label : optional
            The class of all samples, or of each; for models fitted with the setting ``label``.
        guidance : float, optional
            Weight of classifier-free guidance: 1 (the default) draws from the class, more exaggerates
            what is typical of it.
        random_state : int, optional
            Seed; the estimator's own by default.
        steps : int, optional
            Steps of the sampler; the family's default otherwise.
        sampler : str, optional
            Another sampler than the family's default.
        progress : callable, optional

        Returns
        -------
        array, DataFrame or pictures
            The kind of data fitted, in original units.
        """
        check_is_fitted(self)
        how: dict[str, Any] = {"steps": steps, "sampler": sampler, "progress": progress}
        how |= {"label": label, "guidance": guidance}
        if given:
            _check_counts(n_samples, steps)
            seed = self._seed(random_state)
            drawn = conditioning.sample_given(self, given, n_samples, seed=seed, **how)
            return self._as_fitted(drawn)
        return self.decode(self.sample_encoded(n_samples, random_state=random_state, **how))

    def _seed(self, random_state: int | None) -> int:
        return int(self.info_["seed"] if random_state is None else random_state)

    def sample_encoded(
        self,
        n_samples: int,
        *,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """As `sample`, before decoding: a tensor of shape (n_samples, ...)."""
        check_is_fitted(self)
        _check_counts(n_samples, steps)
        device = next(self.model_.parameters()).device
        rng = torch.Generator(device).manual_seed(self._seed(random_state) + 104729)
        classes = self._classes(n_samples, label, guidance, rng)
        parts: list[Tensor] = []
        for start in range(0, n_samples, _CHUNK):
            size = min(n_samples - start, _CHUNK)
            extra: dict[str, Any] = {}
            if classes is not None:
                extra = {"classes": classes[start : start + size], "guidance": guidance}
            part = self._sample_encoded(
                size, rng, steps=steps, sampler=sampler, progress=progress, **extra
            )
            parts.append(part.cpu())
        return torch.cat(parts)

    def sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        *,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """Encoded rows, the known cells held and the others drawn from the model given them.

        Parameters
        ----------
        values : Tensor of shape (n, ...)
            Encoded rows; what stands in unknown cells is ignored.
        known : bool Tensor of shape (n, ...)
        label, guidance, random_state, steps, progress
            As in `sample`.
        sampler : str, optional
            "langevin" paints around the known cells by annealed Langevin dynamics; any other leaves it
            to the family.

        Raises
        ------
        ValueError
            If the family cannot condition.
        """
        check_is_fitted(self)
        if values.shape != known.shape or list(values.shape[1:]) != self.facts_["event_shape"]:
            raise ValueError(
                f"values and known have the shape (n, *{tuple(self.facts_['event_shape'])}), got "
                f"{tuple(values.shape)} and {tuple(known.shape)}"
            )
        _check_counts(len(values), steps)
        device = next(self.model_.parameters()).device
        rng = torch.Generator(device).manual_seed(self._seed(random_state) + 1299709)
        chosen = label is not None or guidance is not None
        classes = self._classes(len(values), label, guidance, rng) if chosen else None
        drawn = self._sample_conditional(
            values.to(device),
            known.to(device),
            rng,
            steps=steps,
            sampler=sampler,
            classes=classes,
            guidance=guidance,
            progress=progress,
        )
        return drawn.cpu()

    def impute(
        self,
        X: Any,
        draws: int = 1,
        *,
        random_state: int | None = None,
        steps: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Fill blanks in by draws given the rest of their row.

        Parameters
        ----------
        X : array, DataFrame or Dataset of a table; masked array of pictures
            Blanks of columns that the model left out stay blank. Of pictures masked pixels are drawn.
        draws : int
            How many completed copies; their differences tell how sure the model is.
        random_state, steps, progress
            As in `sample`.

        Returns
        -------
        the kind of data given, or for ``draws > 1`` a list
            Cells that were not blank are as they were.

        Raises
        ------
        ValueError
            If the family cannot condition, or there is no draw to make.

        Examples
        --------
        >>> import numpy as np
        >>> from energyscape.families import EDM
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> model = EDM(max_steps=5, random_state=0).fit(X)
        >>> model.impute(np.array([[0.5, np.nan]]), steps=4)[0, 0]
        np.float64(0.5)
        """
        check_is_fitted(self)
        _check_counts(draws, steps, "draws")
        first = self._seed(random_state)
        done = [
            conditioning.impute(self, X, seed=first + i, steps=steps, progress=progress)
            for i in range(draws)
        ]
        return done if draws > 1 else done[0]

    # -- densities -----------------------------------------------------------------------------

    def log_density(self, X: Any) -> Values:
        """log p of each row in nats and original units, with its kind and standard error.

        Raises
        ------
        NoLogDensityError
            If the model has none; the message names the alternatives.
        """
        data = self._conform(X)
        encoded = self.codec_.encode(data, None)
        device = next(self.model_.parameters()).device
        values = self._log_density(torch.from_numpy(encoded.x).to(device))
        return values._replace(value=values.value + encoded.log_abs_det)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """log p of each row in nats; see `log_density` for its kind and standard error."""
        return self.log_density(X).value

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log p over rows, in nats per row."""
        return float(self.score_samples(X).mean())

    # -- anomalies -----------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """How little each row belongs, larger = more anomalous."""
        return self._surprise_rows(self.encode(X)).sum(1)

    def _surprise_rows(
        self, x: Tensor, progress: ProgressCallback | None = None, phase: str = "anomaly scores"
    ) -> NDArray[np.float64]:
        device = next(self.model_.parameters()).device
        chunk = max(1, 65536 // max(x[0].numel(), 1))
        shown, parts = as_steps(progress, phase), []
        for i, part in enumerate(x.split(chunk)):
            parts.append(self._surprise(part.to(device)).flatten(1).cpu())
            if shown is not None:
                shown(min((i + 1) * chunk, len(x)), len(x))
        return torch.cat(parts).numpy()

    def column_contributions(self, X: Any) -> tuple[list[str], NDArray[np.float64]]:
        """Which columns drive the anomaly score: names, and shares of shape (n, columns)."""
        check_is_fitted(self)
        if not isinstance(self.codec_, TableCodec):
            raise ValueError("pictures have no columns")
        parts = self._surprise_rows(self.encode(X))
        names = [name for name, _ in self.codec_.groups]
        sums = np.stack([parts[:, where].sum(1) for _, where in self.codec_.groups], axis=1)
        shares = np.abs(sums)
        return names, shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Conformal p-values: the chance that a normal row scores at least as high.

        Raises
        ------
        ValueError
            If no rows were set aside for calibration.
        """
        return detection.conformal_p_values(self._calibration_scores(), self.anomaly_score(X))

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

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Positive for rows that belong, negative for anomalies, at the stated false-alarm rate."""
        scores = self.anomaly_score(X)
        return -scores - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for rows that belong, -1 for anomalies."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    # -- keeping -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder; `energyscape.load` gives it back."""
        check_is_fitted(self)
        save_estimator(self, Path(path))


def _check_counts(n: int, steps: int | None, what: str = "n_samples") -> None:
    if n < 1:
        raise ValueError(f"{what} must be at least 1, got {n}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def _no_bar() -> Any:
    import contextlib

    return contextlib.nullcontext(None)


def _bar() -> Any:
    from energyscape.families.bar import progress_bar

    return progress_bar()
