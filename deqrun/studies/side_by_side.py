"""Tasks in worker processes, as many at a time as cores allow."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from deqrun.errors import Interrupted, UserError

__all__ = ["Task", "cores", "run_side_by_side"]


@dataclass(frozen=True)
class Task:
    """One thing to be done.

    do   called without arguments; it can be pickled, and leaves its result in files
    log  file that its output goes to where it has a worker of its own
    """

    label: str
    do: Callable[[], object]
    log: Path


@dataclass
class _Worker:
    """A process that does one task after the other, and the one that it is at."""

    process: BaseProcess
    pipe: Connection
    task: Task | None = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_side_by_side(tasks: Sequence[Task], jobs: int, done: Callable[[Task], object]) -> None:
    """Do every task, `jobs` at a time; with one job in this very process, in order.

    A task that fails ends the others: its UserError is raised here; one that was interrupted, KeyboardInterrupt.
    """
    if jobs == 1 or len(tasks) <= 1:
        for task in tasks:
            task.do()
            done(task)
        return
    waiting = list(tasks)
    workers = [_start() for _ in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            _give(worker, waiting)
        while busy := {id(worker.pipe): worker for worker in workers if worker.task is not None}:
            for ready in wait([worker.pipe for worker in busy.values()]):
                worker = busy[id(ready)]
                done(_ended(worker))
                _give(worker, waiting)
    finally:
        # SIGTERM to those that are still at work: a run then says that it was interrupted.
        for worker in workers:
            if worker.task is not None:
                worker.process.terminate()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Task]) -> None:
    worker.task = waiting.pop(0) if waiting else None
    if worker.task is not None:
        with suppress(BrokenPipeError):  # a worker that has died is found out when it is waited for
            worker.pipe.send(worker.task)


def _ended(worker: _Worker) -> Task:
    """The task that the worker has done; raises its exception."""
    task = worker.task
    assert task is not None
    try:
        kind, message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        see = f"; see {task.log}" if task.log.is_file() else ""
        kind, message = "died", f"{task.label} ended with exit code {worker.process.exitcode}{see}."
    worker.task = None
    if kind == "interrupted":
        raise KeyboardInterrupt
    if kind != "done":
        raise UserError(message)
    return task


def _work(pipe: Connection) -> None:
    """In a worker: do each task that comes, with all it prints in its log, and send how it ended."""
    while True:
        try:
            task = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                task.do()
                pipe.send(("done", ""))
            except (KeyboardInterrupt, Interrupted):
                pipe.send(("interrupted", ""))
            except UserError as error:
                pipe.send(("refused", str(error)))
            except Exception:
                traceback.print_exc()
                log.flush()
                sys.exit(1)
