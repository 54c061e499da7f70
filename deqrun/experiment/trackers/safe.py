"""Another tracker, made safe: it fails once, is waited for no longer than allowed, and never stops the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from deqrun.experiment.trackers.tracker import Tracker
from deqrun.records.rows import BudgetEvaluation, Epoch, Step
from deqrun.records.run import RunRecord, Summary


@dataclass(frozen=True)
class Patience:
    """Seconds that a run waits for its tracker: to begin, to take a row in, or all results, and to close."""

    begin: float = 45.0
    log: float = 20.0
    results: float = 60.0
    finish: float = 30.0
    early: float = 10.0


OFFLINE = Patience()
ONLINE = Patience(finish=300.0)  # what is left is uploaded then


class SafeTracker(Tracker):
    """Another tracker, whose first failure is told in a warning and is its last call but for closing its record.

    Its calls run one after the other in a thread of their own; one that takes longer than the patience is a failure.

    make     makes the tracker
    waits    whether to wait until it is made; else the first call does
    abandon  called where the tracker hangs, so that it can't keep the process from ending
    """

    def __init__(
        self,
        make: Callable[[], Tracker],
        patience: Patience = OFFLINE,
        *,
        waits: bool = True,
        abandon: Callable[[], object] = lambda: None,
    ) -> None:
        self._patience, self._abandon = patience, abandon
        self._aside = Aside()
        self._off, self._tells = False, True
        self._made = self._aside.begin(make)
        if waits:
            self._await(self._made, patience.begin)

    def log_step(self, step: Step) -> None:
        self._call("log_step", self._patience.log, step)

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        self._call("log_evaluation", self._patience.log, rows)

    def log_epoch(self, epoch: Epoch) -> None:
        self._call("log_epoch", self._patience.log, epoch)

    def log_results(self, record: RunRecord) -> None:
        self._call("log_results", self._patience.results, record)

    def finish(self, summary: Summary | None) -> None:
        """Close the record; a second call does nothing. Of a run that ended early no failure is told."""
        self._tells = summary is not None
        self._call("finish", self._patience.finish if self._tells else self._patience.early, summary)
        self._off = True

    def _call(self, method: str, seconds: float, *arguments: object) -> None:
        if self._off:
            return
        # A tracker may still be connecting when the first row comes.
        if not self._made.done():
            self._await(self._made, self._patience.begin if self._tells else self._patience.early)
        if not self._off:
            self._await(self._aside.begin(lambda: getattr(self._made.result(), method)(*arguments)), seconds)

    def _await(self, call: Future[Any], seconds: float) -> None:
        # A late answer or an error ends the tracker, never the run.
        try:
            call.result(timeout=seconds)
        except TimeoutError:
            self._off = True
            self._abandon()
            self._tell(f"it did not answer within {seconds:g} s")
        except Exception as error:
            self._off = True
            self._close()
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            self._tell(f"{type(error).__name__}: {first_line}")

    def _tell(self, reason: str) -> None:
        if self._tells:
            message = f"The tracker failed and is off for the rest of the run, which goes on: {reason}"
            warnings.warn(message, stacklevel=5)

    def _close(self) -> None:
        """Close the record of a tracker that failed, where there is one and it still answers."""
        if self._made.done() and self._made.exception() is None:
            closing = self._aside.begin(lambda: self._made.result().finish(None))
            try:
                closing.result(timeout=10)
            except Exception:
                self._abandon()


class Aside:
    """Calls that are made one after the other in a daemon thread, which never keeps the process from ending."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        Thread(target=self._work, daemon=True, name="tracker").start()

    def begin(self, call: Callable[[], Any]) -> Future[Any]:
        """Have `call` made after those before it."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        # One call at a time, in order; its error is raised where the result is asked for.
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
