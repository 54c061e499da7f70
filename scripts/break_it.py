"""Tries to break deqrun, as a person in a hurry, a full disk or a killed machine would, and prints one table.

    python scripts/break_it.py                       # every section, about an hour on one core
    python scripts/break_it.py pairs kills=100       # one section, or another number of tries

Each section runs whole deqrun processes in folders of its own below the system's temporary folder, and counts each end
that is as it must be. A section ends early, and says so, where its time is up. Nothing but these folders is touched.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import break_damage
import break_data
from rich.console import Console
from rich.table import Table

from deqrun.records.reading import read_run

TINY = ("model=mlp", "model.width=16", "threads=1", "train.epochs=1", "train.batch_size=512", "sweep=none")
"""The smallest run that trains, tests and reports."""

WHOLE = ("model=mlp", "model.width=16", "threads=1", "train.epochs=3", "train.batch_size=256", "sweep=quick")
"""A small run with everything that a run has: charts, a sweep, and an offline log of W&B."""

SIZE = {"pairs": 30, "kills": 10} | dict.fromkeys(
    ("commands", "damaged", "cells", "datasets", "changes", "environments"), 0
)
"""Tries of each section; 0: all that it lists."""

ROOT = Path(__file__).resolve().parents[1]

Check = Callable[[], str]


@dataclass
class Section:
    """What came of one section: how many tries, and each one that came out wrong, in words."""

    name: str
    seconds: float
    tried: int = 0
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def time_is_up(self) -> bool:
        """Whether the section has used its time; it says so in its note."""
        up = time.monotonic() - self.began > self.seconds
        if up:
            self.note = f"ended early, after {self.seconds:.0f} s"
        return up

    def add(self, label: str, fault: str) -> None:
        """Count a try; `fault` is empty where it came out as it must."""
        self.tried += 1
        if fault:
            self.wrong.append(f"{label}: {fault}")


@dataclass(frozen=True)
class Ended:
    """How a process of deqrun ended."""

    code: int
    out: str
    err: str

    def fault(self, codes: Sequence[int], sentence: str = "") -> str:
        """What is wrong with this end; empty where its code is one of these and its words are sentences."""
        if "Traceback" in self.out + self.err:
            return f"a traceback: {self.err.strip().splitlines()[-1] if self.err.strip() else ''}"
        if self.code not in codes:
            return f"exit code {self.code} in place of {' or '.join(map(str, codes))}: {self.err.strip()[:200]}"
        if sentence not in self.err:
            return f"not a word of '{sentence}': {self.err.strip()[:200]}"
        return ""


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Begin deqrun with these arguments in a folder, in a process group of its own, its output kept in pipes."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **options.pop("env", {})}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "deqrun", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
        **{**streams, **options},
    )


def ended(process: subprocess.Popen[str], seconds: float = 180) -> Ended:
    """Wait for its end; one that never ends is killed, and has the exit code -9."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        out, err = process.communicate()
    return Ended(process.returncode, out or "", err or "")


def run(folder: Path, *arguments: str, **options: Any) -> Ended:
    """deqrun with these arguments, to its end."""
    return ended(start(folder, *arguments, **options))


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill the process and those that it has begun; all are in the group that `start` made."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"deqrun-break-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pairs(section: Section, tries: int, rng: random.Random) -> None:
    """Two processes into one folder: one runs, one is told. Three into default names: all run."""
    for turn in range(tries):
        if section.time_is_up:
            return
        with scratch("pair") as folder:
            command = ("train", *TINY, "tracker=none", "run=same")
            ends = [ended(process) for process in [start(folder, *command, f"seed={seed}") for seed in (0, 1)]]
            section.add(f"pair {turn}", _pair_fault(folder / "same", ends))
        with scratch("triple") as folder:
            unnamed = ("train", *TINY, "tracker=none")
            ends = [ended(process) for process in [start(folder, *unnamed, f"seed={seed}") for seed in range(3)]]
            section.add(f"triple {turn}", _triple_fault(folder, ends))


