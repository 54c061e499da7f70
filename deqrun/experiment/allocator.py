"""The C library's allocator, set up for tensors that come and go at the same sizes."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""

CHOSEN_BY = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Environment variables by which whoever started the process has chosen an allocator, or how it behaves."""


def release_freed_memory() -> None:
    """Hand freed memory back to the system, between solves; nothing where `keep_freed_memory` keeps none.

    Rows that leave a batch make tensors of ever new sizes. So the heap gets holes into which the next tensors do not
    fit, and grows with every solve.
    """
    if _is_ours() and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones; False where it isn't glibc's, or was chosen.

    By default glibc hands blocks of 32 MiB and more, and what is free at the top of its heap, back to the system at
    once. An iteration frees and asks for the same blocks at every step, and each time the system clears every page of
    them anew: on states of 17 MB that took a quarter of the time of an evaluation (docs/cli.md). The process then holds
    its peak until `release_freed_memory`.
    """
    if not _is_ours():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(name, value) for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    )


def _is_ours() -> bool:
    """Whether the allocator is glibc's, and nobody else has set it up."""
    return not any(name.startswith(CHOSEN_BY) for name in os.environ) and platform.libc_ver()[0] == "glibc"
