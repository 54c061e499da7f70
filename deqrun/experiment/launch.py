"""The commands, from settings to a finished folder."""

from __future__ import annotations

import math
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from deqrun import __version__
from deqrun.datasets import SPLITS, Dataset, DataUnavailable
from deqrun.errors import Interrupted, RankLost, Unwritable, UserError, one_line, refusal
from deqrun.experiment.allocator import keep_freed_memory
from deqrun.experiment.build import build_cell, build_dataset, build_deq, build_optimizer, decay_groups, describe_model
from deqrun.experiment.checkpoint import Checkpoint
from deqrun.experiment.data.changes import data_digest
from deqrun.experiment.devices import find_for_rank
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.machine_limits import cores
from deqrun.experiment.rank_launch import in_ranks
from deqrun.experiment.ranks import leads, place, several, wait
from deqrun.experiment.sweep.columns import interval
from deqrun.experiment.sweep.grid import sweep, sweep_budget
from deqrun.experiment.sweep.parts import SweepParts, fingerprint_of
from deqrun.experiment.sweep.spectrum import local_stability
from deqrun.experiment.sweep.states import keep_states, size_of_states
from deqrun.experiment.trackers import TrackedRun, Tracker, place_of, tracked
from deqrun.experiment.trained import load_best
from deqrun.experiment.training.shared_norms import with_shared_norms
from deqrun.experiment.training.train import train
from deqrun.inference import share_interval
from deqrun.models import DEQ
from deqrun.records.claims import claimed, holds_only_traces
from deqrun.records.code import Code, code_in
from deqrun.records.kept_states import FILE, write_kept_states
from deqrun.records.reading import read_run, read_status
from deqrun.records.run import RunRecord, RunStatus, Summary
from deqrun.records.signals import ending_as_interrupted
from deqrun.records.writing import RunFolder
from deqrun.report import write_report
from deqrun.report.findings import HALF_A_POINT, gain_over_one
from deqrun.report.sweep_tables import axis_tables
from deqrun.report.tables import decay_table, description_table, end_of_run_table
from deqrun.settings import TRUSTED_PACKAGES, ComponentSettings, Settings, read_settings
from deqrun.settings.sources import quoted
from deqrun.solvers.device import traits


def run_train(settings: Settings, folder: Path, command: str) -> float:
    """Train, sweep on the checkpoint that validation chose, write the report; goes on where the folder stands.

    With `launch.devices`, or under torchrun, this is the work of several ranks.
    Returns the value of `settings.objective`. Raises UserError where the run has none.
    """
    with claimed(folder), recorded(RunFolder(folder), resume_command(folder, command)):
        return in_ranks(_train_and_finish, settings, folder, command)


def _train_and_finish(settings: Settings, folder: Path, command: str) -> float:
    """`run_train` of one rank, or of a process alone."""
    run = RunFolder(folder, writes=leads())
    # The code as it is now: it may be changed while the run goes on.
    code = code_in(Path.cwd())
    # Device, data and model; the seed is set last before weights are drawn.
    device = prepare(settings.device, settings.threads)
    dataset = build_dataset(settings)
    _require_data(dataset)
    torch.manual_seed(settings.seed)
    deq = build_deq(settings, dataset).to(device)
    if several():
        with_shared_norms(deq)
    # The config is written once: a run that goes on keeps what it began with.
    if run.writes:
        if not (folder / "config.yaml").is_file():
            run.write_config(settings.to_yaml())
        run.write_status("running", epoch=_epoch(run))
    # Train, then test, sweep and report; the trackers close whatever ends the run.
    with _tracked(settings, _tracked_run(settings, folder, "train")) as tracker:
        optimizer = build_optimizer(settings, deq)
        _say_what_begins(settings, dataset, device)
        done = train(deq, dataset, optimizer, settings.train, settings.seed, run, tracker)
        record = _finish(settings, run, deq, dataset, done, tracker, command, code)
    return _objective(record, settings.objective)


def _tracked(settings: Settings, run: TrackedRun) -> AbstractContextManager[Tracker]:
    """Within: the trackers that the settings name; of several ranks the first has them."""
    return tracked(settings.tracker if leads() else settings.tracker.model_copy(update={"name": "none"}), run)


