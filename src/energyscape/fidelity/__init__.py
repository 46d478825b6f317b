"""How good synthetic rows of a table are: close to the real ones, useful, and nobody's own row.

Three tables of the same columns are laid side by side: the rows a model was trained on, rows of the
same source that it never saw, and rows drawn from it. Each measure compares the drawn rows with the
held-out ones; :func:`fidelity_table` takes all of them, each with a 95 % interval and with what real
rows (training rows in the place of the drawn ones) reach, which is what a perfect model reaches.

    shapes     Kolmogorov-Smirnov and total variation, column by column
    pairs      rank correlations and joint frequencies, pair by pair
    telling    accuracy of a classifier that must tell drawn rows from real ones
    utility    models trained on drawn rows, tested on real ones
    coverage   real rows that have a drawn row in their neighbourhood
    privacy    distances to the closest training record, and copies of it

A table is a mapping of column name to an array [N]: numbers (float64, NaN where blank) or labels
(objects, None where blank). The room knows no model.
"""

from energyscape.fidelity.columns import Columns, Space, forest_inputs, is_number, rows_at
from energyscape.fidelity.coverage import coverage, expected_coverage
from energyscape.fidelity.framed import columns_of
from energyscape.fidelity.pairs import pair_trends
from energyscape.fidelity.privacy import closest_record_share, copies
from energyscape.fidelity.shapes import column_shapes
from energyscape.fidelity.summary import FEWEST, Finding, fidelity_table
from energyscape.fidelity.utility import train_on_drawn

__all__ = [
    "FEWEST",
    "Columns",
    "Finding",
    "Space",
    "closest_record_share",
    "column_shapes",
    "columns_of",
    "copies",
    "coverage",
    "expected_coverage",
    "fidelity_table",
    "forest_inputs",
    "is_number",
    "pair_trends",
    "rows_at",
    "train_on_drawn",
]
