"""The studies that repeat a publication compose, have its sizes and settings, and run from the files to a report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deqrun.cli import main
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer, check_components
from deqrun.records.reading import read_run
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources
from tests.datasets.image_files import write_cifar10
from tests.datasets.puzzle_folders import maze_folder, sudoku_folder
from tests.usual import usual


def study(name: str, *overrides: str) -> Settings:
    with open_sources() as sources:
        return load_settings(sources.compose("train", [f"study={name}", *overrides]))


# From github.com/locuslab/deq, MDEQ-Vision/experiments/cifar/cls_mdeq_{TINY,LARGE,LARGE_reg}.yaml: BATCH_SIZE_PER_GPU
# times the number of GPUS, END_EPOCH, LR, WD, DROPOUT, F_THRES, B_THRES, PRETRAIN_STEPS, NUM_LAYERS, JAC_LOSS_WEIGHT,
# JAC_LOSS_FREQ, AUGMENT (which is true where it isn't mentioned).
PUBLISHED = {
    "mdeq_cifar10": (158_890, 128, 50, 1e-3, 2.5e-6, 0.25, 18, 20, 3_000, 10, 0.0, None, False),
    "mdeq_cifar10_large": (11_097_438, 128, 220, 1e-3, 0.0, 0.3, 18, 20, 20_000, 10, 0.0, None, True),
    "mdeq_cifar10_jacobian": (11_097_438, 96, 220, 1e-3, 0.0, 0.22, 8, 7, 16_000, 8, 0.4, 0.02, True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_and_sizes_are_the_published_ones(name: str) -> None:
    settings = study(name)
    dataset = build_dataset(settings)
    deq = build_deq(settings, dataset)
    optimizer = build_optimizer(settings, deq)
    train, backward = settings.train, settings.gradient.parameters["budget"].parameters
    assert dataset.input_shape == (3, 32, 32)
    assert type(optimizer) is torch.optim.Adam
    assert (
        sum(parameter.numel() for parameter in deq.parameters()),
        train.batch_size,
        train.epochs,
        optimizer.defaults["lr"],
        optimizer.defaults["weight_decay"],
        settings.model.parameters["dropout"],
        settings.budget.max_iter,
        backward["max_iter"],
        train.unrolled_warmup_steps,
        train.unrolled_depth,
        train.jacobian_weight,
        train.jacobian_frequency if train.jacobian_weight else None,
        settings.dataset.parameters["augment"] == "crop_flip",
    ) == PUBLISHED[name]
    assert type(deq.solver).__name__ == "Broyden"
    assert type(deq.gradient.solver).__name__ == "Broyden"  # type: ignore[attr-defined]
    assert settings.budget.tol == backward["tol"] == 1e-3
    assert (train.schedule, train.warmup_fraction, train.clip_norm) == ("cosine", 0, None)


# From github.com/SamsungSAILMontreal/TinyRecursiveModels, README and config/cfg_pretrain.yaml, and from
# github.com/locuslab/EqR, config/train/eqr_sudoku.yaml and config/arch/eqr.yaml: the parameters of the code (11 tokens
# and 16 prefix positions; 6 tokens; 11 tokens without prefix), global_batch_size, lr, weight_decay, beta1, beta2,
# lr_warmup_steps over the steps (epochs * 1,000 puzzles / batch), ema_rate, halt_max_steps, halt_exploration_prob,
# loss_type, H_cycles (of EqR, the applications of its network: 3 * 7), mlp_t.
REASONERS = {
    "trm_sudoku": (5_028_866, 768, 1e-4, 1.0, [0.9, 0.95], 2_000 / 65_104, 0.999, 16, 0.1, "stablemax", 3, "mlp"),
    "trm_maze": (6_822_914, 128, 1e-4, 1.0, [0.9, 0.95], 2_000 / 390_625, 0.999, 16, 0.1, "stablemax", 3, "attention"),
    "eqr_sudoku": (4_855_298, 768, 1e-4, 1.0, [0.9, 0.95], 2_000 / 65_104, 0.999, 16, 0.1, "stablemax", 21, "mlp"),
}


@pytest.mark.parametrize("name", REASONERS)
def test_reasoners_have_the_published_settings_and_sizes_on_their_files(name: str, tmp_path: Path) -> None:
    """With size=full and a folder of puzzles in the published form; weight decay is of all parameters, one group."""
    folder = maze_folder(tmp_path) if name == "trm_maze" else sudoku_folder(tmp_path)
    settings = study(name, "size=full", "dataset=puzzles", f"dataset.root={folder}")
    deq = build_deq(settings, build_dataset(settings))
    (group,) = build_optimizer(settings, deq).param_groups
    train = settings.train
    assert (
        sum(parameter.numel() for parameter in deq.parameters()),
        train.batch_size,
        group["lr"],
        group["weight_decay"],
        list(group["betas"]),
        pytest.approx(train.warmup_fraction, rel=0.05),
        train.ema,
        train.segments,
        train.halt_exploration,
        train.loss,
        settings.budget.max_iter,
        settings.model.parameters["mixer"],
    ) == REASONERS[name]
    assert (train.halt_weight, train.schedule, train.clip_norm) == (0.5, "constant", None)
    assert deq.cell.has_halting_head


@pytest.mark.parametrize("name", usual(REASONERS, nightly=["trm_maze", "trm_sudoku"]))
def test_reasoners_run_from_the_data_to_a_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of three segments at a small width; the budget of the records is all segments'."""
    monkeypatch.chdir(tmp_path)
    command = f"train study={name} tracker=none threads=1 run=out train.steps=2 train.batch_size=4 train.segments=3"
    small = "model.width=16 model.heads=2 dataset.n_train=8 dataset.n_validation=8 dataset.n_test=8 budget.max_iter=4"
    assert main([*command.split(), *small.split(), "sweep.iterations=[1,2]", "sweep.spectrum=2", "report=true"]) == 0
    run = read_run(tmp_path / "out")
    assert run.status.status == "completed"
    assert run.train_max_iter == run.summary.train_max_iter == 12
    assert {cell.max_iter for cell in run.sweep} == {1, 2, 12}
    assert {row.rule for row in run.halting} >= {"head", "budget", "oracle"}
    assert (tmp_path / "out" / "figures" / "calibration.png").is_file()


