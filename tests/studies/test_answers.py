"""The arithmetic and the words of each answer, on records whose outcome is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deqrun.report.bootstrap import MeanInterval

from deqrun.datasets import Digits
from deqrun.gradients import Implicit
from deqrun.models import DEQ
from deqrun.models.conv import ConvCell
from deqrun.models.mlp import MLPCell
from deqrun.report import Trajectory
from deqrun.settings import UserError
from deqrun.solvers import Budget, Picard
from deqrun.studies import anderson_vs_picard, does_anderson_prevent_divergence, is_it_a_contraction, memory_vs_depth

# --- is_it_a_contraction


def spectra(kind: str, radius: float, norm: float, converged: bool, n: int = 40) -> is_it_a_contraction.Spectra:
    def all_of(value: float) -> np.ndarray:
        return np.full(n, value)

    return is_it_a_contraction.Spectra(
        kind, all_of(radius), all_of(norm), all_of(1e-6), np.full(n, converged), all_of(radius + 0.01)
    )


@pytest.mark.parametrize(
    ("radius", "norm", "converged", "first"),
    [
        (0.5, 0.8, True, "Yes: "),
        (0.9, 1.3, True, "No: "),
        (1.2, 1.3, False, "Nothing to explain: "),
    ],
)
def test_why_it_converges(radius: float, norm: float, converged: bool, first: str) -> None:
    answer = is_it_a_contraction.answer_of([spectra("weight_0", radius, norm, converged)], 100, 1e-4)
    assert answer.sentences[0].startswith(first)
    assert answer.sentences[1].startswith("Without a Jacobian penalty the median ρ is")
    shares = answer.numbers["weight_0"]
    assert shares["share_norm_below_1"].mean == float(norm < 1)
    assert shares["share_radius_below_1_norm_not"].mean == float(radius < 1 <= norm)


def test_half_and_half_is_only_in_part() -> None:
    both = [spectra("weight_0", 0.5, 0.8, True), spectra("weight_5", 0.9, 1.3, True)]
    answer = is_it_a_contraction.answer_of(both, 100, 1e-4)
    assert answer.sentences[0].startswith("Only in part: ")
    assert "100.0 %" in answer.sentences[0]  # ρ < 1 is right of all
    assert "differs from ρ by 0.0100" in answer.sentences[2]


# --- anderson_vs_picard


def solved(name: str, cost: list[float], seconds: float) -> anderson_vs_picard.Solved:
    residual = np.geomspace(1, 1e-5, 50)
    accuracy = np.minimum(np.arange(50) / 10, 1.0)
    return anderson_vs_picard.Solved(name, np.array(cost), residual, accuracy, np.full(9, seconds))


def test_savings_are_paired_medians() -> None:
    picard = solved("picard", [20.0] * 30, 1.0)
    fast = solved("anderson 5", [10.0] * 30, 0.8)
    lost = solved("broyden", [5.0] * 10 + [np.inf] * 20, 0.5)
    assert anderson_vs_picard.relative_cost(fast, picard) == MeanInterval(0.5, 0.5, 0.5, 30)
    assert anderson_vs_picard.relative_cost(lost, picard).mean == np.inf
    answer = anderson_vs_picard.answer_of([picard, fast, lost], 1e-3, 100, 8)
    assert (
        "anderson 5 needs the fewest evaluations, 0.500 (95 % interval 0.500 to 0.500, n = 30)" in answer.sentences[0]
    )
    assert "faster than plain iteration: 0.800" in answer.sentences[1]  # broyden's 0.5 s are of solves that fail


def test_where_nothing_is_saved_the_answer_says_so() -> None:
    picard = solved("picard", [20.0] * 30, 1.0)
    slow = solved("anderson 5", [30.0] * 30, 2.0)
    answer = anderson_vs_picard.answer_of([picard, slow], 1e-3, 100, 8)
    assert answer.sentences[0].startswith("To a residual of 1e-3 no solver is shown to need fewer evaluations")
    assert "slower than plain iteration: 2 (" in answer.sentences[1]
    assert "no solver is there sooner" in answer.sentences[2]


def test_accuracy_is_reached_where_it_stays() -> None:
    accuracy = np.array([0.1, 0.9, 0.5, 0.895, 0.9, 0.9])
    one = anderson_vs_picard.Solved("picard", np.ones(6), np.ones(6), accuracy, np.ones(3))
    assert one.accurate_from == 4


def test_what_is_known_after_so_many_evaluations() -> None:
    """Two samples, iterates at 1, 2, 3 evaluations; the second stops at iterate 1. Products count one for one."""
    residual = np.array([[0.5, 0.4], [0.3, 0.1], [0.2, np.nan]], dtype=np.float32)
    nfe = np.array([[1, 1], [2, 2], [3, 2]], dtype=np.int32)
    jvps = np.array([[0, 0], [2, 0], [4, 0]], dtype=np.int32)
    correct = np.array([[False, False], [True, True], [False, True]])
    trajectory = Trajectory(residual, nfe, correct, np.zeros(3), None, jvps)
    known, right = anderson_vs_picard.after_evaluations(trajectory, np.array([0, 1, 3, 4, 9]))
    assert known == pytest.approx(np.array([[1, 1], [0.5, 0.4], [0.5, 0.1], [0.3, 0.1], [0.2, 0.1]]))
    assert right.tolist() == [[False, False], [False, False], [False, True], [True, True], [False, True]]


# --- does_anderson_prevent_divergence


def solves(radius: float, picard: float, anderson: float, n: int = 40) -> does_anderson_prevent_divergence.Solves:
    converged = {name: np.arange(n) < n * 0.25 for name in does_anderson_prevent_divergence.SOLVERS}
    converged |= {"picard": np.arange(n) < n * picard, "anderson": np.arange(n) < n * anderson}
    return does_anderson_prevent_divergence.Solves(np.full(n, 2.0), np.full(n, radius), converged, converged)


@pytest.mark.parametrize(
    ("radius", "picard", "anderson", "first"),
    [
        (1.1, 0.0, 1.0, "Yes: "),
        (1.1, 0.0, 0.5, "In part: "),
        (1.1, 0.5, 0.5, "No: "),
        (1.1, 0.5, 0.2, "No: "),
        (0.9, 1.0, 1.0, "No equilibrium has ρ ≥ 1"),
    ],
)
def test_what_acceleration_prevents(radius: float, picard: float, anderson: float, first: str) -> None:
    answer = does_anderson_prevent_divergence.answer_of(solves(radius, picard, anderson), 100, 1e-4)
    assert answer.sentences[0].startswith(first)


def test_how_far_it_goes_is_the_last_bin_that_it_wins() -> None:
    near, far = solves(1.1, 0.0, 1.0), solves(2.5, 0.0, 0.0)
    both = does_anderson_prevent_divergence.Solves(
        np.concatenate([near.scale, far.scale]), np.concatenate([near.radius, far.radius]),
        *[{name: np.concatenate([near.converged[name], far.converged[name]]) for name in near.converged}] * 2,
    )  # fmt: skip
    answer = does_anderson_prevent_divergence.answer_of(both, 100, 1e-4)
    assert answer.sentences[2].endswith("Anderson does so for at least half of them up to ρ from 1 to 1.25.")


def deq(cell: MLPCell | ConvCell) -> DEQ:
    return DEQ(cell, Picard(), Budget(), Implicit())


def test_scaled_weights_scale_the_jacobian_of_a_linear_cell() -> None:
    torch.manual_seed(0)
    cell = MLPCell(input_shape=(3,), num_classes=2, width=8, activation="identity")
    before, x = deq(cell), torch.randn(4, 3)
    after = does_anderson_prevent_divergence.scaled(before, 3.0)
    a, b = torch.randn(4, 8), torch.randn(4, 8)
    with torch.no_grad():
        f, g = before.bind(x), after.bind(x)
        torch.testing.assert_close(g(a) - g(b), 3 * (f(a) - f(b)))


def test_an_equilibrium_is_followed_where_others_appear() -> None:
    """z = tanh(s z + b) has one solution for small s, and three for large ones; followed, it is the upper one."""
    cell = MLPCell(input_shape=(1,), num_classes=2, width=1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(0.0)
        cell.layers[0].weight.fill_(0.5)
        cell.encoder.bias.fill_(0.3)
        found = does_anderson_prevent_divergence.follow(deq(cell), torch.zeros(3, 1), None, 0.0, 4.0, 1e-4)
    z = 1.0
    for _ in range(200):
        z = np.tanh(2.0 * z + 0.3)
    torch.testing.assert_close(found, torch.full((3, 1), z), rtol=1e-3, atol=0)


def test_cells_that_would_undo_the_scaling_are_refused() -> None:
    with pytest.raises(UserError, match="choose model=mlp"):
        does_anderson_prevent_divergence.scaled(deq(ConvCell(input_shape=(1, 8, 8), num_classes=10)), 2.0)


# --- memory_vs_depth


def step(gradient: str, depth: int, peak: int, relative: float) -> memory_vs_depth.Step:
    return memory_vs_depth.Step(gradient, depth, peak, MeanInterval(relative, relative, relative, 9))


def test_bytes_and_seconds_of_depth() -> None:
    mib = memory_vs_depth.MIB
    steps = [step("unrolled", depth, (1 + 2 * depth) * mib, 1.0) for depth in (1, 8)]
    steps += [step("checkpointed", 1, 3 * mib, 1.0), step("checkpointed", 8, 8 * mib, 1.3)]
    for name in ("phantom", "one-step", "implicit"):
        steps += [step(name, depth, 4 * mib, 0.5) for depth in (1, 8)]
    answer = memory_vs_depth.answer_of(steps, 64, 9)
    assert memory_vs_depth.growth(steps, "unrolled") == 2 * mib
    assert "holds 2 MiB more for each of them, 17 MiB at depth 8" in answer.sentences[0]
    assert answer.sentences[0].endswith("4.2 times less.")
    assert "takes less time than the unrolled one at depth 8, 0.500 times" in answer.sentences[1]
    assert "2.0 times the implicit" in answer.sentences[2]


def test_segments_are_the_root_of_the_depth() -> None:
    assert [memory_vs_depth.segment(depth) for depth in (1, 2, 4, 5, 64, 65)] == [1, 2, 2, 3, 8, 9]


def test_measured_bytes_of_a_tanh_cell() -> None:
    """tanh(W z + U x + b) saves its output, and z, which is the output before: a state for each iteration."""
    torch.manual_seed(0)
    data = Digits()
    model = deq(MLPCell(input_shape=(1, 8, 8), num_classes=10, width=32)).train()
    model.budget = Budget(max_iter=4, tol=0.0, keep="last")
    batch = data.load("train")
    x, y = data.encode(batch.inputs[:16]), batch.targets[:16]
    assert memory_vs_depth._bytes_per_iteration(model, data, x, y) == 16 * 32 * 4
