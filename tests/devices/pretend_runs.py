"""Training, evaluation, sweeps and whole runs on an accelerator give the CPU's numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.datasets.augmentation import crop_flip
from deqrun.errors import Interrupted, UserError
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer, check_components
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.launch import prepare, run_sweep, run_train
from deqrun.experiment.sweep import breadth as sweep_breadth
from deqrun.experiment.sweep import trace as sweep_trace
from deqrun.experiment.sweep.grid import SweepResult, sweep
from deqrun.experiment.sweep.parts import SweepParts
from deqrun.experiment.training import train as training
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.meter import EpochMeter
from deqrun.experiment.training.objective import Batch, forward
from deqrun.experiment.training.starts import Starts
from deqrun.loading import load_run
from deqrun.settings import Settings
from tests.devices.measure import CASES, SLIM, Few, settings_of, train_small
from tests.pretend_device import install, without_float64
from tests.usual import usual

DEVICE = install()
CPU = torch.device("cpu")

# Short whole solves: none ends a step earlier on one device for a residual's last digit, and rounding, which untrained
# cells that do not contract enlarge at every step, stays small.
WHOLE = ["budget.tol=0", "budget.max_iter=8", "train.jacobian_weight=0.1", "train.jacobian_frequency=1"]
FEW = ["dataset.n_train=200"]
SMALL_DATA = dict.fromkeys(("recall", "transformer", "trm_small", "eqr_small", "fprm_small"), FEW) | {
    "looped_lm": ["dataset.n_train=100", "dataset.n_validation=20", "dataset.n_test=20"]
}

SHORT_ADJOINT = {model: ["gradient.budget.max_iter=3"] for model in ("trm_small", "eqr_small")}
"""Post-norm maps stretch at first, and so does the rounding of Broyden's adjoint with every step."""


def small(model: str) -> list[str]:
    return [*CASES[model], *SLIM[model], *SMALL_DATA.get(model, []), *WHOLE]


def gradient_overrides(gradient: str) -> list[str]:
    if gradient == "implicit":
        return ["gradient.budget.tol=0", "gradient.budget.max_iter=8"]
    return [f"gradient={gradient}"]


SCALE = {"transformer": 1.0}


class Steps:
    """Training steps on a device, from weights that contract: those that are drawn, halved."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device, self.dataset = settings, device, build_dataset(settings)
        torch.manual_seed(settings.seed)
        self.deq = build_deq(settings, self.dataset).to(device).train()
        with torch.no_grad():
            for parameter in self.deq.parameters():
                parameter.mul_(SCALE.get(settings.choices["model"], 0.5))
        self.optimizer = build_optimizer(settings, self.deq)
        self.data = Few(self.dataset, 32).load("train")
        self.starts = Starts(settings.train.start, settings.train.start_scale, len(self.data))
        self.draws = Draws.of_epoch(settings.seed, 1, device)
        self.random = torch.get_rng_state()  # of dropout

    def step(self, number: int) -> tuple[float, Tensor]:
        """Loss and gradient (P,) of the step."""
        torch.set_rng_state(self.random)
        places = torch.arange(16 * number - 16, 16 * number)
        x = self.dataset.encode(self.data.inputs[places].to(self.device))
        batch = Batch(x, self.data.targets[places].to(self.device), places)
        self.optimizer.zero_grad()
        with self.deq.cell.fixed_weights():
            made = forward(self.deq, self.dataset, batch, self.settings.train, number, self.draws, self.starts)
            made.objective.backward()
        self.optimizer.step()
        self.random = torch.get_rng_state()
        gradients = [p.grad.cpu().flatten() for p in self.deq.parameters() if p.grad is not None]
        return float(made.objective.detach()), torch.cat(gradients)

    def follow(self, other: Steps) -> None:
        """Go on from the other's weights: rounding is compared within a step, not from step to step."""
        self.deq.load_state_dict(other.deq.state_dict())


Difference = tuple[float, float]
"""Relative differences of loss and gradient."""


def differences(there: Steps, here: Steps, nudge: Callable[[Steps], None] = lambda steps: None) -> list[Difference]:
    """The differences of each of two training steps from the CPU's; `nudge` changes `there` before each."""
    found = []
    for number in (1, 2):
        nudge(there)
        (loss, gradient), (expected, other) = there.step(number), here.step(number)
        found.append((abs(loss / expected - 1), float((gradient - other).norm() / other.norm())))
        there.follow(here)
    return found


