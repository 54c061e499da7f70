"""The learning rate against the step: closed forms, and PyTorch's own scheduler as a second source."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from deqrun.experiment.training.train import learning_rate_factor
from deqrun.settings import Settings

SettingsOf = Callable[..., Settings]


def test_steps_fall_where_pytorchs_multistep_schedule_falls(settings_of: SettingsOf) -> None:
    """The published recipe of prefix sums: 150 epochs of 100 steps, a tenth of the rate from epochs 60 and 100 on."""
    total = 15_000
    published = ("train.schedule=steps", "train.milestones=[0.4,0.6667]", "train.warmup_fraction=0")
    factor = learning_rate_factor(settings_of(*published).train, total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[6000, 10_000], gamma=0.1)
    for step in range(total):
        if step < 1 or abs(step - 10_000) > 1:  # 0.6667 is not two thirds
            assert factor(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps"])
def test_every_schedule_warms_up_linearly_and_then_never_rises(settings_of: SettingsOf, schedule: str) -> None:
    settings = settings_of(f"train.schedule={schedule}", "train.warmup_fraction=0.1")
    factor = learning_rate_factor(settings.train, 200)
    assert [factor(step) for step in range(20)] == pytest.approx([(step + 1) / 20 for step in range(20)])
    after = [factor(step) for step in range(20, 200)]
    assert after[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))


def test_the_cosine_is_half_a_period(settings_of: SettingsOf) -> None:
    settings = settings_of("train.schedule=cosine", "train.warmup_fraction=0.1")
    factor = learning_rate_factor(settings.train, 200)
    assert factor(20) == 1.0
    assert factor(110) == pytest.approx(0.5)
    assert factor(65) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(200) == pytest.approx(0.0, abs=1e-12)
