"""Freed memory that is kept: page faults of a process that frees and asks for a large block over and over."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from deqrun.experiment.allocator import keep_freed_memory

PAGES = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
BLOCKS = """
import resource, torch
from deqrun.experiment.allocator import keep_freed_memory
{keep}
block = lambda: torch.zeros(2**24) + 1
for _ in range(10):  # until the heap has its size
    block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(keep: str) -> int:
    """Page faults of ten blocks of 64 MiB, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS.format(keep=keep)], check=True, capture_output=True, text=True, env=environment
    )
    return int(done.stdout)


@on_glibc
def test_the_system_clears_no_page_anew() -> None:
    otherwise = faults("")
    assert otherwise > 10 * PAGES  # all pages of each block
    assert faults("assert keep_freed_memory()") < otherwise / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_a_choice_of_the_environment_stands(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False
