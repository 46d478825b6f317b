"""Every code block of the documentation and of the README runs as it is written.

The Python blocks of one page share a namespace, in the order of the page; bash blocks run in the
same temporary directory with `energyscape` on the path. Blocks marked ``text`` are only read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = {"python", "bash"}
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(m[1].strip(), m[2], text.count("\n", 0, m.start(2)) + 1)
        for m in _FENCE.finditer(text)
    ]


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> None:
    # Line numbers of a traceback are those of the page.
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    exec(code, namespace)


def run_bash(block: Block, page: Path, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (
        f"{page.name} line {block.line}: exit code {done.returncode}\n{block.code}\n"
        f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks_of(page):
            if block.language == "python":
                run_python(block, page, namespace)
            elif block.language == "bash":
                run_bash(block, page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    known = RUNNABLE | {"text", "toml"}
    unknown = [(b.line, b.language) for b in blocks_of(page) if b.language not in known]
    assert not unknown, f"blocks are marked {sorted(known)}; found (line, mark) {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    local = [t.split("#")[0] for t in _LINK.findall(prose) if "://" not in t]
    missing = [t for t in local if t and not (page.parent / t).exists()]
    assert not missing, f"{name_of(page)} links to {missing}"


def test_every_theory_page_ends_in_a_check_with_an_assertion() -> None:
    for page in sorted((ROOT / "docs" / "theory").glob("*.md")):
        last = [b for b in blocks_of(page) if b.language == "python"][-1:]
        assert last, f"{page.name} has no numerical check"
        assert "assert " in last[0].code, f"{page.name}: the check asserts nothing"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert listed == pages
