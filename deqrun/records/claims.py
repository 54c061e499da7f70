"""Folders that one process owns at a time: claimed before anything is loaded, released whatever the end.

A claim is the file `.claim` in the folder. It names its process by id, start time and host, and appears whole or not at
all. The claim of a process that is gone is taken over. Imports no torch.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from deqrun.errors import UserError, one_line
from deqrun.records.signals import ending_as_interrupted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CLAIM = ".claim"
STATUS = "status.json"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Errors of a file system without hard links, as opposed to a full one."""

STARTING = {"status": "starting", "reason": "", "epoch": None}
"""The content of status.json from the claim until the run begins."""

ASIDE = ".*.part"
"""Names of files that are being written (`records/files.py`); a killed process leaves them behind."""

WRITTEN = (".", "checkpoints", "figures", "sweep_parts")
"""Folders of a run into which files are written aside."""

_OWN: dict[Path, int] = {}
"""Folders claimed by this process, with its id: a forked child inherits the table but not the claims."""


@dataclass(frozen=True)
class Owner:
    """The process that a claim names.

    started  when the process began, in clock ticks since the machine's start; None where the system doesn't say
    boot     names one start of the machine; None where the system doesn't say
    space    the name space of process ids, as of a container; None where there is none
    since    when the folder was claimed, as 2030-01-31 12:00:00
    """

    pid: int
    started: int | None
    host: str
    boot: str | None
    space: str | None
    since: str

    @property
    def alive(self) -> bool:
        """Whether the process may still run; of another machine or container that can't be seen, and is assumed."""
        here = current_owner()
        if self.host != here.host or (self.boot == here.boot and self.space != here.space):
            return True
        if self.boot != here.boot:
            return False
        return _runs(self.pid) and (self.started is None or self.started == _start_of(self.pid))


def current_owner() -> Owner:
    """This very process."""
    since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return Owner(os.getpid(), _start_of(os.getpid()), platform.node(), _boot(), _space(), since)


