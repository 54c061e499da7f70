"""The trackers that the settings name, made for a run and made safe."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from deqrun.errors import UserError
from deqrun.experiment.trackers.safe import OFFLINE, ONLINE, Aside, SafeTracker
from deqrun.experiment.trackers.tracker import NoTracker, Several, TrackedRun, Tracker
from deqrun.settings import TrackerSettings

WANDB = "https://api.wandb.ai"
"""The address of W&B's server, where WANDB_BASE_URL names no other."""

LOCAL = {"tensorboard": "TensorBoardTracker", "mlflow": "MlflowTracker", "trackio": "TrackioTracker"}
"""Classes of the trackers that wait for no server, each in a module of its own."""


def require_trackers(settings: TrackerSettings) -> None:
    """Each tracker that the settings name is installed. Raises UserError with the command that installs it."""
    for name in settings.names:
        if find_spec(name) is None:
            raise UserError(
                f"tracker={name} needs the package {name}, which is not installed: pip install 'deqrun[{name}]'; "
                "without it, tracker=wandb and tracker=none are allowed."
            )


def make_tracker(settings: TrackerSettings, run: TrackedRun) -> Tracker:
    """The trackers that the settings name, each made safe. They are made while the run begins, except W&B online."""
    # One that fails ends neither the run nor the others: each is safe by itself.
    trackers = [_wandb(settings, run) if name == "wandb" else _local(name, settings, run) for name in settings.names]
    if len(trackers) > 1:
        return Several(trackers)
    return trackers[0] if trackers else NoTracker()


def _wandb(settings: TrackerSettings, run: TrackedRun) -> Tracker:
    # A run must not wait for a server: without one it is recorded offline.
    if settings.mode == "online" and (reason := unreachable(os.environ.get("WANDB_BASE_URL", WANDB))):
        warnings.warn(
            f"W&B can't be reached ({reason}); the run is recorded offline. Upload it later with: "
            f"wandb sync {run.folder}/wandb/offline-run-*",
            stacklevel=4,
        )
        settings = settings.model_copy(update={"mode": "offline"})
    online = settings.mode == "online"

    def make() -> Tracker:
        from deqrun.experiment.trackers.wandb_tracker import WandbTracker

        return WandbTracker(settings, run, init_timeout=OFFLINE.begin - 5)

    return SafeTracker(make, ONLINE if online else OFFLINE, waits=online, abandon=end_wandb_service)


def _local(name: str, settings: TrackerSettings, run: TrackedRun) -> Tracker:
    def make() -> Tracker:
        module = import_module(f"deqrun.experiment.trackers.{name}_tracker")
        made: Tracker = getattr(module, LOCAL[name])(settings, run)
        return made

    return SafeTracker(make, waits=False)


@contextmanager
def tracked(settings: TrackerSettings, run: TrackedRun) -> Iterator[Tracker]:
    """Within: the trackers that the settings name. Whatever ends the run early, its record is closed as failed."""
    tracker = make_tracker(settings, run)
    try:
        yield tracker
    finally:
        tracker.finish(None)  # of a record that was closed with a summary, nothing is left to close


def unreachable(url: str, seconds: float = 4.0) -> str | None:
    """Why the server at `url` can't be reached; None where it can be, or where a proxy has to know."""
    # Behind a proxy the name need not be known here.
    parts = urlsplit(url)
    if getproxies().get(parts.scheme) or parts.hostname is None:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        # Names are looked up in a thread of their own, since nothing else limits the time of that.
        looked_up = Aside().begin(lambda: socket.create_connection((parts.hostname, port), timeout=seconds).close())
        looked_up.result(timeout=seconds)
    except TimeoutError:
        return f"{parts.hostname} does not answer within {seconds:g} s"
    except OSError as error:
        return f"{parts.hostname}: {error.strerror or error}"
    return None


def end_wandb_service() -> None:
    """End W&B's own process, a child of this one, where it hangs: this process would wait for it at its end."""
    # Only children of this process, and only W&B's own.
    for child in _children():
        with suppress(OSError):
            if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text(errors="replace"):
                os.kill(child, signal.SIGKILL)
    with suppress(Exception):  # W&B forgets it, and no longer waits for it at the end of this process
        Aside().begin(_forget_wandb).result(timeout=5)


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
