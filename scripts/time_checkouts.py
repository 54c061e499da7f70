"""Training time of two checkouts of deqrun, one over the other, with the accuracy of each.

    python scripts/time_checkouts.py BEFORE AFTER [--seeds 0 1 2] [overrides of deqrun train …; default: study=demo]

BEFORE and AFTER are folders of two checkouts. For each seed both train in turn, one thread, without sweep, report and
tracker; the time is the processor time of the whole command, start-up included, which is also told alone (`--cfg job`).
Printed: each pair, and the geometric mean of the ratios with their least and largest.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deqrun.records.reading import read_run

ALONE = ("threads=1", "sweep=none", "report=false", "tracker=none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given, overrides = parser.parse_known_args()
    before, after = (checkout.resolve() for checkout in given.checkouts)
    overrides = overrides or ["study=demo"]
    for name, checkout in (("before", before), ("after", after)):
        print(f"{name}  start-up {spent(checkout, ['train', *overrides, '--cfg', 'job']):.1f} s", flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as home:
        for seed in given.seeds:
            old = trained(before, Path(home) / f"before-{seed}", [*overrides, f"seed={seed}"])
            new = trained(after, Path(home) / f"after-{seed}", [*overrides, f"seed={seed}"])
            ratios.append(new[0] / old[0])
            print(
                f"seed {seed}  before {old[0]:.1f} s, test {100 * old[1]:.1f} %  after {new[0]:.1f} s, test "
                f"{100 * new[1]:.1f} %  ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(
        f"after over before: {statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, "
        f"{len(ratios)} seeds)"
    )


def trained(checkout: Path, folder: Path, overrides: Sequence[str]) -> tuple[float, float]:
    """(processor seconds, test accuracy) of a training."""
    seconds = spent(checkout, ["train", f"run={folder}", *ALONE, *overrides])
    return seconds, read_run(folder).summary.test_accuracy or 0.0


def spent(checkout: Path, words: Sequence[str]) -> float:
    """Processor seconds, user and system, of `deqrun WORDS` with a checkout's code."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The working folder comes first on the module path.
    subprocess.run([sys.executable, "-m", "deqrun", *words], check=True, cwd=checkout, stdout=subprocess.DEVNULL)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


if __name__ == "__main__":
    main()
