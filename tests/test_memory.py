"""Freed memory stays with the process, unless its user has chosen for themselves."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from energyscape import memory

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"

ROUNDS = """
import ctypes, resource, energyscape
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def step():
    blocks = [libc.malloc(8 << 20) for _ in range(5)]
    for block in blocks:
        libc.memset(block, 1, 8 << 20)
    for block in blocks:
        libc.free(block)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> int:
    """Page faults of ten steps that take 40 MiB each, in a process of its own."""
    usual = {k: v for k, v in os.environ.items() if k not in memory._VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS],
        env=usual | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="thresholds of glibc")
def test_a_step_asks_the_system_for_nothing_that_the_last_one_freed() -> None:
    """A page is a fault: 10,240 a step of 4 KiB where memory goes back, twenty of huge ones; next to
    none where it stays."""
    kept, usual = faults(), faults(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert usual > 20 * kept + 50


def test_who_has_chosen_keeps_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not memory.keep_freed_memory()


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