def _objective(record: RunRecord | None, name: str) -> float:
    if record is None:
        return math.nan
    # Told only now: a figure such as a spectral radius may turn out to have no value.
    value = record.figures().get(name)
    if value is None:
        raise UserError(f"objective={name} has no value in {record.folder}; val_accuracy always has one.")
    return value


def resume_command(folder: Path, command: str) -> str:
    """The command that goes on in a folder that was begun with another, as a shell takes it: it needs the same code."""
    # Code of the user's is needed again: its folder, and the word that lets it in.
    words, again = shlex.split(command), ["deqrun", "train", f"run={folder}", "resume=true"]
    again += [word for word in words if word == "allow_foreign_targets=true"]
    if any(word.startswith("cell=") for word in words):  # whose module may lie in this folder
        again += ["allow_foreign_targets=true", "--config-dir", "."]
    for flag, value in pairwise(words):
        again += [flag, value] if flag == "--config-dir" else []
    return shlex.join(again)


def run_sweep(settings: Settings, run: Path, folder: Path, command: str) -> float:
    """Ask a trained run again, with the budgets, tolerances and solvers of `settings`; nothing is retrained.

    Returns the value of `settings.objective`. In a folder where the same sweep was interrupted it goes on.
    Raises UserError where another sweep is there, or where the objective has no value.
    """
    out = RunFolder(folder)
    with claimed(folder):
        _require_same_sweep(folder, settings)
        with recorded(out, _in_the_same_folder(command, folder)):
            return in_ranks(_sweep_and_finish, settings, run, folder, command)


def _sweep_and_finish(settings: Settings, run: Path, folder: Path, command: str) -> float:
    """`run_sweep` of one rank, or of a process alone."""
    out = RunFolder(folder, writes=leads())
    code = code_in(Path.cwd())
    # Data and model as in training; the weights are read below.
    device = prepare(settings.device, settings.threads)
    dataset = build_dataset(settings)
    _require_data(dataset)
    deq = build_deq(settings, dataset).to(device)
    # The weights that validation chose; the run's own folder is only read.
    done = load_best(deq, run)
    # From here on the folder says that a sweep goes on in it.
    out.write_config(settings.to_yaml())
    out.write_status("running", epoch=done.epoch)
    with _tracked(settings, _tracked_run(settings, folder, "sweep", run)) as tracker:
        record = _finish(settings, out, deq, dataset, done, tracker, command, code)
    return _objective(record, settings.objective)


def _tracked_run(settings: Settings, folder: Path, command: str, trained: Path | None = None) -> TrackedRun:
    """The run as its trackers see it, a sweep with the trained run that it asks."""
    # A sweep is told with the run that it asks, and with that run's id where W&B knows it.
    sections, told = settings.sections(), {}
    if trained is not None:
        told = {"folder": str(trained), "name": settings.name}
        kept = trained / "wandb" / "run-id.txt"
        told |= {"wandb_id": kept.read_text(encoding="utf-8").strip()} if kept.is_file() else {}
    return TrackedRun(folder, settings.name, sections, command, place_of(folder, sections), told)


def _in_the_same_folder(command: str, folder: Path) -> str:
    """The command of a sweep that goes on where it was interrupted; one that went on before names the folder."""
    if f"run={folder}" in shlex.split(command):
        return command
    # Quoted only where the shell or Hydra's grammar would take the folder for something else.
    plain = re.fullmatch(r"[\w/.:@+-]+", str(folder))
    return f"{command} {shlex.quote(f'hydra.run.dir={folder if plain else quoted(str(folder))}')}"


def _require_same_sweep(folder: Path, settings: Settings) -> None:
    config = folder / "config.yaml"
    if not config.is_file():
        return
    # How many ranks share the work is no part of the question that is asked.
    begun = read_settings(config, allow_foreign_targets=settings.allow_foreign_targets)
    if begun.to_yaml() != settings.model_copy(update={"launch": begun.launch}).to_yaml():
        raise UserError(
            f"{folder} already holds another run, and nothing is overwritten; to go on with a sweep, give what it "
            "was begun with."
        )


