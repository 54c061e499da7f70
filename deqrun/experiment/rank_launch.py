"""Starting the ranks of a run, and joining the ranks that torchrun started.

A run with `launch.devices` starts its ranks in processes of their own, under torch's elastic agent; this process keeps
the claim of the run's folder and its status, and waits. Under torchrun the first rank is the command itself, and the
others follow it from one run to the next.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch.distributed as dist
from tqdm import tqdm

from deqrun.errors import Interrupted, RankLost, Unwritable, UserError, one_line
from deqrun.experiment.devices import count_of, find, kind_of
from deqrun.experiment.machine_limits import THREADS_PER_CORE, cores
from deqrun.experiment.ranks import joined
from deqrun.records.signals import ENDING, ending_as_interrupted, handled_as_interruption
from deqrun.settings import Settings
from deqrun.settings.place import Place, torchrun_place

__all__ = ["follow", "in_ranks", "leading", "require_ranks"]

LOOPBACK = "127.0.0.1"
STARTING = timedelta(minutes=10)
"""The longest that ranks wait for each other while they start."""

STOPPED = 130

LAST = 1.0
"""Seconds by which a rank that lost another ends later, so that the agent sees first how the lost one ended."""


class _Job(NamedTuple):
    """A run that ranks work on together: `do(settings, *rest)`. `path` is where Python finds code of the user's."""

    do: Callable[..., float]
    settings: Settings
    rest: tuple[Any, ...]
    path: list[str]


def require_ranks(settings: Settings) -> None:
    """Refuse more ranks than there are devices, or than torchrun has started. Raises UserError, one sentence."""
    wanted, under = settings.launch.devices, torchrun_place()
    if wanted is None:
        return
    if under is not None:
        raise UserError(
            f"launch.devices={wanted} starts processes, and torchrun has started {under.count} already; allowed there "
            "is launch.devices=null."
        )
    kind = kind_of(settings.device)
    if kind == "cpu":
        most = THREADS_PER_CORE * cores()
        if wanted > most:
            raise UserError(
                f"launch.devices={wanted} is too many for this machine: on the CPU allowed are 1 to {most}, "
                f"{THREADS_PER_CORE} for each of {cores()} cores (nearest: {most})."
            )
        return
    find(settings.device)  # which says so where there is none
    most = count_of(kind)
    if wanted > most:
        raise UserError(
            f"launch.devices={wanted} was given, but PyTorch sees {most} {kind} device{'' if most == 1 else 's'}; "
            f"allowed here: 1 to {most} (nearest: {most})."
        )


def in_ranks(do: Callable[..., float], settings: Settings, *rest: Any) -> float:
    """`do(settings, *rest)` in this process, or at every rank that the settings ask for or that torchrun started.

    do  a function of a module, so that other processes find it by its name
    Returns the first rank's value. Raises its exception; RankLost where a rank died.
    """
    job = _Job(do, settings, rest, list(sys.path))
    if _followers is not None:
        return _followers.lead(job)
    return _launched(job) if settings.launch.several else do(settings, *rest)


# Ranks in processes that this one starts.


def _launched(job: _Job) -> float:
    # Imported here: a process alone needs none of it.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count, minutes = job.settings.launch.devices, job.settings.launch.timeout_minutes
    assert count is not None
    with tempfile.TemporaryDirectory(prefix="deqrun-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOOPBACK}:0",
            local_addr=LOOPBACK,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # Ctrl-C stays Python's own here: the agent then ends the ranks with SIGTERM, as a second signal to each.
            signals_to_handle=",".join(handled_as_interruption()),
            shutdown_timeout=max(1, round(60 * minutes)),
        )
        try:
            with _undisturbed(), _quiet_agent():
                values = elastic_launch(config, _rank)(job, folder)
        except SignalException as stop:
            raise KeyboardInterrupt from stop
        except ChildFailedError as failed:
            _raise_reason(Path(folder), count, {rank: end.exitcode for rank, end in failed.failures.items()})
        value: float = values[0]
        return value


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Within, torch's agent may change signal handlers and the environment; they are put back afterwards."""
    names = [name for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    environment = dict(os.environ)
    # One machine: gloo need not know the machine's name.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError, TypeError):  # not the main thread, which has changed none
                signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)


def _loopback_interface() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])


@contextmanager
def _quiet_agent() -> Iterator[None]:
    """Within, the agent says nothing of ranks that end: the run itself says why it ended."""
    talkative = ("torch.distributed", "torch.multiprocessing")
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(talkative)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _rank(job: _Job, folder: str) -> float:
    """The whole life of one rank; how it ended otherwise than well is in a file, for the process that started it."""
    own = Place.from_environment(os.environ)
    # A bar's lock between processes would be left behind by a rank that is killed.
    tqdm.set_lock(threading.RLock())
    try:
        with ending_as_interrupted(), _silent_unless_first(own):
            return _work(job, own, _store(own), 0)
    except KeyboardInterrupt as stop:
        _end(Path(folder), own, stop, STOPPED)
    except BaseException as error:
        if not isinstance(error, (UserError, RankLost, OSError)):
            traceback.print_exc()
        _end(Path(folder), own, error, 1)


