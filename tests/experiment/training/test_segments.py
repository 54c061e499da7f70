"""Several optimizer steps on one batch: each from the state that the last one left, as a loop by hand has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.averaging import WeightAverage
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.segments import in_segments
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.gradients import Gradient, Implicit, Phantom, Unrolled
from deqrun.models import DEQ
from deqrun.solvers import Anderson, Budget, Picard, solve
from tests.experiment.linear_model import ROWS, Vectors, batch, draws, loss_at, model, settings

LAST = Budget(max_iter=3, tol=0.0, keep="last")


def trained(
    deq: DEQ, lr: float, samples: Batch | None = None, average: WeightAverage | None = None, **changes: Any
) -> tuple[Forward, list[Batch], list[Forward]]:
    """One step of training by plain gradient descent: its figures, and each segment's batch and pass."""
    samples, chosen = samples or batch(), settings(batch_size=ROWS, **changes)
    optimizer, stepping = torch.optim.SGD(deq.parameters(), lr=lr), Stepping("float32", torch.device("cpu"))
    starts, drawn = Starts(chosen.start, chosen.start_scale, ROWS), draws()
    given: list[Batch] = []
    passes: list[Forward] = []

    def take(part: Batch) -> tuple[Forward, Tensor]:
        given.append(part)
        optimizer.zero_grad()
        made = accumulated(forward, deq, Vectors(), part, chosen, 1, drawn, starts, stepping)
        norm = stepping.clip(optimizer, list(deq.parameters()), None)
        stepping.step(optimizer, norm)
        if average is not None:
            average.update(stepping.taken)
        passes.append(made)
        return made, norm

    made, _ = in_segments(take, samples, chosen, drawn)
    return made, given, passes


@pytest.mark.parametrize("start", ["zeros", "normal", "mixture"])
def test_with_fixed_weights_segments_are_one_long_plain_solve(start: str) -> None:
    """Segment k begins at iterate k · 3 of Picard's iteration from the first start, and the last ends at 4 · 3."""
    deq = model(Unrolled(last=1), LAST)
    made, given, passes = trained(deq, 0.0, start=start, segments=4)
    f = deq.bind(batch().x)
    first = Starts(start, 1.0, ROWS).begin(deq.start(f), batch().places, draws().starts)  # type: ignore[arg-type]
    for k in range(1, 4):
        with torch.no_grad():
            long = solve(f, first, solver=Picard(), budget=LAST.with_(max_iter=3 * k))
        assert torch.equal(given[k].begin, long.z)  # type: ignore[arg-type]
    with torch.no_grad():
        long = solve(f, first, solver=Picard(), budget=LAST.with_(max_iter=12))
    assert torch.equal(passes[-1].z, long.z)
    assert torch.equal(made.solution.residual, long.residual)
    assert torch.equal(made.solution.nfe, torch.full((ROWS,), 4 * 4))  # each segment tells its residual, too


@pytest.mark.parametrize("start", ["zeros", "previous"])
def test_segments_are_the_naive_loop(start: str) -> None:
    """Three segments of two steps without and one with a gradient, as TRM has them, in ten lines of PyTorch."""
    deq, own = model(Unrolled(last=1), LAST), model()
    made, _, passes = trained(deq, 0.1, start=start, segments=3)
    samples, losses = batch(), []
    z, optimizer = torch.zeros_like(samples.x), torch.optim.SGD(own.parameters(), lr=0.1)
    for _ in range(3):
        f = own.bind(samples.x)
        with torch.no_grad():
            for _ in range(2):
                z = f(z)
        z = f(z)
        loss = loss_at(own, z, samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        z = z.detach()
    for mine, its in zip(deq.parameters(), own.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-12)
    assert torch.allclose(torch.stack([one.loss for one in passes]), torch.stack(losses), rtol=1e-12)
    assert torch.equal(made.loss, passes[-1].loss)
    assert torch.allclose(passes[-1].z, z, rtol=1e-12)


GRADIENTS: dict[str, Gradient] = {
    "unrolled": Unrolled(last=2),
    "phantom": Phantom(steps=2, damping=1.0, advance=True),
    "implicit": Implicit(Picard(), Budget(60, 1e-12)),
}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_batch_in_parts_takes_the_same_segments(gradient: str) -> None:
    """Parts of 2, 2 and 2 or of 4 and 2 rows carry their own rows' states, and take their own rows of every draw."""
    options: dict[str, Any] = {"start": "normal", "path_noise": 0.1, "random_budget": [1, 6], "segments": 3}
    if gradient != "unrolled":
        options["random_budget_per"] = "sample"
    found = []
    for accumulate in (1, 2, 3):
        deq = model(GRADIENTS[gradient], LAST, Anderson() if gradient == "implicit" else None)
        made, _, _ = trained(deq, 0.1, accumulate=accumulate, **options)
        found.append([made.loss, made.solution.nfe.double(), made.solution.z, *deq.parameters()])
    for parts in found[1:]:
        for one, two in zip(found[0], parts, strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


def test_the_end_of_the_last_segment_is_the_previous_start() -> None:
    """A sample that comes again goes on from there: two batches of two segments are four on one batch."""
    deq, twice = model(Unrolled(last=1), LAST), model(Unrolled(last=1), LAST)
    chosen = settings(batch_size=ROWS, start="previous", segments=2)
    starts, stepping = Starts("previous", 1.0, ROWS), Stepping("float32", torch.device("cpu"))
    optimizer = torch.optim.SGD(twice.parameters(), lr=0.1)

    def take(part: Batch) -> tuple[Forward, Tensor]:
        optimizer.zero_grad()
        made = accumulated(forward, twice, Vectors(), part, chosen, 1, draws(), starts, stepping)
        optimizer.step()
        return made, torch.zeros(())

    for _ in range(2):
        in_segments(take, batch(), chosen, draws())
    trained(deq, 0.1, segments=4)
    for mine, its in zip(deq.parameters(), twice.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_the_average_takes_in_every_optimizer_step() -> None:
    """Three segments with lr > 0: the average is the weighted mean of the weights after each."""
    deq, decay = model(Unrolled(last=1), LAST), 0.5
    average = WeightAverage(decay, deq)
    weights: list[Tensor] = []
    update = average.update

    def noted(step: int) -> None:
        weights.append(deq.cell.u.detach().clone())  # type: ignore[union-attr, operator]
        update(step)

    average.update = noted  # type: ignore[method-assign]
    trained(deq, 0.1, average=average, segments=3)
    share = torch.tensor([decay**2, decay, 1.0], dtype=torch.float64)
    mean = (torch.stack(weights) * (share / share.sum())[:, None, None]).sum(0)
    assert torch.allclose(average.state_dict()["cell.u"], mean, rtol=1e-12)
