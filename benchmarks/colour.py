"""Photographs in colour from one end to the other: CIFAR-10's JPEG copy, a folder of pictures each.

    python benchmarks/colour.py [--train 6000] [--test 500] [--time 8m] [--rows 120] [--set KEY=VALUE]

What a user would do, through the command line alone: `fit --model edm` on a folder of ``--train``
pictures (32 x 32, in ten folders by class), `sample` a folder of 64, `evaluate` on a folder of other
pictures, `report`. Data: ``images/cifar10_jpg_{train,test}.zip`` of the data folder. Writes
``results/colour.json`` and the 64 pictures side by side, ``results/colour.png``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from picture_sets import data_folder
from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE = 8


def unpack(name: str, count: int, folder: Path) -> None:
    """``count`` pictures at random, each in the folder of its class."""
    path = data_folder() / "images" / name
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: set ENERGYSCAPE_DATA to the folder with images/{name}"
        )
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        for k in np.random.default_rng(0).permutation(len(names))[:count]:
            place = folder / Path(names[k]).parent.name / Path(names[k]).name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(names[k]))


def command(*words: str) -> float:
    """Run ``energyscape``; its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "energyscape", *words], check=True)
    return round(time.perf_counter() - began, 1)


def side_by_side(folder: Path) -> Image.Image:
    """The pictures of a folder in a square, each twice as large."""
    pictures = [np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))[: SIDE**2]]
    rows = [np.concatenate(pictures[i : i + SIDE], 1) for i in range(0, SIDE**2, SIDE)]
    return Image.fromarray(np.concatenate(rows).repeat(2, 0).repeat(2, 1))


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--time", default="8m")
    parser.add_argument("--rows", type=int, default=120, help="pictures that are compared")
    parser.add_argument("--set", nargs="*", default=[], help="settings of edm")
    args = parser.parse_args()
    chosen = [word for setting in args.set for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, test, run, drawn = (str(folder / n) for n in ("train", "test", "run", "drawn"))
        unpack("cifar10_jpg_train.zip", args.train, Path(train))
        unpack("cifar10_jpg_test.zip", args.test, Path(test))
        numbers, page = str(folder / "quality.json"), str(folder / "report.html")
        seconds = {
            "fit": command("fit", train, "--time", args.time, "--out", run, "--seed", "0", *chosen),
            "sample": command("sample", run, "--n", str(SIDE**2), "--out", drawn, "--seed", "1"),
            "evaluate": command("evaluate", run, test, "--rows", str(args.rows), "--out", numbers),
            "report": command("report", run, "--out", page),
        }
        about = json.loads((Path(run) / "manifest.json").read_text())
        record: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)",
            "versions": {p: metadata.version(p) for p in ("energyscape", "torch", "numpy")},
            "pictures": {"train": args.train, "test": args.test},
            "settings": args.set,
            "seconds": seconds,
            "training": {k: about[k] for k in ("steps", "seconds", "parameters", "precision")},
            "quality": json.loads(Path(numbers).read_text())["measures"],
            "report_bytes": Path(page).stat().st_size,
        }
        (HERE / "results" / "colour.json").write_text(json.dumps(record, indent=1) + "\n")
        side_by_side(Path(drawn)).save(HERE / "results" / "colour.png", optimize=True)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
