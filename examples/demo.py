"""The main job in one go: learn scikit-learn's digits, draw new ones, find what is no digit.

Run by ``make demo``. Writes ``runs/demo/``: the fitted model, ``samples.png`` and ``report.html``.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from energyscape import detection, metrics
from energyscape.data import as_dataset, load
from energyscape.families import EDM
from energyscape.families import Progress as Step
from energyscape.report import build, save_picture_grid

OUT = Path("runs/demo")
SECONDS = 50.0


def strangers(digits: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pictures of the same size that are no digits, 60 of each kind."""
    some = digits[rng.choice(len(digits), 60, replace=False)]
    flat = some.reshape(len(some), -1)
    iris = np.kron(rng.integers(0, 17, (60, 4, 4, 1)), np.ones((1, 2, 2, 1))).astype(np.uint8)
    return {
        "digits with their pixels shuffled": rng.permuted(flat, axis=1).reshape(some.shape),
        "digits turned into their negatives": (16 - some).astype(np.uint8),
        "digits shifted three pixels aside": np.roll(some, 3, axis=2),
        "two digits in one picture": np.maximum(some, digits[rng.choice(len(digits), 60)]),
        "coarse random blocks": iris,
        "uniform noise": rng.integers(0, 17, some.shape).astype(np.uint8),
    }


def main() -> int:
    console = Console()
    began = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    data = load("digits")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))
    held_out = data.data[order[:300]]
    train = np.asarray(data.data[order[300:]])
    console.print(f"{len(train)} digits of 8 x 8 pixels to learn from, {len(held_out)} held out")

    model = EDM(time_limit=SECONDS, random_state=0)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("learning their distribution", note="")

        def show(p: Step) -> None:
            loss = "" if p.loss is None else f", loss {p.loss:.3f}"
            note = f"{p.phase} {p.step}/{p.total}{loss}, {p.speed:.0f}/s"
            bar.update(task, completed=p.step, total=p.total, note=note)

        model.fit_run(
            as_dataset(train, name="digits"), OUT, progress=show, source={"source": "digits"}
        )

    samples = np.asarray(model.sample(100, random_state=1))
    save_picture_grid(
        (samples * 15.9375).astype(np.uint8), OUT / "samples.png", columns=20, smallest=1000
    )

    rows = {"held-out digits": held_out, **strangers(held_out, rng)}
    console.print("\nWhat does not belong? Share of pictures flagged at a 5 % false-alarm rate,")
    console.print("and AUROC against the held-out digits (0.5 = cannot tell, 1 = always can):")
    normal = model.anomaly_score(held_out)
    for name, pictures in rows.items():
        flagged = float((model.predict(pictures) == -1).mean())
        line = f"  {name:38s} {flagged:6.1%}"
        if name != "held-out digits":
            scores = model.anomaly_score(pictures)
            truth = np.r_[np.zeros(len(normal)), np.ones(len(scores))]
            line += f"   AUROC {metrics.auroc(truth, np.r_[normal, scores]):.3f}"
        console.print(line, highlight=False)
    smallest = detection.smallest_p_value(len(model.calibration_["anomaly_scores"]))
    console.print(f"  (smallest p-value that {OUT} can give: {smallest:.4f})", highlight=False)

    build(OUT, OUT / "report.html")
    console.print(f"\ndone in {time.perf_counter() - began:.0f} seconds", highlight=False)
    console.print(f"new digits    {OUT / 'samples.png'}", highlight=False)
    console.print(f"the report    {OUT / 'report.html'}", highlight=False)
    console.print("try next      .venv/bin/energyscape inspect YOUR.csv", highlight=False)
    console.print(
        "              .venv/bin/energyscape fit YOUR.csv --out runs/mine", highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