def _pair_fault(folder: Path, ends: Sequence[Ended]) -> str:
    codes = [end.code for end in ends]
    if sorted(codes) != [0, 2]:
        return f"exit codes {codes}"
    winner, told = codes.index(0), ends[codes.index(2)]
    record = read_run(folder)
    if (record.summary.seed, record.config["seed"], len(record.epochs)) != (winner, winner, 1):
        return f"mixed: config of seed {record.config['seed']}, summary of seed {record.summary.seed}"
    known = ("is in use by another deqrun", "already holds a run")  # the latter where the first had ended by then
    return "" if any(words in told.err for words in known) else told.fault([2], known[0])


def _triple_fault(folder: Path, ends: Sequence[Ended]) -> str:
    seeds = sorted(read_run(path.parent).summary.seed or 0 for path in folder.glob("outputs/train/*/*/config.yaml"))
    if [end.code for end in ends] != [0, 0, 0] or seeds != [0, 1, 2]:
        return f"exit codes {[end.code for end in ends]}, seeds kept {seeds}"
    return ""


def kills(section: Section, tries: int, rng: random.Random) -> None:
    """SIGKILL at a random moment of a whole run, W&B's process included; resumed: complete, and the same numbers."""
    with scratch("whole") as folder:
        began = time.monotonic()
        if fault := run(folder, "train", *WHOLE, "run=it").fault([0]):
            section.add("the run that is not killed", fault)
            return
        lasts = time.monotonic() - began
        whole = _numbers(folder / "it")
        for turn in range(tries):
            if section.time_is_up:
                return
            with scratch("kill") as other:
                moment = rng.uniform(0, lasts)
                section.add(f"kill {turn} after {moment:.1f} s", _killed_and_resumed(other, moment, whole))


def _killed_and_resumed(folder: Path, moment: float, whole: dict[str, Any]) -> str:
    process = start(folder, "train", *WHOLE, "run=it")
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        _kill_group(process)
    process.communicate()
    begun = (folder / "it" / "config.yaml").is_file()
    again = ["run=it", "resume=true"] if begun else [*WHOLE, "run=it"]
    if fault := run(folder, "train", *again).fault([0]):
        return fault
    numbers = _numbers(folder / "it")
    return next((f"{key} differs" for key in whole if numbers[key] != whole[key]), "")


def _numbers(folder: Path) -> dict[str, Any]:
    """All of a run that must not depend on where it was stopped."""
    record = read_run(folder)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if "wandb" not in path.parts}
    return {
        "status": record.status.status,
        "files": sorted(names),
        "losses": [epoch.loss for epoch in record.epochs],
        "test accuracy": record.summary.test_accuracy,
        "accuracies": [(cell.key, cell.max_iter, cell.tol, cell.accuracy) for cell in record.sweep],
        "epochs in W&B's newest log": _epochs_in_wandb(folder),
    }


