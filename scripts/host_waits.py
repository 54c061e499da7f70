"""How often the host waits for an accelerator in a training step and in a sweep, for each model's default config.

    python scripts/host_waits.py [steps=5]

Runs on the tests' pretend device, so it needs no accelerator: counts do not depend on how fast a device is. Data are
the model's usual small ones, batches hold 16 samples, the seed is 0. A count is the largest of the training steps; the
columns of a solve stand beside the solver steps of its slowest sample.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.devices.measure import CASES, sweep_waits, training_waits

TARGET = "| {:<14} | {:>13} | {:>14} | {:>13} | {:>14} | {:>6} | {:>5} |"


def main(steps: int) -> None:
    """Print the table of docs/devices.md."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(TARGET.format("model", "forward steps", "waits in them", "adjoint steps", "waits in them", "beside", "sweep"))
    print("|---|---|---|---|---|---|---|")
    for model, overrides in CASES.items():
        found = training_waits(overrides, steps)
        with tempfile.TemporaryDirectory() as folder:
            swept = sweep_waits(overrides, Path(folder))
        forward, adjoint = (max(getattr(step, name) for step in found) for name in ("forward_steps", "adjoint_steps"))
        waits = [max(getattr(step, name) for step in found) for name in ("forward_waits", "adjoint_waits", "beside")]
        print(
            TARGET.format(
                f"`{model}`", forward, waits[0], adjoint, waits[1], waits[2], f"{swept.waits / swept.steps:.3f}"
            )
        )


if __name__ == "__main__":
    main(int(dict(word.split("=") for word in sys.argv[1:]).get("steps", 5)))
