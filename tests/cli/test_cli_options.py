"""Words of the command line read into values, and failures turned into exit codes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import typer

from energyscape.cli import ending
from energyscape.cli.console import Bar
from energyscape.cli.ending import main
from energyscape.cli.failures import BadInput, State
from energyscape.cli.options import refuse_existing, to_pairs, to_seconds, to_size


@pytest.mark.parametrize(
    "text, seconds",
    [("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("1h30m", 5400.0), ("0.5m", 30.0), ("7", 7.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert to_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5 minutes", "m", "-5m", "0s", "1d", "5m!"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="--time"):
        to_seconds(text)


@pytest.mark.parametrize("text", ["28 by 28", "0x5", "x", "-2x3", "2x3x4"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="--size"):
        to_size(text)


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a=1", "a=2"]])
def test_pairs_that_are_none(words: list[str]) -> None:
    with pytest.raises(BadInput, match="--set"):
        to_pairs(words, "--set", "KEY=VALUE")


def test_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    file, full, empty = tmp_path / "a.csv", tmp_path / "full", tmp_path / "empty"
    file.write_text("x")
    full.mkdir()
    empty.mkdir()
    (full / "b").write_text("x")
    for path, folder, says in [
        (file, False, "exists"),
        (full, False, "is a folder"),
        (file, True, "is a file"),
        (full, True, "exists"),
        (tmp_path / "no" / "a.csv", False, "no folder"),
    ]:
        with pytest.raises(BadInput, match=says):
            refuse_existing(path, overwrite=False, folder=folder)
    refuse_existing(file, overwrite=True)
    refuse_existing(full, overwrite=True, folder=True)
    refuse_existing(empty, overwrite=False, folder=True)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, module: str) -> None:
    """Make ``energyscape models`` fail with ``error``, raised from a module of that name."""
    scope = {"__name__": module, "error": error}
    exec("def run() -> None:\n    raise error", scope)
    broken = typer.Typer()
    broken.callback()(lambda: None)
    broken.command("models")(scope["run"])
    monkeypatch.setattr("energyscape.cli.ending.app", broken)


@pytest.mark.parametrize(
    "error, module, code, says",
    [
        (ValueError("column 'a' is\nmissing"), "energyscape.data", 2, "column 'a' is missing"),
        (RuntimeError("diverged at 3"), "energyscape.training", 1, "the run failed: diverged at 3"),
        (OSError(28, "No space left on device", "x.csv"), "polars", 2, "x.csv: No space left"),
        (MemoryError(), "torch", 1, "not enough memory"),
        (KeyboardInterrupt(), "torch", 130, "stopped"),
    ],
)
def test_foreseen_failures_are_one_line(  # type: ignore[no-untyped-def]
    monkeypatch, capsys, error, module, code, says
) -> None:
    failing(monkeypatch, error, module)
    assert main(["models"]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("shape"), RuntimeError("x"), KeyError("k")])
def test_unforeseen_failures_leave_their_traceback_in_a_file(  # type: ignore[no-untyped-def]
    monkeypatch, capsys, tmp_path, error
) -> None:
    monkeypatch.setattr(ending.tempfile, "tempdir", str(tmp_path))
    failing(monkeypatch, error, "elsewhere")
    assert main(["models"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"energyscape: unexpected {type(error).__name__}")
    assert err.count("\n") == 1
    (log,) = tmp_path.glob("energyscape-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_debug_shows_the_traceback(cli) -> None:  # type: ignore[no-untyped-def]
    ended = cli("--debug", "inspect", "no-such-data")
    assert ended.code == 2
    assert "Traceback" in ended.err


def test_the_command_to_go_on_with_is_exact() -> None:
    state = State(["fit", "my data.csv", "--out", "r", "--overwrite", "--quiet"])
    again = state.command(add=["--resume"], leave_out=["--overwrite"])
    assert again == "energyscape fit 'my data.csv' --out r --quiet --resume"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_shows_speed_and_time_left(monkeypatch, quiet) -> None:  # type: ignore[no-untyped-def]
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    clock = iter(range(1000))
    monkeypatch.setattr("energyscape.cli.console.time.monotonic", lambda: float(next(clock)))
    with Bar(quiet=quiet) as bar:
        assert [len(part) for part in bar.over("scoring", ["ab", "cd"])] == [2, 2]
    shown = screen.getvalue()
    assert ("scoring" in shown and "/s" in shown and "left" in shown) is not quiet


def test_logs_get_a_line_now_and_then(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("energyscape.cli.console.time.monotonic", lambda: float(next(clock)))
    with Bar() as bar:
        list(bar.over("scoring", ["ab"] * 20))
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 20
    assert all(line.startswith("scoring ") and line.endswith("left") for line in lines)
