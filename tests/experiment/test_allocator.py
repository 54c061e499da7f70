"""Freed memory that is kept, and handed back: page faults and resident memory of a process of its own."""

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
for _ in range(4):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(keep: str) -> int:
    """Page faults of four blocks of 64 MiB, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS.format(keep=keep)], check=True, capture_output=True, text=True, env=environment
    )
    return int(done.stdout)


@pytest.mark.nightly
@on_glibc
def test_the_system_clears_no_page_anew() -> None:
    otherwise = faults("")
    assert otherwise > 4 * PAGES  # all pages of each block
    assert faults("assert keep_freed_memory()") < otherwise / 10


HOLES = """
import os, torch
from deqrun.experiment.allocator import keep_freed_memory, release_freed_memory
assert keep_freed_memory()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, blocks, kept = resident(), [], []
for _ in range(16):  # a small tensor behind each large one, so that the top of the heap stays in use
    blocks.append(torch.zeros(2**22) + 1)
    kept.append(torch.zeros(2**14) + 1)
blocks.clear()
held = resident() - before
os.environ["MALLOC_ARENA_MAX"] = "1"
release_freed_memory()  # somebody's choice stands
untouched = resident() - before
del os.environ["MALLOC_ARENA_MAX"]
release_freed_memory()
print(held, untouched, resident() - before)
"""


@pytest.mark.nightly
@on_glibc
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc tells of resident memory")
def test_holes_between_tensors_are_handed_back() -> None:
    """16 blocks of 16 MiB: held where they lie, also where the environment has a choice, and gone after the release."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True, env=environment)
    held, untouched, left = map(int, done.stdout.split())
    assert min(held, untouched) > 15 * 2**24
    assert left < 2 * 2**24


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_a_choice_of_the_environment_stands(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False
