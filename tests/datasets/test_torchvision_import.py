"""torchvision can be imported beside a torch that lacks its operators; those that are there are left alone.

Each case is a process of its own. A stand-in on the path behaves as torchvision does in the case that this machine is
not: its import describes `nms` and `qnms`, which fails unless somebody has declared them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DESCRIBES = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets.new_empty(1)

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets.new_empty(2)
"""

COMPUTES = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.impl("nms", lambda dets, scores, iou_threshold: dets + scores, "CPU")
"""

DESCRIBED = """
from deqrun.datasets.torchvision_import import torchvision_datasets
import torch
assert torchvision_datasets().MARK == 1
on_no_device = torch.ops.torchvision.nms(torch.empty(3, device="meta"), torch.empty(3, device="meta"), 0.5)
assert on_no_device.shape == (1,)
"""


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, root)))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """The folder of a package torchvision with an empty module datasets; its import is yet to be written."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "datasets.py").write_text("MARK = 1\n")
    return tmp_path


@pytest.mark.nightly
def test_the_installed_torchvision_can_be_imported() -> None:
    done = run(
        "from deqrun.datasets.torchvision_import import torchvision_datasets, torchvision_functional\n"
        "assert torchvision_datasets().CIFAR10.base_folder == 'cifar-10-batches-py'\n"
        "import torch\n"
        "assert torchvision_functional().horizontal_flip(torch.tensor([[1, 2]])).tolist() == [[2, 1]]\n"
        "import torchvision\n"  # by anybody else, afterwards
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_missing_operators_are_declared(stand_in: Path) -> None:
    (stand_in / "torchvision" / "__init__.py").write_text(DESCRIBES)
    alone = run("import torchvision", stand_in)
    assert "operator torchvision::nms does not exist" in alone.stderr
    done = run(DESCRIBED, stand_in)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_operators_that_exist_are_left_alone(stand_in: Path) -> None:
    """nms is there and computes, qnms is not: only qnms is declared, and nms still computes."""
    (stand_in / "torchvision" / "computes.py").write_text(COMPUTES)
    (stand_in / "torchvision" / "__init__.py").write_text(f"from torchvision import computes\n{DESCRIBES}")
    computed = "one = torch.ones(2)\nassert torch.ops.torchvision.nms(one, one, 0.5).tolist() == [2.0, 2.0]\n"
    done = run(DESCRIBED + computed, stand_in)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_another_failure_is_told_as_it_is(stand_in: Path) -> None:
    (stand_in / "torchvision" / "__init__.py").write_text("raise RuntimeError('no such version')")
    done = run("from deqrun.datasets.torchvision_import import torchvision_datasets as f; f()", stand_in)
    assert done.stderr.strip().endswith("RuntimeError: no such version")
