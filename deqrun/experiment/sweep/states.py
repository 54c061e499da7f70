"""The iterates of a few samples, kept whole."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import in_evaluation
from deqrun.models import DEQ
from deqrun.records.kept_states import KeptStates
from deqrun.solvers import Budget, solve

__all__ = ["keep_states", "size_of_states"]


def size_of_states(samples: int, max_iter: int, state_size: int) -> int:
    """Bytes of the iterates 0 … max_iter of so many samples, in float32."""
    return 4 * samples * (max_iter + 1) * state_size


@torch.no_grad()
def keep_states(deq: DEQ, dataset: Dataset, split: Split, samples: int, budget: Budget) -> KeptStates:
    """Every iterate of samples evenly spaced over the split, by the model's solver from its own start.

    samples  at most; all of the split where it has fewer
    """
    device = next(deq.parameters()).device
    places = torch.linspace(0, len(split) - 1, min(samples, len(split))).round().long()
    x, y = dataset.encode(split.inputs[places].to(device)), split.targets[places].to(device)
    with in_evaluation(deq), deq.cell.fixed_weights():
        f = deq.bind(x)
        z0 = deq.start(f)
        states = torch.zeros(len(places), budget.max_iter + 1, z0[0].numel())
        correct = torch.zeros(len(places), budget.max_iter + 1, dtype=torch.bool)

        def keep(k: int, z: Tensor, rows: Tensor) -> None:
            states[rows.cpu(), k] = z.flatten(1).float().cpu()
            correct[rows.cpu(), k] = dataset.correct(deq.cell.readout(z), y[rows]).cpu()

        solution = solve(f, z0, solver=deq.solver, budget=budget, observe=keep)
    # Behind its last iterate a sample stays where it is.
    last = solution.steps.long().cpu()
    held = torch.minimum(torch.arange(budget.max_iter + 1)[None, :], last[:, None])
    rows = torch.arange(len(places))[:, None]
    return KeptStates(
        states[rows, held].numpy(), correct[rows, held].numpy(), last.numpy(), places.numpy().astype(np.int64)
    )
