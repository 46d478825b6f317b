"""What each column of a table is, and whether it enters the density.

Kinds. ``numeric`` (a continuous measurement), ``integer`` (whole numbers, also codes and counts),
``boolean`` (two values that are a yes and a no), ``category`` (names), ``datetime``; then
``constant`` (one value: no density, reproduced in samples), and ``identifier`` and ``text``, which
are left out with the reason in ``note``.

A schema is plain data: it goes to JSON with :meth:`Schema.to_dict`, and to a file a person edits
with :meth:`Schema.to_toml`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from energyscape.data.errors import DataError

__all__ = ["LEFT_OUT", "MODELLED", "Column", "ColumnKind", "Schema"]

ColumnKind = Literal[
    "numeric", "integer", "boolean", "category", "datetime", "constant", "identifier", "text"
]
MODELLED: tuple[str, ...] = ("numeric", "integer", "boolean", "category", "datetime")
LEFT_OUT: tuple[str, ...] = ("identifier", "text")


@dataclass(frozen=True)
class Column:
    """One column: its kind and all that is needed to read it and to write it back as it was.

    Parameters
    ----------
    name : the column's own name.
    kind : see the module's opening lines.
    dtype : how values are held in a frame: ``"Float64"``, ``"Int64"``, ``"String"``, ``"Boolean"``,
        ``"Date"``, ``"Datetime(us)"``, ``"Datetime(us, Europe/Paris)"``, ``"Categorical"``, ...
    missing : fraction of blanks seen when the schema was made; above 0, blanks are modelled.
    note : why it is what it is, in words.
    low, high : observed range (numeric, integer: original units; datetime: seconds since 1970).
    categories : the values of a category or constant as text; (no, yes) of a boolean.
    number_style : how numbers are written in text: ``"plain"``, ``"comma"`` (1,5),
        ``"thousands"`` (1,234.5) or ``"european"`` (1.234,5); blanks between digits always pass.
    format : strftime pattern of a date written as text, "" when the frame holds dates.
    resolution : seconds between two neighbouring dates (86400 for days).
    decimals : decimals with which numbers are written, None when they have no such grid.
    before, after : what the file writes around every number, such as ``"$"`` or ``"%"``; samples
        are bare numbers.

    Examples
    --------
    >>> Column("age", "integer", dtype="Int64", low=17, high=90).modelled
    True
    """

    name: str
    kind: ColumnKind
    dtype: str = "Float64"
    missing: float = 0.0
    note: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    number_style: str = "plain"
    format: str = ""
    resolution: float = 1.0
    decimals: int | None = None
    before: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ColumnKind):
            raise DataError(
                f"column {self.name!r}: unknown kind {self.kind!r}; use one of "
                f"{', '.join(get_args(ColumnKind))}"
            )
        object.__setattr__(self, "categories", tuple(self.categories))

    @property
    def has_missing(self) -> bool:
        """Whether blanks were seen, and are therefore part of what is modelled."""
        return self.missing > 0

    @property
    def modelled(self) -> bool:
        """Whether the column enters the density."""
        return self.kind in MODELLED

    @property
    def kept(self) -> bool:
        """Whether the column is in samples: modelled or constant."""
        return self.kind not in LEFT_OUT

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or TOML; what still has its default is left away.

        >>> Column("a", "numeric", low=0.0).to_dict()
        {'name': 'a', 'kind': 'numeric', 'dtype': 'Float64', 'low': 0.0}
        """
        defaults = {field.name: field.default for field in fields(self)}
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key == "dtype" or value != defaults[key]
        }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Column:
        """The column that :meth:`to_dict` described; an unknown key is a DataError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown or "name" not in values or "kind" not in values:
            what = f"unknown key {unknown[0]!r}" if unknown else "no name or no kind"
            raise DataError(f"a column of the schema has {what}; known keys: {sorted(known)}")
        return cls(**{**values, "categories": tuple(values.get("categories", ()))})

    def describe(self) -> str:
        """One line in words: range or categories, blanks, note.

        >>> Column("sex", "category", dtype="String", categories=("F", "M")).describe()
        '2 categories: F, M'
        """
        parts = []
        if self.kind == "datetime" and self.low is not None and self.high is not None:
            clock = bool(self.format) and "%d" not in self.format and "%-d" not in self.format
            parts.append(f"{_moment(self.low, clock)} to {_moment(self.high, clock)}")
        elif self.low is not None and self.high is not None:
            parts.append(_range(self.low, self.high, whole=self.kind == "integer"))
        elif self.kind == "boolean":
            parts.append(" / ".join(self.categories))
        elif self.kind == "category":
            count = len(self.categories)
            shown = ", ".join(map(_short, self.categories[:5])) + (", ..." if count > 5 else "")
            parts.append(f"{count} categor{'y' if count == 1 else 'ies'}: {shown}")
        elif self.kind == "constant":
            parts.append(
                f"always {_short(self.categories[0])!r}" if self.categories else "always blank"
            )
        if self.missing and self.kind != "constant":
            parts.append(f"{100 * self.missing:.2g} % blank")
        if self.note:
            parts.append(self.note)
        return "; ".join(parts)


@dataclass(frozen=True)
class Schema:
    """The columns of a table in their order.

    Parameters
    ----------
    columns : one :class:`Column` for each, names all different.
    array : numpy dtype name when the table was a 2-D array (decoding gives an array), else "".

    Examples
    --------
    >>> schema = Schema((Column("x", "numeric"), Column("id", "identifier", note="all different")))
    >>> [column.name for column in schema.modelled], schema.left_out
    (['x'], [('id', 'identifier: all different')])
    >>> Schema.from_toml(schema.to_toml()) == schema
    True
    """

    columns: tuple[Column, ...]
    array: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if len(set(self.names)) != len(self.columns):
            raise DataError("a schema names a column twice; give every column its own name")

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(unknown_column(name, self.names))

    @property
    def names(self) -> list[str]:
        """All column names, in order."""
        return [column.name for column in self.columns]

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that enter the density."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns that samples have: modelled and constant ones."""
        return tuple(column for column in self.columns if column.kept)

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """(name, reason) of the columns that are in no sample."""
        return [
            (column.name, f"{column.kind}: {column.note}" if column.note else column.kind)
            for column in self.columns
            if not column.kept
        ]

    @property
    def kinds(self) -> dict[str, str]:
        """Name to kind: what ``types=`` of :func:`infer_schema` takes back."""
        return {column.name: column.kind for column in self.columns}

    @property
    def notes(self) -> list[str]:
        """One line for each column that is left out, constant, or was read with a decision."""
        return [
            f"column {column.name!r}: {column.kind}, {column.note or column.describe()}"
            for column in self.columns
            if column.note or column.kind == "constant"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"array": self.array, "columns": [column.to_dict() for column in self.columns]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """The schema that :meth:`to_dict` described."""
        columns = values.get("columns")
        if not isinstance(columns, list):
            raise DataError("a schema needs a list of columns; this has none")
        return cls(tuple(Column.from_dict(c) for c in columns), str(values.get("array", "")))

    def to_toml(self) -> str:
        """A file to edit: change a ``kind``, then read with it again (see :attr:`kinds`).

        Every column says in a comment what was seen in it.
        """
        lines = [
            "# What each column is. Kinds: numeric, integer, boolean, category, datetime enter",
            "# the density; constant is reproduced in samples; identifier and text are left out.",
            "# Change a kind and read the data again with this file.",
        ]
        if self.array:
            lines.append(f"array = {json.dumps(self.array)}")
        for column in self.columns:
            shown = (c if c.isprintable() else " " for c in column.describe())
            about = " ".join("".join(shown).split())
            lines += ["", "[[columns]]" + (f"  # {about}" if about else "")]
            lines += [f"{key} = {_toml(value)}" for key, value in column.to_dict().items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Schema:
        """The schema written by :meth:`to_toml`; DataError when it cannot be read."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"the schema is not valid TOML: {error}") from error

    def describe(self) -> str:
        """A table in text: name, kind, what was seen.

        >>> print(Schema((Column("x", "numeric", low=0.0, high=1.0),)).describe())
        x  numeric  0 to 1
        """
        width = max((len(c.name) for c in self.columns), default=0)
        kind = max((len(c.kind) for c in self.columns), default=0)
        rows = (f"{c.name:<{width}}  {c.kind:<{kind}}  {c.describe()}" for c in self.columns)
        return "\n".join(row.rstrip() for row in rows)


def unknown_column(name: str, names: list[str]) -> str:
    """The line for a column that is not there, with the nearest one that is.

    >>> unknown_column("agee", ["age", "sex"])
    "there is no column 'agee'; did you mean 'age'?"
    """
    import difflib

    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"the columns are: {shown}"
    return f"there is no column {name!r}; {hint}"


def _toml(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's, but for what JSON leaves unescaped: DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _moment(seconds: float, clock: bool) -> str:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return str(moment.time() if clock else moment.date())


def _range(low: float, high: float, *, whole: bool) -> str:
    """Both ends with as many digits as it takes to tell them apart.

    >>> _range(12285.0, 1484705.0, whole=True), _range(1e9, 1e9 + 0.5, whole=False)
    ('12285 to 1484705', '1000000000 to 1000000000.5')
    """
    if whole and max(abs(low), abs(high)) < 1e15:
        return f"{low:.0f} to {high:.0f}"
    shown = [f"{low:.6g}", f"{high:.6g}"]
    if shown[0] == shown[1]:
        shown = [f"{low:.17g}", f"{high:.17g}"]
    return " to ".join(shown)


def _short(text: str, most: int = 40) -> str:
    """A category on one line, and no longer than a table can show."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."
