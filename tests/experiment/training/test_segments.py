"""Several optimizer steps on one batch: each from the state that the last one left, as a loop by hand has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from deqrun.errors import UserError
from deqrun.experiment.build import build_budget
from deqrun.experiment.sweep.grid import swept_grid
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.averaging import WeightAverage
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.segments import fewest_segments, in_segments
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.gradients import Gradient, Implicit, Phantom, Unrolled
from deqrun.models import DEQ
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Budget, Picard, solve
from tests.experiment.forked_ranks import in_forked_ranks
from tests.experiment.linear_model import (
    ROWS,
    LinearCell,
    Vectors,
    batch,
    draws,
    gradients,
    loss_at,
    model,
    settings,
    step,
)

LAST = Budget(max_iter=3, tol=0.0, keep="last")


def trained(
    deq: DEQ,
    lr: float,
    samples: Batch | None = None,
    average: WeightAverage | None = None,
    remembered: Starts | None = None,
    **changes: Any,
) -> tuple[Forward, list[Batch], list[Forward]]:
    """One step of training by plain gradient descent: its figures, and each segment's batch and pass."""
    samples, chosen = samples or batch(), settings(batch_size=ROWS, **changes)
    deq.budget = deq.budget.with_(max_iter=3 * chosen.segments)  # of all segments together
    optimizer, stepping = torch.optim.SGD(deq.parameters(), lr=lr), Stepping("float32", torch.device("cpu"))
    starts, drawn = remembered or Starts(chosen.start, chosen.start_scale, ROWS), draws()
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
    twice.budget = LAST.with_(max_iter=6)
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


class HeadedCell(LinearCell):
    """The linear cell with a halting head, linear in z; by its weights some samples end early and others never."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.5, -2.0, 1.0, 0.5, -1.0], dtype=torch.float64))

    @property
    def has_halting_head(self) -> bool:
        return True

    def halt_logit(self, z: Tensor) -> Tensor:
        return z @ self.a


def headed() -> DEQ:
    return DEQ(HeadedCell(), Picard(), LAST, Unrolled(last=1))


HALTING: dict[str, Any] = {"segments": 4, "halt_weight": 0.5, "halt_exploration": 0.4}


def test_the_head_s_loss_is_cross_entropy_of_right_answers() -> None:
    """∂objective/∂(W, U, V, a) of one step is the gradient of L + w · BCE at the last iterate, written out."""
    deq = headed()
    made = step(deq, halt_weight=0.3)
    assert made.halt is not None
    f, samples = deq.bind(batch().x), batch()
    with torch.no_grad():
        z = f(f(torch.zeros_like(samples.x)))
    z = f(z)
    right = (deq.cell.readout(z).argmax(1) == samples.y).double()
    p = (z @ deq.cell.a).sigmoid()
    told = -(right * p.log() + (1 - right) * (1 - p).log()).mean()
    for mine, its in zip(
        gradients(deq, made.objective), gradients(deq, loss_at(deq, z, samples) + 0.3 * told), strict=True
    ):
        assert torch.allclose(mine, its, rtol=1e-6, atol=1e-8)  # the head's loss is in float32
    assert torch.allclose(made.halt.double(), z @ deq.cell.a, rtol=1e-6)


def naive(deq: DEQ, fewest: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Sample by sample, with weights of 1 / batch: (segments taken, losses at the end, last states)."""
    samples, optimizer = batch(), torch.optim.SGD(deq.parameters(), lr=0.1)
    z, going = torch.zeros_like(samples.x), list(range(ROWS))
    taken, losses = torch.zeros(ROWS, dtype=torch.long), torch.zeros(ROWS, dtype=torch.float64)
    for segment in range(1, options["segments"] + 1):
        objective, next_going, next_z = torch.zeros((), dtype=torch.float64), [], z.clone()
        for row in going:
            f = deq.bind(samples.x[row : row + 1])
            with torch.no_grad():
                state = f(f(z[row : row + 1]))
            state = f(state)
            logits, target = deq.cell.readout(state), samples.y[row : row + 1]
            loss = nn.functional.cross_entropy(logits, target)
            halt = deq.cell.halt_logit(state).float()
            right = (logits.argmax(1) == target).float()
            objective = objective + (loss + 0.5 * binary_cross_entropy_with_logits(halt, right)) / ROWS
            taken[row], losses[row], next_z[row] = segment, loss.detach(), state[0].detach()
            if not (float(halt.detach()) > 0 and segment >= fewest[row]):
                next_going.append(row)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        z, going = next_z, next_going
        if not going:
            break
    return taken, losses, z


