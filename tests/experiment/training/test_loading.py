"""Batches are the same whatever brings them, and bringing them draws no random number."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deqrun.datasets import DataUnavailable, Split
from deqrun.errors import Interrupted, UserError
from deqrun.experiment.build import build_dataset, build_deq, order_channels_last
from deqrun.experiment.launch import run_train
from deqrun.experiment.training import train as training
from deqrun.experiment.training.loading import Loaded, shuffled
from deqrun.experiment.training.seeding import generator
from deqrun.records.reading import read_run
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources
from tests.experiment.test_resume import Stop, assert_same_run

SettingsOf = Callable[..., Settings]
CPU = torch.device("cpu")

# Workers are forked, and PyTorch has threads; since Python 3.12 that is warned of.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def images(n: int) -> Split:
    """n pictures as bytes; the label of each is its place."""
    pixels = torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(pixels, torch.arange(n))


def random_states() -> list[object]:
    return [torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("pin_memory", [True, False])
def test_batches_are_the_rows_of_the_split_in_the_order_asked(workers: int, pin_memory: bool) -> None:
    split = images(23)
    batches = shuffled(23, 5, generator(1))
    before = random_states()
    brought = list(Loaded(split, batches, CPU, workers=workers, pin_memory=pin_memory))
    assert random_states() == before
    assert [len(places) for _, _, places in brought] == [5, 5, 5, 5, 3]
    for (inputs, targets, places), asked in zip(brought, batches, strict=True):
        assert torch.equal(places, asked)
        assert torch.equal(targets, asked)
        assert inputs.dtype == torch.uint8
        assert torch.equal(inputs, split.inputs[asked])


def test_an_order_is_a_permutation_drawn_from_its_generator() -> None:
    places = torch.cat(list(shuffled(100, 7, generator(3))))
    assert places.sort().values.tolist() == list(range(100))
    assert torch.equal(places, torch.randperm(100, generator=generator(3)))


def test_a_loop_that_is_left_early_leaves_no_worker() -> None:
    before = len(torch.multiprocessing.active_children())
    batches = iter(Loaded(images(40), shuffled(40, 2, generator(0)), CPU, workers=2, pin_memory=False))
    next(batches)
    assert len(torch.multiprocessing.active_children()) == before + 2
    batches.close()  # type: ignore[attr-defined]
    assert len(torch.multiprocessing.active_children()) == before


class Fragile:
    """Inputs of which one place is not to be had."""

    def __init__(self, how: Callable[[], None]) -> None:
        self.whole, self.how = images(12).inputs, how

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: Tensor) -> Tensor:
        if 7 in index.tolist():
            self.how()
        return self.whole[index]


def unreadable() -> None:
    raise DataUnavailable("seven.png can't be read as a picture; repair it, or take it away.")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def brought(how: Callable[[], None], workers: int) -> list[Tensor]:
    split = Split(Fragile(how), torch.arange(12))  # type: ignore[arg-type]
    places = torch.arange(12).split(4)
    return [index for _, _, index in Loaded(split, places, CPU, workers=workers, pin_memory=False)]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_cannot_be_read_is_its_own_sentence(workers: int) -> None:
    with pytest.raises(UserError, match=r"^seven.png can't be read as a picture; repair it, or take it away.$"):
        brought(unreadable, workers)


def test_a_worker_that_dies_is_told_with_what_helps() -> None:
    with pytest.raises(
        UserError, match=r"^A process that puts batches together died .*train.workers=2 .*train.workers=0"
    ):
        brought(killed, 2)


def test_the_wait_for_batches_is_measured() -> None:
    """A worker that sleeps, and a caller that does nothing: all of the time goes by waiting."""
    split = Split(Fragile(lambda: time.sleep(0.2)), torch.arange(12))  # type: ignore[arg-type]
    loaded = Loaded(split, [torch.tensor([7])] * 3, CPU, workers=0, pin_memory=False)
    assert len(list(loaded)) == loaded.taken == 3
    assert loaded.waited >= 0.6
    assert "wait" in loaded.words()


@pytest.fixture(scope="module")
def plain(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    run_train(settings_of("train.epochs=2", "sweep=none"), folder, "deqrun train")
    return folder


def test_a_run_with_workers_that_was_stopped_equals_one_without(
    settings_of: SettingsOf, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = settings_of("train.epochs=2", "sweep=none", "train.workers=2"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "forward", Stop(training.forward, 7, KeyboardInterrupt()))
        with pytest.raises(Interrupted):
            run_train(settings, folder, "deqrun train")
    assert read_run(folder).status.epoch == 1
    run_train(settings, folder, "deqrun train resume=true")
    assert_same_run(folder, plain)
    assert read_run(folder).summary.config_hash == read_run(plain).summary.config_hash


def convolutional(*overrides: str) -> Settings:
    small = ["model=conv", "model.channels=8", "model.inner_channels=8", "model.groups=4", "train.batch_size=256"]
    quick = ["budget.max_iter=3", "gradient.budget.max_iter=3", "tracker=none", "threads=1", "sweep=none"]
    with open_sources() as sources:
        return load_settings(sources.compose("train", [*small, *quick, *overrides]))


class Seen(list[Tensor]):
    """What the convolutions of a model compute, but for those of a single channel, whose order is the input's."""

    def __init__(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels > 1:
                module.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        self.append(result)


def test_channels_last_computes_the_same() -> None:
    """The same answers and gradients up to rounding; what convolutions give lies in the other order."""
    answers, gradients = [], []
    for channels_last in (False, True):
        settings = convolutional(f"train.channels_last={channels_last}", "budget.tol=0")
        torch.manual_seed(0)
        deq = build_deq(settings, build_dataset(settings)).double()
        x = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        seen = Seen(deq)
        logits, _ = deq(x)
        logits.square().sum().backward()
        assert {result.is_contiguous(memory_format=torch.channels_last) for result in seen} == {channels_last}
        answers.append(logits.detach())
        gradients.append([parameter.grad for parameter in deq.parameters()])
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-9, atol=1e-9)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_only_weights_of_convolutions_are_reordered_and_stay_so() -> None:
    """Their values are what they were, and a checkpoint put into the model changes values alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Conv1d(3, 4, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    order_channels_last(model)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    model.load_state_dict({name: torch.ones(value.shape) for name, value in model.state_dict().items()})
    assert [not p.is_contiguous() for p in model.parameters()] == [True, False, False, False, False, False]
    assert all((parameter == 1).all() for parameter in model.parameters())