def _epochs_in_wandb(folder: Path) -> list[tuple[int, int]]:
    """(epoch, step) of each row of the newest offline log that has the axis `epoch`."""
    log = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)[-1]
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    records = [json.loads(line) for line in printed.splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [(row["epoch"], row["_step"]) for row in rows if "epoch" in row]


KEYS = (
    "train.epochs",
    "train.batch_size",
    "seed",
    "threads",
    "budget.max_iter",
    "budget.tol",
    "budget.patience",
    "solver.memory",
    "optimizer.lr",
    "sweep.iterations",
    "sweep.tolerances",
    "device",
    "name",
    "tracker.mode",
    "model.width",
    "gradient.budget.tol",
    "train.jacobian_weight",
)
BAD_VALUES = ("-1", "''", "[[", "{a:b}", "nan", "no such thing", "${b}", "1e999", "'", "1,2")
NOT_A_LINE: tuple[tuple[str, ...], ...] = (
    ("train", "name=a\nb"),
    ("train", "name=a\r"),
    ("tra\nin",),
    ("sweep", "run=a\nb"),
    ("new", "cell", "a\nb"),
    ("train", "run=\udcff"),
    ("report", "run=\udcff"),
    ("compare", "\udcff", "\udcff"),
    ("new", "cell", "\udcff"),
    ("train", "run=" + "a" * 300),
    ("train", "name=" + "a" * 300),
    ("report", "run=" + "a" * 300),
    ("compare", "a" * 300, "b" * 300),
    ("sweep", "run=" + "a/" * 3000),
    ("train", "seed=" + "9" * 5000),
    ("train", "model=" + "[" * 2000),
    ("train", "solver.memory=" + "(" * 500),
    ("train", *(["seed=x"] * 500)),
)
"""Bad command lines that a shell's quotes can't write."""

TORN: dict[str, str | bytes] = {
    "model/bracket.yaml": "_target_: deqrun.models.mlp.MLPCell\nwidth: [3\n",
    "model/list.yaml": "- 1\n- 2\n",
    "model/text.yaml": "just text\n",
    "model/empty.yaml": "",
    "model/binary.yaml": b"\xff\xfe\x00\x01",
    "model/loop.yaml": "defaults: [loop]\n",
    "model/foreign.yaml": "_target_: os.system\ncommand: touch executed\n",
    "model/aliases.yaml": "_target_: deqrun.models.mlp.MLPCell\nwidth: ${model.width}\n",
    "model/untyped.yaml": "width: 3\n",
    "solver/nothing_of.yaml": "_target_: deqrun.solvers.Nothing\n",
    "study/no_question.yaml": "# @package _global_\nquestion: no_such_question\nvariants: {a: []}\n",
    "study/bad_variant.yaml": "# @package _global_\nquestion: does_it_converge\nvariants: {a: [model=nothing]}\n",
    "study/bad_defaults.yaml": "# @package _global_\ndefaults: [override /nothing: mlp]\n",
}
"""Options of a --config-dir, each broken in another way."""


def commands(section: Section, tries: int, rng: random.Random) -> None:
    """Bad command lines: one sentence and exit code 2 each, and nothing is made. All run in one process, for speed."""
    with scratch("commands") as folder:
        if fault := _furnished(folder):
            section.add("the run that they are about", fault)
            return
        before = contents(folder)
        with asking(stubs=True) as ask:
            for line in _bad_lines()[: tries or None]:
                if section.time_is_up:
                    break
                end = ask(folder, line)
                section.add(shlex.join(line)[:200], end.fault([2]) or _sentence_fault(end))
        left = differences(before, contents(folder))
        section.add("what is left behind", f"{len(left)} files, as {left[:3]}" if left else "")


def _bad_lines() -> list[tuple[str, ...]]:
    """Those of bad_commands.txt, those that no shell's quotes can write, and every value for every key."""
    text = Path(__file__).with_name("bad_commands.txt").read_text(encoding="utf-8")
    written = [tuple(shlex.split(line)) for line in text.splitlines() if line and not line.startswith("#")]
    made = [("train", "model=mlp", f"{key}={value}") for key in KEYS for value in BAD_VALUES]
    return [*written, *NOT_A_LINE, *made]


def _furnished(folder: Path) -> str:
    """Put into the folder what the bad command lines are about; what went wrong."""
    end = run(folder, "train", *TINY, "tracker=none", "run=done")
    shutil.copytree(folder / "done", folder / "stopped")
    (folder / "stopped" / "status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 1}')
    (folder / "foreign").mkdir()
    (folder / "foreign" / "report.html").write_text("kept")
    (folder / "file").write_text("")
    (folder / "mine").mkdir()
    for name, content in TORN.items():
        path = folder / "torn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return end.fault([0])


def contents(folder: Path) -> dict[str, str]:
    """Every file, link and folder below, and a digest of what it holds."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Which of two contents are not in both, or not the same."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _sentence_fault(end: Ended) -> str:
    """What is wrong with the words of a refusal; empty where they are one sentence on a line of its own."""
    told = end.err.startswith("deqrun: ") and end.err.endswith(("\n", ".\n")) and end.err.count("\n") == 1
    return "" if told else f"not one sentence: {end.err[:200]!r}"


_ASKED = """
import contextlib, io, json, os, signal, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import deqrun.experiment.launch as launch
import deqrun.studies.make as make
from deqrun.cli import main
class TooLong(BaseException): pass
def end(*given): raise TooLong("no end after 30 s")
signal.signal(signal.SIGALRM, end)
def accept(*given): raise SystemExit(0)
if sys.argv[1:] == ["stubs"]: launch.train = launch.load_best = make.make_study = accept
for asked in sys.stdin:
    folder, line = json.loads(asked)
    os.chdir(folder)
    paths, modules = sys.path[:], set(sys.modules)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.alarm(30)
        try: code = main(line)
        except SystemExit: code = 0
        except BaseException: code = 1; traceback.print_exc()
        signal.alarm(0)
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder): del sys.modules[name]
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""
"""A process that is asked command lines, a folder and words each, and answers how each ends."""


class Asking:
    """A process of deqrun that is asked one command line after the other; one that is gone is begun anew."""

    def __init__(self, stubs: bool) -> None:
        self.stubs = stubs
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, line: Sequence[str]) -> Ended:
        """How the command line ends in the folder."""
        if self.process is None or self.process.poll() is not None:
            self.process = self._begun()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(folder), list(line)]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.end()
            return Ended(-1, "", "Traceback: the process itself is gone")
        return Ended(*json.loads(answer))

    def _begun(self) -> subprocess.Popen[str]:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-c", _ASKED, *(["stubs"] if self.stubs else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            _kill_group(self.process)
            self.process.communicate()
            self.process = None


