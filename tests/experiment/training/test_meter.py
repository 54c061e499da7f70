"""An epoch's figures of its solves and gradients, beside plain NumPy on the linear cell."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deqrun.experiment.evaluate import Evaluation
from deqrun.experiment.training.meter import EpochMeter, gradient_share
from deqrun.gradients import Gradient, Implicit, Unrolled
from deqrun.models import DEQ
from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch
from deqrun.solvers import Budget, Picard
from tests.experiment.linear_model import CLASSES, batch, model, step

RATES = np.array([0.1, 0.3, 0.5, 0.6, 0.7])
FORWARD, ADJOINT = Budget(8, 1e-2), Budget(5, 1e-2)


def epoch_of(deq: DEQ, *inputs: torch.Tensor) -> Epoch:
    """The row of an epoch that has these batches."""
    meter = EpochMeter()
    for x in inputs:
        made = step(deq, batch(x))
        made.objective.backward()
        meter.add(made, torch.tensor(1.0))
    nothing = torch.zeros(1)
    return meter.epoch(1, len(inputs), Evaluation(nothing, nothing.bool(), nothing, nothing), 0.1, 1.0)


def sensitivities(deq: DEQ, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """∂L/∂z of the mean cross-entropy over the batch, a row per sample: Vᵀ (softmax − one-hot) / batch."""
    v = deq.cell.v.detach().numpy()
    p = np.exp(z @ v.T)
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(z)), np.arange(len(z)) % CLASSES] -= 1
    return p @ v / len(z)


def plain(matrix: NDArray[np.float64], v: NDArray[np.float64], begin: NDArray[np.float64], budget: Budget) -> bool:
    """Whether u ← matrix u + v comes within the tolerance, from `begin`, one row by itself."""
    u = begin
    for _ in range(budget.max_iter + 1):
        value = matrix @ u + v
        if np.linalg.norm(value - u) <= budget.tol * np.linalg.norm(value):
            return True
        u = value
    return False


def test_the_shares_that_converged_are_those_of_rows_by_themselves() -> None:
    """Along an eigenvector of rate r the relative residual of iterate k is rᵏ (1 − r) / (1 − rᵏ⁺¹)."""
    deq = model(Implicit(Picard(), ADJOINT), FORWARD)
    row = epoch_of(deq, torch.eye(5, dtype=torch.float64))
    ends = [min([k for k in range(9) if r**k * (1 - r) / (1 - r ** (k + 1)) <= FORWARD.tol], default=9) for r in RATES]
    assert row.converged == sum(k <= 8 for k in ends) / 5 == 0.8
    w, basis = deq.cell.w.detach().numpy(), deq.cell.u.detach().numpy()
    z = np.stack(
        [(1 - r ** min(k, 8)) / (1 - r) * basis[:, j] for j, (r, k) in enumerate(zip(RATES, ends, strict=True))]
    )
    v = sensitivities(deq, z)
    within = [plain(w.T, one, one, ADJOINT) for one in v]
    assert row.adjoint_converged == sum(within) / 5
    assert 0 < row.adjoint_converged < 1


@pytest.mark.parametrize("gradient", [Implicit(Picard(), Budget(200, 1e-12)), Unrolled()], ids=["implicit", "unrolled"])
def test_the_largest_share_of_the_gradient(gradient: Gradient) -> None:
    """Of u = (I − Wᵀ)⁻¹ v under the implicit gradient, and of v under another; the epoch has the largest of two."""
    deq = model(gradient, Budget(200, 0.0, keep="last"))
    inputs = [torch.eye(5, dtype=torch.float64), 3 * torch.eye(5, dtype=torch.float64).flip(0)]
    row, expected = epoch_of(deq, *inputs), []
    w, basis = deq.cell.w.detach().numpy(), deq.cell.u.detach().numpy()
    for x in inputs:
        z = np.linalg.solve(np.eye(5) - w, (x.numpy() @ basis.T).T).T
        v = sensitivities(deq, z)
        g = np.linalg.solve(np.eye(5) - w.T, v.T).T if isinstance(gradient, Implicit) else v
        norms = np.linalg.norm(g, axis=1)
        expected.append(norms.max() / norms.sum())
    assert row.gradient_share == pytest.approx(max(expected), rel=1e-8)
    assert row.adjoint_converged == (1.0 if isinstance(gradient, Implicit) else None)


def test_one_sample_has_nearly_all_of_the_gradient() -> None:
    """Norms 1, 1, 1 and 4,000: 4000 / 4003, at any scale of float32."""
    gradient = torch.ones(4, 1)
    gradient[3] = 4000.0
    for scale in (1.0, 1e-30, 1e30):
        assert gradient_share(gradient * scale) == pytest.approx(4000 / 4003, rel=1e-6)


def test_the_rest_of_an_epoch_has_no_say_in_the_share() -> None:
    """A batch of a single sample, in which that one has all there is."""
    deq = model(Unrolled(), Budget(8, 0.0, keep="last"))
    whole = torch.eye(5, dtype=torch.float64)
    assert epoch_of(deq, whole, whole[:1]).gradient_share == epoch_of(deq, whole).gradient_share < 1
    assert epoch_of(deq, whole[:1]).gradient_share == 1.0


def test_a_run_from_before_these_columns_is_read(tmp_path: Path) -> None:
    row = {
        key: value
        for key, value in asdict(Epoch(1, loss=0.5, residual=1e-3)).items()
        if key not in ("converged", "adjoint_converged", "gradient_share")
    }
    (tmp_path / "config.yaml").write_text("name: old\n")
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (epoch,) = read_run(tmp_path).epochs
    assert (epoch.loss, epoch.converged, epoch.adjoint_converged, epoch.gradient_share) == (0.5, None, None, None)
