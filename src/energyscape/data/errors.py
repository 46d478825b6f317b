"""What is wrong with an input, in one line a person can act on."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """Input that its owner can mend: the message says what was given, expected, and what to do.

    The command line prints the message alone and leaves with exit code 2.

    Examples
    --------
    >>> str(DataError("column 'age' row 3: 'x' is not a number"))
    "column 'age' row 3: 'x' is not a number"
    """
