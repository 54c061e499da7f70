"""A grid that is killed at random moments and resumed each time, against the same grid undisturbed.

    python scripts/kill_grid.py [--kills 10] [--seed 0] [--keep FOLDER]

Runs a grid of 3 x 2 x 2 small jobs once without disturbance, and notes how long it takes. Then it runs the same grid
in another folder and kills the whole process group with SIGKILL. The moment is drawn uniformly, so that all kills
together cover the time of the grid. The same command resumes the grid after each kill and, at the end, completes it.

Printed are each kill, with the states of the jobs then; the comparison of all numbers of both grids by
scripts/compare_runs.py; and whether a job that was complete at a kill was written to afterwards, or an epoch was
recorded twice. Exit code 1 where a number differs or a job was done twice.
"""

from __future__ import annotations

import argparse
import collections
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

GRID = [
    "model=mlp",
    "model.width=8",
    "train.epochs=2",
    "train.batch_size=256",
    "threads=1",
    "device=cpu",
    "sweep.iterations=[1,4]",
    "sweep.tolerances=[1e-2]",
    "solver=picard,anderson,broyden",
    "optimizer.lr=1e-2,3e-3",
    "seed=0,1",
]
JOBS = 12
WATCHED = ("train.jsonl", "sweep.jsonl", "trajectories.npz", "summary.json", "checkpoints/last.pt", "status.json")


def command(folder: Path, tracker: str) -> list[str]:
    """The command of the grid in a folder: the same at the start and after each kill."""
    return [sys.executable, "-m", "deqrun", "train", "-m", *GRID, f"tracker={tracker}", f"hydra.sweep.dir={folder}"]


def begun(folder: Path, tracker: str) -> subprocess.Popen[bytes]:
    """The grid, begun in a process group of its own."""
    return subprocess.Popen(
        command(folder, tracker), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def states(folder: Path) -> dict[str, str]:
    """The state of each job, by the name of its folder."""
    found = {}
    for path in sorted(folder.glob("0*/status.json")):
        found[path.parent.name] = str(json.loads(path.read_text(encoding="utf-8"))["status"])
    return found


def written(job: Path) -> dict[str, int]:
    """When each watched file of a job was written."""
    return {name: (job / name).stat().st_mtime_ns for name in WATCHED if (job / name).is_file()}


def killed_grid(folder: Path, tracker: str, kills: int, seconds: float, rng: random.Random) -> list[str]:
    """Run the grid to its end through the kills; the faults found on the way."""
    complete: dict[str, dict[str, int]] = {}
    for number in range(1, kills + 1):
        wait = rng.uniform(0, 2 * seconds / (kills + 1))
        grid = begun(folder, tracker)
        time.sleep(wait)
        early = grid.poll() is not None
        if not early:
            os.killpg(grid.pid, signal.SIGKILL)
        grid.wait()
        now = states(folder)
        count = ", ".join(f"{n} {state}" for state, n in collections.Counter(now.values()).items()) or "no job begun"
        print(f"kill {number:2}  after {wait:5.1f} s  {count}{' (it had ended)' if early else ''}", flush=True)
        for name, state in now.items():
            if state == "completed" and name not in complete:
                complete[name] = written(folder / name)
    subprocess.run(command(folder, tracker), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"resumed to its end: {collections.Counter(states(folder).values())['completed']} of {JOBS} jobs complete")
    return [f"{name} was written to again" for name, times in complete.items() if written(folder / name) != times]


def done_twice(folder: Path) -> list[str]:
    """Jobs with another folder of the same values, and epochs that are recorded twice."""
    faults = []
    jobs = sorted(folder.glob("0*"))
    for values, number in collections.Counter(job.name.partition("-")[2] for job in jobs).items():
        if number > 1:
            faults.append(f"{values} has {number} folders")
    for job in jobs:
        rows = [json.loads(line)["epoch"] for line in (job / "train.jsonl").read_text(encoding="utf-8").splitlines()]
        if rows != sorted(set(rows)):
            faults.append(f"{job.name} has the epochs {rows}")
    return faults


def main() -> int:
    """Run both grids, compare them, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tracker", default="none")
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    home = given.keep or Path(tempfile.mkdtemp(prefix="kill-grid-"))
    undisturbed, disturbed = (home / "undisturbed").resolve(), (home / "killed").resolve()
    began = time.monotonic()
    subprocess.run(command(undisturbed, given.tracker), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    print(f"undisturbed: {len(states(undisturbed))} jobs in {seconds:.0f} s", flush=True)
    faults = killed_grid(disturbed, given.tracker, given.kills, seconds, random.Random(given.seed))
    faults += done_twice(disturbed)
    compare = Path(__file__).with_name("compare_runs.py")
    differs = subprocess.run([sys.executable, str(compare), str(undisturbed), str(disturbed)]).returncode
    print("done twice: " + ("; ".join(faults) if faults else "none"))
    if given.keep is None:
        shutil.rmtree(home)
    return 1 if faults or differs else 0


if __name__ == "__main__":
    raise SystemExit(main())
