"""Training that is stopped or killed at random moments and resumed, against the same training undisturbed.

    python scripts/kill_training.py [--moments 10] [--seed 0] [--signals KILL,TERM,…] [--keep FOLDER] [KEY=VALUE …]

Trains a small model once without disturbance, and notes how long its training takes. Then, for each signal and each of
the moments, trains it in a new folder, sends the signal after a time drawn uniformly from that of the training, and
goes on with the command that a person would give. A checkpoint is written eight times a second; every stream of random
numbers is drawn from. Further overrides are added to the command.

Printed are, for each signal, the steps at which the checkpoints stood, how many of the moments lay in the middle of an
epoch, and whether train.jsonl (without seconds), steps.jsonl, evaluations.jsonl, and the weights of last.pt and best.pt
are equal to those of the undisturbed run, to the last bit. Exit code 1 where anything differs, or where another signal
than KILL did not end a run in exit code 130.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TRAINING = [
    "model=mlp",
    "model.width=24",
    "train.epochs=8",
    "train.batch_size=16",
    "train.log_every=5",
    "train.checkpoint_minutes=0.002",
    "train.start=mixture",
    "train.random_budget=[2,6]",
    "train.path_noise=0.05",
    "train.progressive_weight=0.3",
    "train.ema=0.99",
    "train.eval_every=20",
    "train.eval_iterations=[1,4]",
    "threads=1",
    "device=cpu",
    "sweep=none",
    "report=false",
    "tracker=none",
]
ROWS = ("train.jsonl", "steps.jsonl", "evaluations.jsonl")


def command(folder: Path, overrides: list[str]) -> list[str]:
    """The command that begins a run in a folder or, where one has begun there, goes on with it."""
    again = ["resume=true"] if (folder / "config.yaml").is_file() else [*TRAINING, *overrides]
    return [sys.executable, "-m", "deqrun", "train", f"run={folder}", *again]


def begun(folder: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """A run that has begun to train."""
    process = subprocess.Popen(
        command(folder, overrides),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup would have it ignored
    )
    while not (folder / "data_rows.npz").is_file() and process.poll() is None:
        time.sleep(0.002)
    return process


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file, without their seconds; none where there is no file."""
    if not (folder / name).is_file():
        return []
    found = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def differences(folder: Path, other: Path) -> list[str]:
    """Files of the two runs that differ."""
    found = [name for name in ROWS if rows(folder, name) != rows(other, name)]
    for name in ("last.pt", "best.pt"):
        one, two = (torch.load(run / "checkpoints" / name, weights_only=True)["model"] for run in (folder, other))
        if one.keys() != two.keys() or not all(torch.equal(one[key], two[key]) for key in one):
            found.append(name)
    return found


def is_complete(folder: Path) -> bool:
    """Whether the run had ended before the signal came: then the process had nothing to interrupt any more."""
    return bool(json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"] == "completed")


def checkpoint_at(folder: Path) -> tuple[int, bool]:
    """The step of the last checkpoint, 0 where there is none, and whether it is within an epoch."""
    path = folder / "checkpoints" / "last.pt"
    if not path.is_file():
        return 0, False
    content = torch.load(path, weights_only=True)
    return content["step"], bool(content["within"])


def main() -> int:
    """Run, disturb, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", default="KILL,TERM,USR1,HUP")
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    home = given.keep or Path(tempfile.mkdtemp(prefix="kill-training-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    whole, rng, failed = home / "whole", random.Random(given.seed), False
    process = begun(whole, given.overrides)
    began = time.time()
    if process.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    seconds = (whole / "checkpoints" / "last.pt").stat().st_mtime - began
    count = {name: len(rows(whole, name)) for name in ROWS}
    print(f"undisturbed: {seconds:.1f} s; rows: {', '.join(f'{n} in {name}' for name, n in count.items())}", flush=True)
    for name in given.signals.split(","):
        steps, within, odd, differing = [], 0, 0, []
        for moment in range(given.moments):
            folder = home / f"{name}-{moment}"
            process = begun(folder, given.overrides)
            time.sleep(rng.uniform(0, seconds))
            process.send_signal(getattr(signal, f"SIG{name}"))
            code = process.wait()
            expected = -signal.SIGKILL if name == "KILL" else 130
            odd += code not in (expected, 0) and not is_complete(folder)
            step, inside = checkpoint_at(folder)
            steps.append(step)
            within += inside
            subprocess.run(
                command(folder, given.overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            differing += [f"{folder.name}: {', '.join(found)}" for found in [differences(folder, whole)] if found]
        equal = given.moments - len(differing)
        failed |= bool(differing) or odd > 0
        print(
            f"{name:5} {equal} of {given.moments} equal; checkpoints at steps {', '.join(map(str, sorted(steps)))}, "
            f"{within} within an epoch; {odd} with another exit code{'; differs: ' if differing else ''}"
            f"{'; '.join(differing)}",
            flush=True,
        )
    if given.keep is None:
        shutil.rmtree(home)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
