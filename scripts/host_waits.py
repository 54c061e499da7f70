"""How often the host waits for an accelerator in a training step and in a sweep, for each model's default config.

    python scripts/host_waits.py [--steps 5]

Runs on the tests' pretend device, so it needs no accelerator: a count does not depend on how fast a device is. Data are
digits, strings of 16 bits for `recall`, and sequences of 70 symbols for `transformer`; batches hold 16 samples, the
seed is 0. A training step's counts are the largest of the steps, so they have no interval. A sweep is the default one
of 32 test samples, from untrained weights. Prints the table of docs/devices.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.devices.measure import CASES, StepWaits, sweep_waits, training_waits

HEAD = """\
| model | forward: waits / steps | adjoint: waits / steps | beside the solves | sweep: waits / steps |
|---|---|---|---|---|"""


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="training steps of each model")
    steps = parser.parse_args().steps
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"n = {steps} training steps of 16 samples, seed 0\n\n{HEAD}")
    for model, overrides in CASES.items():
        found = training_waits(overrides, steps)
        with tempfile.TemporaryDirectory() as folder:
            swept = sweep_waits(overrides, Path(folder))
        beside = max(step.beside for step in found)
        forward, adjoint = most(found, "forward"), most(found, "adjoint")
        print(f"| `{model}` | {forward} | {adjoint} | {beside} | {swept.waits} / {swept.steps} |", flush=True)


def most(found: list[StepWaits], solve: str) -> str:
    """The most waits of a solve, of those the fewest steps."""
    pairs = [(getattr(step, f"{solve}_waits"), -getattr(step, f"{solve}_steps")) for step in found]
    waits, steps = max(pairs)
    return f"{waits} / {-steps}"


if __name__ == "__main__":
    main()