def test_samples_that_the_head_ends_leave_the_batch() -> None:
    """Weights, evaluations and losses are a loop's over single samples; some end in each segment."""
    deq, own = headed(), headed()
    made, given, _ = trained(deq, 0.1, **HALTING)
    fewest = fewest_segments(ROWS, settings(**HALTING), draws())
    taken, losses, _ = naive(own, fewest, **HALTING)
    assert len(taken.unique()) > 2
    assert [len(one.x) for one in given] == [int((taken >= k).sum()) for k in range(1, len(given) + 1)]
    for mine, its in zip(deq.parameters(), own.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-5, atol=1e-7)
    assert sorted(made.solution.nfe.tolist()) == sorted((4 * taken).tolist())
    assert float(made.loss) == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_samples_that_end_early_do_so_in_parts_too(accumulate: int) -> None:
    deq, other = headed(), headed()
    made, _, _ = trained(deq, 0.1, **HALTING)
    parts, _, _ = trained(other, 0.1, accumulate=accumulate, **HALTING)
    for mine, its in zip(deq.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-6, atol=1e-8)
    assert torch.equal(made.solution.nfe, parts.solution.nfe)
    assert torch.equal(made.correct, parts.correct)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Ranks are forked, and a process that has OpenMP's threads must not be."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked, so that none imports torch again")
@pytest.mark.parametrize("count", [2, 3])
def test_samples_that_end_early_may_change_their_rank(count: int, one_thread: None, tmp_path: Path) -> None:
    """Weights, ends, loss and evaluations are one process's, though the samples that are left are dealt anew."""

    turned = Batch(*(part.flip(0) for part in batch()[:3]))  # type: ignore[union-attr]

    def weights(_: int) -> tuple[list[np.ndarray[Any, Any]], float, int]:
        deq, starts = headed(), Starts("previous", 1.0, ROWS)
        with torch.no_grad():
            deq.cell.a.neg_()  # type: ignore[operator, union-attr]
        made, _, _ = trained(deq, 0.1, turned, remembered=starts, start="previous", **HALTING)
        starts.share()
        tensors = [*deq.parameters(), starts.state_dict()["ends"]]
        return [one.detach().numpy() for one in tensors], float(made.loss), int(made.solution.nfe.sum())

    own, loss, nfe = weights(0)
    found = in_forked_ranks(count, weights, tmp_path / "ranks")
    assert sum(its for _, _, its in found) == nfe
    for theirs, its, _ in found:
        assert its == pytest.approx(loss, rel=1e-6)
        for mine, other in zip(own, theirs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_minima_of_segments_are_drawn_as_the_paper_says() -> None:
    """A share 0.1 has one of 2 … 6, each as likely; 20,000 draws, to four standard errors; seeded by the epoch."""
    chosen, n = settings(segments=6, halt_weight=0.5, halt_exploration=0.1), 20_000
    fewest = fewest_segments(n, chosen, draws())
    shares = torch.bincount(fewest, minlength=7)[1:] / n
    expected = torch.tensor([0.9, *[0.02] * 5])
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()
    assert torch.equal(fewest, fewest_segments(n, chosen, draws()))
    assert not torch.equal(fewest, fewest_segments(n, chosen, draws(seed=1)))
    assert fewest_segments(n, settings(**HALTING | {"halt_exploration": 0.0}), draws()).unique().tolist() == [1]


def test_evaluation_solves_through_all_segments(settings_of: Callable[..., Settings]) -> None:
    """Validation, test and the sweep's own budget take 4 · 3 iterations; a segment of training takes 3."""
    made = settings_of("train.segments=4", "budget.max_iter=3", "sweep.iterations=[1,2]")
    assert build_budget(made).max_iter == 12
    assert swept_grid(made)[0] == [1, 2, 12]
    deq = model(Unrolled(last=1), LAST.with_(max_iter=12))
    assert step(deq, segments=4).solution.nfe.unique().tolist() == [3 + 1]
    with torch.no_grad():
        assert deq(batch().x)[1].nfe.unique().tolist() == [12 + 1]


def test_untied_layers_have_no_segments(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(UserError, match=r"train\.segments=2 begins a solve where another ended, but baseline=untied"):
        settings_of("train.segments=2", "baseline=untied", "sweep.tolerances=[0]", "sweep.solvers=[picard]")
