"""What ``evaluate`` measures: likelihood, samples of tables and of pictures, detection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from energyscape.cli.console import Bar
from energyscape.cli.failures import BadInput
from energyscape.cli.options import nearest
from energyscape.cli.runs import UNNORMALISED, chunks, rows_of

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.families import DensityEstimator

__all__ = [
    "Measure",
    "affordable",
    "detection",
    "likelihood",
    "picture_samples",
    "table_samples",
    "thin",
]

_MOST_TRAINING = 20_000


class Measure(NamedTuple):
    """One line of the result: ``low`` and ``high``, or ``stderr``; ``real`` what real rows reach."""

    name: str
    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""
    real: float | None = None

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """95 %, from the standard error where there is no other."""
        if self.low is None and self.stderr is not None:
            return self.value - 1.96 * self.stderr, self.value + 1.96 * self.stderr
        return self.low, self.high


def thin(dataset: Dataset, most: int, rng: np.random.Generator) -> Dataset:
    """At most so many rows, drawn at random."""
    import numpy as np

    if len(dataset) <= most:
        return dataset
    return rows_of(dataset, np.sort(rng.permutation(len(dataset))[:most]))


def affordable(dataset: Dataset, rng: np.random.Generator, said: list[str]) -> Dataset:
    """All rows, or as many pictures as a density takes minutes for."""
    if dataset.kind == "table":
        return dataset
    pixels = math.prod(dataset.data.shape[1:])
    most = max(50, 80_000 // pixels)
    if len(dataset) > most:
        said.append(f"log_prob is the mean over {most} of {len(dataset)} pictures")
    return thin(dataset, most, rng)


def likelihood(
    estimator: DensityEstimator, dataset: Dataset, bar: Bar, said: list[str]
) -> list[Measure]:
    """The mean log-probability; nothing where the model has none, which is said."""
    import numpy as np

    from energyscape.families import NoLogDensityError
    from energyscape.metrics import mean_with_error

    values, errors, kind = [], [], ""
    try:
        for seed, part in enumerate(bar.over("log-density", list(chunks(dataset, 128)))):
            # Noise within the grey levels: the mean bounds log P of a picture from below.
            drawn = seed if estimator.data_kind_ == "pictures" else None
            found = estimator.log_density(part, random_state=drawn)
            values.append(found.value)
            errors.append(found.stderr)
            kind = found.kind
    except NoLogDensityError as error:
        said.append(f"no log-probability: {error}")
        return []
    mean = mean_with_error(np.concatenate(values))
    if kind == "unnormalised":
        said.append(UNNORMALISED)
    # the estimator's own noise is independent of which rows were drawn; an unknown error (NaN)
    # concerns a constant that all rows share
    noise = np.nan_to_num(np.concatenate(errors))
    own = float(np.sqrt(np.mean(noise**2) / len(dataset)))
    lines = [
        Measure("log_prob", mean.value, math.hypot(mean.stderr, own), detail=f"nats a row, {kind}")
    ]
    if estimator.data_kind_ == "pictures" and kind != "unnormalised":
        scale = -1.0 / (math.log(2.0) * math.prod(estimator.codec_.event_shape))
        bits, error_of_bits = mean.value * scale, -lines[0].stderr * scale  # type: ignore[operator]
        lines.append(
            Measure(
                "bits_per_dim",
                bits,
                error_of_bits,
                detail=f"{kind}, noise drawn within grey levels; lower is better",
            )
        )
    return lines


def table_samples(
    estimator: DensityEstimator,
    real: Dataset,
    train: Dataset | None,
    rng: np.random.Generator,
    bar: Bar,
    said: list[str],
    target: Sequence[str] | None = None,
) -> list[Measure]:
    """Generated against real rows: columns, pairs, a classifier, use, coverage, privacy."""
    import numpy as np

    from energyscape import fidelity

    names = [column.name for column in estimator.schema_.modelled]
    for name in target or ():
        if name not in names:
            raise BadInput(f"--target: the run models no column {name!r}; {nearest(name, names)}")
    seed = int(rng.integers(2**31))
    drawn = estimator.decode(estimator.sample_encoded(len(real), random_state=seed, progress=bar))
    known = None
    if train is not None:
        if len(train) >= fidelity.FEWEST:
            known = fidelity.columns_of(thin(train, _MOST_TRAINING, rng).data, estimator.schema_)
        else:
            said.append(f"nothing on privacy: {len(train)} training rows are too few")
    steps = iter(bar.over("measures", range(6), lambda _: 1))
    found = fidelity.fidelity_table(
        fidelity.columns_of(real.data, estimator.schema_),
        fidelity.columns_of(drawn, estimator.schema_),
        rng,
        train=known,
        targets=target,
        progress=lambda done, of: next(steps, None),
    )
    by_name = {f.name: f for f in found}
    ratio = by_name.get("neighbour_ratio")
    if ratio is not None and ratio.value < 0.5:
        said.append("generated rows are much closer to training rows than held-out ones: memorised")
    return [
        Measure(
            f.name, f.value, None, f.low, f.high, f.detail, f.real if np.isfinite(f.real) else None
        )
        for f in found
    ]


def picture_samples(
    estimator: DensityEstimator,
    real: Dataset,
    train: Dataset | None,
    rng: np.random.Generator,
    bar: Bar,
    said: list[str],
    target: Sequence[str] | None = None,
) -> list[Measure]:
    """Generated against real pictures: as a whole, and next to the training ones."""
    from energyscape import metrics

    if target:
        raise BadInput("--target names columns, but this run was fitted on pictures")
    seed = int(rng.integers(2**31))
    drawn = estimator.decode(estimator.sample_encoded(len(real), random_state=seed, progress=bar))
    x = estimator.encode(real).flatten(1).numpy()
    y = estimator.encode(drawn).flatten(1).numpy()
    accuracies = []
    repeats = 3
    for _ in bar.over("two-sample test", range(repeats), lambda _: 1):
        accuracies.append(metrics.two_sample_accuracy(x, y, rng, repeats=1))
    accuracy = sum(a.value for a in accuracies) / repeats
    # cross-validations of one pair of samples share its rows: their errors do not average away
    error = max(a.stderr for a in accuracies)
    lines = [Measure("two_sample_accuracy", accuracy, error, detail="0.5: a forest cannot tell")]
    if train is not None:
        base = estimator.encode(thin(train, _MOST_TRAINING, rng)).flatten(1).numpy()
        lines.append(_neighbours(base, x, y, said))
    sliced = metrics.sliced_wasserstein(x, y, rng)
    lines.append(Measure("sliced_wasserstein", *sliced, detail="encoded units, 0 is the same"))
    pairs = metrics.correlation_difference(x, y)
    lines.append(Measure("correlation_difference", pairs, detail="mean over pairs of dimensions"))
    return lines


def _neighbours(base: np.ndarray, x: np.ndarray, y: np.ndarray, said: list[str]) -> Measure:
    from energyscape import metrics

    ratio = metrics.neighbour_ratio(base, x, y)
    if ratio.value < 0.5:
        said.append("generated rows are much closer to training rows than held-out ones: memorised")
    return Measure("neighbour_ratio", *ratio, detail="below 1 memorised, above 1 off the data")


def detection(
    estimator: DensityEstimator,
    dataset: Dataset,
    strange: np.ndarray,
    rng: np.random.Generator,
    bar: Bar,
) -> list[Measure]:
    """How well anomaly scores tell strange rows from usual ones."""
    import numpy as np

    from energyscape import metrics

    parts = [
        estimator.anomaly_score(part)
        for part in bar.over("anomaly scores", list(chunks(replace(dataset, labels=None))))
    ]
    scores = np.concatenate(parts)
    share = float(strange.mean())
    area = metrics.bootstrap_interval(metrics.auroc, strange, scores, rng)
    precision = metrics.bootstrap_interval(metrics.average_precision, strange, scores, rng)
    return [
        Measure("auroc", area.value, None, area.low, area.high, "0.5 is chance, 95 % bootstrap"),
        Measure(
            "average_precision",
            precision.value,
            None,
            precision.low,
            precision.high,
            f"{share:.3g} is chance, 95 % bootstrap",
        ),
    ]
