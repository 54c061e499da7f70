"""The examples that `deqrun new` writes. NAME is the part's name, CLASS its class."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TEMPLATES", "Template"]


class Template(NamedTuple):
    """One kind of example: the group of its option, the texts of its files, and the command to run next."""

    group: str
    code: str
    option: str
    test: str
    next: str


CELL = '''\
"""A cell of one's own: f(z; x) = tanh(W z + U x). docs/models.md, 'A cell of your own', says what a cell must do."""

import math

import torch
from torch import nn

from deqrun.models import Cell


class CLASS(Cell):
    def __init__(self, *, input_shape, num_classes, width=64):
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        self.state_shape = (width,)
        self.encoder = nn.Linear(math.prod(input_shape), width)
        self.recur = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def inject(self, x):
        """Once per solve: features of x, and in training all that is random."""
        return (self.encoder(x.flatten(1)),)

    def forward(self, z, injection):
        """One evaluation of f(z; x); each row by itself."""
        return torch.tanh(self.recur(z) + injection[0])

    def readout(self, z):
        """Logits."""
        return self.head(z)
'''

CELL_TEST = """\
import torch

from deqrun.contracts import check_cell
from NAME import CLASS


def test_the_cell_keeps_the_contract():
    cell = CLASS(input_shape=(1, 8, 8), num_classes=10)
    found = check_cell(cell, torch.randn(3, 1, 8, 8), "train.jacobian_weight=0.5")
    assert [finding.fault for finding in found if finding.fault] == []
"""

DATASET = '''\
"""A data set of one's own: is the sum of a vector above 0? docs/datasets.md says what a data set must do."""

import torch

from deqrun.datasets import SPLITS, Dataset, Split, stratified_split


class CLASS(Dataset):
    name = "NAME"
    input_shape = (1, 16)
    num_classes = 2
    classes = ("below", "above")

    def __init__(self, *, n=600, split_seed=0):
        generator = torch.Generator().manual_seed(split_seed)
        self.inputs = torch.randn(n, *self.input_shape, generator=generator)  # or read from a file
        self.targets = (self.inputs.sum((1, 2)) > 0).long()
        self.places = stratified_split(self.targets.numpy(), (0.6, 0.2, 0.2), split_seed)

    def load(self, split):
        """The samples of 'train', 'validation' or 'test'; the splits share none."""
        places = self.places[SPLITS.index(split)]
        return Split(self.inputs[places], self.targets[places])
'''

DATASET_TEST = """\
from deqrun.contracts import check_data
from NAME import CLASS


def test_the_data_set_keeps_the_contract():
    assert [finding.fault for finding in check_data(CLASS) if finding.fault] == []
"""

SOLVER = '''\
"""A solver of one's own: plain iteration that takes a share of each step. docs/solvers.md says what a solver is."""

from dataclasses import dataclass

from deqrun.solvers import Solver


@dataclass(frozen=True)
class CLASS(Solver):
    damping: float = 0.8

    def init(self, z):
        """The memory before the first step: nothing."""
        return None

    def step(self, state, point):
        """Iterate k+1 (rows, D) from iterate k: point.z, point.fz = f(z) and point.g = fz - z."""
        return point.z + self.damping * point.g
'''

SOLVER_TEST = """\
import torch

from deqrun.solvers import Budget, solve
from NAME import CLASS


def test_the_solver_finds_the_fixed_point_of_a_line():
    solution = solve(lambda z: 0.5 * z + 1, torch.zeros(3, 1), solver=CLASS(), budget=Budget(max_iter=100, tol=1e-6))
    assert torch.allclose(solution.z, torch.full((3, 1), 2.0), atol=1e-4)
"""

STUDY = """\
# @package _global_
# A study of one's own: does training to a looser tolerance change what a model can do with more iterations?
# docs/studies.md says what else a study can ask.
defaults:
  - override /model: mlp
  - override /dataset: digits
  - override /sweep: quick
  - override /tracker: none

name: NAME
train:
  epochs: 5
budget:
  tol: 1e-2
"""

TEMPLATES = {
    "cell": Template(
        "model",
        CELL,
        "_target_: NAME.CLASS\nwidth: 64\n",
        CELL_TEST,
        "deqrun train --config-dir {folder} model={name} train.epochs=5",
    ),
    "dataset": Template(
        "dataset",
        DATASET,
        "_target_: NAME.CLASS\nn: 600\nsplit_seed: 0\n",
        DATASET_TEST,
        "deqrun train --config-dir {folder} dataset={name} model=mlp train.epochs=5",
    ),
    "solver": Template(
        "solver",
        SOLVER,
        "_target_: NAME.CLASS\ndamping: 0.8\n",
        SOLVER_TEST,
        "deqrun train --config-dir {folder} solver={name} model=mlp train.epochs=5",
    ),
    "study": Template("study", "", STUDY, "", "deqrun train --config-dir {folder} study={name}"),
}