@contextmanager
def asking(*, stubs: bool = False) -> Iterator[Asking]:
    """Within: a process that is asked command lines; with `stubs` the experiments themselves are left out."""
    ask = Asking(stubs)
    try:
        yield ask
    finally:
        ask.end()


QUICK = ("sweep.iterations=[1]", "sweep.tolerances=[0.1]", "sweep.solvers=[picard]", "sweep.starts=[zeros]")
SMALL = (
    "dataset=prefix_sums",
    "dataset.n_train=64",
    "dataset.n_validation=16",
    "dataset.n_test=16",
    "model=recall",
    "model.width=8",
    "solver=picard",
    "threads=1",
    "device=cpu",
    "train.epochs=2",
    "tracker=none",
    *QUICK,
)
"""A run of a second, with every kind of record."""

READ_BY_ALL = (break_damage.CONFIG, "status.json", "summary.json", *break_damage.ROWS, "trajectories.npz")
ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "sweep": (
        ("sweep", "run=run", *QUICK, "hydra.run.dir=made"),
        (*READ_BY_ALL, "checkpoints/best.pt", "data.json", "data_rows.npz"),
        ("made",),
    ),
    "resume": (
        ("train", "run=run", "resume=true"),
        (*READ_BY_ALL, *break_damage.CHECKPOINTS, "data.json", "data_rows.npz"),
        ("run",),
    ),
    "report": (("report", "run=run"), READ_BY_ALL, ("run/report.html", "run/figures")),
    "compare": (("compare", "run", "other", "--output", "made"), READ_BY_ALL, ("made",)),
}
"""Command lines that read a run folder, the files that each reads, and what it may write."""


