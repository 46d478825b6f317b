"""What a report says of an anomaly detector: its scores, its threshold, and the rows that fit least.

Training rows keep the scores they had when the detector did not know them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from energyscape.report import plots
from energyscape.report.sections import Item, Section, Table, number, what_was_read

__all__ = ["facts", "found"]

_ROWS = 20
_CELLS = 10


def facts(detector: Any) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    rows = detector.info_["rows"]
    return [
        ("model", type(detector).__name__),
        ("rows learned from", f"{rows['train']:,}"),
        ("rows compared with", f"{rows['reference']:,}"),
        ("rows that calibrate", f"{rows['calibration']:,}"),
        ("smallest p-value", number(detector.smallest_p_value)),
        ("seconds", number(float(detector.info_["seconds"]))),
    ]


def found(detector: Any) -> list[Section]:
    """The sections, in their order."""
    return [strangest(detector), calibration(detector), what_was_read(detector)]


def strangest(detector: Any) -> Section:
    """The reference rows that fit least, each judged by the others, and why."""
    rows = detector.strangest(_ROWS)
    names = list(rows[0][0])
    shown = names[:_CELLS]
    body = [
        [number(why.score), why.describe(), *(number(row[name]) for name in shown)]
        for row, why in rows
    ]
    count = len(detector.reference_)
    text = (
        f"Of {count:,} rows that others are compared with, each judged by the others. Whether they are "
        "mistakes or only rare is for you to say."
    )
    caption = f"The {len(rows)} strangest rows"
    if len(names) > len(shown):
        caption += f"; the first {len(shown)} of {len(names)} columns"
    head = ["anomaly score", "which cells, and what was expected", *shown]
    return Section("Rows that fit least", text, [], [Table(head, body, f"{caption}.")])


def calibration(detector: Any) -> Section:
    """How calibration scores are spread, and where decisions turn."""
    scores = detector.calibration_scores_
    how = (
        "each by a detector that was fitted without its fold"
        if detector.calibrated_by_ == "cross"
        else "set aside before fitting"
    )
    levels = [(rate, detector.threshold(rate)) for rate in (0.1, 0.05, 0.01, 0.001)]
    body = [
        [f"{rate:.1%}", number(float(t)) if np.isfinite(t) else "not with so few rows"]
        for rate, t in levels
    ]
    text = (
        f"{len(scores):,} rows were scored as new ones would be ({how}). A new row's p-value is the "
        "share of them that is at least as strange; predict turns at a false-alarm rate of "
        f"{detector.false_alarm_rate:.1%}. "
        + " ".join(f"{note[:1].upper()}{note[1:]}." for note in detector.notes_)
    )
    items = [
        Item(
            plots.histograms(
                {"ordinary rows": scores}, "anomaly score, nats", "Anomaly scores of ordinary rows"
            ),
            "Anomaly scores of ordinary rows, larger is stranger.",
        )
    ]
    head = ["share of ordinary rows called strange", "at anomaly scores above"]
    return Section("Calibration", text, items, [Table(head, body)])
