"""Waits of the host in real training steps and sweeps on the pretend device, for tests and `scripts/host_waits.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from deqrun.datasets import Dataset, Split
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer
from deqrun.experiment.sweep import trace as sweep_trace
from deqrun.experiment.sweep.grid import sweep
from deqrun.experiment.sweep.parts import SweepParts
from deqrun.experiment.trackers import NoTracker
from deqrun.experiment.training import train as training
from deqrun.gradients import gradient, implicit
from deqrun.records.writing import RunFolder
from deqrun.settings import Settings, load_settings
from deqrun.solvers import Solution, solve
from tests.pretend_device import install, waits

CONFIGS = Path(__file__).parents[2] / "configs"

SMALL = ["tracker=none", "threads=1", "train.batch_size=16", "train.epochs=1"]

IMAGES = ["dataset=digits"]
CASES: dict[str, list[str]] = {
    "mlp": ["model=mlp", *IMAGES],
    "conv": ["model=conv", *IMAGES],
    "mdeq": ["model=mdeq", *IMAGES],
    "mdeq_large": ["model=mdeq_large", *IMAGES],
    "monotone": ["model=monotone", *IMAGES],
    "monotone_conv": ["model=monotone_conv", *IMAGES],
    "recall": ["model=recall", "dataset=prefix_sums"],
    "trm_small": ["model=trm_small", "dataset=sudoku"],
    "eqr_small": ["model=eqr_small", "dataset=sudoku"],
    "fprm_small": ["model=fprm_small", "dataset=sudoku"],
    "looped_lm": ["model=looped_lm", "model.width=32", "dataset=prefix_sums"],
    "transformer": ["model=transformer", "dataset=copy_memory"],
}
"""Every model, by its default config, on data that need no download."""

SLIM = {
    "mlp": ["model.width=24"],
    "conv": ["model.channels=8", "model.inner_channels=8", "model.groups=4"],
    "mdeq": ["model.channels=[8,8]", "model.final_channels=16", "model.head_channels=[4,4]", "model.groups=4"],
    "mdeq_large": ["model.channels=[8,8,8,8]", "model.final_channels=16", "model.head_channels=[4,4,4,4]"],
    "monotone": ["model.width=24"],
    "monotone_conv": ["model.channels=4"],
    "recall": ["model.width=16"],
    "transformer": ["model.width=16", "model.heads=2", "model.inner=16", "dataset.blanks=4", "model.dropout=0.1"],
    "trm_small": ["model.width=16", "model.heads=2", "model.recursions=1", "model.layers=1", "model.prefix=1"],
    "eqr_small": ["model.width=16", "model.heads=2"],
    "fprm_small": ["model.width=16", "model.heads=2"],
    "looped_lm": ["model.width=16", "model.heads=2", "model.prelude=0", "model.coda=0", "dataset.length=8"],
}
"""Every model, so small that a step on the pretend device takes little."""


def settings_of(*overrides: str) -> Settings:
    """Settings of a training run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_settings(compose("train", [*SMALL, *overrides], return_hydra_config=True))


class Few(Dataset):
    """The first samples of another data set."""

    def __init__(self, whole: Dataset, samples: int) -> None:
        self.whole, self.samples = whole, samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def load(self, split: str) -> Split:
        whole = self.whole.load(split)
        return Split(whole.inputs[: self.samples], whole.targets[: self.samples])


for _name in ("difficulty", "classes", "by_content", "repeats", "output_shape"):
    setattr(Few, _name, property(lambda self, name=_name: getattr(self.whole, name)))
for _name in ("encode", "augment", "augment_pair", "loss", "asked", "correct", "memory"):
    setattr(Few, _name, property(lambda self, name=_name: getattr(self.whole, name)))


@dataclass
class StepWaits:
    """Waits of one training step: within its solves, and beside them; steps are those that the solves made."""

    forward_steps: int = 0
    forward_waits: int = 0
    adjoint_steps: int = 0
    adjoint_waits: int = 0
    total: int = 0

    @property
    def beside(self) -> int:
        return self.total - self.forward_waits - self.adjoint_waits


class _EnoughSteps(Exception):  # noqa: N818  (nothing is wrong)
    pass


def training_waits(overrides: list[str], steps: int = 3) -> list[StepWaits]:
    """The waits of the first steps of a training run; of each from its beginning to the next one's."""
    found: list[StepWaits] = []
    begun: list[int] = []

    def begin(*arguments: Any) -> Any:
        if found:
            found[-1].total = waits.total() - begun[-1]
        if len(found) == steps:
            raise _EnoughSteps
        found.append(StepWaits())
        begun.append(waits.total())
        return forward(*arguments)

    def watched(name: str) -> Callable[..., Solution]:
        def call(*arguments: Any, **keywords: Any) -> Solution:
            before = waits.total()
            solution = solve(*arguments, **keywords)
            taken = waits.total() - before
            setattr(found[-1], f"{name}_waits", getattr(found[-1], f"{name}_waits") + taken)
            made = len(solution.residuals) - 1
            setattr(found[-1], f"{name}_steps", getattr(found[-1], f"{name}_steps") + made)
            return solution

        return call

    forward = training.forward
    settings = settings_of(*overrides)
    with (
        patch.object(training, "forward", begin),
        patch.object(gradient, "solve", watched("forward")),
        patch.object(implicit, "solve", watched("adjoint")),
    ):
        try:
            train_small(settings, install(), 16 * (steps + 2))
        except _EnoughSteps:
            return found
    raise AssertionError("The run ended before it had taken its steps.")


def train_small(settings: Settings, device: torch.device, samples: int, folder: Path | None = None) -> Any:
    """Train on the first samples of the data, by the run's own loop."""
    import tempfile

    dataset = Few(build_dataset(settings), samples)
    torch.manual_seed(settings.seed)
    deq = build_deq(settings, dataset).to(device)
    optimizer = build_optimizer(settings, deq)
    with tempfile.TemporaryDirectory() as spare:
        place = RunFolder(folder or Path(spare))
        done = training.train(deq, dataset, optimizer, settings.train, settings.seed, place, NoTracker())
    return deq, dataset, done


@dataclass
class SweepWaits:
    """Waits of a sweep, and the steps that its solves made, until the host knew that no sample went on."""

    waits: int
    steps: int


def sweep_waits(overrides: list[str], folder: Path, samples: int = 32) -> SweepWaits:
    """The waits of a sweep of untrained weights over the first samples of the test split."""
    settings = settings_of(*overrides, "sweep.splits=[test]")
    dataset = Few(build_dataset(settings), samples)
    torch.manual_seed(settings.seed)
    deq = build_deq(settings, dataset).to(install())
    taken = 0

    def watched(*arguments: Any, **keywords: Any) -> Solution:
        nonlocal taken
        solution = solve(*arguments, **keywords)
        taken += len(solution.residuals) - 1
        return solution

    before = waits.total()
    with patch.object(sweep_trace, "solve", watched):
        sweep(settings, deq, dataset, SweepParts(folder, "measured"))
    return SweepWaits(waits.total() - before, taken)