def rounding(settings: Settings) -> list[Difference]:
    """The CPU's own differences, step by step, where weights change in their last digit: the largest of three draws."""

    def of_draw(seed: int) -> list[Difference]:
        draw = torch.Generator().manual_seed(seed)

        def last_digit(steps: Steps) -> None:
            with torch.no_grad():
                for parameter in steps.deq.parameters():
                    parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=draw))

        return differences(Steps(settings, CPU), Steps(settings, CPU), last_digit)

    draws = [of_draw(seed) for seed in range(3)]
    return [(max(loss for loss, _ in step), max(gradient for _, gradient in step)) for step in zip(*draws, strict=True)]


def assert_same_steps(overrides: list[str]) -> None:
    """Within 1e-5, or where the solve itself enlarges rounding, ten times of what it makes of a last digit."""
    settings = settings_of(*overrides)
    found = differences(Steps(settings, DEVICE), Steps(settings, CPU))
    if max(max(step) for step in found) < 1e-5:
        return
    for step, own in zip(found, rounding(settings), strict=True):
        assert all(one < max(1e-5, 10 * other) for one, other in zip(step, own, strict=True)), (found, own)


@pytest.mark.parametrize("model", usual(CASES, nightly=[*CASES][1::2]))
def test_each_model_takes_the_cpus_steps(model: str) -> None:
    assert_same_steps([*small(model), *gradient_overrides("implicit")])


@pytest.mark.nightly
@pytest.mark.parametrize("solver", ["anderson", "broyden", "damped", "newton", "picard", "secant"])
@pytest.mark.parametrize("gradient", ["implicit", "one_step", "phantom", "unrolled"])
@pytest.mark.parametrize("model", CASES)
def test_each_model_by_each_gradient_and_solver(model: str, gradient: str, solver: str) -> None:
    overrides = [*small(model), f"solver={solver}"]
    adjoint = [f"solver@gradient.solver={solver}", *SHORT_ADJOINT.get(model, [])] if gradient == "implicit" else []
    assert_same_steps([*overrides, *gradient_overrides(gradient), *adjoint])


@pytest.mark.nightly
@pytest.mark.parametrize("solver", ["forward_backward", "peaceman_rachford"])
@pytest.mark.parametrize("model", ["monotone", "monotone_conv"])
def test_monotone_models_by_splitting(model: str, solver: str) -> None:
    overrides = [*CASES[model], *SLIM[model], *WHOLE, f"solver={solver}", f"solver@gradient.solver={solver}"]
    assert_same_steps([*overrides, *gradient_overrides("implicit")])


OPTIONS = {
    "normal": ["train.start=normal"],
    "mixture": ["train.start=mixture"],
    "previous": ["train.start=previous"],
    "budgets": ["train.random_budget=[4,16]", "train.random_budget_per=sample"],
    "noise": ["train.path_noise=0.01", "train.path_damping=0.9"],
    "corrections": ["train.corrections=3"],
    "corrections of stopped rows": ["train.corrections=3", "budget.tol=3e-2", "budget.max_iter=40"],
    "corrections of an advanced phantom": ["train.corrections=2", "gradient=phantom", "gradient.advance=true"],
    "progressive": ["train.progressive_weight=0.5"],
    "warm-up": ["train.unrolled_warmup_steps=1"],
    "untied": ["baseline=untied", "baseline.layers=3"],
    "channels last": ["train.channels_last=true"],
}


@pytest.mark.parametrize("name", usual(OPTIONS, nightly=[*OPTIONS][1::2]))
def test_options_of_training_take_the_cpus_steps(name: str) -> None:
    overrides = OPTIONS[name]
    model = "conv" if name == "channels last" else "mlp"
    chosen = any(word.startswith(("gradient=", "baseline=")) for word in overrides)
    own = [] if chosen else gradient_overrides("implicit")
    whole = [] if name == "untied" else WHOLE
    assert_same_steps([*CASES[model], *SLIM[model], *whole, *own, *overrides])


def test_an_augmentation_is_the_cpus() -> None:
    x = torch.rand(6, 3, 8, 8)
    source = lambda: torch.Generator().manual_seed(4)  # noqa: E731
    found = crop_flip(x.to(DEVICE), source(), [0.0, 0.1, 0.2], padding=2).cpu()
    torch.testing.assert_close(found, crop_flip(x, source(), [0.0, 0.1, 0.2], padding=2), rtol=0, atol=0)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def assert_close_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]], rel: float) -> None:
    assert len(found) == len(expected) > 0
    for row, other in zip(found, expected, strict=True):
        for key, value in other.items():
            if isinstance(value, float) and isinstance(row[key], float) and not math.isnan(value):
                assert row[key] == pytest.approx(value, rel=rel, abs=rel), key
            else:
                assert row[key] == value or value != value, key


