"""The section that measures the samples of a table: columns, pairs, use and privacy."""

from __future__ import annotations

import numpy as np

from energyscape.families.rereading import training_rows
from energyscape.fidelity import FEWEST, Finding, columns_of, fidelity_table
from energyscape.report.sections import Section, Table, number
from energyscape.report.subject import Subject

__all__ = ["quality"]

_MOST_TRAINING = 5000
_MOST_COLUMNS = 20


def quality(subject: Subject) -> Section | None:
    """Samples of a table against held-out rows, with intervals and what real rows reach."""
    if subject.pictures or min(len(subject.data), len(subject.samples)) < FEWEST:
        return None
    est, rng = subject.estimator, np.random.default_rng(0)
    known, why = training_rows(est)
    train = None
    if known is not None and len(known) >= FEWEST:
        some = np.sort(rng.permutation(len(known))[:_MOST_TRAINING])
        train = columns_of(known.take(some).data, est.schema_)
    found = fidelity_table(
        columns_of(subject.data, est.schema_),
        columns_of(subject.samples, est.schema_),
        rng,
        train=train,
        num_trees=25,
        repeats=1,
    )
    text = (
        f"{len(subject.samples)} samples against {len(subject.data)} held-out rows, with 95 % "
        "intervals. Real rows: the same measure with training rows in the place of samples, which is "
        "what a perfect model reaches."
    )
    if train is None:
        text += f" Nothing on privacy: the training rows cannot be read again ({why})."
    columns = [f for f in found if f.name.startswith("column ")]
    whole = [f for f in found if not f.name.startswith("column ")]
    columns.sort(key=lambda f: -f.value)
    caption = "Columns, the worst first."
    if len(columns) > _MOST_COLUMNS:
        caption = f"The {_MOST_COLUMNS} worst of {len(columns)} columns."
    head = ["measure", "samples", "95 % interval", "real rows", "meaning"]
    tables = [
        Table(head, [_row(f) for f in whole], ""),
        Table(head, [_row(f) for f in columns[:_MOST_COLUMNS]], caption),
    ]
    return Section("How good the samples are", text, [], tables)


def _row(finding: Finding) -> list[str]:
    column = finding.name.startswith("column ")
    name = finding.name.removeprefix("column ") if column else finding.name.replace("_", " ")
    between = f"{number(finding.low)} to {number(finding.high)}"
    return [name, number(finding.value), between, number(finding.real), finding.detail]
