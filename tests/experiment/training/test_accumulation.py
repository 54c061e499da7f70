"""A batch in parts has the gradients, the draws and the figures of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.errors import UserError
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.meter import EpochMeter
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled
from deqrun.models import DEQ
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Budget, Picard, Solution, solve
from tests.experiment.linear_model import CLASSES, WIDTH, Vectors, draws, model, settings

ROWS = 11
STEPPING = Stepping("float32", torch.device("cpu"))
GRADIENTS: dict[str, Gradient] = {
    "implicit": Implicit(Picard(), Budget(60, 1e-12)),
    "one_step": OneStep(),
    "phantom": Phantom(steps=3),
    "unrolled": Unrolled(last=3),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"jacobian_weight": 0.7, "jacobian_frequency": 0.5},
    "other penalties": {"spectral_weight": 0.7, "spectral_target": 0.2, "fixed_point_weight": 0.3, "start": "normal"},
    "long tails": {"random_budget": [2, 8], "random_budget_law": "gamma", "random_budget_mean": 4.0},
    "mixture": {"start": "mixture", "random_budget": [2, 8], "path_noise": 0.1, "path_damping": 0.9},
    "progressive": {"start": "normal", "progressive_weight": 0.4, "corrections": 2, "path_noise": 0.1},
    "warm-up": {"unrolled_warmup_steps": 2, "unrolled_depth": 4},
    "previous": {"start": "previous"},
}


def samples(step: int) -> Batch:
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)
    return Batch(x, torch.randint(CLASSES, (ROWS,), generator=draw), torch.randperm(ROWS, generator=draw))


def three_steps(
    gradient: Gradient, budget: Budget, accumulate: int, **changes: Any
) -> tuple[list[tuple[Forward, list[Tensor]]], Draws, Starts]:
    """(what came out, gradients) of three steps with the same weights, and the state they left behind."""
    deq = model(gradient, budget)
    chosen = settings(batch_size=ROWS, accumulate=accumulate, **changes)
    drawn, starts, found = draws(), Starts(chosen.start, chosen.start_scale, ROWS), []
    for step in range(1, 4):
        deq.zero_grad()
        made = accumulated(forward, deq, Vectors(), samples(step), chosen, step, drawn, starts, STEPPING)
        found.append((made, [weight.grad.clone() for weight in deq.parameters() if weight.grad is not None]))
    return found, drawn, starts


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [2, 4, ROWS])
@pytest.mark.pairs
def test_parts_add_up_to_the_whole(gradient: str, options: str, accumulate: int) -> None:
    """In double precision, to 1e-9 of the largest number: parts of 6 and 5, of 3, 3, 3 and 2, or single samples."""
    budget = Budget(max_iter=8, tol=1e-2, keep="last")
    per_sample = {"random_budget_per": "sample"} if gradient != "unrolled" else {}
    whole, drawn, starts = three_steps(GRADIENTS[gradient], budget, 1, **OPTIONS[options], **per_sample)
    parts, drawn_too, starts_too = three_steps(
        GRADIENTS[gradient], budget, accumulate, **OPTIONS[options], **per_sample
    )
    for (one, of_one), (two, of_two) in zip(whole, parts, strict=True):
        for a, b in zip(of_one, of_two, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9 * float(a.abs().max()))
        assert_same_figures(one, two)
    for name, state in drawn.state_dict()["states"].items():
        assert torch.equal(state, drawn_too.state_dict()["states"][name]), name
    for name, value in starts.state_dict().items():
        assert torch.allclose(value, starts_too.state_dict()[name])


def assert_same_figures(one: Forward, two: Forward) -> None:
    """Sums to rounding, rows as they are; residuals NaN where a row has stopped."""
    assert float(one.objective.detach()) == pytest.approx(float(two.objective), rel=1e-12)
    assert float(one.loss) == pytest.approx(float(two.loss), rel=1e-12)
    assert (one.penalty is None) == (two.penalty is None)
    assert torch.equal(one.correct, two.correct)
    for solutions in ((one.solution, two.solution), (one.solution.adjoint, two.solution.adjoint)):
        assert (solutions[0] is None) == (solutions[1] is None)
        for name in Solution.__annotations__ if solutions[0] else ():
            a, b = (getattr(solution, name) for solution in solutions)
            if isinstance(a, Tensor):
                assert torch.allclose(a, b, rtol=1e-6, atol=1e-12, equal_nan=True), name
    meters = [EpochMeter(), EpochMeter()]
    for meter, made in zip(meters, (one, two), strict=True):
        meter.add(made, torch.tensor(1.0))
    rows = [meter.step(1, 0.1) for meter in meters]
    for name, value in vars(rows[0]).items():
        assert vars(rows[1])[name] == pytest.approx(value), name


def test_weight_normalised_layers_and_checkpoints_take_parts() -> None:
    """A graph that all parts shared would be gone with the first: an MDEQ's weights are worked out anew for each."""
    from deqrun.models import MDEQCell

    torch.manual_seed(0)
    sizes = {"channels": [4, 4], "groups": 2, "head_channels": [2, 2], "final_channels": 4}
    cell = MDEQCell(input_shape=(1, 8, 8), num_classes=CLASSES, **sizes)  # type: ignore[arg-type]
    deq = DEQ(cell, Anderson(), Budget(20, 1e-6), Implicit()).double()
    x, y = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.arange(5) % CLASSES
    found = []
    for accumulate in (1, 2, 5):
        chosen = settings(batch_size=5, accumulate=accumulate)
        deq.zero_grad()
        batch = Batch(x, y, torch.arange(5))
        accumulated(forward, deq.eval(), Vectors(), batch, chosen, 1, draws(), Starts("zeros", 1.0, 5), STEPPING)
        found.append([weight.grad.clone() for weight in deq.parameters() if weight.grad is not None])
    for parts in found[1:]:
        assert len(parts) == len(found[0]) > 0
        for a, b in zip(found[0], parts, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_solve_in_parts_is_the_solve_of_the_whole() -> None:
    """Each row carries its own rate, (r, z) ↦ (r, r z + 1): some converge early, one diverges."""
    rates = torch.tensor([0.1, 0.9, 0.5, 1.5, 0.7], dtype=torch.float64)[:, None]
    start = torch.cat([rates, torch.ones(5, 3, dtype=torch.float64)], dim=1)

    def f(z: Tensor) -> Tensor:
        return torch.cat([z[:, :1], z[:, :1] * z[:, 1:] + 1], dim=1)

    whole, *parts = (solve(f, z0, solver=Picard(), budget=Budget(200, 1e-6)) for z0 in (start, *start.split(2)))
    joined = Solution.joined(parts)
    assert len(joined.steps.unique()) == 5
    for name in ("z", "residual", "steps", "kept", "nfe", "jvps", "status", "residuals", "nfes", "products"):
        assert torch.equal(getattr(joined, name).nan_to_num(-1), getattr(whole, name).nan_to_num(-1)), name


def test_more_parts_than_samples_are_refused(settings_of: Any) -> None:
    with pytest.raises(
        UserError, match="has accumulate=300, more parts than batch_size=256 has samples; it must be at"
    ):
        settings_of("train.accumulate=300")
    assert isinstance(settings_of("train.accumulate=256"), Settings)
