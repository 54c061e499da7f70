"""Steps in a training precision, and with a compiled cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqrun.errors import UserError
from deqrun.experiment.checkpoint import Checkpoint, load_checkpoint
from deqrun.experiment.launch import run_train
from deqrun.experiment.precision import dtypes_of, narrow, widen
from deqrun.experiment.trained import require_sound
from deqrun.experiment.training import steps as steps_module
from deqrun.experiment.training import train as training
from deqrun.experiment.training.steps import Stepping, compilations, compiled
from deqrun.models import MLPCell
from deqrun.records.reading import read_run
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Budget, Picard, solve
from deqrun.solvers.precision import full_precision, matmul_precision
from tests.experiment.test_resume import Stop, assert_same_run

SettingsOf = Callable[..., Settings]
CPU = torch.device("cpu")

# The compiler imports what PyTorch deprecates, and looks at gradients of tensors that are no leaves.
COMPILES = pytest.mark.filterwarnings("ignore")


def one_weight(value: float = 1.0) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.tensor([value]))
    return weight, torch.optim.SGD([weight], lr=0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_is_the_optimizer_s_whatever_the_scale(precision: str) -> None:
    """Of the loss 3 w at w = 1 with lr 1/2: the gradient's norm is 3, clipped it is 2, and w becomes 0."""
    weight, optimizer = one_weight()
    stepping = Stepping(precision, CPU)
    stepping.backward(3 * weight.sum())
    norm = stepping.clip(optimizer, [weight], 2.0)
    stepping.step(optimizer, norm)
    assert float(norm) == pytest.approx(3.0)
    assert float(weight.detach()) == pytest.approx(0.0, abs=1e-5)


def test_a_gradient_that_overflows_is_left_out_and_halves_the_scale() -> None:
    weight, optimizer = one_weight()
    stepping = Stepping("float16", CPU)
    scales = []
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        stepping.backward(factor * weight.sum())
        norm = stepping.clip(optimizer, [weight], None)
        stepping.step(optimizer, norm)
        scales.append((float(weight.detach()), stepping.state_dict()["scaler"]["scale"], stepping.skipped))
    scale = scales[0][1]
    assert scales == [(0.5, scale, 0), (0.5, scale / 2, 1), (0.0, scale / 2, 0)]
    other = Stepping("float16", CPU)
    other.load_state_dict(stepping.state_dict())
    assert other.state_dict() == stepping.state_dict()


def test_overflow_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "MOST_SKIPPED", 3)
    weight, optimizer = one_weight()
    stepping = Stepping("float16", CPU)

    def overflow() -> None:
        optimizer.zero_grad()
        stepping.backward(float("inf") * weight.sum())
        stepping.step(optimizer, stepping.clip(optimizer, [weight], None))

    for _ in range(3):
        overflow()
    with pytest.raises(UserError, match=r"overflowed float16 in 4 steps in a row; take train.precision=bfloat16"):
        overflow()


def assert_goes_on_equally(settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after its first epoch and gone on with, the run in `whole` is the same."""
    cut = folder / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch_line", Stop(training._epoch_line, 1, KeyboardInterrupt()))
        with pytest.raises(BaseException):  # noqa: B017  (whatever an interruption becomes)
            run_train(settings, cut, "deqrun train")
    require_sound(settings, cut, resumes=True)  # as the command line asks first
    run_train(settings, cut, "deqrun train")
    assert_same_run(cut, folder / "whole")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_sixteen_bits_the_cell_computes_and_the_solver_does_not(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The losses of two epochs are near float32's; weights and states stay float32; a cut run goes on equally."""
    seen: set[tuple[torch.dtype, torch.dtype]] = set()
    inner = nn.Linear.forward

    def watched(self: nn.Linear, x: Tensor) -> Tensor:
        value = inner(self, x)
        seen.add((self.weight.dtype, value.dtype))
        return value

    common = ["train.epochs=2", "sweep=none", "train.batch_size=256", "model.width=16"]
    run_train(settings_of(*common), tmp_path / "plain", "deqrun train")
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", watched)
        run_train(settings_of(*common, f"train.precision={precision}"), tmp_path / "whole", "deqrun train")
    assert (torch.float32, getattr(torch, precision)) in seen
    assert {weight for weight, _ in seen} == {torch.float32}
    plain, whole = (read_run(tmp_path / name).epochs for name in ("plain", "whole"))
    for own, other in zip(whole, plain, strict=True):
        assert own.loss == pytest.approx(other.loss, rel=0.05)
        assert own.loss != other.loss
    assert_goes_on_equally(settings_of(*common, f"train.precision={precision}"), tmp_path, monkeypatch)


@pytest.mark.parametrize("more", [[], ["train.ema=0.9", "train.start=previous"]], ids=["plain", "averaged"])
def test_in_double_precision_all_of_a_step_is_double(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Weights and features; the first loss is float32's but for rounding; a cut run goes on equally."""
    seen: set[torch.dtype] = set()
    inner = nn.Linear.forward

    def watched(self: nn.Linear, x: Tensor) -> Tensor:
        value = inner(self, x)
        if self.training:
            seen.update((self.weight.dtype, x.dtype, value.dtype))
        return value

    common = ["train.epochs=2", "sweep=none", "train.batch_size=256", "train.log_every=1", "model.width=16", *more]
    run_train(settings_of(*common), tmp_path / "single", "deqrun train")
    settings = settings_of(*common, "train.precision=float64")
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", watched)
        run_train(settings, tmp_path / "whole", "deqrun train")
    assert seen == {torch.float64}
    first, own = (read_run(tmp_path / name).steps[0].loss for name in ("single", "whole"))
    assert own == pytest.approx(first, rel=1e-5)
    assert own != first
    kept = {name: load_checkpoint(tmp_path / "whole/checkpoints" / name, CPU) for name in ("last.pt", "best.pt")}
    dtypes = {name: {value.dtype for value in kept[name].model.values()} for name in kept}
    assert dtypes == {"last.pt": {torch.float64}, "best.pt": {torch.float32}}
    assert_goes_on_equally(settings, tmp_path, monkeypatch)


def test_after_double_precision_every_dtype_is_as_before() -> None:
    """Of a model whose own dtypes are mixed, and of the weights that are tested; the optimizer keeps its parameters."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).double(), nn.Linear(2, 2).bfloat16())
    before, parameters = dtypes_of(model), list(model.parameters())
    assert set(before.values()) == {torch.float32, torch.float64, torch.bfloat16, torch.int64}
    widen(model, "float32")
    assert dtypes_of(model) == before
    widen(model, "float64")
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}
    tested = Checkpoint(model.state_dict(), {}, {}, 1, 1, 1, 0.5, 1.0, 0.0, []).best(before).model
    assert {name: value.dtype for name, value in tested.items()} == before
    narrow(model, before)
    assert dtypes_of(model) == before
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
def test_products_of_the_cell_may_be_coarse_and_the_solver_s_are_not(solver: Any) -> None:
    cell, within = [], []
    step = type(solver).step

    def f(z: Tensor) -> Tensor:
        cell.append(torch.get_float32_matmul_precision())
        return 0.5 * z + 1

    class Watched(type(solver)):  # type: ignore[misc]
        def step(self, *arguments: Any, **named: Any) -> Any:
            within.append(torch.get_float32_matmul_precision())
            return step(self, *arguments, **named)

    with matmul_precision("high"):
        solve(f, torch.zeros(2, 3), solver=Watched(), budget=Budget(6, 0.0))
        assert torch.get_float32_matmul_precision() == "high"
    assert set(cell) == {"high"}
    assert set(within) == {"highest"}
    assert torch.get_float32_matmul_precision() == "highest"
    with matmul_precision("high"), full_precision("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"


@COMPILES
def test_a_compiled_cell_takes_any_number_of_rows_and_gives_way_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a compiler that counts: rows that drop make no new graph; linearizations and penalties are not compiled."""
    ran: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            ran.append(1)
            return graph.forward(*values)

        return run

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **named: real(f, backend=counting, **named))
    torch.manual_seed(0)
    cell = MLPCell(input_shape=(1, 4, 4), num_classes=3, width=8)
    deq = _deq(cell)
    x, before = torch.randn(9, 1, 4, 4), compilations()
    with torch.no_grad():
        plain = deq(x)[0]
        with compiled(deq, True):
            for rows in (9, 7, 5, 3):
                torch.testing.assert_close(deq(x[:rows])[0], plain[:rows])
    assert ran
    assert compilations() - before <= 2  # one for the first size, one for all others
    ran.clear()
    with compiled(deq, True):
        f = deq.bind(x)
        z = deq.start(f)
        from deqrun.gradients.jacobian import jacobian_penalty

        jacobian_penalty(f, z).backward()
        assert not ran
        logits, _ = deq(x)
        counted = len(ran)
        logits.sum().backward()
        assert len(ran) == counted > 0  # the adjoint's products come from an evaluation that is not compiled
    assert cell.compiled is None


def _deq(cell: MLPCell) -> Any:
    from deqrun.gradients import Implicit
    from deqrun.models import DEQ

    return DEQ(cell, Picard(), Budget(12, 1e-3), Implicit())


@COMPILES
@pytest.mark.nightly
def test_a_compiled_run_has_the_numbers_of_a_plain_one(settings_of: SettingsOf, tmp_path: Path) -> None:
    common = ["train.epochs=2", "sweep=none", "train.batch_size=256", "model.width=16"]
    for name, value in (("plain", "false"), ("compiled", "true")):
        run_train(settings_of(*common, f"train.compile={value}"), tmp_path / name, "deqrun train")
    plain, fast = (read_run(tmp_path / name) for name in ("plain", "compiled"))
    for own, other in zip(fast.epochs, plain.epochs, strict=True):
        assert own.loss == pytest.approx(other.loss, rel=1e-3)
    assert plain.summary.compilations is None
    assert fast.summary.compilations is not None
    assert 1 <= fast.summary.compilations <= 6