def test_every_study_is_accepted() -> None:
    """As before a run; with the data left aside, which is looked for when it starts."""
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))
    assert {*PUBLISHED, *REASONERS} < set(names)
    for name in names:
        settings = study(name)
        assert settings.name == name
        check_components(settings, set())


def test_a_recipe_runs_from_the_files_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step unrolled, as published, and one by the implicit gradient, on ten pictures in the true format."""
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path / "data", monkeypatch, n=20)
    command = "train study=mdeq_cifar10 train.epochs=1 tracker=none threads=1 run=out dataset.validation_share=0.5"
    small = "train.batch_size=5 train.unrolled_warmup_steps=1 train.unrolled_depth=2 budget.max_iter=2"
    brief = "gradient.budget.max_iter=2 sweep.iterations=[1,2] sweep.splits=[test] sweep.solvers=[broyden]"
    assert main([*command.split(), *small.split(), *brief.split(), "sweep.spectrum=2"]) == 0
    run = read_run(tmp_path / "out")
    assert run.status.status == "completed"
    assert (run.summary.parameters, run.summary.n_train, run.summary.n_validation, run.summary.n_test) == (
        158_890,
        10,
        10,
        10,
    )
    assert [row.step for row in run.epochs] == [2]
    assert len(run.sweep) == 2 * len(study("mdeq_cifar10").sweep.tolerances)
    assert (tmp_path / "out" / "report.html").is_file()
