"""What people write around numbers and instead of them: currencies, units, words for nothing.

Both are read only where the rest of the column says that it holds numbers (or dates): in a column of
names, "unknown" is a name like any other and "A4" a kind of paper.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl

__all__ = ["NOTHING", "Affix", "find_affix", "take_off", "without_words"]

# In lower case. Words of statistics packages, databases and spreadsheets for a value that is absent.
NOTHING = frozenset(
    {
        *(
            "none",
            "nil",
            "nat",
            "n.a.",
            "n.a",
            "n/d",
            "nd",
            "missing",
            "unknown",
            "(blank)",
            "blank",
        ),
        *(".", "..", "...", "--", "---", "\u2013", "\u2014", "*", "\\n", "not available"),
        *("#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!", "#na", "#n/a n/a"),
        *("0000-00-00", "0000-00-00 00:00:00"),
    }
)
_CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|HUF|CAD|AUD|NZD|BRL|MXN|ZAR|KRW|TRY|RUB"
_CURRENCY = rf"(?:(?:US|CA|AU|NZ|HK|R)?\$|[€£¥₹₩₽₺₪]|{_CODES})"
_NUMBER = re.compile(
    rf"(?P<sign>[+\-\u2212]?)\s*(?P<before>{_CURRENCY})?\s*(?P<inner>[+\-\u2212]?)"
    rf"(?P<digits>\d[\d.,'\s\u00a0\u202f]*|[.,]\d+)(?:[eE][+\-]?\d+)?"
    rf"\s*(?P<after>[%‰]|{_CURRENCY}|[A-Za-zµμ°²³/]{{1,6}})?"
)
_FEW = 12


class Affix(NamedTuple):
    """What stands before and after the numbers of a column."""

    before: str = ""
    after: str = ""

    def describe(self) -> str:
        """In words, for a note.

        >>> Affix("$", "").describe()
        "'$' before the numbers is taken off"
        """
        parts = [f"{self.before!r} before"] * bool(self.before)
        parts += [f"{self.after!r} after"] * bool(self.after)
        return f"{' and '.join(parts)} the numbers is taken off"


def find_affix(present: pl.Series) -> Affix | None:
    """The one currency, percent sign or unit around most of the values, or None.

    A unit of letters must stand after every number, and there must be more than a dozen different
    ones: fewer are rather the names of classes.

    >>> import polars as pl
    >>> find_affix(pl.Series(["$1.50", "-$2", "3"]))
    Affix(before='$', after='')
    >>> find_affix(pl.Series(["1A", "2A", "3A"])) is None
    True
    """
    probe = present.head(300).to_list()
    found: Counter[Affix] = Counter()
    for value in probe:
        match = _NUMBER.fullmatch(value)
        if match is not None and (match["before"] or match["after"]):
            found[Affix(match["before"] or "", match["after"] or "")] += 1
    if not found:
        return None
    affix, count = found.most_common(1)[0]
    unit = affix.after and re.fullmatch(rf"[%‰]|{_CURRENCY}", affix.after) is None
    if unit and (count < len(probe) or present.n_unique() <= _FEW):
        return None
    return affix if count > 0.5 * len(probe) else None


def take_off(text: pl.Series, affix: Affix) -> pl.Series:
    """The numbers without what stands around them; values without it stay as they are.

    >>> import polars as pl
    >>> take_off(pl.Series(["-$ 2.50", "$3", "4"]), Affix("$")).to_list()
    ['-2.50', '3', '4']
    """
    if affix.before:
        text = text.str.replace(rf"^([+\-\u2212]?)\s*{re.escape(affix.before)}\s*", "${1}")
    if affix.after:
        text = text.str.replace(rf"\s*{re.escape(affix.after)}$", "")
    return text


def without_words(text: pl.Series) -> pl.Series:
    """Blanks where a word of :data:`NOTHING` stands.

    >>> import polars as pl
    >>> without_words(pl.Series(["1", "None", "#DIV/0!"])).to_list()
    ['1', None, None]
    """
    import polars as pl

    column = pl.col("v")
    kept = pl.when(~column.str.to_lowercase().is_in(sorted(NOTHING))).then(column)
    return text.to_frame("v").select(kept.alias(text.name)).to_series()
