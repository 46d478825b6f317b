"""Scoring a file larger than memory: piece by piece, each kept on disk until all are there.

Beside the output stands a folder ``OUT.parts``: a table of scores for each piece, a few of its rows to
see drift by, and ``state.json``, which says of which run and file they are and where the next piece
begins. A run that was stopped goes on there. In memory are one piece, and the scores of all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyscape.cli.anomalies import Batch, Judge, decisions, judged, say_drift
from energyscape.cli.console import Bar, note, notes
from energyscape.cli.failures import BadInput
from energyscape.cli.runs import unseen_in, unseen_lines

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from energyscape.data import Dataset
    from energyscape.families import AnomalyDetector, DensityEstimator

__all__ = ["Parts", "fineness", "score_in_parts"]

#: One row in so many is kept to see drift by, more where that would be fewer than the limit, and no
#: more than the limit are compared.
_ONE_IN, _SAMPLE = 32, 20_000
_FINER = 8

#: A table's part to its columns of scores.
Scorer = Callable[[Any], dict[str, Any]]


class Parts:
    """The folder of what has been scored, and what it belongs to."""

    def __init__(
        self, out: Path, belongs: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self.folder = out.with_name(out.name + ".parts")
        self.state: dict[str, Any] = {"belongs": belongs, "done": [], "unseen": {}, "checksum": 0}
        if self.folder.exists() and overwrite and not resume:
            shutil.rmtree(self.folder)
        if (self.folder / "state.json").is_file():
            self._go_on(belongs, resume=resume)
        self.folder.mkdir(exist_ok=True)

    def _go_on(self, belongs: dict[str, Any], *, resume: bool) -> None:
        if not resume:
            raise BadInput(
                f"{self.folder} holds what a stopped scoring has done: --resume goes on with it, "
                "--overwrite starts again"
            )
        known = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if known["belongs"] != belongs:
            raise BadInput(
                f"{self.folder} is of another run, other data or other options; "
                "--overwrite starts again"
            )
        self.state = known

    @property
    def rows(self) -> int:
        """Rows scored so far."""
        return sum(part["rows"] for part in self.state["done"])

    @property
    def stop(self) -> int:
        """Where the next piece begins."""
        return self.state["done"][-1]["stop"] if self.state["done"] else 0

    def add(self, columns: dict[str, Any], sample: pl.DataFrame, **about: Any) -> None:
        """Keep a piece's scores; a piece is there whole, or not at all."""
        from energyscape.data import write_table

        k = len(self.state["done"])
        write_table(columns, self.folder / f"scores-{k:06d}.parquet")
        write_table(sample, self.folder / f"sample-{k:06d}.parquet")
        self.state["done"].append(about)
        self.save()

    def save(self) -> None:
        """Write the state, aside and renamed."""
        aside = self.folder / f"state.{os.getpid()}.part"
        aside.write_text(json.dumps(self.state), encoding="utf-8")
        aside.replace(self.folder / "state.json")

    def read(self, what: str) -> pl.DataFrame:
        """The parts of ``scores`` or of ``sample``, one below the other."""
        import polars as pl

        count = len(self.state["done"])
        return pl.concat(
            [pl.read_parquet(self.folder / f"{what}-{k:06d}.parquet") for k in range(count)],
            how="vertical_relaxed",
        )


def score_in_parts(
    estimator: DensityEstimator | AnomalyDetector,
    data: Path,
    parts: Parts,
    scorer: Scorer,
    judge: Judge | None,
    fdr: float,
    most: int,
    bar: Bar,
    quiet: bool,
) -> pl.DataFrame:
    """The table to write, of all pieces; the parts stay until it is written.

    `judge` is what a family goes by; None for an anomaly detector.
    """
    import numpy as np
    import polars as pl

    if parts.rows:
        note(f"going on after {parts.rows} rows", quiet=quiet)
    said = _score_pieces(estimator, data, parts, scorer, bar)
    lines = unseen_lines(estimator, parts.state["unseen"])
    notes([*dict.fromkeys(said), *lines], quiet=quiet)
    table = parts.read("scores")
    if not table.height:
        raise BadInput(f"{data} has no row of data")
    scores = table["anomaly_score"].to_numpy()
    if judge is None:
        known = estimator.knows_sum(parts.state["checksum"], table.height)
        if known:
            at_fit = estimator.training_scores_
            scores = np.where(np.isnan(at_fit), scores, at_fit)
        batch = Batch(
            scores,
            known,
            lambda: estimator.drift(_as_data(_thinned(parts), estimator), scores=scores),
            lambda rows: _pick(estimator, data, parts, rows),
        )
        columns = judged(estimator, batch, fdr, most, bar, quiet)
        table = table.with_columns(pl.Series("anomaly_score", batch.scores))
    else:
        columns = decisions(judge.calibration, scores, fdr, quiet)
        say_drift(judge, lambda: _as_data(_thinned(parts), estimator), scores, quiet)
    drivers = [c for c in table.columns if c == "top_columns"]
    table = table.with_columns([pl.Series(name, values) for name, values in columns.items()])
    table = table.select([c for c in table.columns if c not in drivers] + drivers)
    return table.with_row_index("row", offset=1)