def _end(folder: Path, own: Place, error: BaseException, code: int) -> NoReturn:
    """Leave word of how a rank ended, and end it."""
    for number in (signal.SIGTERM, signal.SIGINT):  # of the agent, which ends all ranks once one has ended
        signal.signal(number, signal.SIG_IGN)
    try:
        word = pickle.dumps(error)
        pickle.loads(word)
    except Exception:
        word = pickle.dumps(RankLost(_by(own.rank, own.count, error)))
    path = folder / f"{own.rank}.end"
    path.with_suffix(".part").write_bytes(word)
    path.with_suffix(".part").replace(path)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if isinstance(error, RankLost):
        time.sleep(LAST)
    # At once: threads of a group that was lost would abort the end of the interpreter.
    os._exit(code)


def _raise_reason(folder: Path, count: int, exit_codes: dict[int, int]) -> NoReturn:
    """Raise the reason for which ranks ended: of the first rank that has one of its own, or that died silently.

    After a rank's end the agent sends SIGTERM to the others, and the others lose their group. So an interruption is the
    reason only where no rank failed or was killed, and RankLost only where there is no other reason.
    """
    ends = {int(path.stem): pickle.loads(path.read_bytes()) for path in folder.glob("*.end")}
    own = {rank: end for rank, end in sorted(ends.items()) if not isinstance(end, (RankLost, KeyboardInterrupt))}
    for rank, end in own.items():
        if isinstance(end, (UserError, OSError, Unwritable, Interrupted)):
            raise end
        raise RankLost(_by(rank, count, end)) from end
    silent = [rank for rank in range(count) if rank not in ends]
    killed = {rank: name for rank in silent if (name := _killed_by(exit_codes.get(rank, 0)))}
    interrupted = any(isinstance(end, KeyboardInterrupt) for end in ends.values())
    if interrupted and set(killed.values()) <= {*ENDING, "SIGINT"}:
        raise KeyboardInterrupt
    # No error at all: a rank was killed, or hangs, so that the others gave up on it.
    lost = [end for end in ends.values() if isinstance(end, RankLost)]
    if any(end.late for end in lost) and silent:
        raise RankLost(f"Rank {silent[0]} of {count} gave no answer within launch.timeout_minutes, and was ended.")
    for rank, name in killed.items():
        raise RankLost(f"Rank {rank} of {count} was ended by {name}.")
    if silent:
        raise RankLost(f"Rank {silent[0]} of {count} died without a word.")
    raise RankLost(one_line(str(lost[0]).capitalize()))


def _killed_by(code: int) -> str | None:
    """The name of the signal that ended a process; None where none did."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return None


def _by(rank: int, count: int, error: BaseException) -> str:
    return one_line(f"Rank {rank} of {count} ended with {type(error).__name__}: {error}")


# Ranks that torchrun started.


class _Followers:
    """The other ranks of torchrun, as the first one leads them: each run is put into their store."""

    def __init__(self, own: Place) -> None:
        self._own, self._store, self._number = own, _store(own), 0

    def lead(self, job: _Job) -> float:
        self._store.set(_key(self._number), _packed(job))
        self._number += 1
        return _work(job, self._own, self._store, self._number)

    def end(self) -> None:
        """Let them go."""
        self._store.set(_key(self._number), _packed(None))


_followers: _Followers | None = None


@contextmanager
def leading() -> Iterator[None]:
    """Within, the runs of this process are led: it is the first of torchrun's ranks. Elsewhere nothing changes."""
    global _followers
    own = torchrun_place()
    if own is None or own.rank > 0 or _followers is not None:
        yield
        return
    _followers = _Followers(own)
    try:
        yield
    finally:
        with suppress(Exception):
            _followers.end()
        _followers = None


def follow(own: Place) -> int:
    """Work on every run of the first rank; the exit code. Nothing is printed but an error that nobody expects."""
    store, number = _store(own), 0
    with ending_as_interrupted(), _silent_unless_first(own):
        while True:
            while not store.check([_key(number)]):
                time.sleep(0.1)
            job = pickle.loads(bytes.fromhex(store.get(_key(number)).decode()))
            number += 1
            if job is None:
                return 0
            sys.path[:] = job.path
            # An error that all ranks come to ends this run, and perhaps not the next; the first rank tells it.
            with suppress(UserError):
                _work(job, own, store, number)


def _packed(job: _Job | None) -> str:
    return pickle.dumps(job).hex()


def _key(number: int) -> str:
    return f"deqrun/run/{number}"


# Of both.


def _store(own: Place) -> dist.Store:
    """The store through which ranks find each other: torchrun's, or the first rank's where that has none."""
    ours = own.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, None, ours, STARTING, wait_for_workers=False)


def _work(job: _Job, own: Place, store: dist.Store, number: int) -> float:
    """Do a run together with the other ranks."""
    kind, launch = kind_of(job.settings.device), job.settings.launch
    with joined(own, dist.PrefixStore(f"deqrun/{number}", store), launch.timeout_minutes, kind):
        return job.do(job.settings, *job.rest)


@contextmanager
def _silent_unless_first(own: Place) -> Iterator[None]:
    """Within, ranks beyond the first print nothing."""
    if own.rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield
