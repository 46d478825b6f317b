"""Detectors without a network: energies of the data themselves, where distances mean something.

A side room: numpy only, no model and no training. :class:`EmpiricalDetector` is what
`energyscape.AnomalyDetector` stands on; its parts are functions of encoded rows and can be put together
anew.
"""

from energyscape.detectors.downhill import downhill
from energyscape.detectors.drift import ColumnShift, column_shifts, holm
from energyscape.detectors.energies import (
    Surroundings,
    empirical_energies,
    kth_distances,
    nearest_distances,
    surroundings,
)
from energyscape.detectors.ensemble import EmpiricalDetector
from energyscape.detectors.reasons import Expected, Reasons
from energyscape.detectors.surprise import TailLaw
from energyscape.detectors.views import TableRows, View

__all__ = [
    "ColumnShift",
    "EmpiricalDetector",
    "Expected",
    "Reasons",
    "Surroundings",
    "TableRows",
    "TailLaw",
    "View",
    "column_shifts",
    "downhill",
    "empirical_energies",
    "holm",
    "kth_distances",
    "nearest_distances",
    "surroundings",
]