def _score_pieces(
    estimator: DensityEstimator | AnomalyDetector,
    data: Path,
    parts: Parts,
    scorer: Scorer,
    bar: Bar,
) -> list[str]:
    """Score what is left; returns remarks on the reading."""
    from energyscape.data import read_pieces
    from energyscape.families import AnomalyDetector

    said: list[str] = []
    names, finer = estimator.schema_.names, fineness(estimator)
    for piece in bar.through("scoring", read_pieces(data, names, parts.stop, finer=finer)):
        first = parts.rows
        dataset = _as_data(piece.frame, estimator)
        said += [*piece.notes, *dataset.notes]
        for name, values in unseen_in(estimator, dataset).items():
            known = parts.state["unseen"].setdefault(name, [])
            known += [v for v in map(_plain, values) if v not in known][: 20 - len(known)]
        if isinstance(estimator, AnomalyDetector):
            mine = estimator.checksum(dataset, first)
            parts.state["checksum"] = (parts.state["checksum"] + mine) % 2**64
        columns = scorer(dataset)
        about = {"rows": len(dataset), "start": piece.start, "stop": piece.stop}
        expected = len(dataset) * piece.size // max(piece.stop - piece.start, 1)
        kept = _sample(first, len(dataset), min(max(expected // _SAMPLE, 1), _ONE_IN))
        parts.add(columns, piece.frame[kept], **about)
    return said


def fineness(estimator: DensityEstimator | AnomalyDetector) -> int:
    """How many times smaller pieces are where networks score: each in minutes, not in hours."""
    from energyscape.families import AnomalyDetector

    return 1 if isinstance(estimator, AnomalyDetector) else _FINER


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _as_data(frame: pl.DataFrame, estimator: DensityEstimator | AnomalyDetector) -> Dataset:
    from energyscape.data import as_dataset

    return as_dataset(frame, schema=estimator.schema_)


def _sample(first: int, count: int, one_in: int) -> np.ndarray:
    """Which rows of a piece are kept: by their number in the file, evenly."""
    import numpy as np

    return np.flatnonzero(np.arange(first, first + count) % one_in == 0)


def _thinned(parts: Parts) -> pl.DataFrame:
    """The kept rows, evenly fewer where they are many."""
    kept = parts.read("sample")
    return kept.gather_every(-(-kept.height // _SAMPLE))


def _pick(estimator: AnomalyDetector, data: Path, parts: Parts, rows: np.ndarray) -> Dataset:
    """Some rows, by ascending number, from the pieces that hold them."""
    import numpy as np
    import polars as pl

    found: list[pl.DataFrame] = []
    for first, piece in _pieces_with(estimator, data, parts, rows):
        inside = rows[(rows >= first) & (rows < first + piece.height)] - first
        found.append(piece[np.asarray(inside)])
    return _as_data(pl.concat(found, how="vertical_relaxed"), estimator)


def _pieces_with(
    estimator: AnomalyDetector, data: Path, parts: Parts, rows: np.ndarray
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Pieces that hold any of the rows, read again, with their first row's number.

    Those of a scoring that an earlier version began may be larger than pieces are now.
    """
    import polars as pl

    from energyscape.data import read_pieces

    first = 0
    for done in parts.state["done"]:
        stop = first + done["rows"]
        if ((rows >= first) & (rows < stop)).any():
            frames: list[pl.DataFrame] = []
            for piece in read_pieces(data, estimator.schema_.names, done["start"]):
                frames.append(piece.frame)
                if piece.stop >= done["stop"]:
                    break
            yield first, pl.concat(frames, how="vertical_relaxed")[: done["rows"]]
        first = stop
