"""A model from elsewhere in a sweep: every number equals its own loop's, and its weights stay as they are."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deqrun
from deqrun.cli import main
from deqrun.datasets import Dataset, Digits
from deqrun.datasets.sudoku import Sudoku
from deqrun.errors import UserError
from deqrun.models import AdaptedCell
from deqrun.records.reading import read_run
from tests.experiment import own_models
from tests.experiment.own_models import GRU, LoopedBlock, TinyRecursion

BUDGETS = [1, 2, 3, 5, 8]
ASKED = ["sweep.iterations=[1,2,3,5,8]", "sweep.tolerances=[0.0]", "sweep.solvers=[picard]", "sweep.halting=null"]
ASKED += ["solver=picard", "budget.max_iter=8", "budget.tol=0.0", "budget.keep=last", "report=false", "threads=1"]


def own_loop(model: nn.Module, dataset: Dataset) -> dict[int, tuple[float, float]]:
    """(accuracy, median relative residual) of the test split after k iterations, by a loop that anybody would write."""
    split = dataset.load("test")
    x = dataset.encode(split.inputs)  # type: ignore[arg-type]
    found = {}
    with torch.no_grad():
        given = model.inject(x)
        given = given if isinstance(given, tuple) else (given,)
        state = model.start(*given)
        for k in range(1, max(BUDGETS) + 1):
            state = model.f(state, *given)
            if k in BUDGETS:
                following = model.f(state, *given)
                gap, size = flat(following) - flat(state), flat(following)
                right = dataset.correct(model.readout(state), split.targets).double().mean()
                found[k] = float(right), float((gap.norm(dim=1) / size.norm(dim=1)).quantile(0.5))
    return found


def flat(state: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = state if isinstance(state, tuple) else (state,)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def sudoku() -> Sudoku:
    return Sudoku(box_rows=2, box_columns=2, holes=4, n_train=64, n_validation=64, n_test=64, data_seed=0)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Dataset], list[str]]] = {
    "gru": (GRU, Digits, ["dataset=digits"]),
    "looped block": (LoopedBlock, Digits, ["dataset=digits"]),
    "tiny recursion": (
        TinyRecursion,
        sudoku,
        ["dataset=sudoku", "dataset.holes=4", "dataset.n_train=64", "dataset.n_validation=64", "dataset.n_test=64"],
    ),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_from_python_equals_its_own_loop(name: str) -> None:
    make, data, overrides = CASES[name]
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    run = deqrun.sweep_model(model, *overrides, *ASKED)
    expected = own_loop(model, data())
    cells = {cell.max_iter: cell for cell in run.sweep if cell.split == "test"}
    assert cells.keys() == expected.keys()
    for budget, (accuracy, residual) in expected.items():
        assert cells[budget].accuracy == accuracy
        assert cells[budget].residual_median == pytest.approx(residual, rel=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_command_line_asks_the_same_model(elsewhere: Path) -> None:
    """The weights come from the checkpoint, the width from cell.width, and the numbers are those of Python's way."""
    model = GRU(width=12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    torch.save(model.state_dict(), "gru.pt")
    typed = ["cell=tests.experiment.own_models:GRU", "checkpoint=gru.pt", "cell.width=12", "dataset=digits", *ASKED]
    assert main(["sweep", *typed, "tracker=none", "hydra.run.dir=asked"]) == 0
    asked, given = read_run(Path("asked")), deqrun.sweep_model(model, "dataset=digits", *ASKED)
    assert [row.accuracy for row in asked.sweep] == [row.accuracy for row in given.sweep]
    assert [row.residual_median for row in asked.sweep] == [row.residual_median for row in given.sweep]
    # The run has a copy of the weights, the command as it was typed, and no training.
    assert asked.epochs == ()
    assert asked.summary.train_seconds == 0.0
    assert asked.summary.command is not None
    assert asked.summary.command.startswith("deqrun sweep cell=tests.experiment.own_models:GRU checkpoint=")
    kept = deqrun.load_run("asked", allow_foreign_targets=True).model()
    x = torch.rand(5, 1, 8, 8)
    answer = kept(x, encoded=True, max_iter=3, tol=0.0)
    with torch.no_grad():
        state = model.start(model.inject(x))
        for _ in range(3):
            state = model.f(state, model.inject(x))
        assert torch.allclose(answer.logits, model.readout(state), atol=1e-6)
    # And it can be asked again: the weights are those of the run, whatever the file holds now.
    torch.save(GRU(width=12).state_dict(), "gru.pt")
    again = ["run=asked", "sweep.iterations=[2]", "allow_foreign_targets=true", "tracker=none", "hydra.run.dir=again"]
    if not Path("gru.pt").exists():
        torch.save(GRU(width=12).state_dict(), "gru.pt")
    assert main(["sweep", *again]) == 0
    rows = {(row.solver, row.split, row.max_iter): row.accuracy for row in read_run(Path("again")).sweep}
    asked_rows = {(row.split, row.max_iter): row.accuracy for row in asked.sweep}
    assert rows["picard", "test", 2] == asked_rows["test", 2]


def test_a_model_in_double_precision_is_asked_in_it() -> None:
    """Its rows are those of the same weights in float32, to the rounding of float32."""
    wide, narrow = (deqrun.sweep_model(model, "dataset=digits", *ASKED) for model in (GRU().double(), GRU()))
    for one, other in zip(wide.sweep, narrow.sweep, strict=True):
        assert one.residual_median == pytest.approx(other.residual_median, rel=1e-4)


def test_double_precision_asks_a_copy_of_the_models_own_weights() -> None:
    """Methods belong to the copy, so that its float64 states meet float64 weights."""
    run = deqrun.sweep_model(GRU(), "dataset=digits", *ASKED, "sweep.precisions=[float32,float64]")
    rows = {(row.precision, row.max_iter): row.residual_median for row in run.sweep if row.split == "test"}
    for budget in BUDGETS:
        assert rows["float64", budget] != rows["float32", budget]
        assert rows["float64", budget] == pytest.approx(rows["float32", budget], rel=1e-4)


class Cold(nn.Module):
    """Its rows depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 10)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 10)

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.map(x.flatten(1)) + z - z.mean(0))

    def readout(self, z: Tensor) -> Tensor:
        return z


class Flat(Cold):
    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(10)


class Short(Cold):
    def readout(self, z: Tensor) -> Tensor:
        return z[:, :7]


class Headless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Cold(), "depends on the rows beside it"),
        (Flat(), "a state has the batch first"),
        (Short(), "it must return logits (1, 10)"),
        (Headless(), "Headless has no method f"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        deqrun.sweep_model(model, "dataset=digits", *ASKED)
    assert not Path("outputs").exists()


REFUSED = [
    (["cell=tests.experiment.own_models.GRU"], "the nearest is cell=tests.experiment.own_models:GRU"),
    (["checkpoint=gru.pt"], "go with cell=package.module:factory"),
    (["cell=tests.experiment.own_models:GRU", "checkpoint=none.pt"], "checkpoint=none.pt is not a file"),
    (["cell=tests.experiment.own_models:GRUU"], "the nearest is tests.experiment.own_models.GRU"),
    (["cell=tests.experiment.own_models:GRU", "run=there"], "both bring a model"),
    (["cell=tests.experiment.own_models:GRU", "train.epochs=3"], "has no effect with cell="),
    (["cell=tests.experiment.own_models:GRU", "optimizer.lr=3"], "has no effect with cell="),
    (["cell=tests.experiment.own_models:GRU", "cell.widht=3"], "cell.widht=3 is not a parameter of GRU"),
    (["cell=no_such_module:GRU"], "cell=no_such_module:GRU can't be found"),
    (["cell=tests.experiment.own_models:GRU", "dataset=sudoku"], "it must return logits (1, 4, 4, 4)"),
]


@pytest.mark.parametrize(("typed", "sentence"), REFUSED, ids=[" ".join(typed) for typed, _ in REFUSED])
def test_mistakes_are_told_in_the_words_that_were_typed(
    typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert main(["sweep", *typed, "tracker=none"]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert "model.model" not in told
    assert list(elsewhere.iterdir()) == []


def test_states_of_several_tensors_come_back_as_they_went() -> None:
    cell = AdaptedCell(input_shape=(4, 4, 4), num_classes=4, output_shape=(4, 4), model=TinyRecursion())
    assert cell.state_shapes == ((16, 16), (16, 16))
    assert cell.state_shape == (512,)
    x = torch.rand(3, 4, 4, 4)
    injection = cell.inject(x)
    model = TinyRecursion()
    y, z = model.f(model.start(injection[0]), injection[0])
    moved = cell(cell.initial_state(injection), injection)
    assert np.array_equal(moved.detach().numpy(), torch.cat([y.flatten(1), z.flatten(1)], 1).detach().numpy())


def test_an_interrupted_sweep_goes_on_with_the_command_that_it_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    """The module lies in the current folder, which --config-dir . names; no number moves."""
    (elsewhere / "my_looped.py").write_text(Path(own_models.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    typed = ["cell=my_looped:LoopedBlock", "dataset=digits", *ASKED, "tracker=none"]
    assert main(["sweep", *typed, "hydra.run.dir=whole"]) == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("deqrun.experiment.launch"), "sweep", interrupted)
        assert main(["sweep", *typed, "hydra.run.dir=cut"]) == 130
    told = capsys.readouterr().err.strip()
    command = told.partition("Go on with: deqrun ")[2]
    assert "resume=true" in command
    assert "--config-dir ." in command
    assert main(shlex.split(command)) == 0
    whole, cut = read_run(Path("whole")), read_run(Path("cut"))
    assert [(row.accuracy, row.residual_median) for row in cut.sweep] == [
        (row.accuracy, row.residual_median) for row in whole.sweep
    ]
    assert cut.summary.val_accuracy == whole.summary.val_accuracy
