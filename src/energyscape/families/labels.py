"""Classes a model is conditioned on: a column of the table, or the labels the data came with.

A network with labels learns ``p(x | class)`` and, on rows whose class is hidden at random, ``p(x)``,
so that one model serves class-conditional samples, guidance (2207.12598 algorithm 1) and everything
that knows no class: scores, densities, conditioning. A class column of a table stays part of the
density too; naming it adds an input and removes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from energyscape.data import Dataset

__all__ = [
    "CAME_WITH_DATA",
    "LABEL_DROPOUT",
    "ClassLabels",
    "HiddenLabels",
    "class_codes",
    "class_labels",
]

#: Share of the rows of a training batch whose class is hidden.
LABEL_DROPOUT = 0.2
#: What labels are called that are no column: names of folders, a label array, the y of `fit`.
CAME_WITH_DATA = ("labels", "folder", "y")
_MOST_CLASSES = 1000


class ClassLabels(NamedTuple):
    """The classes as text, in order, and the code of each row, -1 where it has none."""

    names: list[str]
    codes: NDArray[np.int64]

    def facts(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Plain values to build and sample a model with: names, and counts in these rows."""
        counts = np.bincount(self.codes[rows] + 1, minlength=len(self.names) + 1)
        return {
            "classes": self.names,
            "class_counts": counts[1:].tolist(),
            "no_class": int(counts[0]),
        }


def class_labels(wanted: str | None, dataset: Dataset) -> ClassLabels | None:
    """The classes that the setting ``label`` names, or None where it names none.

    Parameters
    ----------
    wanted : str or None
        A column of kind category, boolean or integer (or numbers that are all whole); or "labels"
        ("folder", "y") for the labels of the data set itself: folder names, a label array, the y of
        `fit`.
    dataset : Dataset

    Raises
    ------
    ValueError
        If there are no such labels, the column's kind has no classes, or all rows have the same one.

    Examples
    --------
    >>> from energyscape.data import load
    >>> class_labels("species", load("iris")).names
    ['setosa', 'versicolor', 'virginica']
    """
    if wanted is None:
        return None
    if dataset.schema is not None and wanted in dataset.schema.names:
        values = _column(wanted, dataset)
    elif wanted in CAME_WITH_DATA:
        if dataset.labels is None:
            raise ValueError(
                f"label={wanted!r}: the data came without labels; name a column, give y, or put the "
                "pictures of each class in a folder of its own"
            )
        values = _texts(dataset.labels)
    else:
        known = [] if dataset.schema is None else [c.name for c in dataset.schema.modelled]
        near = {name.lower(): name for name in [*known, "labels"]}
        close = difflib.get_close_matches(wanted.lower(), near, n=1)
        meant = f"; did you mean {near[close[0]]!r}?" if close else ""
        raise ValueError(
            f"label={wanted!r}: there is no such column{meant} "
            f"(known: {', '.join([*known, 'labels'])})"
        )
    found = sorted({v for v in values if v is not None}, key=_order)
    if len(found) < 2:
        only = f"the single value {found[0]!r}" if found else "no value"
        raise ValueError(f"label={wanted!r} has {only}; classes to tell apart are two or more")
    if len(found) > _MOST_CLASSES:
        raise ValueError(
            f"label={wanted!r} has {len(found)} different values, more than {_MOST_CLASSES} classes"
        )
    position = {name: i for i, name in enumerate(found)}
    codes = np.array([-1 if v is None else position[v] for v in values], dtype=np.int64)
    return ClassLabels(found, codes)


def _column(wanted: str, dataset: Dataset) -> list[str | None]:
    assert dataset.schema is not None
    column = dataset.schema[wanted]
    if column.kind == "constant":
        only = column.categories[0] if column.categories else "a blank"
        raise ValueError(
            f"label={wanted!r} has the single value {only!r}; classes to tell apart are two or more"
        )
    if column.kind not in ("category", "boolean", "integer") and not _whole(wanted, dataset):
        raise ValueError(
            f"label={wanted!r} is a column of kind {column.kind}; classes come from a category, "
            "boolean or integer"
        )
    return _texts(_values(wanted, dataset))


def _values(wanted: str, dataset: Dataset) -> list[Any]:
    assert dataset.schema is not None
    if dataset.frame is not None and wanted in dataset.frame.columns:
        return dataset.frame[wanted].to_list()
    column: list[Any] = dataset.data[:, dataset.schema.names.index(wanted)].tolist()
    return column


def _whole(wanted: str, dataset: Dataset) -> bool:
    assert dataset.schema is not None
    if dataset.schema[wanted].kind != "numeric":
        return False
    return all(v is None or v != v or float(v).is_integer() for v in _values(wanted, dataset))


def _texts(values: Any) -> list[str | None]:
    """Classes as text; None, NaN and empty text are no class."""
    return [_text(v) for v in (values.tolist() if hasattr(values, "tolist") else values)]


def _text(value: Any) -> str | None:
    if value is None or value != value or value == "":
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _order(name: str) -> tuple[int, float, str]:
    """Numbers by size, then the rest by name."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def class_codes(label: Any, n: int, facts: Mapping[str, Any]) -> Tensor:
    """Codes of n rows from one class or one a row, int64 of shape (n,).

    Raises
    ------
    ValueError
        For a class that was not in training, or another number of labels than rows.
    """
    names = {name: i for i, name in enumerate(facts["classes"])}
    several = isinstance(label, Sequence | np.ndarray) and not isinstance(label, str | bytes)
    given = _texts(label if several else [label])
    if several and len(given) != n:
        raise ValueError(f"{len(given)} labels were given for {n} samples; give one, or one each")
    codes = []
    for text in given:
        if text not in names:
            shown = ", ".join([*list(names)[:12], *(["..."] if len(names) > 12 else [])])
            raise ValueError(f"label {text!r} was not in training; there are {shown}")
        codes.append(names[text])
    return torch.tensor(codes if several else codes * n)


@dataclass(frozen=True)
class HiddenLabels:
    """An objective some of whose labels are hidden (-1), for losses that do not hide them.

    Parameters
    ----------
    objective : Objective
    probability : float
    hidden : int
        What a hidden label, and one that is missing, is told as. Where chains keep their labels it is
        a class of its own, since -1 is a slot that has none yet.
    """

    objective: Callable[..., Any]
    probability: float = LABEL_DROPOUT
    hidden: int = -1

    @property
    def needs_double_backward(self) -> bool:
        """That of the objective."""
        return bool(getattr(self.objective, "needs_double_backward", False))

    def during(self, done: float) -> HiddenLabels:
        """The same with the objective within as it is when this share of training is done."""
        within = getattr(self.objective, "during", None)
        return self if within is None else replace(self, objective=within(done))

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> dict[str, Tensor] | None:
        """The objective's state."""
        begin = getattr(self.objective, "init", None)
        state: dict[str, Tensor] | None = None if begin is None else begin(model, x, rng)
        return state

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: dict[str, Tensor] | None,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> Any:
        """The loss of each row."""
        if label is not None:
            hidden = torch.rand(len(x), generator=rng, device=x.device) < self.probability
            label = torch.where(hidden | (label < 0), self.hidden, label)
        return self.objective(model, x, aux, rng, label=label)
