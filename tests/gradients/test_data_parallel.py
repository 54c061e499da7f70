"""Equilibria inside DistributedDataParallel: two processes over gloo on the loopback device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.gradients.data_parallel import GRADIENTS, SURROUNDINGS, WORLD, gradients

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or sys.platform != "linux",
    reason="needs gloo and a loopback device named lo",
)


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], list[Tensor]]]:
    """What each process was left with after its backward passes."""
    folder = tmp_path_factory.mktemp("data_parallel")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.gradients.data_parallel", str(rank), str(folder)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.nightly
@pytest.mark.parametrize("where", SURROUNDINGS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_the_average_over_the_processes(
    name: str, where: str, of_ranks: list[dict[tuple[str, str], list[Tensor]]]
) -> None:
    """Each process holds the mean of the gradients that the halves of the batch have in one process."""
    halves = [gradients(name, where, [rank]) for rank in range(WORLD)]
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if where == "autocast" else {"rtol": 1e-10, "atol": 1e-13}
    for found in of_ranks:
        assert len(found[name, where]) == len(halves[0]) == 5
        for actual, *parts in zip(found[name, where], *halves, strict=True):
            torch.testing.assert_close(actual, sum(parts) / WORLD, **tolerance)


@pytest.mark.nightly
@pytest.mark.parametrize("name", GRADIENTS)
def test_they_are_those_of_the_whole_batch(name: str, of_ranks: list[dict[tuple[str, str], list[Tensor]]]) -> None:
    """The halves are of one size, so the mean of their means is the mean over all."""
    for actual, exact in zip(of_ranks[0][name, "plain"], gradients(name, "plain", [0, 1]), strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-9, atol=1e-12)
