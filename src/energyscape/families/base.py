"""The estimator every family is: data in, density out, by scikit-learn's contract.

A family says only what it is made of (`energyscape.families.family`). Everything else stands once:
training, calibration and keeping here, drawing in `records`, densities and anomaly scores in `judging`.

    fit     data -> split(train | validation | calibration) -> codec -> train -> calibrate
    sample  model -> codec.decode -> data
    score   codec.encode -> criterion (+ log |det|) -> calibrated p-value
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from energyscape.data import Dataset
from energyscape.families.bar import ProgressCallback, progress_bar
from energyscape.families.family import Family
from energyscape.families.fitting import RunRecord, fit_estimator
from energyscape.families.settings import check_settings
from energyscape.families.storage import save_estimator
from energyscape.training import Processes

__all__ = ["DensityEstimator"]


class DensityEstimator(Family):
    """Base of the families; see `energyscape.families` for the five of them."""

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
        check_settings(type(self), self.get_params())
        bar = progress_bar() if self.__dict__.get("verbose") else contextlib.nullcontext(None)
        dataset = self._training_data(X)
        if y is not None and self.get_params().get("label") is not None:
            labels = np.asarray(y)
            if labels.shape != (len(dataset),):
                raise ValueError(f"{len(dataset)} rows need as many labels, got {labels.shape}")
            dataset = replace(dataset, labels=labels)
        with bar as callback:
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

        In many processes (torchrun) each has the same data and settings, gradients are
        averaged over all, and the first one writes.

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
        check_settings(type(self), self.get_params())
        record = RunRecord(Path(out), resume, dict(source or {}))
        fit_estimator(self, self._training_data(dataset), record, progress=progress)
        processes = Processes.discover()
        if processes.rank == 0:
            self.save(out)
        processes.barrier()
        return self

    # -- keeping -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder; `energyscape.load` gives it back."""
        check_is_fitted(self)
        save_estimator(self, Path(path))
