"""Options that several verbs share, and how their words are read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from energyscape.cli.failures import BadInput

__all__ = [
    "Channels",
    "Data",
    "Device",
    "Drop",
    "Overwrite",
    "Quiet",
    "Run",
    "Seed",
    "Size",
    "Types",
    "nearest",
    "refuse_existing",
    "to_pairs",
    "to_seconds",
    "to_size",
]

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .csv .tsv .parquet .jsonl .arrow .npy or .npz file (file.npz::key chooses an "
        "array), a folder of pictures, or a built-in name such as digits or two-moons.",
        show_default=False,
    ),
]
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The folder that `fit` wrote.", show_default=False),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--types", metavar="COL=TYPE", help="Set the type of a column; repeatable."),
]
Drop = Annotated[
    list[str] | None, typer.Option("--drop", metavar="COL", help="Leave a column out; repeatable.")
]
Size = Annotated[
    str | None, typer.Option("--size", metavar="HxW", help="Resize pictures, for example 28x28.")
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels", metavar="N", help="Convert pictures: 1 grey, 3 colour, 4 + opacity."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=2**53, metavar="N", help="Seed of everything that is drawn."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ..."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]


def to_pairs(words: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` as a mapping; each key once.

    >>> to_pairs(["a=1", "b=x=y"], "--set", "KEY=VALUE")
    {'a': '1', 'b': 'x=y'}
    """
    pairs: dict[str, str] = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"{option} {word!r}: expected {form}, for example {option} {form}")
        if key.strip() in pairs:
            raise BadInput(f"{option} gives {key.strip()!r} twice; give it once")
        pairs[key.strip()] = value.strip()
    return pairs


def to_size(text: str | None) -> tuple[int, int] | None:
    """``"28x20"`` as (height, width); one number is both.

    >>> to_size("28x20"), to_size("28"), to_size(None)
    ((28, 20), (28, 28), None)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?", text.strip().lower())
    if found is None:
        raise BadInput(f"--size {text!r}: expected HEIGHTxWIDTH, for example --size 28x28")
    height, width = int(found[1]), int(found[2] or found[1])
    if not height or not width:
        raise BadInput(f"--size {text!r}: height and width must be at least 1")
    return height, width


def to_seconds(text: str | None) -> float | None:
    """``"90"``, ``"30s"``, ``"5m"``, ``"1.5h"`` in seconds.

    >>> to_seconds("5m"), to_seconds("1h30m"), to_seconds("20"), to_seconds(None)
    (300.0, 5400.0, 20.0, None)
    """
    if text is None:
        return None
    word = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", word):
        seconds = float(word)
    elif re.fullmatch(r"(\d+(\.\d+)?[hms])+", word):
        unit = {"h": 3600.0, "m": 60.0, "s": 1.0}
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", word)
        seconds = sum(float(number) * unit[letter] for number, letter in parts)
    else:
        raise BadInput(f"--time {text!r}: expected a duration such as 30s, 5m or 1h")
    if seconds <= 0:
        raise BadInput(f"--time {text!r}: the time must be more than zero")
    return seconds


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that says which name was meant, or which there are.

    >>> nearest("edmm", ["ebm", "edm"])
    "did you mean 'edm'?"
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def refuse_existing(path: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Stop before any work when the output cannot be written where it should go.

    Raises
    ------
    BadInput
        The output exists and ``overwrite`` is not set, is a folder where a file is to be, or has
        no folder to stand in.
    """
    if not folder and path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of a file")
    if folder and path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; give the name of a folder")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent}; make it first")
    stands = any(path.iterdir()) if folder and path.is_dir() else path.is_file()
    if stands and not overwrite:
        raise BadInput(f"{path} exists; give another name, or --overwrite to replace it")
