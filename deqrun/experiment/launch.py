"""What each command does, from settings to a finished folder."""

from __future__ import annotations

import platform
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from deqrun import __version__
from deqrun.config_sources import quoted
from deqrun.datasets import Dataset, DataUnavailable
from deqrun.experiment.allocator import keep_freed_memory
from deqrun.experiment.build import build_cell, build_dataset, build_deq, build_optimizer, describe_model
from deqrun.experiment.checkpoint import Checkpoint
from deqrun.experiment.data_changes import data_digest
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.records import RunFolder
from deqrun.experiment.sweep_grid import sweep, sweep_cells, sweep_halting
from deqrun.experiment.sweep_parts import SweepParts, fingerprint_of
from deqrun.experiment.trackers import Tracker, tracked
from deqrun.experiment.train import train
from deqrun.experiment.trained import load_best
from deqrun.inference import share_interval
from deqrun.models import DEQ
from deqrun.report import read_run, write_comparison, write_report
from deqrun.report.records import Summary
from deqrun.report.tables import comparison_table, description_table, end_of_run_table
from deqrun.settings import Interrupted, Settings, UserError


def run_train(settings: Settings, folder: Path, command: str) -> None:
    """Train, sweep on the checkpoint that validation chose, write the report; goes on where the folder stands."""
    run = RunFolder(folder)
    device = prepare(settings.device, settings.threads)
    with recorded(run, f"deqrun train run={folder} resume=true"):
        dataset = build_dataset(settings)
        _require_data(dataset)
        torch.manual_seed(settings.seed)
        deq = build_deq(settings, dataset).to(device)
        if not (folder / "config.yaml").is_file():
            run.write_config(settings.to_yaml())
        with tracked(settings.tracker, folder, settings.name, settings.sections()) as tracker:
            optimizer = build_optimizer(settings, deq.parameters())
            done = train(deq, dataset, optimizer, settings.train, settings.seed, run, tracker)
            _finish(settings, run, deq, dataset, done, tracker, command)


def run_sweep(settings: Settings, run: Path, folder: Path, command: str) -> None:
    """Ask a trained run again, with the budgets, tolerances and solvers of `settings`; nothing is retrained.

    In a folder where the same sweep was interrupted it goes on. Raises UserError where another one is there.
    """
    out = RunFolder(folder)
    _require_same_sweep(folder, settings)
    device = prepare(settings.device, settings.threads)
    with recorded(out, _in_the_same_folder(command, folder)):
        dataset = build_dataset(settings)
        _require_data(dataset)
        deq = build_deq(settings, dataset).to(device)
        done = load_best(deq, run)
        out.write_config(settings.to_yaml())
        with tracked(settings.tracker, folder, settings.name, settings.sections()) as tracker:
            _finish(settings, out, deq, dataset, done, tracker, command)


def _in_the_same_folder(command: str, folder: Path) -> str:
    """The command of a sweep that goes on where it was interrupted."""
    plain = re.fullmatch(r"[\w/.:@+-]+", str(folder))
    return f"{command} {shlex.quote(f'hydra.run.dir={folder if plain else quoted(str(folder))}')}"


def _require_same_sweep(folder: Path, settings: Settings) -> None:
    config = folder / "config.yaml"
    foreign = settings.allow_foreign_targets
    if config.is_file() and Settings.from_yaml(config, allow_foreign_targets=foreign).to_yaml() != settings.to_yaml():
        raise UserError(
            f"{folder} already holds another run, and nothing is overwritten; to go on with a sweep, give what it "
            "was begun with."
        )


def run_compare(folders: list[Path], output: Path) -> None:
    """One page and one table over several runs."""
    try:
        records = [read_run(folder) for folder in folders]
        page = write_comparison(folders, output)
    except ValueError as error:
        raise UserError(str(error)) from error
    console = Console()
    console.print(comparison_table(records))
    console.print(f"page  {page}", soft_wrap=True, highlight=False)


def run_describe(settings: Settings) -> None:
    """Print parameters, state size and multiply-adds of the model for the data set's shape; no data is read."""
    dataset = build_dataset(settings)
    described, peer = describe_model(settings, dataset, build_cell(settings, dataset))
    Console().print(description_table(described, settings.choices.get("dataset", dataset.name), peer))


