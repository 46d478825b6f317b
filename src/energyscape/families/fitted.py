"""What a fitted family knows, and how data reach its model and come back.

Arrays, frames and pictures are brought into the form the codec takes; encoded rows come back in the
original columns, types and units, in the kind of data that was fitted. Errors name what does not fit.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from energyscape.data import Codec, DataError, Dataset, as_dataset, is_frame, like, to_polars

__all__ = ["DataIn", "Fitted"]


class DataIn(BaseEstimator):
    """How data of any make reach an estimator, and what it remembers of them."""

    # Set by fitting or loading.
    _template: Any
    schema_: Any
    data_kind_: str
    input_kind_: str
    frame_kind_: str
    n_features_in_: int
    feature_names_in_: NDArray[Any]

    def _training_data(self, X: Any) -> Dataset:
        """A `Dataset`, and the attributes that remember what kind of data came in."""
        self._template = None
        if isinstance(X, Dataset):
            dataset, self.input_kind_ = X, "dataset"
        elif is_frame(X):
            dataset, self.input_kind_ = as_dataset(X), "frame"
            self._template = X[:0]
        else:
            if np.asarray(X).ndim in (3, 4):
                dataset, self.input_kind_ = as_dataset(X), "array"
            else:
                checked = validate_data(
                    self, X, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=2
                )
                dataset, self.input_kind_ = as_dataset(checked), "array"
        if dataset.kind == "table":
            table = dataset.frame if dataset.raw is None else dataset.raw
            assert table is not None
            names = list(table.columns)
            self.n_features_in_ = len(names)
            if self.input_kind_ != "array" and dataset.array is None:
                self.feature_names_in_ = np.asarray(names, dtype=object)
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        else:
            self.n_features_in_ = int(np.prod(dataset.data.shape[1:]))
        return dataset

    def _conform(self, X: Any) -> Any:
        """New data in the form the codec takes; one-line errors name what does not fit."""
        check_is_fitted(self)
        if self.data_kind_ == "pictures":
            pictures = X if isinstance(X, Dataset) else as_dataset(np.asarray(X))
            if pictures.kind != "pictures":
                raise DataError("this model was fitted on pictures; give pictures (n, H, W[, C])")
            return pictures.data
        if isinstance(X, Dataset):
            if X.kind != "table":
                raise DataError("this model was fitted on a table; give a table")
            X = X.data if self.schema_.array else (X.raw if X.raw is not None else X.data)
        if self.schema_.array:
            if is_frame(X):
                X = to_polars(X).to_numpy()
            return validate_data(
                self, X, reset=False, dtype="numeric", ensure_all_finite="allow-nan"
            )
        if not is_frame(X):
            import polars as pl

            table = np.asarray(X)
            names = [str(name) for name in self.feature_names_in_]
            if table.ndim != 2 or table.shape[1] != len(names):
                raise DataError(
                    f"this model was fitted on {len(names)} columns: {', '.join(names)}"
                )
            X = pl.DataFrame({name: table[:, j] for j, name in enumerate(names)})
        return X

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags


class Fitted(DensityMixin, DataIn):
    """The state of a fitted estimator, and the way from data to encoded rows and back.

    Attributes
    ----------
    model_ : Energy or Denoiser
        In eval mode, with the averaged weights.
    codec_, schema_, data_kind_ : Codec, Schema or None, {"table", "pictures"}
    history_ : list of dict
        The training curve.
    calibration_ : dict of arrays
        ``anomaly_scores`` of the calibration rows, sorted, and up to 1,000 of them encoded, ``rows``.
    info_ : dict
        Seed, versions, seconds, stop reason, data, notes.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    """

    # Set by fitting or loading.
    model_: nn.Module
    _frozen: dict[torch.dtype, nn.Module] | None
    codec_: Codec
    facts_: dict[str, Any]
    history_: list[dict[str, Any]]
    calibration_: dict[str, np.ndarray]
    info_: dict[str, Any]

    def encode(self, X: Any) -> Tensor:
        """Rows as the model sees them, float64, shape (n, ...); deterministic."""
        data = self._conform(X)
        return torch.from_numpy(self.codec_.encode(data, None).x)

    def decode(self, x: Tensor) -> Any:
        """Encoded rows in the original columns, types and units, in the kind of data fitted."""
        check_is_fitted(self)
        return self._as_fitted(self.codec_.decode(x.detach().cpu().double().numpy()))

    def _as_fitted(self, data: Any) -> Any:
        return like(data, self._original()) if self.input_kind_ == "frame" else data

    def _original(self) -> Any:
        if self._template is not None:
            return self._template
        if self.frame_kind_ == "pandas":
            import pandas

            return pandas.DataFrame()
        return None

    def _double(self) -> nn.Module:
        """The model in float64."""
        return self._scorer(torch.float64)

    def _scorer(self, dtype: torch.dtype) -> nn.Module:
        """A frozen copy of the model in the type that scores and densities are computed in."""
        if self._frozen is None:
            self._frozen = {}
        if dtype not in self._frozen:
            model = copy.deepcopy(self.model_).to(dtype).eval()
            self._frozen[dtype] = model.requires_grad_(False)
        return self._frozen[dtype]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")
