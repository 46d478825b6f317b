"""What `score` says of a batch of anomaly scores, and how it scores by an anomaly detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from energyscape.cli.console import Bar, note, tell
from energyscape.cli.runs import chunks, rows_of

if TYPE_CHECKING:
    import numpy as np

    from energyscape.data import Dataset
    from energyscape.detection import Drift
    from energyscape.families import AnomalyDetector, DriftFound

__all__ = ["Batch", "Judge", "by_detector", "decisions", "judged", "say_drift"]

#: Rows in whose scores a shift is told of: with fewer than one in a thousand by chance.
_DRIFT = 1e-3
#: Chance that a column is said to have moved in a batch where none has.
_MOVED = 0.01
_SHOWN = 5


def decisions(
    calibration: np.ndarray, scores: np.ndarray, fdr: float, quiet: bool
) -> dict[str, Any]:
    """Columns p_value and flagged; none where no rows were kept for calibration."""
    from energyscape import detection

    if not len(calibration):
        note(
            "no p_value and flagged columns: the run kept no calibration rows; "
            "fit with --set calibration_fraction=0.1",
            quiet=quiet,
        )
        return {}
    p_values = detection.conformal_p_values(calibration, scores)
    flagged = detection.benjamini_hochberg(p_values, fdr)
    _say_what_can_be_found(len(calibration), len(scores), fdr, quiet)
    tell(
        f"{int(flagged.sum())} of {len(scores)} rows flagged at a false-discovery rate of {fdr:g}",
        quiet=quiet,
    )
    return {"p_value": p_values, "flagged": flagged}


class Judge(NamedTuple):
    """What a family goes by.

    `scores` of rows and what drove each, where that is known (else nothing); scores of its calibration
    rows; and how a batch has moved, from its rows and scores.
    """

    scores: Callable[[Any], tuple[np.ndarray, list[str]]]
    calibration: np.ndarray
    drift: Callable[[Any, np.ndarray], DriftFound]


def say_drift(judge: Judge, rows: Callable[[], Dataset], scores: np.ndarray, quiet: bool) -> None:
    """Whether a batch differs from the calibration rows, and in which columns; nothing without them."""
    if len(judge.calibration):
        _say_moved(judge.drift(rows(), scores), quiet)


def _say_shift(found: Drift, quiet: bool) -> None:
    """A note where a batch scores differently from the calibration rows."""
    if found.p_value < _DRIFT:
        note(
            "as a whole these rows score differently from the calibration rows (two-sample "
            f"p = {found.p_value:.1e}; a row exceeds one of them with probability "
            f"{found.shift:.2f})",
            quiet=quiet,
        )


def _say_moved(found: DriftFound, quiet: bool) -> None:
    """Which columns moved, and whether scores did."""
    _say_shift(found.scores, quiet)
    moved = found.moved(_MOVED)
    for column in moved[:_SHOWN]:
        note(
            f"column {column.column!r} has moved ({column.change}; distance {column.distance:.2f}, "
            f"p = {column.p_value:.1e} over all columns)",
            quiet=quiet,
        )
    if len(moved) > _SHOWN:
        note(f"and {len(moved) - _SHOWN} more columns have moved", quiet=quiet)
    if not moved and found.scores.p_value >= _DRIFT:
        where = "scores or in columns" if found.columns else "scores"
        tell(f"no drift seen, in {where}", quiet=quiet)


def _say_what_can_be_found(num_calibration: int, num_rows: int, fdr: float, quiet: bool) -> None:
    from energyscape import detection

    needed = detection.rows_needed_to_flag(num_calibration, num_rows, fdr)
    if needed <= 1:
        return
    smallest = detection.smallest_p_value(num_calibration)
    said = (
        f"{num_calibration} calibration {'row gives' if num_calibration == 1 else 'rows give'} "
        f"p-values down to {smallest:.2g}, and one strange "
        f"row among {num_rows} needs {fdr / num_rows:.2g}"
    )
    if needed > num_rows:
        note(f"{said}: nothing can be flagged; raise --fdr or calibrate on more rows", quiet=quiet)
    else:
        note(f"{said}: only {needed} or more at once can be flagged", quiet=quiet)


class Batch(NamedTuple):
    """Rows that a detector has scored, wherever they are.

    ``known``: they are the rows it was fitted on. ``drift`` measures it; ``pick`` gives some rows, by
    their ascending numbers.
    """

    scores: np.ndarray
    known: bool
    drift: Callable[[], DriftFound]
    pick: Callable[[np.ndarray], Any]


def by_detector(
    detector: AnomalyDetector, dataset: Dataset, fdr: float, most: int, bar: Bar, quiet: bool
) -> dict[str, Any]:
    """Columns anomaly_score, p_value, flagged and reasons, of a table in memory."""
    import numpy as np

    known = detector.knows(dataset)
    if known:
        scores = detector.training_scores_.copy()
        gaps = np.flatnonzero(np.isnan(scores))
        parts = [gaps[i : i + 4096] for i in range(0, len(gaps), 4096)]
        for part in bar.over("anomaly scores", parts):
            scores[part] = detector.anomaly_score(rows_of(dataset, part))
    else:
        pieces = bar.over("anomaly scores", list(chunks(dataset, 4096)))
        scores = np.concatenate([detector.anomaly_score(piece) for piece in pieces])
    batch = Batch(
        scores,
        known,
        lambda: detector.drift(dataset, scores=scores),
        lambda rows: rows_of(dataset, rows),
    )
    return {"anomaly_score": scores, **judged(detector, batch, fdr, most, bar, quiet)}


def judged(
    detector: AnomalyDetector, batch: Batch, fdr: float, most: int, bar: Bar, quiet: bool
) -> dict[str, Any]:
    """Columns p_value, flagged and reasons.

    Reasons are given for flagged rows and the strangest twenty, at most ``most``. The rows that the
    detector was fitted on keep the scores they had when it did not know them.
    """
    import numpy as np

    scores = batch.scores
    if batch.known:
        columns = {
            "p_value": detector.training_p_values(scores),
            "flagged": np.zeros(len(scores), dtype=bool),
        }
        note(
            "these are the rows the detector was fitted on: each is scored by a detector that did not "
            "know it, and its p-value is its rank. Ranks flag nothing: look at the strangest, or fit "
            "on rows known to be ordinary",
            quiet=quiet,
        )
    else:
        columns = decisions(detector.calibration_scores_, scores, fdr, quiet)
        _say_moved(batch.drift(), quiet)
    order = np.argsort(-scores, kind="stable")
    chosen = order[: min(max(int(columns["flagged"].sum()), 20), most)]
    reasons = [""] * len(scores)
    ascending = np.sort(chosen)
    for part in bar.over("reasons", [ascending[i : i + 64] for i in range(0, len(chosen), 64)]):
        why = detector.explain(batch.pick(part), trained_on=batch.known)
        for row, found in zip(part, why, strict=True):
            reasons[row] = found.describe()
    for row in chosen[:_SHOWN]:
        tell(f"  row {row + 1}, p {columns['p_value'][row]:.2g}: {reasons[row]}", quiet=quiet)
    return {**columns, "reasons": reasons}