def prepare(device: str, threads: int | None) -> torch.device:
    """Set up PyTorch's threads and the allocator, and say which device is meant; UserError where it isn't there."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but PyTorch sees no CUDA device; device=auto takes what there is.")
    wanted = "cuda" if device == "auto" and torch.cuda.is_available() else device
    if wanted != "cuda":
        keep_freed_memory()
    return torch.device("cpu" if wanted == "auto" else wanted)


def _require_data(dataset: Dataset) -> None:
    try:
        dataset.load("train")
    except DataUnavailable as error:
        raise UserError(str(error)) from error


@contextmanager
def recorded(run: RunFolder, resume: str) -> Iterator[None]:
    """Leave the folder's status true whatever happens inside; SIGTERM ends a run as Ctrl-C does."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as stop:
        run.write_status("interrupted", "Stopped by the user.", _epoch(run))
        raise Interrupted(f"Interrupted; what is done is kept. Go on with: {resume}") from stop
    except Exception as error:
        if (run.path / "config.yaml").is_file():
            run.write_status("failed", " ".join(str(error).split()) or type(error).__name__, _epoch(run))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _epoch(run: RunFolder) -> int | None:
    return read_run(run.path).status.epoch if (run.path / "config.yaml").is_file() else None


def _finish(
    settings: Settings, run: RunFolder, deq: DEQ, dataset: Dataset, done: Checkpoint, tracker: Tracker, command: str
) -> None:  # fmt: skip
    """Test once, sweep, summarise, report."""
    if (run.checkpoints / "best.pt").is_file():
        load_best(deq, run.path)
    device = next(deq.parameters()).device
    test = evaluate(deq, dataset, dataset.load("test"), settings.train.eval_batch_size, device)
    began = time.perf_counter()
    parts = SweepParts(run.path, fingerprint_of(settings.fingerprint() + data_digest(dataset), deq))
    swept = sweep(settings, deq, dataset, parts)
    trajectories, grid = swept.trajectories, sweep_cells(settings, swept.trajectories)
    seconds = time.perf_counter() - began
    run.write_trajectories(trajectories)
    run.write_sweep(grid)
    if settings.sweep.breadth:
        run.write_breadth(swept.breadth)
    if settings.sweep.halting:
        run.write_halting(sweep_halting(settings, trajectories))
    accuracy = share_interval(test.correct.numpy())
    summary = replace(
        _summary(settings, deq, dataset, done, command), test_accuracy=accuracy.mean, test_accuracy_low=accuracy.low,
        test_accuracy_high=accuracy.high, sweep_seconds=seconds, status="completed",
    )  # fmt: skip
    run.write_summary(summary)
    run.write_status("completed", epoch=done.epoch)
    parts.clear()
    tracker.log_sweep(grid, trajectories)
    tracker.finish(summary)
    page = write_report(run.path)
    console = Console()
    console.print(end_of_run_table(read_run(run.path)))
    console.print(f"run     {run.path}\nreport  {page}", soft_wrap=True, highlight=False)


def _summary(settings: Settings, deq: DEQ, dataset: Dataset, done: Checkpoint, command: str) -> Summary:
    described, peer = describe_model(settings, dataset, deq.cell)
    choices = settings.choices
    return Summary(
        name=settings.name, command=command, config_hash=settings.fingerprint(),
        seed=settings.seed, versions=_versions(), model=choices.get("model"), dataset=choices.get("dataset"),
        solver=choices.get("solver"), gradient=choices.get("gradient"), peer=settings.peer.kind,
        peer_layers=settings.peer.layers, parameters=described.parameters,
        deq_parameters=peer.deq_parameters if peer else None, net_multiply_adds=peer.multiply_adds if peer else None,
        state_size=described.state_size, multiply_adds=described.multiply_adds,
        train_max_iter=settings.budget.max_iter, train_tol=settings.budget.tol, n_train=len(dataset.load("train")),
        n_validation=len(dataset.load("validation")), n_test=len(dataset.load("test")), best_epoch=done.best_epoch,
        val_accuracy=done.best_accuracy, train_seconds=done.seconds,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"deqrun": __version__, "python": platform.python_version(), "platform": sys.platform}
    found["threads"] = str(torch.get_num_threads())
    for package in ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scikit-learn", "wandb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