def run_describe(settings: Settings) -> None:
    """Print size and cost of the model for the data set's shape, and which parameters decay; no data is read."""
    dataset = build_dataset(settings)
    cell = build_cell(settings, dataset)
    # A fault in a cell of the user's own becomes a sentence; one of deqrun's keeps its trace.
    try:
        described, baseline = describe_model(settings, dataset, cell)
    except Exception as error:
        if type(cell).__module__.partition(".")[0] in TRUSTED_PACKAGES:
            raise
        raise UserError(
            one_line(
                f"model={settings.choices.get('model')} can't be described ({type(error).__name__}: {error}); "
                "deqrun check model=… says what is wrong with it"
            )
        ) from error
    console = Console()
    console.print(description_table(described, settings.choices.get("dataset", dataset.name), baseline))
    console.print(decay_table(decay_groups(settings, cell)))


def prepare(device: str, threads: int | None) -> torch.device:
    """Set up PyTorch's threads and the allocator, and find the device; UserError where it isn't there.

    threads  of the run: its ranks on this machine share them; None: PyTorch's own choice, or for ranks all cores
    """
    # Ranks on one machine share its threads.
    own = place()
    if own.count > 1:
        torch.set_num_threads(max(1, (threads or cores()) // own.local_count))
    elif threads is not None:
        torch.set_num_threads(threads)
    found = find_for_rank(device, own)
    # On a CPU freed memory is kept for the next iterate; an accelerator's number is made the default.
    if traits(found).at_hand:
        keep_freed_memory()
    elif found.index is not None:  # what names no number, as a generator, is then on this one, too
        torch.accelerator.set_device_index(found)
    return found


def _require_data(dataset: Dataset) -> None:
    # Here, so that missing files are told before a folder says that it runs.
    try:
        dataset.load("train")
    except DataUnavailable as error:
        raise UserError(str(error)) from error


@contextmanager
def recorded(run: RunFolder, resume: str) -> Iterator[None]:
    """Leave the folder's status true whatever happens inside; SIGTERM, SIGHUP and SIGUSR1 end a run as
    Ctrl-C does.

    An error of the system (a full disk, a folder that can't be written) is raised as Unwritable, one sentence; the
    sentence of a rank that died is followed by the command that goes on.
    """
    try:
        with ending_as_interrupted():
            yield
    # Stopped before anything was written: nothing to go on with.
    except KeyboardInterrupt as stop:
        if holds_only_traces(run.path):
            raise
        _leave_status(run, "interrupted", "Stopped by the user.")
        raise Interrupted(f"Interrupted; what is done is kept. Go on with: {resume}") from stop
    except OSError as error:
        reason = refusal(error)
        if reason is None:
            _leave_status(run, "failed", one_line(error))
            raise
        _leave_status(run, "failed", reason)
        raise Unwritable(f"{reason} What is done is kept; once that is put right, go on with: {resume}") from error
    except RankLost as lost:
        _leave_status(run, "failed", str(lost))
        raise RankLost(f"{lost} What is done is kept; go on with: {resume}") from lost
    except Exception as error:
        _leave_status(run, "failed", " ".join(str(error).split()) or type(error).__name__)
        raise


def _leave_status(run: RunFolder, status: str, reason: str) -> None:
    """Say how a run ended, if it had begun and where that can be written."""
    if not holds_only_traces(run.path):
        with suppress(OSError):
            run.write_status(status, reason, _epoch(run))


def _epoch(run: RunFolder) -> int | None:
    return read_status(run.path).epoch if (run.path / "config.yaml").is_file() else None


def _finish(
    settings: Settings,
    run: RunFolder,
    deq: DEQ,
    dataset: Dataset,
    done: Checkpoint,
    tracker: Tracker,
    command: str,
    code: Code,
) -> RunRecord | None:
    """Test once, sweep, summarise, report; the record, None of ranks beyond the first."""
    # The weights that validation chose; without an epoch there is no checkpoint, and the initial ones are tested.
    if (run.checkpoints / "best.pt").is_file():
        load_best(deq, run.path)

    # Test once, at the training budget.
    device = next(deq.parameters()).device
    test = evaluate(deq, dataset, dataset.load("test"), settings.train.eval_batch_size, device)

    # Sweep. Finished trajectories lie in sweep_parts/ until every row is written, so that a kill costs one at most.
    parts = SweepParts(run.path, fingerprint_of(settings.fingerprint() + data_digest(dataset), deq))
    swept = sweep(settings, deq, dataset, parts)
    spectrum = _spectrum(settings, deq, dataset)

    # All ranks have measured; the first one summarises and reports, and no other waits for it.
    wait()
    if not leads():
        return None
    # Rows and trajectories first, then the summary that speaks of them.
    if settings.sweep.states:
        _keep_states(settings, run, deq, dataset)
    if settings.sweep.keep == "samples":
        run.write_trajectories(swept.trajectories)
    for kind, rows in swept.rows.items():
        run.write_rows(kind, rows)
    # The run in one row: accuracy on test with its interval, how long the sweep took, the code and the device.
    summary = replace(
        _summary(settings, deq, dataset, done, command),
        git_commit=code.commit,
        git_dirty=code.dirty,
        device=_device_name(device),
        **interval("test_accuracy", share_interval(test.correct.numpy())),
        **spectrum,
        sweep_seconds=swept.seconds,
        status="completed",
    )
    run.write_summary(summary)
    completed = RunStatus("completed", epoch=done.epoch)
    # Rows are read back, as the report will find them whenever it is made again; trajectories are there.
    record = read_run(run.path, trajectories=False)
    record = replace(record, status=completed, trajectories=swept.trajectories)
    # One record for page, tracker and table. The tracker comes last: it may hang, and the page is there.
    page = write_report(run.path, record) if settings.report else None
    tracker.log_results(record)
    tracker.finish(summary)
    # The terminal's share of it, as long as the parts are there, in which long trajectories lie.
    tables, warnings = [end_of_run_table(record), *axis_tables(record)], [_unsettled(settings, done), _idle(record)]

    # Last, so that a run that says it is complete lacks nothing; whatever ends it before is made up for on resume.
    run.write_status(completed.status, epoch=completed.epoch)
    parts.clear()
    # Show the table, the place of the page, and warnings that a person should see last.
    console = Console()
    for table in tables:
        console.print(table)
    shown = page or f"left out; deqrun report {shlex.quote(f'run={run.path}')} makes it"
    console.print(f"run     {run.path}\nreport  {shown}", soft_wrap=True, highlight=False)
    for warning in warnings:
        if warning is not None:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    return record


def _keep_states(settings: Settings, run: RunFolder, deq: DEQ, dataset: Dataset) -> None:
    """Keep the iterates of a few test samples, and say beforehand how much that is."""
    split, budget = dataset.load("test"), sweep_budget(settings)
    samples = min(settings.sweep.states, len(split))
    size = size_of_states(samples, budget.max_iter, deq.cell.state_size)
    print(
        f"states  {samples} samples, {budget.max_iter + 1:,} iterates of {deq.cell.state_size:,} numbers: "
        f"{size / 1e6:,.1f} MB in {FILE}",
        flush=True,
    )
    write_kept_states(run.path, keep_states(deq, dataset, split, samples, budget))


def _spectrum(settings: Settings, deq: DEQ, dataset: Dataset) -> dict[str, Any]:
    """The columns of the spectral radius, where one is asked for; of a net of layers there is none."""
    if not settings.sweep.spectrum or settings.baseline.explicit:
        return {}
    found = vars(local_stability(deq, dataset, dataset.load("test"), settings.sweep.spectrum))
    known = {name: value if math.isfinite(value) else None for name, value in found.items()}
    median = known.pop("median")
    return {"spectral_radius": median} | {f"spectral_radius_{name}": value for name, value in known.items()}


FAR = 10
"""Solves whose median residual is above this many times the tolerance have not arrived."""


def _unsettled(settings: Settings, done: Checkpoint) -> str | None:
    """A warning where the solves of the last epoch ended far above the tolerance: the states are no equilibria."""
    residual, tol = (done.epochs[-1].get("residual") if done.epochs else None), settings.budget.tol
    if residual is None or tol == 0 or residual <= FAR * tol:
        return None
    return (
        f"the solves of training did not settle: in the last epoch their median residual was {residual:.0e}, and the "
        f"tolerance is {tol:.0e}. A larger budget.max_iter, a higher train.jacobian_weight or more epochs help; until "
        "then the sweep asks a model whose answers are no fixed points."
    )


def _idle(record: RunRecord) -> str | None:
    """A warning where the training budget gains less than half a point of test accuracy over one iteration.

    Paired by sample, of this model: a gain whose 95 % interval holds 0 is not shown.
    """
    gain = gain_over_one(record)
    if gain is None or not abs(gain.mean) < HALF_A_POINT:
        return None
    low, high = 100 * gain.low, 100 * gain.high
    return (
        f"from one iteration to {record.train_max_iter} test accuracy changes by {100 * gain.mean:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}]: "
        + ("less than half a point." if low > 0 else f"these {gain.n:,} samples show no gain from further iterations.")
    )


def _say_what_begins(settings: Settings, dataset: Dataset, device: torch.device) -> None:
    """A line at once, for logs in which no bar moves; and a second where the adjoint has a budget of its own."""
    if not settings.train.trains:
        print(f"weights as they are: nothing is trained, on {device}", flush=True)
        return
    n, unit = len(dataset.load("train")), "epoch" if settings.train.steps is None else "step"
    count = settings.train.steps or settings.train.epochs or 0
    print(f"train   {n:,} samples, {count:,} {unit}{'' if count == 1 else 's'}, on {device}", flush=True)
    # An adjoint that stops earlier or later than the solves is easily overlooked in a config.
    own, budget = settings.gradient.parameters.get("budget"), settings.budget
    if isinstance(own, ComponentSettings):
        steps, tol = own.parameters.get("max_iter"), own.parameters.get("tol")
        if (steps, tol) != (budget.max_iter, budget.tol):
            print(
                f"adjoint up to {steps} steps to {tol} (gradient.budget), while the solves have {budget.max_iter} to "
                f"{budget.tol} (budget)",
                flush=True,
            )


def _summary(settings: Settings, deq: DEQ, dataset: Dataset, done: Checkpoint, command: str) -> Summary:
    described, baseline = None, None
    try:
        described, baseline = describe_model(settings, dataset, deq.cell)
    except Exception:  # a model from elsewhere need not run on shapes alone: its cost stays unknown
        if not settings.own_weights:
            raise
    named: dict[str, Any] = {group: settings.choices.get(group) for group in ("model", "dataset", "solver", "gradient")}
    named |= {f"n_{split}": len(dataset.load(split)) for split in SPLITS}
    return Summary(
        name=settings.name,
        command=command,
        config_hash=settings.fingerprint(),
        seed=settings.seed,
        versions=_versions(),
        **named,
        baseline=settings.baseline.kind,
        baseline_layers=settings.baseline.layers,
        deq_parameters=baseline.deq_parameters if baseline else None,
        net_multiply_adds=baseline.multiply_adds if baseline else None,
        state_size=deq.cell.state_size,
        parameters=sum(weight.numel() for weight in deq.cell.parameters()),
        multiply_adds=described.multiply_adds if described else None,
        train_max_iter=settings.solve_iterations,
        train_tol=settings.budget.tol,
        ema=settings.train.ema,
        best_epoch=done.best_epoch,
        val_accuracy=done.best_accuracy,
        train_seconds=done.seconds,
        compilations=deq.compilations,
    )


def _device_name(device: torch.device) -> str:
    """The name of the accelerator, or of the processor, where the system tells it."""
    if not traits(device).at_hand:
        named = getattr(torch.get_device_module(device), "get_device_name", None)
        return str(named(device)) if named else device.type
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"deqrun": __version__, "python": platform.python_version(), "platform": sys.platform}
    found["threads"] = str(torch.get_num_threads())
    if several():
        found["ranks"] = str(place().count)
    for package in ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scikit-learn", "wandb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
