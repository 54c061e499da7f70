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


def study(name: str) -> Settings:
    with open_sources() as sources:
        return load_settings(sources.compose("train", [f"study={name}"]))


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


def test_every_study_is_accepted() -> None:
    """As before a run; with the data left aside, which is looked for when it starts."""
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))
    assert set(PUBLISHED) < set(names)
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
    assert main([*command.split(), *small.split(), *brief.split()]) == 0
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
