"""``energyscape sample``: new rows or pictures from a run."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energyscape.cli.console import Bar, tell
from energyscape.cli.failures import BadInput
from energyscape.cli.options import (
    Device,
    Overwrite,
    Quiet,
    Run,
    Seed,
    nearest,
    refuse_existing,
    to_pairs,
)
from energyscape.cli.runs import open_run

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from energyscape.families import DensityEstimator

__all__ = ["EXAMPLE", "run"]

EXAMPLE = "Example: energyscape sample runs/penguins --n 100 --out penguins.csv --given sex=FEMALE"

_COUNTABLE = ("boolean", "category", "integer")
_PICTURES = (".png", ".npy", ".npz")


def run(
    folder: Run,
    n: Annotated[
        int, typer.Option("--n", min=1, metavar="N", help="How many.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A table file by its suffix; for pictures .png (a grid), .npy, .npz, or a folder.",
            show_default=False,
        ),
    ],
    given: Annotated[
        list[str] | None,
        typer.Option("--given", metavar="COL=VALUE", help="Only rows with this value; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of the sampler.")
    ] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="Which sampler walks.")] = None,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Draw N new records, or pictures, from a run.

    Columns, types, categories, ranges and units are those of the data the run was fitted on.
    Without --seed one is drawn and printed.
    """
    refuse_existing(out, overwrite=overwrite, folder=not out.suffix)
    fixed = to_pairs(given, "--given", "COL=VALUE")
    estimator = open_run(folder, device)
    _check_suffix(estimator, out)
    _check_given(estimator, fixed)
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
    with Bar(quiet=quiet) as bar:

        def draw(count: int, number: int) -> Any:
            return estimator.sample(
                count, random_state=seed + number, steps=steps, sampler=sampler, progress=bar
            )

        drawn: Any = _draw_given(estimator, fixed, n, draw) if fixed else draw(n, 0)
    if estimator.data_kind_ == "pictures":
        _write_pictures(drawn, _levels(estimator), out)
    else:
        _write_rows(drawn, estimator, out)
    what = "rows" if estimator.data_kind_ == "table" else "pictures"
    tell(f"wrote {n} {what} to {out} (seed {seed})", quiet=quiet)


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


def _check_given(estimator: DensityEstimator, fixed: dict[str, str]) -> None:
    if not fixed:
        return
    if estimator.data_kind_ == "pictures":
        raise BadInput("--given holds a column fixed, but this run was fitted on pictures")
    from energyscape.data import TableCodec

    columns = {column.name: column.kind for column in estimator.schema_.modelled}
    for name in fixed:
        if name not in columns:
            raise BadInput(f"--given: the run models no column {name!r}; {nearest(name, columns)}")
        if columns[name] not in _COUNTABLE or estimator.schema_.array:
            raise BadInput(
                f"--given {name}: the column is {columns[name]}; only columns of kind "
                f"{', '.join(_COUNTABLE)} can be held fixed, as others never hit a value twice"
            )
    assert isinstance(estimator.codec_, TableCodec)
    estimator.codec_.encode_given(fixed, 1)


def _draw_given(
    estimator: DensityEstimator, fixed: dict[str, str], n: int, draw: Callable[[int, int], Any]
) -> pl.DataFrame:
    """Rows that have the values asked for: draws are kept or rejected, which is exact.

    Raises
    ------
    BadInput
        Fewer than ``n`` of 1,000 ``n`` (at least 20,000) draws fit.
    """
    import polars as pl

    from energyscape.data import to_polars
    from energyscape.data.values import keep

    wanted = {
        name: keep(pl.Series(name, [value]), estimator.schema_[name])[0]
        for name, value in fixed.items()
    }
    parts: list[pl.DataFrame] = []
    found = tried = number = 0
    most = max(1000 * n, 20_000)
    while found < n and tried < most:
        # as many as the share kept so far asks for, and some more
        share = (found + 1) / (tried + 2)
        count = int(min(max(1.2 * (n - found) / share, 64), 8192, most - tried))
        rows = to_polars(draw(count, number))
        kept = rows.filter(pl.all_horizontal(pl.col(c) == v for c, v in wanted.items()))
        parts.append(kept)
        found, tried, number = found + kept.height, tried + count, number + 1
    if found < n:
        asked = ", ".join(f"{name}={value}" for name, value in fixed.items())
        raise BadInput(
            f"--given {asked}: {found} of {tried} draws fit and {n} were asked for; "
            "ask for fewer, or fix fewer columns"
        )
    return pl.concat(parts).head(n)


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
