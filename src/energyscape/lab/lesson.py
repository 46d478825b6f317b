"""What a lesson hands back: a claim of the field, what this run found of it, numbers and figures.

Nothing on a lesson's page is written by hand but the words: `finding` and `numbers` are computed in
the run, and `holds` says whether the claim shows on these data. It need not: data without far modes
cross easily, and a page that says so is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from energyscape.report.sections import Item, Table

__all__ = ["Lesson"]


class Lesson(NamedTuple):
    """One lesson, as it went in this run.

    `numbers` are by what they measure, in the units that the name states; `text` is paragraphs of
    what was done and why.
    """

    title: str
    claim: str
    finding: str
    holds: bool
    text: Sequence[str]
    numbers: dict[str, float]
    figures: Sequence[Item]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
