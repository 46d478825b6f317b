"""Every command of the README's table section on CSV files that nobody prepared.

    python benchmarks/unprepared.py [--files NAME ...] [--rows 1000000]

Each file is written here, from one generator with a fixed seed, the way such files turn up:

    semicolons     decimal commas, points between thousands, dates day first, percent signs
    marked         a byte-order mark, Windows line ends, spaces around names and values, tabs
    encodings      lines in UTF-8 among lines in Windows-1252
    newlines       quoted fields with line ends, separators and doubled quotes in them
    blanks         six spellings of nothing, an empty column, a constant one, names twice and missing
    wide           2,000 columns, numbers and names, 400 rows
    rare           a million rows, one of which has a name of its own

On each: inspect, fit (edm, briefly), sample, score of what was drawn, evaluate, report, fit of the
anomaly model, score with flagged rows. Told are the seconds, the peak memory, and every command that
failed with what it said; of what was drawn, whether it reads as the original does, column for column,
and (``rare``) how often the one name was drawn. Writes ``results/unprepared.json``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from energyscape.data import load

OUT = Path(__file__).parent / "results" / "unprepared.json"
TOWNS = ["Zürich", "Genève", "Łódź", "São Paulo", "Bern", "Köln"]
Rows = list[list[str]]


def people(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns that go together: age, income with age, a town, a day, a share."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, n)
    income = np.exp(7 + 0.02 * age + 0.4 * rng.normal(size=n)).round(2)
    town = rng.choice(len(TOWNS), n, p=[0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
    day = np.datetime64("2019-01-01") + rng.integers(0, 2000, n)
    return {
        "age": age, "income": income, "town": town, "day": day, "share": rng.beta(2, 5, n).round(3),
        "member": rng.random(n) < 0.3 + 0.3 * (town == 0),
    }  # fmt: skip


def written(rows: Rows, **how: Any) -> str:
    """Rows as a CSV text."""
    text = io.StringIO()
    csv.writer(text, **how).writerows(rows)
    return text.getvalue()


def semicolons(path: Path) -> None:
    """As a German spreadsheet saves it."""
    p = people(1500)
    rows = [["Alter", "Einkommen (€)", "Ort", "Tag", "Anteil", "Mitglied"]]
    for i in range(1500):
        income = f"{p['income'][i]:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")
        share = f"{100 * p['share'][i]:.1f}".replace(".", ",") + " %"
        day = p["day"][i].item().strftime("%d.%m.%Y")
        member = "ja" if p["member"][i] else "nein"
        rows.append([str(p["age"][i]), income, TOWNS[p["town"][i]], day, share, member])
    path.write_text(written(rows, delimiter=";"), encoding="utf-8")


def marked(path: Path) -> None:
    """As a Windows program exports it."""
    p = people(1500, 1)
    rows = [[" age ", "income", "town ", "day", "member"]]
    for i in range(1500):
        day = p["day"][i].item().strftime("%m/%d/%Y")
        rows.append(
            [f" {p['age'][i]}", f"{p['income'][i]} ", f"{TOWNS[p['town'][i]]}  ", day,
             "TRUE" if p["member"][i] else "FALSE"]
        )  # fmt: skip
    text = written(rows, delimiter="\t", lineterminator="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))


def encodings(path: Path) -> None:
    """Two exports appended to one another, of two programs."""
    p = people(1500, 2)
    lines = [b"age,income,town,member\n"]
    for i in range(1500):
        line = f"{p['age'][i]},{p['income'][i]},{TOWNS[p['town'][i] % 2]},{int(p['member'][i])}\n"
        lines.append(line.encode("utf-8" if i < 900 else "cp1252"))
    path.write_bytes(b"".join(lines))


def newlines(path: Path) -> None:
    """Remarks that people typed."""
    p = people(1500, 3)
    remarks = ["fine", "late,\nthen paid", 'said "no"', "", "two\r\nlines; and more"]
    rows = [["age", "income", "remark, if any", "note\nof two lines"]]
    rng = np.random.default_rng(3)
    for i in range(1500):
        remark = remarks[rng.integers(len(remarks))]
        rows.append([str(p["age"][i]), str(p["income"][i]), remark, f"row {i}: {remark}"])
    path.write_text(written(rows, quoting=csv.QUOTE_MINIMAL), encoding="utf-8", newline="")


def blanks(path: Path) -> None:
    """Columns and cells that are not there."""
    p, rng = people(1500, 4), np.random.default_rng(4)
    marks = ["", "NA", "n/a", "null", "-", "?"]
    rows = [["id", "age", "age", "", "constant", "empty", "town", "seldom"]]
    for i in range(1500):
        row = [
            f"A{i:05d}", str(p["age"][i]), str(p["income"][i]), f"{p['share'][i]:.3e}", "1", "",
            TOWNS[p["town"][i]], "yes" if rng.random() < 0.02 else "",
        ]  # fmt: skip
        for j in (1, 2, 6):
            if rng.random() < 0.1:
                row[j] = marks[rng.integers(len(marks))]
        rows.append(row)
    path.write_text(written(rows), encoding="utf-8")


def wide(path: Path) -> None:
    """2,000 columns, a tenth of them names, all moved by five things."""
    rng, n = np.random.default_rng(5), 400
    common = rng.normal(size=(n, 5))
    columns = common @ rng.normal(size=(5, 2000)) + rng.normal(size=(n, 2000))
    rows: Rows = [[f"x{j}" for j in range(2000)]]
    for row in columns:
        rows.append(
            [("abc"[int(abs(v)) % 3] if j % 10 == 0 else f"{v:.4g}") for j, v in enumerate(row)]
        )
    path.write_text(written(rows), encoding="utf-8")


def rare(path: Path, n: int) -> None:
    """A name that stands once in a million rows."""
    p = people(n, 6)
    town = np.array(TOWNS, dtype=object)[p["town"]]
    town[n // 3] = "Timbuktu"
    with path.open("w", encoding="utf-8") as file:
        file.write("age,income,town\n")
        for a, i, t in zip(p["age"], p["income"], town, strict=True):
            file.write(f"{a},{i},{t}\n")


def commands(file: Path, folder: Path) -> list[list[str]]:
    """The README's, in its order."""
    usual, run = str(folder / "usual"), str(folder / "run")
    drawn = str(folder / "drawn.csv")
    return [
        ["inspect", str(file)],
        ["fit", str(file), "--out", run, "--set", "max_steps=200"],
        ["sample", run, "--n", "500", "--out", drawn],
        ["score", run, drawn, "--out", str(folder / "scores.csv")],
        ["evaluate", run, str(file)],
        ["report", run],
        ["fit", str(file), "--model", "anomaly", "--out", usual],
        ["score", usual, drawn, "--out", str(folder / "odd.csv"), "--fdr", "0.05"],
    ]