@cache
def _boot() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _space() -> str | None:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def _start_of(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's; None where there is no such process, or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie is dead, and only not yet buried


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        return True
    return True


@contextmanager
def claimed(folder: Path, *, fresh: bool = False, of_a_run: bool = True) -> Iterator[Path]:
    """Within: the folder, made where it is missing, is this process's alone.

    Claiming a folder that this process has already is allowed, and changes nothing.
    fresh     where the folder is taken, the first free of FOLDER-2, FOLDER-3, … is made in its place
    of_a_run  whether its status.json is to say that it is starting, where there is none

    Raises UserError, one sentence, where a living process has the folder or it can't be made. Where an exception ends
    the block, the claim's own files are removed, as long as nothing else was written.
    """
    if _OWN.get(folder.resolve()) == os.getpid():
        yield folder
        return
    with ending_as_interrupted():
        made, folder = _made_fresh(folder) if fresh else (_missing(folder), folder)
        try:
            _claim(folder)
        except BaseException:
            _remove_empty(made)
            raise
        says = False
        try:
            _clean(folder)
            says = of_a_run and _say_starting(folder)
            yield folder
        except BaseException:
            if says:
                _take_back_starting(folder)
            _release(folder)
            _remove_empty(made)
            raise
        _release(folder)


def _missing(folder: Path) -> list[Path]:
    """The folders that have to be made for this one, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _made_fresh(folder: Path) -> tuple[list[Path], Path]:
    """Make the folder, or the first of FOLDER-2, FOLDER-3, … that isn't there: mkdir lets one process win."""
    made = _missing(folder.parent)
    with _told(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, folder
    while True:
        try:
            with _told(name, but=FileExistsError):
                name.mkdir()
            return [name, *made], name
        except FileExistsError:
            number += 1
            name = folder.with_name(f"{folder.name}-{number}")


@contextmanager
def _told(folder: Path, but: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    try:
        yield
    except but:
        raise
    except OSError as error:
        raise UserError(one_line(f"{folder} can't be made or written: {error.strerror or error}")) from error


def _claim(folder: Path) -> None:
    """Put the claim into the folder, or raise UserError with the name of the process that has it."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path, unreadable_since = folder / CLAIM, None
    while not _written_new(path, json.dumps(asdict(current_owner())) + "\n"):
        try:
            owner = Owner(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError):
            # Where links are not to be had the file appears empty, and is filled at once; later it is no claim.
            unreadable_since = unreadable_since or time.monotonic()
            if time.monotonic() - unreadable_since < 2:
                time.sleep(0.05)
                continue
            raise UserError(f"{path} is not a claim of deqrun; delete it if no process writes into {folder}.") from None
        if owner.alive:
            raise UserError(_taken(folder, owner))
        _remove_dead(path)
    _OWN[folder.resolve()] = os.getpid()


def _taken(folder: Path, owner: Owner) -> str:
    here = owner.host == platform.node() and owner.space == _space()
    advice = (
        "wait until it has ended, or give another folder"
        if here
        else f"if that process is gone, delete {folder / CLAIM}"
    )
    return (
        f"{folder} is in use by another deqrun, process {owner.pid} on {owner.host} since {owner.since}, and one "
        f"process at a time writes into a folder; {advice}."
    )


def _written_new(path: Path, content: str) -> bool:
    """Write a file where there is none; False where there is one. It appears with all its content."""
    aside = path.with_name(f"{'' if path.name.startswith('.') else '.'}{path.name}.{secrets.token_hex(4)}.part")
    with _told(path.parent, but=FileExistsError):
        try:
            aside.write_text(content, encoding="utf-8")
            os.link(aside, path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS or not aside.exists():
                raise
            return _created_new(path, content)
        finally:
            aside.unlink(missing_ok=True)


def _created_new(path: Path, content: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _remove_dead(path: Path) -> None:
    """Remove a dead process's claim, and never the one by which another process has just replaced it.

    Whoever removes it holds a lock on that very file, and looks again whether the name still means it.
    """
    with suppress(FileNotFoundError), path.open("rb") as file:
        if fcntl is not None:
            with suppress(OSError):  # not every network file system has locks
                fcntl.flock(file, fcntl.LOCK_EX)
        owner = Owner(**json.loads(file.read()))
        if not owner.alive and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            path.unlink()


def _release(folder: Path) -> None:
    """Remove this process's claim; another's, where somebody deleted this one, stays."""
    path = folder / CLAIM
    _OWN.pop(folder.resolve(), None)
    with suppress(OSError, ValueError, TypeError):
        owner = Owner(**json.loads(path.read_text(encoding="utf-8")))
        if (owner.pid, owner.started, owner.host) == (os.getpid(), _start_of(os.getpid()), platform.node()):
            path.unlink()


def _clean(folder: Path) -> None:
    """Remove the files that a killed process was writing."""
    for part in WRITTEN:
        for path in (folder / part).glob(ASIDE):
            if not path.name.startswith(CLAIM) or time.time() - path.stat().st_mtime > 60:
                path.unlink(missing_ok=True)


def _say_starting(folder: Path) -> bool:
    """Say that a run starts, where no status says anything yet; whether it was said."""
    return not (folder / STATUS).exists() and _written_new(folder / STATUS, json.dumps(STARTING, indent=2) + "\n")


def _take_back_starting(folder: Path) -> None:
    """Remove the status of a run that never began."""
    with suppress(OSError, ValueError):
        if json.loads((folder / STATUS).read_text(encoding="utf-8")) == STARTING:
            (folder / STATUS).unlink()


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()  # which succeeds only where nothing was written into it


def holds_only_traces(folder: Path) -> bool:
    """Whether a folder holds nothing but files of claims, as after a run that was killed before it began."""
    try:
        names = {path.name for path in folder.iterdir() if not path.match(ASIDE)}
    except OSError:
        return False
    if STATUS in names:
        path = folder / STATUS
        try:  # of a pipe no read would end
            status = json.loads(path.read_text(encoding="utf-8") or "{}") if path.is_file() else None
        except (OSError, ValueError, RecursionError):
            return False
        if status not in ({}, STARTING):
            return False
    return names <= {CLAIM, STATUS}