RUN = [
    *CASES["mlp"],
    "model.width=24",
    "train.epochs=2",
    "train.batch_size=540",
    "budget.max_iter=8",
    "gradient.budget.max_iter=8",
    "sweep.iterations=[1,4,8]",
    "sweep.tolerances=[1e-2]",
    "report=false",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretend") / "run"
    run_train(settings_of(*RUN, "device=pretend"), folder, "deqrun train device=pretend")
    return folder


def test_a_whole_run_is_the_cpus(run: Path, tmp_path: Path) -> None:
    run_train(settings_of(*RUN, "device=cpu"), tmp_path / "run", "deqrun train device=cpu")
    for name in ("train", "sweep"):
        assert_close_rows(rows_of(run, name), rows_of(tmp_path / "run", name), rel=2e-3)


@pytest.mark.nightly
def test_a_run_that_was_stopped_goes_on_to_the_same_rows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([False, True])

    def stopping(*arguments: Any, **keywords: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return evaluate(*arguments, **keywords)

    settings = settings_of(*RUN, "device=pretend")
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stopping)
        with pytest.raises(Interrupted):
            run_train(settings, tmp_path / "run", "deqrun train")
    run_train(settings, tmp_path / "run", "deqrun train")
    for name in ("train", "sweep"):
        assert rows_of(tmp_path / "run", name) == rows_of(run, name)


@pytest.mark.nightly
def test_a_run_is_asked_again_on_another_device(run: Path, tmp_path: Path) -> None:
    for device in ("cpu", "pretend"):
        run_sweep(settings_of(*RUN, f"device={device}"), run, tmp_path / device, "deqrun sweep")
    assert_close_rows(rows_of(tmp_path / "pretend", "sweep"), rows_of(tmp_path / "cpu", "sweep"), rel=2e-3)


def test_a_loaded_model_answers_as_on_the_cpu(run: Path) -> None:
    found = load_run(run)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64).numpy()
    here, there = found.model()(x), found.model("pretend")(x)
    torch.testing.assert_close(there.logits.cpu(), here.logits, rtol=1e-3, atol=1e-3)
    with without_float64():
        assert found.model("pretend")(x).labels.tolist() == there.labels.tolist()


AXES = [
    "dataset=prefix_sums",
    "dataset.n_train=40",
    "dataset.n_validation=24",
    "dataset.n_test=24",
    "dataset.length=8",
    "model=recall",
    "model.width=16",
    "sweep.iterations=[1,4,9]",
    "sweep.tolerances=[1e-2,1e-4]",
    "sweep.solvers=[picard,anderson,broyden,secant,damped,newton]",
    "sweep.starts=[zeros,normal,other]",
    "sweep.splits=[validation,test]",
    "sweep.halting=[residual,change,kl,entropy,stable]",
    "sweep.breadth=[1,2]",
    "sweep.batch_size=16",
]


GRIDS = {
    "few solvers": [
        "sweep.solvers=[picard,anderson]",
        "sweep.starts=[zeros]",
        "sweep.breadth=[1]",
        "dataset.n_validation=6",
        "dataset.n_test=6",
    ],
    "solvers": ["sweep.starts=[zeros]", "sweep.breadth=[1]", "dataset.n_validation=6", "dataset.n_test=6"],
    "starts, breadth and noise": ["sweep.solvers=[anderson]", "sweep.noise=[0.05]", "sweep.measures=[cosine]"],
    "float64 and difficulties": [
        "sweep.solvers=[secant]",
        "sweep.starts=[zeros]",
        "sweep.precisions=[float64]",
        "sweep.difficulties=[10]",
    ],
}


def swept(device: torch.device, folder: Path, *overrides: str) -> SweepResult:
    settings = settings_of(*AXES, *overrides)
    dataset = build_dataset(settings)
    torch.manual_seed(0)
    deq = build_deq(settings, dataset).to(device)
    with torch.no_grad():
        for parameter in deq.parameters():
            parameter.mul_(0.8)  # so that rows stop at steps of their own
    return sweep(settings, deq, dataset, SweepParts(folder, "the same"))


def plain(rows: list[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in asdict(row).items() if "seconds" not in key} for row in rows]


@pytest.mark.parametrize("grid", usual(GRIDS, nightly=[*GRIDS][1:]))
def test_every_axis_of_a_sweep_is_the_cpus(grid: str, tmp_path: Path) -> None:
    overrides = GRIDS[grid]
    found, expected = swept(DEVICE, tmp_path / "a", *overrides), swept(CPU, tmp_path / "b", *overrides)
    assert found.rows.keys() == expected.rows.keys() == {"sweep", "halting", "breadth", "savings"}
    for kind in ("sweep", "breadth"):
        assert_close_rows(plain(found.rows[kind]), plain(expected.rows[kind]), rel=0.05)
    for key, trajectory in expected.trajectories.items():
        other = found.trajectories[key]
        last = trajectory.last()
        assert (other.last() == last).mean() > 0.9, key  # a residual at the tolerance may go either way
        assert (other.correct == trajectory.correct).mean() > 0.99, key
        same = other.last() == last
        for name in ("change", "kl", "entropy", "stable"):
            one, two = getattr(other, name)[:, same], getattr(trajectory, name)[:, same]
            assert one.shape == two.shape
            assert ((one != one) == (two != two)).all(), (key, name)  # NaN behind the stop, and nowhere else


def test_a_sweep_in_16_bits_is_in_16_bits(tmp_path: Path) -> None:
    overrides = ["sweep.precisions=[float32,bfloat16]", "sweep.solvers=[picard]", "sweep.starts=[zeros]"]
    overrides += ["sweep.breadth=[1]", "dataset.n_validation=6", "dataset.n_test=6"]
    found = swept(DEVICE, tmp_path, *overrides).trajectories
    (whole, half) = (
        next(t for key, t in found.items() if key.precision == precision and key.split == "test")
        for precision in ("float32", "bfloat16")
    )
    assert half.residual[1] == pytest.approx(whole.residual[1], rel=0.05)
    assert (half.residual[1] != whole.residual[1]).all()


@pytest.mark.nightly
def test_a_finished_sweep_is_read_and_not_solved(tmp_path: Path) -> None:
    few = ["sweep.solvers=[anderson]", "sweep.starts=[zeros,other]", "dataset.n_validation=6", "dataset.n_test=6"]
    first = swept(DEVICE, tmp_path, *few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_trace, "solve", None)
        patch.setattr(sweep_breadth, "solve", None)
        again = swept(DEVICE, tmp_path, *few)
    for kind, rows in first.rows.items():
        assert_close_rows(plain(again.rows[kind]), plain(rows), rel=1e-12)


def test_the_meter_goes_on_from_its_state() -> None:
    """The figures of an epoch that was cut in two, brought to the host in between, are those of the whole."""
    whole, first, second = EpochMeter(), EpochMeter(), EpochMeter()
    real = EpochMeter.add
    meters: list[EpochMeter] = []

    def add(self: EpochMeter, *arguments: Any) -> None:
        real(self, *arguments)
        meters.append(self)
        real(whole, *arguments)
        real(first if len(meters) <= 3 else second, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochMeter, "add", add)
        train_small(settings_of(*CASES["mlp"]), DEVICE, 16 * 5)
    joined = EpochMeter()
    state = first.state_dict()
    assert all(packed["values"].device == CPU for packed in state.values())
    joined.load_state_dict(state)
    second.state_dict()
    for name, tensors in second._steps.items():
        joined._steps[name] += tensors
    assert (joined.line(), joined.mean_loss) == (whole.line(), whole.mean_loss)


def test_the_device_is_found_by_its_name_and_not_by_auto() -> None:
    assert prepare("pretend", None) == torch.device("pretend")
    assert prepare("auto", None) == CPU


@pytest.mark.parametrize("asked", ["sweep.precisions=[float32,float64]", "train.precision=float64"])
def test_a_precision_that_the_device_lacks_is_refused(asked: str) -> None:
    settings = settings_of(*CASES["mlp"], "device=pretend", asked)
    check_components(settings, set())
    with without_float64(), pytest.raises(UserError, match=r"float64.*device=pretend.*nearest: "):
        check_components(settings, set())


@pytest.mark.parametrize("model", usual(["mlp", "monotone", "transformer"], nightly=["transformer"]))
def test_without_float64_a_run_trains_and_sweeps(model: str, tmp_path: Path) -> None:
    overrides = [*CASES[model], *SLIM[model], *SMALL_DATA.get(model, []), "sweep.iterations=[1,8]"]
    with without_float64():
        deq, dataset, done = train_small(settings_of(*overrides), DEVICE, 32, tmp_path)
        found = evaluate(deq, dataset, dataset.load("test"), 32, DEVICE)
    expected = train_small(settings_of(*overrides), DEVICE, 32)[2]
    assert done.epochs[-1]["loss"] == pytest.approx(expected.epochs[-1]["loss"], rel=1e-3)
    assert found.loss.isfinite().all()
