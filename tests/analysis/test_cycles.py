"""Limit cycles, against maps whose periods are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deqrun.analysis.cycles import limit_cycles
from deqrun.solvers import Budget, Picard, solve
from tests.problems import RowMap

FLOAT64 = torch.float64


def logistic(rates: list[float]) -> RowMap:
    """z ↦ r z (1 − z), a rate per row."""
    return RowMap(lambda z, rate: rate * z * (1 - z), (torch.tensor(rates, dtype=FLOAT64)[:, None],))


def turned(z: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * z[:, 0] - sin * z[:, 1], sin * z[:, 0] + cos * z[:, 1]], dim=1)


def rotations(angles: list[float]) -> RowMap:
    return RowMap(turned, (torch.tensor(angles, dtype=FLOAT64),))


def settled(f: RowMap, z: Tensor, steps: int = 5000) -> Tensor:
    for _ in range(steps):
        z = f(z)
    return z


@pytest.mark.parametrize(
    ("rate", "period"),
    [
        (0.5, 1),  # z* = 0 attracts for r < 1
        (2.8, 1),  # z* = 1 − 1/r attracts for 1 < r < 3
        (3.2, 2),  # 3 < r < 1 + √6 = 3.449…
        (3.5, 4),
        (3.55, 8),
        (3.565, 16),
        (3.83, 3),  # the window of period 3 opens at 1 + √8 = 3.828…
        (3.74, 5),
        (3.9, 0),  # chaos
    ],
)
def test_the_logistic_map_has_its_periods(rate: float, period: int) -> None:
    f = logistic([rate])
    found = limit_cycles(f, settled(f, torch.full((1, 1), 0.4, dtype=FLOAT64)), tol=1e-6)
    assert found.period.tolist() == [period]
    assert found.period.dtype == found.nfe.dtype == torch.long
    assert (found.distance <= 1e-6).tolist() == [period > 0]


def test_the_two_states_of_period_2_are_the_roots_of_a_quadratic() -> None:
    """r = 3.2: z = (r + 1 ± √((r + 1)(r − 3))) / (2r), which f exchanges."""
    rate = 3.2
    root = math.sqrt((rate + 1) * (rate - 3))
    states = torch.tensor([[(rate + 1 + root) / (2 * rate)], [(rate + 1 - root) / (2 * rate)]], dtype=FLOAT64)
    found = limit_cycles(logistic([rate, rate]), states, tol=1e-12)
    assert found.period.tolist() == [2, 2]


@pytest.mark.parametrize(("turns", "lap"), [(1, 5), (2, 5), (3, 7), (1, 2), (1, 16), (0, 1)])
def test_a_rotation_by_a_fraction_of_a_turn_has_its_denominator(turns: int, lap: int) -> None:
    found = limit_cycles(rotations([2 * math.pi * turns / lap]), torch.tensor([[3.0, 4.0]], dtype=FLOAT64), tol=1e-12)
    assert (found.period.item(), found.nfe.item()) == (lap, 2 * lap)
    assert found.distance.item() <= 1e-14


def test_a_period_beyond_the_largest_is_not_found() -> None:
    f, z = rotations([2 * math.pi / 17]), torch.tensor([[1.0, 0.0]], dtype=FLOAT64)
    short = limit_cycles(f, z, max_period=16)
    assert (short.period.item(), short.nfe.item()) == (0, 16)
    # Nearest after 1 and after 16 steps: the chord of 1/17 of a turn.
    assert short.distance.item() == pytest.approx(2 * math.sin(math.pi / 17), rel=1e-12)
    assert limit_cycles(f, z, max_period=17).period.item() == 17


def test_every_row_of_a_mixed_batch_is_its_own_problem() -> None:
    """Logistic rows, a row that doubles, one that is NaN after three steps, one that starts as NaN."""
    rates = [2.8, 3.2, 3.5, 3.83, 3.9]
    kinds = torch.tensor([0.0] * 5 + [1.0, 2.0, 1.0], dtype=FLOAT64)[:, None]
    rate = torch.tensor([*rates, 0.0, 0.0, 0.0], dtype=FLOAT64)[:, None]

    def function(z: Tensor, rate: Tensor, kind: Tensor) -> Tensor:
        broken = torch.where(z > 3.5, math.nan, z + 1)
        return torch.where(kind == 0, rate * z * (1 - z), torch.where(kind == 1, 2 * z, broken))

    orbit = settled(logistic(rates), torch.full((5, 1), 0.4, dtype=FLOAT64))
    z = torch.cat([orbit, torch.tensor([[1.0], [1.0], [math.nan]], dtype=FLOAT64)])
    f = RowMap(function, (rate, kinds))
    for given in (f, f.whole()):
        found = limit_cycles(given, z, tol=1e-6)
        assert found.period.tolist() == [1, 2, 4, 3, 0, 0, 0, 0]
        # A confirmed row costs two laps, a doubling one all periods, a NaN row its steps until then.
        assert found.nfe.tolist()[:4] == [2, 4, 8, 6]
        assert found.nfe.tolist()[5:] == [16, 4, 0]
        # Doubling from 1 is nearest its start after one step; so is z + 1.
        assert found.distance.tolist()[5:] == [1.0, 1.0, math.inf]
    for row in range(8):
        at = torch.tensor([row])
        alone = limit_cycles(f.take(at), z[at], tol=1e-6)
        assert (alone.period, alone.nfe, alone.distance) == (found.period[row], found.nfe[row], found.distance[row])


def test_decided_rows_leave_the_batch() -> None:
    """Periods 1, 2 and 4 are confirmed after 2, 4 and 8 steps."""
    f = logistic([2.8, 3.2, 3.5])
    z = settled(f, torch.full((3, 1), 0.4, dtype=FLOAT64))
    f.calls.clear()
    limit_cycles(f, z, tol=1e-6)
    assert f.calls == [3, 3, 2, 2, 1, 1, 1, 1]


def test_a_drift_that_the_second_lap_carries_out_of_reach_is_no_cycle() -> None:
    """A helix: back after 5 steps but for a rise of 0.7 tol ‖z‖, and for 1.4 tol ‖z‖ after 10."""
    tol = 1e-3
    angle = 2 * math.pi / 5

    def helix(rise: float) -> RowMap:
        def f(z: Tensor, rise: Tensor) -> Tensor:
            return torch.cat([turned(z[:, :2], torch.full_like(z[:, 0], angle)), z[:, 2:] + rise], dim=1)

        return RowMap(f, (torch.full((1, 1), rise, dtype=FLOAT64),))

    z = torch.tensor([[1.0, 0.0, 0.0]], dtype=FLOAT64)
    drifting = limit_cycles(helix(0.7 * tol / 5), z, tol=tol)
    assert (drifting.period.item(), drifting.distance.item()) == (0, pytest.approx(0.7 * tol))
    assert limit_cycles(helix(0.4 * tol / 5), z, tol=tol).period.item() == 5


def test_a_chaotic_orbit_that_passes_its_start_once_is_no_cycle() -> None:
    """f(z) = 4 z (1 − z) doubles t in z = sin²(πt), where t and −t are one, and so are t and t + 1.

    t = 1/9 + δ goes to 8/9 + 8δ, that is 1/9 − 8δ, in three steps and to 1/9 + 64δ in six: 9δ and 63δ from its start.
    """
    shift = 1e-7
    t = torch.tensor([[1 / 9 + shift]], dtype=FLOAT64)
    per_shift = 2 * math.pi / math.tan(math.pi / 9)  # (dz/dt) / z
    f, z = logistic([4.0]), (math.pi * t).sin().square()
    once = limit_cycles(f, z, max_period=3, tol=20 * shift * per_shift)
    assert (once.period.item(), once.nfe.item()) == (0, 6)
    assert once.distance.item() == pytest.approx(9 * shift * per_shift, rel=1e-4)
    assert limit_cycles(f, z, max_period=3, tol=70 * shift * per_shift).period.item() == 3


def test_the_best_iterate_of_a_stalled_solve_needs_a_transient() -> None:
    """From beside the repelling fixed point 1 − 1/r plain iteration needs a while to reach the cycle of 2."""
    f, beside = logistic([3.2]), torch.tensor([[1 - 1 / 3.2 + 1e-2]], dtype=FLOAT64)
    assert limit_cycles(f, beside, tol=1e-4).period.item() == 0
    found = limit_cycles(f, beside, tol=1e-4, transient=100)
    assert (found.period.item(), found.nfe.item()) == (2, 104)
    last = solve(f, beside, solver=Picard(), budget=Budget(max_iter=100, tol=1e-6, keep="last")).z
    assert limit_cycles(f, last, tol=1e-4).period.item() == 2


def test_a_row_that_breaks_in_the_transient_costs_only_until_then() -> None:
    f = RowMap(lambda z, rate: torch.where(z > 3.5, math.inf, rate * z), (torch.tensor([[2.0], [0.5]], dtype=FLOAT64),))
    found = limit_cycles(f, torch.ones(2, 1, dtype=FLOAT64), transient=1100)
    assert found.period.tolist() == [0, 1], "halving reaches 0 after 1,075 steps of float64"
    assert found.nfe.tolist() == [3, 1102]
    assert found.distance.tolist() == [math.inf, 0.0]


def test_states_of_any_shape_and_dtype() -> None:
    z = torch.arange(1.0, 13.0).view(2, 2, 3)
    found = limit_cycles(lambda z: -z, z.half())
    assert found.period.tolist() == [2, 2]
    assert limit_cycles(lambda z: z, torch.zeros(0, 4)).period.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"max_period": 0}, ValueError, "max_period must be a whole number >= 1, got 0"),
        ({"max_period": 2.5}, ValueError, "max_period must be a whole number >= 1, got 2.5"),
        ({"transient": -1}, ValueError, "transient must be a whole number >= 0, got -1"),
        ({"tol": math.nan}, ValueError, "tol must be a number >= 0, got nan"),
        ({"z": torch.zeros(2, dtype=torch.long)}, TypeError, "floating-point tensor"),
        ({"z": torch.tensor(1.0)}, ValueError, "batch dimension"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, object], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        limit_cycles(**{"f": lambda z: z, "z": torch.zeros(2, 1), **arguments})  # type: ignore[arg-type]
