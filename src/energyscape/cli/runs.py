"""A fitted run opened, and data read the way its model needs it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from energyscape.cli.failures import BadInput

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.families import AnomalyDetector, DensityEstimator

UNNORMALISED = (
    "log_prob is unnormalised: it ranks the rows of this run, and says nothing in nats or beside "
    "another run's"
)
__all__ = [
    "UNNORMALISED",
    "Reading",
    "check_device",
    "chunks",
    "open_any",
    "open_run",
    "read_for",
    "rows_of",
    "unseen_in",
    "unseen_lines",
]


class Reading(NamedTuple):
    """New data in the model's own columns, file names of pictures, and what to tell the user."""

    dataset: Dataset
    files: list[str]
    notes: list[str]


def open_run(folder: Path, device: str | None) -> DensityEstimator:
    """The family in ``folder``, its model on ``device``; an anomaly detector is refused."""
    from energyscape.families import AnomalyDetector

    estimator = open_any(folder, device)
    if isinstance(estimator, AnomalyDetector):
        raise BadInput(
            f"{folder} holds an anomaly detector, which learned no density: it serves score and "
            "report; for anything else fit a family, such as --model edm"
        )
    return estimator


def open_any(folder: Path, device: str | None) -> DensityEstimator | AnomalyDetector:
    """What is in ``folder``: a family, its model on ``device``, or an anomaly detector."""
    from energyscape.families import AnomalyDetector, load

    estimator = load(folder)
    if isinstance(estimator, AnomalyDetector):
        if device not in (None, "auto", "cpu"):
            raise BadInput(
                f"{folder} holds an anomaly detector, which runs on the processor, not {device}"
            )
        return estimator
    if device is not None and device != "auto":
        check_device(device)
        estimator.model_.to(device)
    return estimator


def check_device(name: str) -> None:
    """BadInput when there is no such device here."""
    import torch

    if name == "auto":
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"device {name!r} is not available here: {reason}") from error


def read_for(estimator: DensityEstimator | AnomalyDetector, source: str) -> Reading:
    """Read ``source`` for a fitted model: same columns, or pictures of the same size.

    Columns may come in any order; categories and blanks the model never saw are named in the
    notes, rows with them are kept. Pictures of another size or mode are converted, and that is said.
    """
    from energyscape.data import load
    from energyscape.families import AnomalyDetector

    wanted = estimator.data_kind_
    if wanted == "pictures" and Path(source).is_dir():
        assert not isinstance(estimator, AnomalyDetector)
        return _pictures(estimator, Path(source))
    dataset = load(source, schema=estimator.schema_, min_rows=1)
    if dataset.kind != wanted:
        raise BadInput(
            f"{source} is {_named(dataset.kind)}; the model was fitted on {_named(wanted)}"
        )
    if wanted == "pictures":
        return Reading(dataset, [], list(dataset.notes))
    unseen = unseen_in(estimator, dataset)
    return Reading(dataset, [], [*dataset.notes, *unseen_lines(estimator, unseen)])


def unseen_in(
    estimator: DensityEstimator | AnomalyDetector, dataset: Dataset
) -> dict[str, list[Any]]:
    """Values of each column that the training table did not have; None is a blank."""
    from energyscape.data import TableCodec
    from energyscape.families import AnomalyDetector

    detector = isinstance(estimator, AnomalyDetector)
    codec = TableCodec(estimator.schema_) if detector else estimator.codec_
    assert isinstance(codec, TableCodec)
    return codec.unseen(_for_codec(estimator, dataset))


def unseen_lines(
    estimator: DensityEstimator | AnomalyDetector, found: Mapping[str, Sequence[Any]]
) -> Iterable[str]:
    """What is said of them."""
    from energyscape.families import AnomalyDetector

    return _unseen(found, counted=isinstance(estimator, AnomalyDetector))


def rows_of(dataset: Dataset, rows: Any) -> Dataset:
    """Some rows of a data set, by a slice or by indices."""
    return dataset.take(rows)


def chunks(dataset: Dataset, size: int = 512) -> Iterator[Dataset]:
    """The data set in consecutive parts of at most ``size`` rows, fewer of large pictures."""
    if dataset.kind == "pictures":
        # A picture of 28 x 28 takes seconds of a large network: a bar that moves needs short parts.
        size = max(1, min(size, 12_500 // max(math.prod(dataset.data.shape[1:]), 1)))
    for start in range(0, len(dataset), size):
        yield rows_of(dataset, slice(start, start + size))


def _named(kind: str) -> str:
    return "a table" if kind == "table" else "pictures"


def _pictures(estimator: DensityEstimator, folder: Path) -> Reading:
    from energyscape.data import Dataset, PictureCodec, read_pictures

    assert isinstance(estimator.codec_, PictureCodec)
    channels, height, width = estimator.codec_.event_shape
    found = read_pictures(folder, (height, width), channels)
    pictures, notes = _to_levels(found.pictures, estimator.codec_.levels, found.notes)
    dataset = Dataset("pictures", folder.name, pictures=pictures, labels=found.labels)
    return Reading(dataset, [str(Path(p).relative_to(folder)) for p in found.paths], notes)


def _to_levels(pictures: np.ndarray, levels: int, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Pictures of few grey levels, stretched over black to white in their files, as the levels.

    So are two-level files when they are read as grey, and what `sample` writes to a folder.
    """
    step = 255 / (levels - 1)
    if pictures.max() < levels:
        return pictures, notes
    counted = (pictures / step).round()
    if not ((counted * step).round() == pictures).all():
        return pictures, notes
    said = f"grey values 0 to 255 are read as the {levels} levels of the model"
    return counted.astype(pictures.dtype), [*notes, said]


def _for_codec(estimator: DensityEstimator | AnomalyDetector, dataset: Dataset) -> Any:
    schema = estimator.schema_
    if schema is not None and schema.array and dataset.array is None and dataset.frame is not None:
        return dataset.frame.to_numpy()
    return dataset.data


def _unseen(found: Mapping[str, Sequence[Any]], *, counted: bool) -> Iterable[str]:
    """Lines about new values; whether a blank where there was none is ``counted`` as strange."""
    for name, values in found.items():
        named = [_short(value) for value in values if value is not None]
        shown = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
        if named:
            said = f"column {name!r} has values never seen in training: {shown}"
            yield f"{said}; rows are scored as such"
        if None in values:
            so = "scored as such" if counted else "scored by their other columns alone"
            yield f"column {name!r} has blanks and had none in training: such rows are {so}"


def _short(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
