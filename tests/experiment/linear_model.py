"""A linear equilibrium model whose every run can be written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from deqrun.datasets import Dataset, Split
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.starts import Starts
from deqrun.gradients import Gradient, Unrolled
from deqrun.models import DEQ, Cell
from deqrun.settings import TrainSettings
from deqrun.solvers import Budget, Picard, Solver

ROWS, WIDTH, CLASSES = 6, 5, 3

CONFIG = Path(__file__).parents[2] / "configs" / "train.yaml"
PLAIN: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["train"] | {"jacobian_weight": 0.0}


class LinearCell(Cell):
    """f(z; x) = W z + U x, logits V z; W has the eigenvalues `rates`, one for each input that is a unit vector."""

    def __init__(self, rates: tuple[float, ...] = (0.1, 0.3, 0.5, 0.6, 0.7)) -> None:
        super().__init__(input_shape=(WIDTH,), num_classes=CLASSES)
        self.state_shape = (WIDTH,)
        draw = torch.Generator().manual_seed(4)

        def matrix(rows: int) -> Tensor:
            return torch.randn(rows, WIDTH, generator=draw, dtype=torch.float64)

        basis = torch.linalg.qr(matrix(WIDTH)).Q
        diagonal = torch.diag(torch.tensor(rates, dtype=torch.float64))
        self.w = nn.Parameter(basis @ diagonal @ basis.T)
        self.u = nn.Parameter(basis.clone())
        self.v = nn.Parameter(matrix(CLASSES))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x @ self.u.T,)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return z @ self.w.T + injection[0]

    def readout(self, z: Tensor) -> Tensor:
        return z @ self.v.T


class Vectors(Dataset):
    """Samples that the test hands over itself."""

    name, input_shape, num_classes = "vectors", (WIDTH,), CLASSES

    def load(self, split: str) -> Split:
        raise NotImplementedError


def model(gradient: Gradient | None = None, budget: Budget | None = None, solver: Solver | None = None) -> DEQ:
    """The linear cell; whole runs of 8 plain steps, back-propagated through, unless told otherwise."""
    budget = budget or Budget(max_iter=8, tol=0.0, keep="last")
    return DEQ(LinearCell(), solver or Picard(), budget, gradient or Unrolled())


def batch(x: Tensor | None = None) -> Batch:
    """Six samples, whose places in the split are 0 to 5."""
    draw = torch.Generator().manual_seed(9)
    made = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64) if x is None else x
    return Batch(made, torch.arange(len(made)) % CLASSES, torch.arange(len(made)))


def draws(seed: int = 0) -> Draws:
    """The generators of that seed's first epoch."""
    return Draws.of_epoch(seed, 1, torch.device("cpu"))


def settings(**changes: Any) -> TrainSettings:
    """The default training without the Jacobian penalty, but for these."""
    return TrainSettings(**(PLAIN | changes))


def step(deq: DEQ, samples: Batch | None = None, seed: int = 0, **changes: Any) -> Forward:
    """One step of training with these settings, from a fresh epoch's generators."""
    chosen, samples = settings(**changes), samples or batch()
    starts = Starts(chosen.start, chosen.start_scale, len(samples.x))
    return forward(deq, Vectors(), samples, chosen, 1, draws(seed), starts)


def gradients(deq: DEQ, value: Tensor) -> tuple[Tensor, ...]:
    """Of a scalar, by W, U and V."""
    return torch.autograd.grad(value, tuple(deq.cell.parameters()), allow_unused=True, materialize_grads=True)


def loss_at(deq: DEQ, z: Tensor, samples: Batch) -> Tensor:
    """Mean cross-entropy of the read-out of z."""
    return nn.functional.cross_entropy(deq.cell.readout(z), samples.y)
