"""How the columns of a table are best encoded: categories and numbers, by held-out measures.

    python benchmarks/table_encodings.py [--tables german housing adult] [--variants NAME ...]
        [--steps 800] [--width 64] [--rows 2000] [--seeds 0 1] [--density]

Each variant replaces how one kind of column is encoded, and nothing else; ``edm``, with three blocks of
``--width``, is trained for ``--steps`` on four fifths of the rows and measured on the rest (see
`energyscape.fidelity`). Rows of adult and housing are others than `synthetic_tables.py` uses, those of
german are rows that it trains on with seed 0. With ``--density`` also the mean log-probability of 200
held-out rows.

``--blur S`` trains nothing: encoded training rows with noise of deviation S are decoded again, which
shows how much of a model's error an encoding forgives.

- ``plain``: numbers standardised (asinh of far tails), one-hot categories with noise, signs as +-1
- ``default``: what `TableCodec` does
- ``ranks``: every number by its rank;  ``no-ranks``: none
- ``no-steps``: few whole values by their ranks as well
- ``unscaled``: blanks and booleans as +-1, whatever their frequency
- ``bits``: categories as analog bits (2208.04202), +-1 with noise 0.15
- ``ordinal``: categories by rank in one dimension, in the order of their frequency
- ``noise-0.05``, ``noise-0.2``: one-hot with other noise (the default is 0.1 of the scale)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_tables as tables

from energyscape.data import TableCodec, blocks, table_codec
from energyscape.data.blocks import SignBlock, draw, log_q
from energyscape.data.ranks import RankBlock
from energyscape.families import EDM
from energyscape.fidelity import (
    column_shapes,
    columns_of,
    forest_inputs,
    pair_trends,
    train_on_drawn,
)
from energyscape.fidelity.columns import blanks
from energyscape.fidelity.summary import _filled
from energyscape.metrics import two_sample_accuracy

OUT = Path(__file__).parent / "results" / "table_encodings.json"
Codes = NDArray[np.int64]


class BitBlock(NamedTuple):
    """A category as the bits of its place, +-1 with noise 0.15."""

    size: int

    @property
    def width(self) -> int:
        """Dimensions."""
        return max(1, int(np.ceil(np.log2(self.size))))

    def encode(self, codes: Codes, rng: np.random.Generator | None) -> tuple[Any, Any]:
        """Codes to x and log_abs_det."""
        bits = (np.maximum(codes, 0)[:, None] >> np.arange(self.width)) & 1
        e = draw(bits.shape, rng)
        return 2.0 * bits - 1 + 0.15 * e, -log_q(e, 0.15)

    def decode(self, x: NDArray[np.float64]) -> Codes:
        """Codes; a pattern of bits that means nothing is the last category."""
        codes = ((x > 0).astype(np.int64) << np.arange(self.width)).sum(1)
        return np.minimum(codes, self.size - 1)


class OrdinalBlock(NamedTuple):
    """A category by rank, the most frequent first."""

    place: Codes
    back: Codes
    block: RankBlock

    @property
    def width(self) -> int:
        """Dimensions."""
        return 1

    @classmethod
    def fit(cls, codes: Codes, size: int) -> OrdinalBlock:
        """From codes, negative for blanks."""
        counts = np.bincount(codes[codes >= 0], minlength=size)
        back = np.argsort(-counts, kind="stable")
        place = np.argsort(back)
        values = place[codes[codes >= 0]].astype(np.float64)
        return cls(place, back, RankBlock.fit(values, True, 0.0, size - 1.0))

    def encode(self, codes: Codes, rng: np.random.Generator | None) -> tuple[Any, Any]:
        """Codes to x and log_abs_det."""
        return self.block.encode(self.place[np.maximum(codes, 0)].astype(np.float64), rng)

    def decode(self, x: NDArray[np.float64]) -> Codes:
        """Codes."""
        return self.back[self.block.decode(x).astype(np.int64)]


_FIT = table_codec._fit_block


def _numbers(always: bool) -> Callable[..., Any]:
    def fit(column: Any, bare: NDArray[Any]) -> Any:
        with (
            mock.patch.object(table_codec, "ranked", return_value=always),
            mock.patch.object(table_codec, "stepped", return_value=False),
        ):
            return _FIT(column, bare)

    return fit


def _categories(make: Callable[[Codes, int], Any]) -> Callable[..., Any]:
    def fit(column: Any, bare: NDArray[Any]) -> Any:
        if column.kind == "category" and len(column.categories) > 1:
            return make(bare, len(column.categories))
        return _FIT(column, bare)

    return fit


@contextmanager
def encoded(variant: str) -> Iterator[None]:
    """The codec in this variant."""
    with (
        mock.patch.object(table_codec, "_fit_block", _FIT),
        mock.patch.object(blocks, "_CATEGORY_NOISE", float(variant.partition("noise-")[2] or 0.1)),
    ):
        unscaled = mock.patch.object(SignBlock, "fit", classmethod(lambda cls, codes: cls()))
        if variant in ("plain", "unscaled"):
            with unscaled:
                if variant == "plain":
                    table_codec._fit_block = _numbers(False)
                yield
            return
        if variant == "bits":
            table_codec._fit_block = _categories(lambda codes, k: BitBlock(k))
        elif variant == "ordinal":
            table_codec._fit_block = _categories(OrdinalBlock.fit)
        elif variant == "no-steps":
            with mock.patch.object(table_codec, "stepped", return_value=False):
                yield
            return
        elif variant in ("ranks", "no-ranks"):
            table_codec._fit_block = _numbers(variant == "ranks")
        yield


def measure(name: str, variant: str, seed: int, options: Any) -> dict[str, Any]:
    """One training and its measures."""
    train, known, test = rows(name, seed, options)
    n = len(next(iter(test.values())))
    if options.blur is not None:
        with encoded(variant):
            codec = TableCodec(train.schema).fit(train.data)
            rng = np.random.default_rng(seed)
            some = rng.permutation(len(train))[:n]
            x = codec.encode(train.data[some], rng).x
            drawn = columns_of(
                codec.decode(x + options.blur * rng.normal(size=x.shape)), train.schema
            )
        return {"blur": options.blur} | compared(
            name, known, test, drawn, seed, codec.event_shape[0]
        )
    with encoded(variant):
        began = time.process_time()
        model = EDM(max_steps=options.steps, width=options.width, blocks=3, random_state=seed).fit(
            train
        )
        drawn = columns_of(model.decode(model.sample_encoded(n, random_state=seed)), train.schema)
        seconds = time.process_time() - began
        density = (
            model.score_samples(test_rows(name, seed, options)[:200]) if options.density else [0]
        )
    found = compared(name, known, test, drawn, seed, model.codec_.event_shape[0])
    return found | {"log_prob": float(np.mean(density)), "cpu_seconds": seconds}


def compared(name: str, known: Any, test: Any, drawn: Any, seed: int, dims: int) -> dict[str, Any]:
    """Drawn against held-out rows."""
    rng = np.random.default_rng(seed)
    x, y = _filled(*forest_inputs(test, drawn))
    telling = two_sample_accuracy(x, y, rng, repeats=1, folds=3, num_trees=30)
    targets = tables.TABLES[name][2]
    target = train_on_drawn(known, test, drawn, rng, targets=targets, num_trees=20)
    shares = [{k: blanks(v).mean() for k, v in columns.items()} for columns in (test, drawn)]
    blank = [abs(shares[0][k] - shares[1][k]) for k in test]
    return {
        "dims": dims,
        "column_shapes": float(np.mean(list(column_shapes(test, drawn).values()))),
        "pair_trends": float(np.mean(list(pair_trends(test, drawn).values()))),
        "two_sample_accuracy": telling.value,
        "target": float(np.mean([v[0] for v in target.values()])),
        "blanks": float(np.mean(blank)),
    }


def rows(name: str, seed: int, options: Any) -> Any:
    """Rows to choose by: see the opening lines."""
    return tables.read(name, options.rows, 1000 + seed, apart=True)


def test_rows(name: str, seed: int, options: Any) -> Any:
    """Held-out rows as a frame."""
    return tables.read(name, options.rows, 1000 + seed, apart=True, frame=True)


NAMES = ("plain", "default", "ranks", "no-ranks", "no-steps", "unscaled", "bits", "ordinal")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=["german", "housing", "adult"])
    parser.add_argument("--variants", nargs="+", default=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--density", action="store_true")
    parser.add_argument("--blur", type=float)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in options.seeds:
        for name in options.tables:
            for variant in options.variants:
                steps = 0 if options.blur is not None else options.steps
                key = {"table": name, "variant": variant, "seed": seed, "steps": steps}
                if any(
                    all(r[k] == v for k, v in key.items()) and r.get("blur") == options.blur
                    for r in results
                ):
                    continue
                found = measure(name, variant, seed, options)
                results.append(key | {"width": options.width, "rows": options.rows} | found)
                shown = {k: round(v, 3) for k, v in results[-1].items() if isinstance(v, float)}
                print(name, variant, seed, shown, flush=True)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
