"""Making a study: its runs one after the other, then its answer; killed at any instant, it goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from deqrun import __version__
from deqrun.errors import Interrupted, UserError, one_line
from deqrun.experiment.data.asked import require_own_data
from deqrun.experiment.data.record import read_record
from deqrun.experiment.devices import is_accelerator
from deqrun.experiment.launch import prepare, recorded, resume_command, run_train
from deqrun.experiment.trained import require_sound
from deqrun.experiment.training.train import TrainingStopped
from deqrun.records.claims import claimed
from deqrun.records.files import write_whole
from deqrun.records.reading import read_run
from deqrun.records.writing import RunFolder
from deqrun.report import write_report
from deqrun.report.answer import Answer, AskedRun, Origin, answer_text, write_answer
from deqrun.report.numbers import percent
from deqrun.settings import read_settings
from deqrun.settings.place import torchrun_place
from deqrun.studies.context import Context, StudyRun
from deqrun.studies.question import Question, load_question
from deqrun.studies.side_by_side import Task, cores, run_side_by_side
from deqrun.studies.study import FILE, Study, Variant, is_study

_Runs = list[tuple[Variant, Path]]
"""Variants with their run folders."""


def make_study(study: Study, folder: Path, command: str) -> Answer:
    """Train the study's runs, ask its question, and write its answer; goes on where the folder stands.

    The folder holds study.yaml, runs/ with an ordinary run folder for each run, and in the end answer.md, answer.json,
    report.html and figures/. Runs that are complete aren't trained again.
    """
    question = load_question(study.question, study.ask)
    go_on = command if study.asked else resume_command(folder, command)
    status = RunFolder(folder)
    with claimed(folder):
        _require_sound_runs(study, folder)
        with recorded(status, go_on):
            if not is_study(folder):
                write_whole(folder / FILE, study.to_yaml())
            status.write_status("running")
            jobs, threads = _shared_out(study)
            runs = _asked_run(study) if study.asked else _trained_runs(study, folder, go_on, jobs, threads)
            device = prepare(study.device, threads)
            print(f"asking  {question.asks}", flush=True)
            lost = {variant.label: reason for variant, _ in runs if (reason := _reason(folder, variant.label))}
            paired = _paired(runs, lost, question)
            found = tuple(StudyRun(one.label, one.kind, run, one.settings, device) for one, run in paired)
            if not found:
                raise UserError(f"study={study.name}: no seed was trained to its end. {next(iter(lost.values()))}")
            context = Context(folder, study.size, found, device, lost, jobs, threads)
            seeds = sorted({run.settings.seed for run in found})
            answer = question.answer(context, **study.ask)
            conclusion = replace(answer.conclusion, recipes=len(context.kinds))
            answer = replace(answer, conclusion=conclusion, seeds=seeds, lost=lost)
            page = write_answer(folder, answer, _origin(study, question.asks, folder, context, command))
            status.write_status("completed")
    print(f"\n{question.asks}\n\n{answer_text(answer)}")
    print(f"\nanswer  {folder / 'answer.md'}\nreport  {page}", flush=True)
    return answer


def _require_sound_runs(study: Study, folder: Path) -> None:
    """Check that the study's runs can go on, on the data that they began with. Raises UserError.

    This comes before anything is written, so that the study and its runs keep their status.
    """
    seen: set[str] = set()
    for variant in study.variants:
        run, settings = folder / "runs" / variant.label, variant.settings
        record = read_record(run)
        text = f"{settings.dataset} {record and record.digests}"
        try:
            if record is not None and text not in seen:
                require_own_data(settings, run, asked=False)
            if (run / "config.yaml").is_file() and not _finished(run):
                require_sound(settings, run, resumes=True)
        except (UserError, ValueError) as error:
            raise UserError(one_line(f"study={study.name}: run {variant.label}: {error}")) from error
        seen.add(text)


def _shared_out(study: Study) -> tuple[int, int | None]:
    """How many runs at a time, and how many threads each: one thread, and as many runs as cores, unless given.

    An accelerator is not shared, and a run that is asked has it to itself. A run whose work is shared by ranks has the
    whole machine.
    """
    if study.asked or is_accelerator(study.device) or study.in_ranks or torchrun_place() is not None:
        return 1, study.threads
    threads = study.threads or 1
    jobs = study.jobs or max(1, cores() // threads)
    return min(jobs, max(1, len(study.variants))), threads


def _paired(runs: _Runs, lost: Mapping[str, str], question: Question) -> _Runs:
    """The runs that are asked: of every variant that has any, and where seeds are paired, the same seeds of each."""
    kept = [run for run in runs if run[0].label not in lost]
    if not question.pairs_seeds or not lost or not kept:
        return kept
    seeds_of: dict[str, set[int]] = {}
    for variant, _ in kept:
        seeds_of.setdefault(variant.kind, set()).add(variant.settings.seed)
    shared = set.intersection(*seeds_of.values())
    return [run for run in kept if run[0].settings.seed in shared]


def _diverged(folder: Path, label: str) -> Path:
    """The file that holds why a run of the study in `folder` diverged in training."""
    return folder / "parts" / f"{label}.diverged"


def _reason(folder: Path, label: str) -> str:
    path = _diverged(folder, label)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _asked_run(study: Study) -> _Runs:
    assert study.asked is not None
    settings = read_settings(study.asked / "config.yaml", allow_foreign_targets=study.allow_foreign_targets)
    return [(Variant("run", "run", settings, ""), study.asked)]


def _trained_runs(study: Study, folder: Path, go_on: str, jobs: int, threads: int | None) -> _Runs:
    """Every variant with its finished run folder; missing runs are trained, `jobs` at a time."""
    runs = [(variant, folder / "runs" / variant.label) for variant in study.variants]
    tasks = [
        Task(variant.label, partial(_train, variant, run, threads, folder), folder / "runs" / f"{variant.label}.log")
        for variant, run in runs
        if not _finished(run) and not _reason(folder, variant.label)
    ]
    kept = len(runs) - len(tasks)
    if tasks:
        print(f"training {len(tasks)} runs, {jobs} at a time" + (f"; {kept} are there" if kept else ""), flush=True)
    ended = []

    def told(task: Task) -> None:
        ended.append(task)
        note = f": {reason}" if (reason := _reason(folder, task.label)) else ""
        print(f"run {kept + len(ended)}/{len(runs)}  {task.label}{note}", flush=True)

    try:
        run_side_by_side(tasks, jobs, told)
    except Interrupted as interrupted:
        raise KeyboardInterrupt from interrupted  # told once, with the study's own command
    except UserError as error:
        raise UserError(f"study={study.name}: {error} Go on with: {go_on}") from error
    return runs


def _finished(run: Path) -> bool:
    """Whether a run is complete, its page included."""
    begun = (run / "config.yaml").is_file()
    return begun and read_run(run).status.status == "completed" and (run / "report.html").is_file()


def _train(variant: Variant, run: Path, threads: int | None, folder: Path) -> None:
    """Train one run to its end, from wherever its folder stands. That it diverges is a result, and is kept."""
    begun = (run / "config.yaml").is_file()
    if begun and read_run(run).status.status == "completed":  # stopped between its records and its page
        with claimed(run):
            write_report(run)
        return
    settings = variant.settings.model_copy(update={"run": run, "resume": begun, "threads": threads, "report": True})
    try:
        run_train(settings, run, variant.command)
    except TrainingStopped as stopped:
        write_whole(_diverged(folder, variant.label), str(stopped))
    except UserError as error:
        raise UserError(f"run {variant.label}: {error}") from error


def _origin(study: Study, asks: str, folder: Path, context: Context, command: str) -> Origin:
    runs = [AskedRun(run.label, os.path.relpath(run.folder, folder), _what(run)) for run in context.runs]
    return Origin(study.name, study.size, asks, command, _versions(), runs)


def _what(run: StudyRun) -> str:
    """'97.2 % test accuracy (n = 359), 12 epochs'."""
    record = run.record
    accuracy, n, epochs = record.summary.test_accuracy, record.summary.n_test, len(record.epochs)
    return f"{percent(accuracy)} test accuracy (n = {n}), {epochs} epoch" + ("" if epochs == 1 else "s")


def _versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    return f"deqrun {__version__}, python {python}, torch {version('torch')}, threads {torch.get_num_threads()}"
