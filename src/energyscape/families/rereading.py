"""The rows a run was trained on, found again: by its seed, and where it was told they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energyscape.data import DataError, Dataset, Split, load, split_rows
from energyscape.families.fitting import data_fingerprint

if TYPE_CHECKING:
    from energyscape.families.base import DensityEstimator

__all__ = ["is_training_data", "split_of", "training_rows"]


def is_training_data(estimator: DensityEstimator, dataset: Dataset) -> bool:
    """Whether these are the values that the run was fitted on."""
    return bool(data_fingerprint(dataset) == estimator.info_.get("fingerprint"))


def split_of(estimator: DensityEstimator, num_rows: int) -> Split:
    """The split that fitting made, drawn again: it is the first use of the run's seed."""
    settings = estimator.get_params()
    return split_rows(
        num_rows,
        settings["validation_fraction"],
        settings["calibration_fraction"],
        np.random.default_rng(estimator.info_["seed"]),
    )


def training_rows(estimator: DensityEstimator) -> tuple[Dataset | None, str]:
    """The rows the model was trained on, read again from where they were, or None and why not."""
    record = estimator.info_["data"]
    source = record.get("source")
    if not source:
        return None, "their place was not recorded"
    try:
        again = load(
            source,
            types=record.get("types"),
            drop=record.get("drop"),
            size=record.get("size"),
            channels=record.get("channels"),
        )
    except DataError as error:
        return None, str(error)
    if not is_training_data(estimator, again):
        return None, f"{source} has changed since"
    return again.take(split_of(estimator, len(again)).train), ""
