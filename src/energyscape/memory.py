"""Freed memory stays with the process, so that the next step need not ask the system for it again.

A step of training, or an evaluation of a network, frees all that it has taken. glibc gives much of
that back to the system at once, and each page that is then asked for anew costs a page fault: ten
thousand of them in a step of pictures, a tenth of its time (`benchmarks/freed_memory.py`). Its two
thresholds are set once, when `energyscape` is imported, to the largest that it would choose by itself
for blocks and to 256 MiB for the end of the heap. A process may then hold what it held at its peak, in
blocks of up to 32 MiB that lie below one still in use; where that is too much, GLIBC_TUNABLES (empty,
if nothing else is wanted) leaves it to glibc. Whoever has set one of glibc's variables keeps their
choice, and other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory(trim: int = 256 << 20, mmap: int = 32 << 20) -> bool:
    """Tell glibc to keep up to `trim` bytes at the end of the heap, and blocks up to `mmap` within it.

    Parameters
    ----------
    trim : int
        Bytes, M_TRIM_THRESHOLD of mallopt(3).
    mmap : int
        Bytes, M_MMAP_THRESHOLD of mallopt(3); glibc takes 32 MiB at most.

    Returns
    -------
    bool
        Whether both were taken: False where there is no glibc, and where a variable of the environment
        has chosen already.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))
