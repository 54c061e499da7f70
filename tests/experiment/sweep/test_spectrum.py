"""The spectral radius of a run against maps whose eigenvalues are known."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from deqrun.datasets import Split
from deqrun.experiment.sweep import spectrum
from deqrun.experiment.sweep.spectrum import local_stability
from deqrun.gradients import Unrolled
from deqrun.models import DEQ
from deqrun.solvers import Budget, Picard
from tests.experiment.linear_model import WIDTH, LinearCell, Vectors

BUDGET = Budget(max_iter=8, tol=0.0, keep="last")


def split(n: int) -> Split:
    draw = torch.Generator().manual_seed(3)
    return Split(torch.randn(n, WIDTH, generator=draw, dtype=torch.float64), torch.zeros(n, dtype=torch.long))


class SteepCell(LinearCell):
    """f(z; x) = s(x) W z with s(x) = x[0]: the Jacobian's radius is |x[0]| times the largest rate, 0.7."""

    def inject(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x[:, :1],)

    def forward(self, z: torch.Tensor, injection: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return injection[0] * (z @ self.w.T)


def deq(cell: LinearCell) -> DEQ:
    return DEQ(cell, Picard(), BUDGET, Unrolled())


def test_of_a_linear_map_it_is_the_largest_eigenvalue() -> None:
    found = local_stability(deq(LinearCell(rates=(0.1, -0.9, 0.5, 0.6, 0.7))), Vectors(), split(20), 16)
    assert found.median == pytest.approx(0.9, abs=1e-9)
    assert found.largest == pytest.approx(0.9, abs=1e-9)
    assert (found.n, found.below_one) == (16, 1.0)


def test_samples_are_evenly_spaced_and_each_has_its_own() -> None:
    samples = split(31)
    samples.inputs[:, 0] = torch.linspace(0.5, 2.0, 31, dtype=torch.float64)
    found = local_stability(deq(SteepCell()), Vectors(), samples, 16)
    own = 0.7 * torch.linspace(0.5, 2.0, 16, dtype=torch.float64)  # places 0, 2, …, 30
    assert found.median == pytest.approx(float(own.quantile(0.5)), abs=1e-9)
    assert found.largest == pytest.approx(1.4, abs=1e-9)
    assert found.below_one == pytest.approx(float((own < 1).double().mean()))
    assert found.low < found.median < found.high


@pytest.mark.parametrize("basis", [1, 2 * spectrum.ITERATIONS * WIDTH, 2**26])
def test_batches_change_nothing(basis: int) -> None:
    samples = split(9)
    whole = local_stability(deq(SteepCell()), Vectors(), samples, 9)
    with mock.patch.object(spectrum, "LARGEST_BASIS", basis):
        parts = local_stability(deq(SteepCell()), Vectors(), samples, 9)
    for name in ("median", "low", "high", "largest", "below_one", "n"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name


def test_more_samples_than_there_are_are_all_of_them_and_the_mode_is_kept() -> None:
    model = deq(LinearCell()).train()
    assert local_stability(model, Vectors(), split(5), 16).n == 5
    assert model.training


def test_without_a_finite_jacobian_there_is_no_number() -> None:
    samples = split(4)
    samples.inputs[:, 0] = torch.inf
    found = local_stability(deq(SteepCell()), Vectors(), samples, 4)
    assert found.median != found.median
    assert found.n == 4
