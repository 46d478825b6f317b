"""``energyscape sample``: new rows or pictures from a run."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.console import Bar, note, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import (
    Device,
    Overwrite,
    Quiet,
    Run,
    Seed,
    nearest,
    refuse_existing,
)
from energyscape.cli.runs import open_run

if TYPE_CHECKING:
    import numpy as np

    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "read_given", "run"]

EXAMPLE = "Example: energyscape sample runs/penguins --n 100 --out penguins.csv --given sex=FEMALE"

_SIGN = "(<=|>=|!=|==|=|<|>)"
_PICTURES = (".png", ".npy", ".npz")


def run(
    folder: Run,
    n: Annotated[
        int, typer.Option("--n", "-n", min=1, metavar="N", help="How many.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A table file by its suffix; for pictures .png (a grid), .npy, .npz, or a folder.",
            show_default=False,
        ),
    ],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="COL=VALUE",
            help="Only rows like this: 'sex=FEMALE', 'mass=4200', 'age>60', also >= < <= !=; "
            "repeatable.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="CLASS", help="Only this class (fit with --set label=...)."
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", min=0.0, metavar="W", help="Exaggerate the class: above 1, say 2."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of the sampler.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME[:KEY=VALUE,...]",
            help="Which sampler walks, with settings after a colon: ddim:eta=0.5.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Draw N new records, or pictures, from a run.

    Columns, types, categories, ranges and units are those of the data the run was fitted on.
    Values given come back exactly, with the other columns drawn from the model given them.
    Without --seed one is drawn and printed. Of energies it is told how their chains went; RUN keeps
    it, for report.
    """
    refuse_existing(out, overwrite=overwrite, folder=not out.suffix)
    estimator = open_run(folder, device)
    _check_suffix(estimator, out)
    conditions = read_given(given, _columns(estimator, given))
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
    with Bar(quiet=quiet) as bar:
        drawn: Any = estimator.sample(
            n,
            given=conditions,
            label=label,
            guidance=guidance,
            random_state=seed,
            steps=steps,
            sampler=sampler,
            progress=bar,
        )
    if estimator.data_kind_ == "pictures":
        _write_pictures(drawn, _levels(estimator), out)
    else:
        _write_rows(drawn, estimator, out)
    for line in _told(estimator, folder, n, seed, quiet):
        tell(line, quiet=quiet)
    what = "rows" if estimator.data_kind_ == "table" else "pictures"
    tell(f"wrote {n} {what} to {out} (seed {seed})", quiet=quiet)


def _told(estimator: DensityEstimator, folder: Path, n: int, seed: int, quiet: bool) -> list[str]:
    """How the chains went, in two lines, and kept with the run; none of a family without chains."""
    told: dict[str, Any] | None = getattr(estimator, "sampling_", None)
    if told is None:
        return []
    from energyscape.families.storage import save_sampling

    try:
        save_sampling(estimator, folder, rows=n, seed=seed)
    except ValueError as error:
        note(f"report will not show how the chains went: {error}", quiet=quiet)
    line = (
        f"{told['chains']:,} chains of {told['sampler']}, {told['steps']:,} steps each from "
        f"{told['start']}"
    )
    parts = [
        words.format(told[key])
        for key, words in (
            ("acceptance", "acceptance {:.2f}"),
            ("rhat", "R-hat {:.3g}"),
            ("ess_bulk", "{:,.0f} effective draws"),
        )
        if told.get(key) is not None
    ]
    return [": ".join([line, *([", ".join(parts)] if parts else [])]), told["verdict"]]


def _check_suffix(estimator: DensityEstimator, out: Path) -> None:
    """Refuse a format that cannot hold the samples before they are drawn."""
    suffix = out.suffix.lower()
    if estimator.data_kind_ == "pictures":
        if suffix and suffix not in _PICTURES:
            raise BadInput(
                f"{out}: pictures are written as .png (a grid), .npy, .npz, or to a folder "
                f"(a name without suffix), not as {suffix}"
            )
        return
    from energyscape.data.tables import TABLE_SUFFIXES

    known = (*TABLE_SUFFIXES, ".npy", ".npz")
    if suffix not in known:
        raise BadInput(
            f"{out}: rows are written as {', '.join(known)}, not as {suffix or 'a folder'}"
        )


