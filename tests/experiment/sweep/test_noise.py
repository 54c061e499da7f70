"""Noise of a sweep's steps: of each sample its own, beside plain loops; without noise nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqrun.datasets import Split
from deqrun.datasets.dataset import IGNORED
from deqrun.errors import UserError
from deqrun.experiment.sweep import grid as sweep_grid
from deqrun.experiment.sweep.breadth import Starts, solve_starts
from deqrun.experiment.sweep.starts import SweepNoise, SweepStart, step_noise
from deqrun.models import DEQ
from deqrun.records.rows import BreadthRow
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Budget, NewtonKrylov, Picard, Solver
from tests.experiment.sweep.test_breadth import DATA, N, deq
from tests.experiment.sweep.test_sweep_grid import everything, sequences

__all__ = ["deq"]  # a fixture

SettingsOf = Callable[..., Settings]
LEVEL, DEPTHS = 0.2, [0, 1, 3, 6]
BUDGET = Budget(max(DEPTHS), 1e-2)


@pytest.fixture(scope="module")
def test() -> Split:
    """Samples of which one position is asked: about half of the answers are right, so that draws differ."""
    whole = DATA.load("test")
    targets = torch.full_like(whole.targets, IGNORED)
    targets[:, 3] = whole.targets[:, 3]
    return Split(whole.inputs, targets)


def solved(deq: DEQ, test: Split, batch: int, solver: Solver[Any, Any], kind: Any = "normal") -> Starts:
    begin = [SweepStart(kind, seed=6, draw=draw) for draw in range(3)]
    noise = SweepNoise(LEVEL, "test", 6)
    return solve_starts(deq, DATA, test, solver, BUDGET, batch, begin, DEPTHS, noise=noise)


def test_noise_depends_on_seed_split_place_draw_and_step_alone() -> None:
    like = torch.zeros(1, 64)

    def of(place: int, split: str = "test", seed: int = 0, draw: int = 0, step: int = 0) -> tuple[float, ...]:
        one = step_noise(like, slice(place, place + 1), seed=seed, split=split, draw=draw, step=step)
        return tuple(one[0].tolist())

    several = step_noise(like, slice(3, 8), seed=0, split="test", draw=0, step=0)
    assert [tuple(row.tolist()) for row in several] == [of(place) for place in range(3, 8)]
    others = [of(4), of(5), of(4, "validation"), of(4, seed=1), of(4, draw=1), of(4, step=1)]
    assert len(set(others)) == len(others)
    start = SweepStart("normal").begin(torch.zeros(1, 64), slice(4, 5))
    assert tuple(start[0].tolist()) not in others
    wide = step_noise(torch.zeros(1, 64, dtype=torch.float64), slice(4, 5), seed=0, split="test", draw=0, step=0)
    assert tuple(wide[0].tolist()) == of(4)


@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=3), NewtonKrylov()], ids=str)
def test_the_batch_size_bears_on_nothing(deq: DEQ, test: Split, solver: Solver[Any, Any]) -> None:
    three, seven = (solved(deq, test, batch, solver) for batch in (3, 7))
    for name, correct in three.correct.items():
        assert np.array_equal(correct, seven.correct[name]), name
        assert np.array_equal(three.spent[name], seven.spent[name]), name
    for name in ("singles", "nfe", "running", "ends"):
        assert np.array_equal(getattr(three, name), getattr(seven, name)), name


def test_draws_are_those_of_a_plain_loop(deq: DEQ, test: Split) -> None:
    """z ← f(z) + σ rms(f(z)) ε, sample by sample, until the residual is at most the tolerance."""
    found = solved(deq, test, 7, Picard(), "zeros")
    with torch.no_grad():
        for i in range(N):
            f = deq.bind(DATA.encode(test.inputs[i : i + 1]))
            for draw in range(3):
                z, answers, settled = deq.start(f), [], False
                for k in range(max(DEPTHS) + 1):
                    answers.append(bool(DATA.correct(deq.cell.readout(z), test.targets[i : i + 1])))
                    value = f(z)
                    settled = settled or float((value - z).norm() / value.norm()) <= BUDGET.tol
                    if not settled:
                        noise = step_noise(z.flatten(1), slice(i, i + 1), seed=6, split="test", draw=draw, step=k)
                        z = value + LEVEL * value.square().mean().sqrt() * noise.view_as(z)
                assert found.singles[draw, :, i].tolist() == [answers[depth] for depth in DEPTHS]
    assert not np.array_equal(found.singles[0], found.singles[1])


def rows_of(settings: Settings, folder: Path) -> list[BreadthRow]:
    rows: list[BreadthRow] = everything(settings, folder).rows["breadth"]
    return rows


def test_without_noise_rows_are_as_they_were_to_the_last_bit(settings_of: SettingsOf, tmp_path: Path) -> None:
    plain = rows_of(sequences(settings_of, "sweep.breadth=[1,3]"), tmp_path / "plain")
    beside = rows_of(sequences(settings_of, "sweep.breadth=[1,3]", "sweep.noise=[0.9]"), tmp_path / "beside")
    assert [repr(row) for row in beside if row.noise == 0] == [repr(row) for row in plain]
    shaken = [row for row in beside if row.noise == 0.9]
    assert len(shaken) == len(plain)
    assert [row.ends for row in shaken] != [row.ends for row in plain]
    assert {row.ends for row in shaken} == {1.0, 3.0}  # of one draw and of three, all of which end apart


def test_a_sweep_that_was_stopped_has_the_rows_of_a_whole_one(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second level of the second split, of which nothing is kept."""
    settings = sequences(settings_of, "sweep.breadth=[1,2]", "sweep.noise=[0.1,0.3]")
    whole, real, left = rows_of(settings, tmp_path / "whole"), sweep_grid.solve_starts, [4]

    def counted(*arguments: Any, **named: Any) -> Starts:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(sweep_grid, "solve_starts", counted)
    with pytest.raises(KeyboardInterrupt):
        rows_of(settings, tmp_path / "cut")
    left[0] = 3  # levels of the split that was cut
    assert [repr(row) for row in rows_of(settings, tmp_path / "cut")] == [repr(row) for row in whole]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.noise=[0.1]"], "no number of draws; give sweep.breadth"),
        (["sweep.noise=[-0.1]", "sweep.breadth=[1]"], "must be at least 0"),
        (["sweep.breadth=[2]", "sweep.breadth_start=zeros"], "all draws are one; give sweep.noise"),
        (["sweep.breadth=[2]", "sweep.breadth_start=zero"], "it must be normal or zeros"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings_of: SettingsOf, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as raised:
        settings_of(*overrides)
    assert words in str(raised.value)