def damaged(section: Section, tries: int, rng: random.Random) -> None:
    """Damaged and foreign files in a run folder: one sentence each, nothing executed, made or changed; or the truth."""
    with scratch("damaged") as folder:
        section.add("the run that is damaged", run(folder, "train", *SMALL, "run=run").fault([0]))
        (folder / "run" / "status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 2}')
        tried = [("", "", lambda path: None), *list(break_damage.damages())[: tries or None]]
        right: dict[str, Any] = {}
        lines = ((file, kind, damage, name) for file, kind, damage in tried for name in ASKED)
        with asking() as ask:
            for file, kind, damage, name in lines:
                if section.time_is_up:
                    return
                with _copied(folder / "run", damage, file) as place:
                    before = contents(place)
                    end = ask(place, ASKED[name][0])
                    fault = _damage_fault(file, kind, name, end, differences(before, contents(place)))
                    if not file:
                        right[name] = _outcome(place)
                    elif end.code == 0 and not fault and _outcome(place) != right[name]:
                        fault = "another outcome, in silence"
                    section.add(f"{file} {kind}, {name}", fault)


@contextmanager
def _copied(run_folder: Path, damage: break_damage.Damage, file: str) -> Iterator[Path]:
    """A folder with the run, damaged, and a whole run beside it."""
    with scratch("copy") as place, chdir(place):
        shutil.copytree(run_folder, "run")
        shutil.copytree(run_folder, "other")
        damage(Path("run", file))
        yield place


def _outcome(place: Path) -> Any:
    """The numbers and files that a sweep or a training has made; of a page, that it is there."""
    made = place / "made" if (place / "made").is_dir() else place / "run"
    if not (made / "status.json").is_file() or read_run(made).status.status != "completed":
        return sorted(path.name for path in made.glob("report.html"))
    rows = [json.loads(line) for line in (made / "sweep.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    return kept, read_run(made).summary.test_accuracy, [epoch.loss for epoch in read_run(made).epochs]


def _damage_fault(file: str, kind: str, name: str, end: Ended, changed: Sequence[str]) -> str:
    """What is wrong with how a command on a damaged run ended, and with what it wrote."""
    reads, writes = ASKED[name][1:]
    if any(path.startswith("outside") or "executed" in path for path in changed):
        return f"made or changed {changed[:3]}"
    if end.code == 2:
        return end.fault([2]) or _sentence_fault(end) or (f"refused, and changed {changed[:3]}" if changed else "")
    more = [path for path in changed if not path.startswith(writes)]
    heeds = file in reads and kind not in break_damage.FORGIVEN
    if file == break_damage.CONFIG and kind in break_damage.NOT_FOR_PAGES:
        heeds = name in ("sweep", "resume")
    heeds = heeds and not (name == "compare" and "Left out: 1" in end.out)  # which lists it, and compares the rest
    return end.fault([0]) or (f"changed {more[:3]}" if more else "") or ("taken in silence" if heeds else "")


def cells(section: Section, tries: int, rng: random.Random) -> None:
    """Wrong cells of a user's own: told in one sentence, nothing made. Right ones are accepted, and train."""
    _parts(section, tries, "model", "wrong_cells", ("dataset=digits",))


def datasets(section: Section, tries: int, rng: random.Random) -> None:
    """Wrong data sets of a user's own: told in one sentence, nothing made. A right one is accepted, and trained on."""
    _parts(section, tries, "dataset", "wrong_data", ("model=mlp", "model.width=16"))


def _parts(section: Section, tries: int, group: str, module: str, other: Sequence[str]) -> None:
    """Every wrong and right part of a catalogue of the tests, through check and train with --config-dir."""
    source = ROOT / "tests" / "contracts" / f"{module}.py"
    catalogue = _loaded(source)
    right = getattr(catalogue, "RIGHT", (catalogue.Right,))
    with scratch(group) as folder, asking() as ask:
        (folder / "mine" / group).mkdir(parents=True)
        shutil.copy(source, folder / "mine")
        for part in [*right, *list(catalogue.FAULTS)[: tries or None]]:
            name = part.__name__
            (folder / "mine" / group / f"{name}.yaml").write_text(f"_target_: {module}.{name}\n")
        before = contents(folder)
        for part in [*right, *list(catalogue.FAULTS)[: tries or None]]:
            given = ("--config-dir", "mine", f"{group}={part.__name__}", "allow_foreign_targets=true", *other)
            for command in (("check", *given), ("train", *given, *TRAINED)):
                if section.time_is_up:
                    return
                fault = _part_fault(ask(folder, command), catalogue.FAULTS.get(part, ""), command[0])
                if part not in right:
                    made = [name for name in differences(before, contents(folder)) if "__pycache__" not in name]
                    fault = fault or (f"made {made[:3]}" if made else "")
                shutil.rmtree(folder / "it", ignore_errors=True)
                section.add(f"{part.__name__}, {command[0]}", fault)


TRAINED = ("threads=1", "train.epochs=1", "train.batch_size=512", "sweep=none", "tracker=none", "run=it")


def _loaded(source: Path) -> Any:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _part_fault(end: Ended, sentence: str, command: str) -> str:
    """What is wrong with how a command on a part ended; `sentence` is empty for a part that is right."""
    if not sentence:
        return end.fault([0])
    said = " ".join((end.out + end.err).split())
    told = "" if sentence in said else f"not a word of '{sentence}': {said[:300]}"
    return end.fault([2]) or (_sentence_fault(end) if command == "train" else "") or told


ON_PICTURES = (
    "dataset=image_folder",
    f"dataset.root={break_data.PICTURES}",
    "dataset.size=8",
    "dataset.channels=1",
    "model=mlp",
    "model.width=8",
)
ON_TEXT = (
    "dataset=text",
    f"dataset.path={break_data.TEXT}",
    "dataset.length=8",
    "model=transformer",
    "model.width=8",
    "model.inner=8",
    "gradient=phantom",
)
CHANGED = "the data of run changed since it was trained: "


def changes(section: Section, tries: int, rng: random.Random) -> None:
    """Data changed after training, then asked and gone on with: refused in a sentence that says what differs."""
    with asking() as ask:
        for data, options, ways in (
            ("pictures", ON_PICTURES, break_data.OF_PICTURES | break_data.HARMLESS),
            ("text", ON_TEXT, break_data.OF_TEXT),
        ):
            with scratch(data) as place:
                with chdir(place):
                    break_data.make_data()
                end = ask(place, ("train", *options, *ONE_EPOCH, *QUICK, "run=run"))
                section.add(f"the run on {data}", end.fault([0]))
                (place / "run" / "status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 1}')
                for kind, (change, words) in list(ways.items())[: tries or None]:
                    for line in (ASKED["sweep"][0], ASKED["resume"][0]):
                        if section.time_is_up:
                            return
                        section.add(f"{data}: {kind}, {line[0]}", _change_fault(ask, place, line, change, words, kind))


ONE_EPOCH = ("train.epochs=1", "threads=1", "device=cpu", "tracker=none")


def _change_fault(
    ask: Asking, place: Path, line: Sequence[str], change: break_data.Change, words: str, kind: str
) -> str:
    """What is wrong with how a command on changed data ended, and with what it made."""
    with scratch("changed") as folder, chdir(folder):
        shutil.copytree(place, "copy")
        os.chdir("copy")
        change()
        before = contents(Path())
        end = ask(folder / "copy", line)
        made = differences(before, contents(Path()))
    if kind in break_data.HARMLESS:
        return end.fault([0])
    told = CHANGED if words else ""
    fault = end.fault([2], words) or _sentence_fault(end) or end.fault([2], told)
    return fault or (f"refused, and changed {made[:3]}" if made else "")


def environments(section: Section, tries: int, rng: random.Random) -> None:
    """Places and states of a machine in which a run must end in order, or go on as if nothing was."""
    for label, check in list(_environments())[: tries or None]:
        if section.time_is_up:
            return
        section.add(label, check())


def _environments() -> Iterator[tuple[str, Check]]:
    """(what it is, how it is tried) of every environment."""
    for size in (0, 20_000, 200_000):
        yield f"no file larger than {size} bytes", lambda size=size: _limited(size)  # type: ignore[misc]
    yield "a folder that may not be written", _read_only
    yield "a disk of 300 kB", _small_disk
    for label, closing in (("stdout", ">&-"), ("stderr", "2>&-"), ("all streams", "<&- >&- 2>&-")):
        yield f"closed: {label}", lambda closing=closing: _in_shell(closing)  # type: ignore[misc]
    yield "output onto a full disk", lambda: _in_shell(">/dev/full")
    yield "errors onto a full disk", lambda: _in_shell("2>/dev/full")
    yield "a reader that goes away", lambda: _in_shell("| head -1 >/dev/null; (exit ${PIPESTATUS[0]})")
    for name in ("HOME", "PATH", "TERM", "LANG"):
        yield f"no {name}", lambda name=name: _without(name)  # type: ignore[misc]
    yield (
        "a home folder that isn't there",
        lambda: _with_environment(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent"),
    )
    yield "LC_ALL=C, without UTF-8", lambda: _with_environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    yield (
        "W&B online without a network",
        lambda: _with_environment("tracker=wandb", "tracker.mode=online", WANDB_BASE_URL="http://127.0.0.1:9"),
    )
    for name in ("SIGHUP", "SIGTERM", "SIGINT"):
        yield f"{name} while it runs", lambda name=name: _signalled(name)  # type: ignore[misc]


def _limited(size: int) -> str:
    with scratch("limit") as folder:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
        end = run(folder, "train", *TINY, "tracker=none", "run=it", preexec_fn=limit)
        if end.code == 0:
            return ""
        return end.fault([1, 2], "File too large") or _leftovers(folder)


def _leftovers(folder: Path) -> str:
    left = [path.name for path in folder.rglob(".*")]
    return f"left behind: {', '.join(left)}" if left else ""


def _read_only() -> str:
    if os.geteuid() == 0:
        return _on_mount("ro,size=1m")
    with scratch("read-only") as folder:
        folder.chmod(0o500)
        end = run(folder, "train", *TINY, "tracker=none", "run=it")
        folder.chmod(0o700)
        return end.fault([2], "can't be made or written")


def _small_disk() -> str:
    return _on_mount("size=300k") if os.geteuid() == 0 else ""


def _on_mount(options: str) -> str:
    """A run on a file system of its own; nothing is tried where none may be mounted."""
    with scratch("mount") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", options, "deqrun-break", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return ""
        try:
            end = run(folder, "train", *TINY, "tracker=none", "run=it")
        finally:
            subprocess.run(["umount", str(folder)], check=False)
        return end.fault([1, 2], "full" if "ro" not in options else "can't be made or written")


def _complete(folder: Path, end: Ended) -> str:
    if fault := end.fault([0]):
        return fault
    status = read_run(folder / "it").status.status
    page = (folder / "it" / "report.html").is_file()
    return "" if status == "completed" and page else f"{status}, {'with' if page else 'without'} a report"


def _in_shell(ending: str) -> str:
    with scratch("shell") as folder:
        line = f"{sys.executable} -m deqrun train {' '.join(TINY)} tracker=none run=it {ending}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=180
        )
        return _complete(folder, Ended(done.returncode, done.stdout, done.stderr))


def _without(name: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key != name}
    with scratch("without") as folder:
        command = [sys.executable, "-m", "deqrun", "train", *TINY, "run=it"]
        done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=180)
        return _complete(folder, Ended(done.returncode, done.stdout, done.stderr))


def _with_environment(*overrides: str, **variables: str) -> str:
    with scratch("environment") as folder:
        return _complete(
            folder, run(folder, "train", *TINY, *(overrides or ("tracker=none",)), "run=it", env=variables)
        )


def _signalled(name: str) -> str:
    with scratch("signal") as folder:
        process = start(folder, "train", *TINY, "train.epochs=200", "tracker=none", "run=it")
        deadline = time.monotonic() + 60
        while not (folder / "it" / "train.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        fault = ended(process).fault([130], "resume=true")
        return fault or ("" if read_run(folder / "it").status.status == "interrupted" else "status is not interrupted")


SECTIONS: dict[str, Callable[[Section, int, random.Random], None]] = {
    "pairs": pairs,
    "kills": kills,
    "commands": commands,
    "damaged": damaged,
    "cells": cells,
    "datasets": datasets,
    "changes": changes,
    "environments": environments,
}


def main() -> int:
    """Run the sections that were asked for; 1 where anything came out wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}, each with =N for N tries; default: all")
    parser.add_argument("--minutes", type=float, default=30.0, help="at most, of each section")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which runs are killed")
    given = parser.parse_args()
    asked = {name: int(number or SIZE[name]) for name, _, number in (text.partition("=") for text in given.sections)}
    done = []
    for name, tries in (asked or SIZE).items():
        section = Section(name, 60 * given.minutes)
        SECTIONS[name](section, tries, random.Random(given.seed))
        section.seconds = time.monotonic() - section.began
        done.append(section)
    _print(done)
    return 1 if any(section.wrong for section in done) else 0


def _print(done: Sequence[Section]) -> None:
    table = Table("section", "tried", "wrong", "seconds", "note")
    for section in done:
        table.add_row(section.name, str(section.tried), str(len(section.wrong)), f"{section.seconds:.0f}", section.note)
    console = Console()
    console.print(table)
    for section in done:
        for line in section.wrong:
            console.print(f"{section.name}: {line}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