def read_given(words: Sequence[str] | None, columns: Sequence[str]) -> dict[str, Any]:
    """Conditions as the estimator takes them: column to a list of (sign, value).

    Column names come first, the longest that fits, so that they may hold signs themselves.

    Raises
    ------
    BadInput
        For words without a sign, and columns that the run does not have.

    Examples
    --------
    >>> read_given(["age>=18", "age < 30", "a=b=c"], ["age", "a", "a=b"])
    {'age': [('>=', '18'), ('<', '30')], 'a=b': [('=', 'c')]}
    """
    known = "|".join(re.escape(name) for name in sorted(columns, key=len, reverse=True))
    given: dict[str, Any] = {}
    for word in words or []:
        found = re.fullmatch(rf"\s*({known})\s*{_SIGN}(.*)", word, re.DOTALL) if columns else None
        if found is None:
            other = re.fullmatch(rf"(.+?)\s*{_SIGN}.*", word.strip(), re.DOTALL)
            if other is None:
                raise BadInput(f"--given {word!r}: expected COL=VALUE, or a range such as 'COL>60'")
            raise BadInput(
                f"--given: the run models no column {other[1]!r}; {nearest(other[1], columns)}"
            )
        given.setdefault(found[1], []).append((found[2], found[3].strip()))
    return given


def _columns(estimator: DensityEstimator, given: list[str] | None) -> list[str]:
    """The columns of the density; none may be given where there are none."""
    if estimator.data_kind_ == "table":
        return [column.name for column in estimator.schema_.modelled]
    if given:
        hint = "; try --label" if "classes" in estimator.facts_ else ""
        raise BadInput(f"--given holds columns, but this run was fitted on pictures{hint}")
    return []


def _write_rows(drawn: Any, estimator: DensityEstimator, out: Path) -> None:
    import numpy as np

    from energyscape.data import write_table

    suffix = out.suffix.lower()
    if isinstance(drawn, np.ndarray) and suffix in (".npy", ".npz"):
        _write_arrays(drawn, out)
        return
    if isinstance(drawn, np.ndarray):
        names = estimator.schema_.names
        drawn = {name: drawn[:, j] for j, name in enumerate(names)}
    elif suffix == ".npz":
        raise BadInput(f"{out}: this run's rows are no array; write .csv or .parquet instead")
    from energyscape.data import is_frame, to_polars

    write_table(to_polars(drawn) if is_frame(drawn) else drawn, out)


def _levels(estimator: DensityEstimator) -> int:
    from energyscape.data import PictureCodec

    codec = estimator.codec_
    assert isinstance(codec, PictureCodec)
    return codec.levels


def _write_pictures(drawn: np.ndarray, levels: int, out: Path) -> None:
    import numpy as np

    pictures = np.asarray(drawn)
    pictures = pictures[..., None] if pictures.ndim == 3 else pictures
    if out.suffix.lower() in (".npy", ".npz"):
        _write_arrays(pictures, out)
        return
    # few levels (17 for digits) are stretched over black to white; arrays keep the levels
    shown = np.round(pictures * (255.0 / (levels - 1))).astype(np.uint8)
    if out.suffix:
        from energyscape.report import save_picture_grid

        save_picture_grid(shown, out)
        return
    from PIL import Image

    out.mkdir(exist_ok=True)
    for old in out.glob("sample-*.png"):
        old.unlink()
    digits = len(str(len(shown)))
    for number, picture in enumerate(shown, start=1):
        image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        image.save(out / f"sample-{number:0{digits}d}.png")


def _write_arrays(values: np.ndarray, out: Path) -> None:
    """Aside and renamed, as tables are."""
    import numpy as np

    buffer = io.BytesIO()
    if out.suffix.lower() == ".npy":
        np.save(buffer, values, allow_pickle=False)
    else:
        np.savez_compressed(buffer, x=values)
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(buffer.getvalue())
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
