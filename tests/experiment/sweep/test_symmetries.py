"""Views of a sample in a sweep: one view is the plain answer, and several are plain loops over moved samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deqrun.datasets.sudoku import Sudoku
from deqrun.errors import UserError
from deqrun.experiment.build import check_components
from deqrun.experiment.sweep.breadth import Starts, solve_starts
from deqrun.experiment.sweep.grid import doubled
from deqrun.experiment.sweep.starts import SweepStart, SweepViews
from deqrun.experiment.sweep.trace import trace
from deqrun.gradients import OneStep
from deqrun.models import DEQ, Cell
from deqrun.settings import ComponentSettings, Settings
from deqrun.solvers import Budget, Picard
from tests.experiment.sweep.test_sweep_grid import everything

DATA = Sudoku(holes=5, n_train=1, n_validation=1, n_test=13)
DEPTHS, BUDGET, DRAWS = [1, 4], Budget(4, 0.0, keep="last"), 4


class Eliminate(Cell):
    """z = p(answers): each digit's share falls by those of its row, its column and its box, and the given digits stay.

    Equivariant: it knows no digit, row or column by name. blind adds weights that do.
    """

    def __init__(
        self, *, input_shape: tuple[int, ...], num_classes: int, output_shape: tuple[int, ...] = (), blind: float = 0.0
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        self.state_shape = (num_classes, *output_shape)
        draw = torch.Generator().manual_seed(3)
        self.bias = nn.Parameter(blind * torch.randn(self.state_shape, generator=draw))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        given = injection[0][:, 1:]
        p = torch.where(injection[0][:, :1] > 0, torch.softmax(z, 1), given)
        n, side, box = len(z), z.shape[1], 2
        boxes = p.view(n, side, box, box, box, box).sum((3, 5), keepdim=True).expand(-1, -1, -1, box, -1, box)
        lines = p.sum(2, keepdim=True) + p.sum(3, keepdim=True) + boxes.reshape(p.shape) - 3 * p
        return self.bias - 4 * lines

    def readout(self, z: Tensor) -> Tensor:
        return z


def deq(blind: float) -> DEQ:
    cell = Eliminate(input_shape=DATA.input_shape, num_classes=4, output_shape=DATA.output_shape, blind=blind)
    return DEQ(cell, Picard(), Budget(), OneStep()).eval()


def solved(blind: float, batch: int = 13, draws: int = DRAWS) -> Starts:
    begin = [SweepStart("zeros", draw=draw) for draw in range(draws)]
    test, views = DATA.load("test"), SweepViews("test", 5)
    return solve_starts(deq(blind), DATA, test, Picard(), BUDGET, batch, begin, DEPTHS, views=views)


def test_one_view_is_the_plain_answer() -> None:
    found = solved(2.0, draws=1)
    trajectory = trace(deq(2.0), DATA, DATA.load("test"), Picard(), BUDGET, 13)
    for correct in (found.singles, *found.correct.values()):
        assert np.array_equal(correct[0], trajectory.correct[DEPTHS])


def test_a_map_that_knows_no_names_gives_every_view_the_same_answer() -> None:
    """Its vote is its plain answer; a map with weights of its own for each place answers views differently."""
    alike, apart = solved(0.0), solved(2.0)
    assert all(np.array_equal(single, alike.singles[0]) for single in alike.singles)
    assert alike.singles[0, -1].mean() > 0
    for name in alike.correct:
        assert np.array_equal(alike.correct[name][-1], alike.singles[0]), name
    assert any(not np.array_equal(single, apart.singles[0]) for single in apart.singles)


def test_views_are_those_of_a_plain_loop_over_moved_samples() -> None:
    found, model, test = solved(2.0, batch=5), deq(2.0), DATA.load("test")
    x = DATA.encode(test.inputs)
    with torch.no_grad():
        for draw in range(1, DRAWS):
            for i in range(len(test)):
                views = SweepViews("test", 5).of(DATA, slice(i, i + 1), draw, torch.device("cpu"))
                assert views is not None
                f = model.bind(views.seen(x[i : i + 1]))
                z = model.start(f)
                for k in range(1, max(DEPTHS) + 1):
                    z = f(z)
                    if k in DEPTHS:
                        answer = views.back(model.cell.readout(z))
                        right = bool(DATA.correct(answer, test.targets[i : i + 1]))
                        assert found.singles[draw, DEPTHS.index(k), i] == right


def test_the_batch_size_bears_on_nothing() -> None:
    three, seven = solved(2.0, 3), solved(2.0, 7)
    assert three.ends is None
    for name, correct in three.correct.items():
        assert np.array_equal(correct, seven.correct[name]), name
    assert np.array_equal(three.singles, seven.singles)


def test_numbers_of_views() -> None:
    assert [doubled(most) for most in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_a_sweep_has_rows_of_views(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    """Of each power of two; the first row is the cell of the sweep from zeros at the same budget, without tolerance."""
    settings = settings_of(
        *("dataset=sudoku", "dataset.n_train=9", "dataset.n_validation=6", "dataset.n_test=8", "budget.keep=last"),
        *("sweep.symmetries=3", "sweep.iterations=[2,8]", "sweep.tolerances=[0.0]", "budget.tol=0.0"),
        *("sweep.solvers=[picard]", "sweep.halting=null", "allow_foreign_targets=true"),
    )
    cell = ComponentSettings(target="tests.experiment.sweep.test_symmetries.Eliminate", parameters={"blind": 2.0})
    found = everything(settings.model_copy(update={"model": cell}), tmp_path).rows
    rows = found["breadth"]
    assert {(row.start, row.breadth, row.split) for row in rows} == {
        ("symmetries", breadth, split) for breadth in (1, 2, 3) for split in ("validation", "test")
    }
    plain = {(row.split, row.max_iter): row.accuracy for row in found["sweep"]}
    assert all(row.accuracy == plain[row.split, row.max_iter] for row in rows if row.breadth == 1)
    assert {row.start for row in found["savings"]} == {"symmetries"}


def test_data_without_symmetries_are_refused(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(UserError) as raised:
        check_components(settings_of("sweep.symmetries=4"), set())
    assert "sweep.symmetries=4 was given, but dataset=digits knows no symmetries; sudoku, mazes" in str(raised.value)
