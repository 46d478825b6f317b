"""Pictures the benchmarks train on, and other pictures that do not belong to them.

    digits   scikit-learn's 1,797 pictures of 8 x 8 in 17 grey levels; 300 of them, by the seed, test
    mnist    60,000 + 10,000 pictures of 28 x 28 in 256 grey levels, images/mnist.npz of the data folder

The data folder is the variable ENERGYSCAPE_DATA, by default ../shared/data beside the repository.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["SETS", "PictureSet", "data_folder", "load_pictures", "strange_pictures"]

SETS = ("digits", "mnist")
_DIGITS_HELD_OUT = 300


class PictureSet(NamedTuple):
    """uint8 pictures (n, H, W) with classes, and the number of grey levels."""

    name: str
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    levels: int


def data_folder() -> Path:
    """Where the data lie."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("ENERGYSCAPE_DATA", default))


def _needed(path: str) -> Path:
    found = data_folder() / path
    if not found.is_file():
        raise SystemExit(
            f"{found} is missing: set ENERGYSCAPE_DATA to the folder that holds {path}"
        )
    return found


def load_pictures(name: str, seed: int = 0) -> PictureSet:
    """The set called `name`; `seed` chooses the test pictures of digits."""
    if name == "mnist":
        with np.load(_needed("images/mnist.npz")) as found:
            parts = [found[k] for k in ("x_train", "y_train", "x_test", "y_test")]
        train, train_labels, test, test_labels = parts
        return PictureSet(
            name, train, train_labels.astype(np.int64), test, test_labels.astype(np.int64), 256
        )
    if name != "digits":
        raise ValueError(f"no pictures called {name!r}: choose from {', '.join(SETS)}")
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures, labels = found.images.astype(np.uint8), found.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(pictures))
    test, train = order[:_DIGITS_HELD_OUT], order[_DIGITS_HELD_OUT:]
    return PictureSet(name, pictures[train], labels[train], pictures[test], labels[test], 17)


def strange_pictures(
    usual: np.ndarray, levels: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Pictures of the same shape, (n, H, W), that do not belong to `usual`, by what is odd in them.

    Pixels in an order shuffled anew for each picture or once for all; negatives; turned by a quarter;
    shifted by a quarter of the side; two pictures in one (their maximum); blurred by 3 x 3 means;
    characters of Omniglot cut to the ink and resized, where the data folder has them; uniform noise.
    """
    n, height, width = usual.shape
    flat = usual.reshape(n, -1)
    top = levels - 1
    partner = usual[np.roll(np.arange(n), n // 2)]
    order = rng.permutation(flat.shape[1])
    padded = np.pad(usual.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    blurred = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    shift = (max(1, height // 4), max(1, width // 4))
    shifted = np.zeros_like(usual)
    shifted[:, shift[0] :, shift[1] :] = usual[:, : -shift[0], : -shift[1]]
    sets = {
        "pixels shuffled": rng.permuted(flat, axis=1).reshape(usual.shape),
        "pixels in one other order": flat[:, order].reshape(usual.shape),
        "negatives": top - usual,
        "turned by 90 degrees": np.rot90(usual, axes=(1, 2)) if height == width else usual[:, ::-1],
        "shifted by a quarter": shifted,
        "two in one": np.maximum(usual, partner),
        "blurred": blurred.round().astype(usual.dtype),
        "uniform noise": rng.integers(0, levels, usual.shape).astype(usual.dtype),
    }
    archive = data_folder() / "images" / "omniglot_small1.zip"
    if archive.is_file():
        sets["omniglot"] = _omniglot(archive, n, (height, width), top, rng)
    return {name: np.ascontiguousarray(pictures) for name, pictures in sets.items()}


def _omniglot(
    archive: Path, n: int, shape: tuple[int, int], top: int, rng: np.random.Generator
) -> np.ndarray:
    """Characters in light ink on black, centred with the margin that digits have."""
    from PIL import Image

    height, width = shape
    inner = (round(width * 5 / 7), round(height * 5 / 7))
    out = []
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".png"))
        for i in rng.choice(len(names), min(n, len(names)), replace=False):
            ink = 255 - np.asarray(Image.open(io.BytesIO(files.read(names[i]))).convert("L"))
            rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
            cut = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
            small = np.asarray(cut.resize(inner, Image.Resampling.BOX), dtype=np.float64)
            picture = np.zeros(shape)
            y, x = (height - inner[1]) // 2, (width - inner[0]) // 2
            picture[y : y + inner[1], x : x + inner[0]] = small * (top / max(small.max(), 1.0))
            out.append(picture.round().astype(np.uint8))
    return np.stack(out)
