"""Views of a run for a dashboard. A tracker that fails says so once and never stops the run."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from deqrun.records.rows import Epoch, SweepCell
from deqrun.records.run import Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.settings import TrackerSettings


class Tracker(ABC):
    """The interface of a tracker: it takes in a run's records."""

    @abstractmethod
    def log_epoch(self, epoch: Epoch) -> None:
        """Scalars of one epoch of training."""

    @abstractmethod
    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        """Residual and accuracy curves, each against its own step axis."""

    @abstractmethod
    def finish(self, summary: Summary | None) -> None:
        """Close the record, with the summary's figures; None: of a run that did not come to its end."""


class NoTracker(Tracker):
    """Keeps the run to its folder."""

    def log_epoch(self, epoch: Epoch) -> None: ...

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None: ...

    def finish(self, summary: Summary | None) -> None: ...


class WandbTracker(Tracker):
    """Weights & Biases; offline by default: no account, no prompt, no network.

    Training goes against `epoch`. After the sweep, residual curves go against `residual/iter` and accuracy curves
    against `budget/iters`, one key per trajectory, so that the curves of several runs overlay in one panel.
    """

    def __init__(self, settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # else staged under the home folder
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(
            dir=str(folder),
            name=name,
            config=config,
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            job_type=settings.job_type,
            tags=list(settings.tags),
            id=_run_id(folder),
            resume="allow",
            settings=wandb.Settings(console="off", reinit="create_new", init_timeout=OFFLINE.begin - 5),
        )
        self._known = int(self._run.summary.get("epoch", 0)) if settings.mode == "online" else 0
        for metrics, axis in (("train/*", "epoch"), ("residual/*", "residual/iter"), ("accuracy/*", "budget/iters")):
            self._run.define_metric(axis)
            self._run.define_metric(metrics, step_metric=axis)

    def log_epoch(self, epoch: Epoch) -> None:
        if epoch.epoch <= self._known:  # of a run that goes on online, where the server has it
            return
        values = {f"train/{key}": value for key, value in asdict(epoch).items() if value is not None}
        self._run.log({"epoch": values.pop("train/epoch"), **values})

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        for row in residual_rows(trajectories) + accuracy_rows(cells):
            self._run.log(row)

    def finish(self, summary: Summary | None) -> None:
        if summary is not None:
            kept = {key: value for key, value in asdict(summary).items() if isinstance(value, (int, float))}
            self._run.summary.update(kept)
        self._run.finish(exit_code=0 if summary is not None else 1)


def _run_id(folder: Path) -> str:
    """The same id for the same folder, so that a resumed run goes on in the dashboard."""
    kept = folder / "wandb" / "run-id.txt"
    if kept.is_file():
        return kept.read_text().strip()
    kept.parent.mkdir(parents=True, exist_ok=True)
    run_id = os.urandom(6).hex()
    kept.write_text(run_id + "\n")
    return run_id


def residual_rows(trajectories: dict[TrajectoryKey, Trajectory]) -> list[dict[str, float]]:
    """A row per iterate: `residual/iter`, and the median over samples per solver; a stopped row keeps its last."""
    rows: dict[int, dict[str, float]] = {}
    for key, trajectory in trajectories.items():
        latest = np.minimum(np.arange(len(trajectory.residual))[:, None], trajectory.last())
        for k, values in enumerate(np.take_along_axis(trajectory.residual, latest, axis=0)):
            row = rows.setdefault(k, {"residual/iter": k})
            row[f"residual/{key.path}"] = float(np.median(values))
    return [rows[k] for k in sorted(rows)]


def accuracy_rows(cells: list[SweepCell]) -> list[dict[str, float]]:
    """A row per budget: `budget/iters`, and per solver the accuracy at the sweep's smallest tolerance."""
    smallest = min((cell.tol for cell in cells), default=0.0)
    rows: dict[int, dict[str, float]] = {}
    for cell in cells:
        if cell.tol == smallest:
            row = rows.setdefault(cell.max_iter, {"budget/iters": cell.max_iter})
            row[f"accuracy/{cell.key.path}"] = cell.accuracy
    return [rows[budget] for budget in sorted(rows)]


@dataclass(frozen=True)
class Patience:
    """Seconds that a run waits for its tracker: to begin, to take a record in, and to close, at its end or early."""

    begin: float = 45.0
    log: float = 20.0
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
        self._aside = _Aside()
        self._off, self._tells = False, True
        self._made = self._aside.begin(make)
        if waits:
            self._await(self._made, patience.begin)

    def log_epoch(self, epoch: Epoch) -> None:
        self._call("log_epoch", self._patience.log, epoch)

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        self._call("log_sweep", self._patience.log, cells, trajectories)

    def finish(self, summary: Summary | None) -> None:
        """Close the record; a second call does nothing. Of a run that ended early no failure is told."""
        self._tells = summary is not None
        self._call("finish", self._patience.finish if self._tells else self._patience.early, summary)
        self._off = True

    def _call(self, method: str, seconds: float, *arguments: object) -> None:
        if self._off:
            return
        if not self._made.done():
            self._await(self._made, self._patience.begin if self._tells else self._patience.early)
        if not self._off:
            self._await(self._aside.begin(lambda: getattr(self._made.result(), method)(*arguments)), seconds)

    def _await(self, call: Future[Any], seconds: float) -> None:
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
            except TimeoutError:
                self._abandon()
            except Exception:
                self._abandon()


class _Aside:
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
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def make_tracker(settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> Tracker:
    """The tracker that the settings name, made safe. Offline it is made while the run begins."""
    if settings.name == "none" or settings.mode == "disabled":
        return NoTracker()
    if settings.mode == "online" and (reason := unreachable(wandb_url())) is not None:
        warnings.warn(
            f"W&B can't be reached ({reason}); the run is recorded offline. Upload it later with: "
            f"wandb sync {folder}/wandb/offline-run-*",
            stacklevel=3,
        )
        settings = settings.model_copy(update={"mode": "offline"})
    online = settings.mode == "online"
    return SafeTracker(
        lambda: WandbTracker(settings, folder, name, config),
        ONLINE if online else OFFLINE,
        waits=online,
        abandon=end_wandb_service,
    )


@contextmanager
def tracked(settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> Iterator[Tracker]:
    """Within: the tracker that the settings name. Whatever ends the run early, its record is closed as failed."""
    tracker = make_tracker(settings, folder, name, config)
    try:
        yield tracker
    except BaseException:
        tracker.finish(None)
        raise


def wandb_url() -> str:
    """The address of W&B's server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def unreachable(url: str, seconds: float = 4.0) -> str | None:
    """Why the server at `url` can't be reached; None where it can be, or where a proxy has to know."""
    parts = urlsplit(url)
    if getproxies().get(parts.scheme) or parts.hostname is None:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        # Names are looked up in a thread of their own, since nothing else limits the time of that.
        looked_up = _Aside().begin(lambda: socket.create_connection((parts.hostname, port), timeout=seconds).close())
        looked_up.result(timeout=seconds)
    except TimeoutError:
        return f"{parts.hostname} does not answer within {seconds:g} s"
    except OSError as error:
        return f"{parts.hostname}: {error.strerror or error}"
    return None


def end_wandb_service() -> None:
    """End W&B's own process, a child of this one, where it hangs: this process would wait for it at its end."""
    for child in _children():
        with suppress(OSError):
            if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text(errors="replace"):
                os.kill(child, signal.SIGKILL)
    with suppress(Exception):  # W&B forgets it, and no longer waits for it at the end of this process
        _Aside().begin(_forget_wandb).result(timeout=5)


def _forget_wandb() -> None:
    import wandb

    wandb.teardown(exit_code=1)


def _children() -> list[int]:
    """Process ids of this process's children; none where the system has no /proc."""
    found = []
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found