def ran(arguments: list[str]) -> dict[str, Any]:
    """One command: what it returned, said last, took and held."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "energyscape", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    told: dict[str, Any] = {
        "command": " ".join([arguments[0], *(["anomaly"] if "anomaly" in arguments else [])]),
        "code": done.returncode,
        "seconds": round(time.perf_counter() - began, 1),
    }
    if done.returncode:
        told["said"] = (done.stderr or done.stdout).strip()[-600:]
    if "Traceback" in done.stderr + done.stdout:
        told["traceback"] = True
    return told


def alike(file: Path, drawn: Path) -> dict[str, Any]:
    """Whether what was drawn reads as the original does."""
    first, second = load(file), load(drawn)
    assert first.schema is not None
    assert second.schema is not None
    kinds = {c.name: c.kind for c in first.schema.columns if c.modelled}
    found = {c.name: c.kind for c in second.schema.columns}
    other = {n: [k, found.get(n)] for n, k in kinds.items() if found.get(n) != k}
    return {"modelled": len(kinds), "read otherwise": dict(list(other.items())[:10])}


def main() -> None:
    """Write the files, run the commands, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    makers: dict[str, Callable[[Path], None]] = {
        f.__name__: f for f in (semicolons, marked, encodings, newlines, blanks, wide)
    }
    parser.add_argument("--files", nargs="+", default=[*makers, "rare"], choices=[*makers, "rare"])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the file of that many rows")
    args = parser.parse_args()
    makers["rare"] = lambda path: rare(path, args.rows)
    known = json.loads(OUT.read_text())["files"] if OUT.exists() else {}
    for name in args.files:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            file = folder / f"{name}.csv"
            makers[name](file)
            told = [ran(command) for command in commands(file, folder)]
            record: dict[str, Any] = {
                "megabytes": round(file.stat().st_size / 1e6, 2),
                "commands": told,
            }
            drawn = folder / "drawn.csv"
            if drawn.exists():
                record |= alike(file, drawn)
                if name == "rare":
                    record["Timbuktu drawn of 500"] = drawn.read_text().count("Timbuktu")
        failed = [c for c in told if c["code"] or "traceback" in c]
        print(name, failed or "all ran", json.dumps(record)[:1500], flush=True)
        known[name] = record
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        out = {
            "date": datetime.date.today().isoformat(),
            "machine": platform.machine(),
            "energyscape": metadata.version("energyscape"),
            "peak GiB of any command": round(peak, 2),
            "files": known,
        }
        OUT.write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
