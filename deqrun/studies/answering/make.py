"""Making a study: its runs one after the other, then its answer; killed at any instant, it goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from deqrun import __version__
from deqrun.experiment.launch import prepare, recorded, run_train
from deqrun.experiment.records import RunFolder
from deqrun.report import read_run, write_report
from deqrun.report.answer import Answer, AnswerTable, AskedRun, Origin, write_answer
from deqrun.report.files import write_whole
from deqrun.report.numbers import percent
from deqrun.report.page_parts import Column
from deqrun.settings import Interrupted, Settings, UserError
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question, load_question
from deqrun.studies.answering.study import FILE, Study, Variant, is_study


def make_study(study: Study, folder: Path, command: str) -> Answer:
    """Train what the study needs, ask its question, and write its answer; goes on where the folder stands.

    The folder holds study.yaml, runs/ with an ordinary run folder for each run, and in the end answer.md, answer.json,
    report.html and figures/. Runs that are complete aren't trained again.
    """
    question = load_question(study.question, study.ask)
    go_on = command if study.asked else f"deqrun train run={folder} resume=true"
    status = RunFolder(folder)
    with recorded(status, go_on):
        if not is_study(folder):
            write_whole(folder / FILE, study.to_yaml())
        status.write_status("running")
        runs = _asked_run(study) if study.asked else _trained_runs(study, folder, go_on)
        device = prepare(study.device, study.threads)
        print(f"asking  {question.asks}", flush=True)
        context = Context(folder, study.size, tuple(_study_run(*run, device) for run in runs), device)
        answer = _with_each_seed(question, context, study.ask)
        page = write_answer(folder, answer, _origin(study, question.asks, folder, context, command))
        status.write_status("completed")
    print(f"\n{question.asks}\n")
    for sentence in answer.sentences:
        print(sentence)
    print(f"\nanswer  {folder / 'answer.md'}\nreport  {page}", flush=True)
    return answer


def _with_each_seed(question: Question, context: Context, ask: Mapping[str, Any]) -> Answer:
    """The answer of all runs, and where they have several seeds that of each: what training's chance does to it."""
    answer = question.answer(context, **ask)
    seeds = sorted({run.settings.seed for run in context.runs})
    if len(seeds) == 1:
        return answer
    own = {}
    for seed in seeds:
        runs = tuple(run for run in context.runs if run.settings.seed == seed)
        own[str(seed)] = question.answer(replace(context, runs=runs, quiet=True), **ask).sentences
    columns = Column("seed", list(own)), Column("answer", [first for first, *_ in own.values()], words=True)
    note = "How far apart these lie is what training's chance does, and few seeds tell little of it."
    table = AnswerTable("The answer of each seed by itself", columns, note)
    return replace(answer, tables=[*answer.tables, table], numbers={**answer.numbers, "by_seed": own})


def _asked_run(study: Study) -> list[tuple[Variant, Path]]:
    assert study.asked is not None
    settings = Settings.from_yaml(study.asked / "config.yaml", allow_foreign_targets=study.allow_foreign_targets)
    return [(Variant("run", "run", settings, ""), study.asked)]


def _trained_runs(study: Study, folder: Path, go_on: str) -> list[tuple[Variant, Path]]:
    """Every variant with its finished run folder."""
    runs = []
    for number, variant in enumerate(study.variants, start=1):
        run = folder / "runs" / variant.label
        runs.append((variant, run))
        print(f"run {number}/{len(study.variants)}  {variant.label}", flush=True)
        try:
            _train(variant, run)
        except Interrupted as interrupted:
            raise KeyboardInterrupt from interrupted  # told once, with the study's own command
        except UserError as error:
            raise UserError(f"run {variant.label} of study={study.name}: {error} Go on with: {go_on}") from error
    return runs


def _train(variant: Variant, run: Path) -> None:
    """Train one run to its end, from wherever its folder stands."""
    begun = (run / "config.yaml").is_file()
    if not (begun and read_run(run).status.status == "completed"):
        run_train(variant.settings.model_copy(update={"run": run, "resume": begun}), run, variant.command)
    elif not (run / "report.html").is_file():  # stopped between its records and its page
        write_report(run)


def _study_run(variant: Variant, folder: Path, device: torch.device) -> StudyRun:
    return StudyRun(variant.label, variant.kind, folder, variant.settings, device)


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
