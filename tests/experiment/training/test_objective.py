"""What a training step minimises, against loops written by hand on a linear model."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from deqrun.experiment.training.draws import BUDGET, DEPTH, PATH, whole_number
from deqrun.experiment.training.objective import correction_weights
from deqrun.experiment.training.seeding import generator
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled
from deqrun.models import DEQ
from deqrun.solvers import Anderson, Budget, Perturbed
from tests.experiment.linear_model import WIDTH, Batch, batch, gradients, loss_at, model, step
from tests.problems import residual_of

GRADIENTS = [Implicit(), OneStep(), Phantom(), Phantom(advance=True), Unrolled(), Unrolled(last=2)]


def zeros(rows: int = 6) -> Tensor:
    return torch.zeros(rows, WIDTH, dtype=torch.float64)


def assert_same(deq: DEQ, one: Tensor, two: Tensor, rtol: float = 1e-11) -> None:
    """Equal values, and equal gradients for W, U and V."""
    torch.testing.assert_close(one, two, rtol=rtol, atol=1e-14)
    for found, exact in zip(gradients(deq, one), gradients(deq, two), strict=True):
        torch.testing.assert_close(found, exact, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_with_everything_off_it_is_the_loss_to_the_bit(gradient: Gradient) -> None:
    deq, samples = model(gradient), batch()
    made = step(deq)
    logits, solution = deq(samples.x)
    plain = torch.nn.functional.cross_entropy(logits, samples.y, reduction="none").mean()
    assert torch.equal(made.objective, plain)
    assert torch.equal(made.loss, plain.detach())
    assert torch.equal(made.correct, logits.argmax(1) == samples.y)
    assert torch.equal(made.solution.residual, solution.residual)
    for found, exact in zip(gradients(deq, made.objective), gradients(deq, plain), strict=True):
        assert torch.equal(found, exact)


def progressive(deq: DEQ, samples: Batch, longest: int, seed: int = 0) -> Tensor:
    """Algorithm 1 of Bansal et al. 2022: n in 0 … m − 1 iterations without a graph, k in 1 … m − n with one."""
    depths = generator(seed, 1, DEPTH)
    n = int(torch.randint(0, longest, (), generator=depths))
    k = int(torch.randint(1, longest - n + 1, (), generator=depths))
    f, z = deq.bind(samples.x), zeros()
    for _ in range(n):
        z = f(z).detach()
    for _ in range(k):
        z = f(z)
    return loss_at(deq, z, samples)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_a_wholly_progressive_loss_is_the_published_algorithm(gradient: Gradient, seed: int) -> None:
    deq, samples = model(gradient), batch()
    made = step(deq, seed=seed, progressive_weight=1.0)
    exact = progressive(deq, samples, 8, seed)
    assert_same(deq, made.objective, exact)
    assert torch.equal(made.loss, made.objective.detach())


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_weight_mixes_the_two_losses(alpha: float) -> None:
    deq, samples = model(), batch()
    made = step(deq, progressive_weight=alpha)
    plain = step(deq).objective
    assert_same(deq, made.objective, (1 - alpha) * plain + alpha * progressive(deq, samples, 8))
    assert torch.equal(made.loss, plain.detach())
    assert made.solution.steps.tolist() == [8] * 6


def test_progressive_depths_have_the_published_distribution() -> None:
    """n + k with n uniform on 0 … m − 1, k uniform on 1 … m − n: for m = 8 the mean is (m + 1)/2 + (m − 1)/4 = 6.25."""
    deq, lengths = model(), []
    for seed in range(400):
        lengths.append(int(step(deq, seed=seed, progressive_weight=1.0).solution.steps[0]))
    probability = [sum(1 / 8 / (8 - n) for n in range(length)) for length in range(1, 9)]
    mean = sum(p * length for length, p in enumerate(probability, 1))
    deviation = math.sqrt(sum(p * (length - mean) ** 2 for length, p in enumerate(probability, 1)))
    assert mean == pytest.approx(6.25)
    assert set(lengths) <= set(range(1, 9))
    assert abs(sum(lengths) / 400 - mean) < 4 * deviation / math.sqrt(400)


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [
        (8, 3, {2: 0.512, 4: 0.64, 6: 0.8}),
        (30, 2, {10: 0.64, 20: 0.8}),
        (7, 1, {4: 0.8}),
        (2, 3, {1: 0.64}),
        (1, 4, {}),
        (0, 2, {}),
        (9, 0, {}),
    ],
)
def test_corrections_are_evenly_spaced_and_decay_backwards(length: int, count: int, expected: dict[int, float]) -> None:
    assert correction_weights(length, count, 0.8) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gradient", "steps", "damping"),
    [(Unrolled(), 1, 1.0), (Implicit(), 1, 1.0), (OneStep(), 1, 1.0), (Phantom(3, 0.6), 3, 0.6)],
)
def test_corrections_are_losses_on_the_way_with_inexact_gradients(
    gradient: Gradient, steps: int, damping: float
) -> None:
    """L(z_8) + Σ γ^{4−i} L(z_{2i}), each z_{2i} with the slope of a few steps from there."""
    deq, samples = model(gradient), batch()
    made = step(deq, corrections=3, correction_decay=0.5)
    expected, f, z = step(deq).objective, deq.bind(samples.x), zeros()
    for k in range(1, 7):
        z = f(z).detach()
        if k % 2 == 0:
            y = z
            for _ in range(steps):
                y = (1 - damping) * y + damping * f(y)
            expected = expected + 0.5 ** (4 - k / 2) * loss_at(deq, z + y - y.detach(), samples)
    assert_same(deq, made.objective, expected)
    assert torch.equal(made.loss, step(deq).loss)


def test_a_correction_at_the_end_is_the_one_step_loss_again() -> None:
    """Every row has converged by iterate 20 of 40, so the correction is at its solution, weighing γ."""
    deq = model(OneStep(), Budget(max_iter=40, tol=1e-2))
    made, plain = step(deq, corrections=1, correction_decay=0.6), step(deq)
    assert int(made.solution.steps.max()) < 20
    assert_same(deq, made.objective, 1.6 * plain.objective)


def test_rows_that_stopped_are_corrected_where_they_ended() -> None:
    """Sample i follows eigenvector i alone and stops in its own time; the correction is what a budget of 4 returns."""
    samples = batch(torch.eye(5, dtype=torch.float64))
    deq = model(OneStep(), Budget(max_iter=8, tol=1e-2, keep="last"), Anderson(memory=0))
    made = step(deq, samples, corrections=1, correction_decay=1.0)
    assert int(made.solution.steps.min()) < 4 < int(made.solution.steps.max())
    short = model(OneStep(), Budget(max_iter=4, tol=1e-2, keep="last"), Anderson(memory=0))
    short.load_state_dict(deq.state_dict())
    expected = step(deq, samples).objective.detach() + step(short, samples).objective.detach()
    torch.testing.assert_close(made.objective.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_the_path_is_damped_and_shaken_and_told_truly(gradient: Gradient) -> None:
    """z_{k+1} = 0.1 z_k + 0.9 f(z_k) + 0.05 ε_k by hand, and the residual of the state that the loss sees."""
    deq, samples = model(gradient), batch()
    made = step(deq, path_damping=0.9, path_noise=0.05)
    seed = int(torch.randint(0, 2**62 + 1, (), generator=generator(0, 1, PATH)))
    noise, f, z = Perturbed(seed=seed), deq.bind(samples.x), zeros()
    differentiated = isinstance(gradient, Unrolled)
    for k in range(8):
        z = 0.1 * z + 0.9 * f(z) + 0.05 * noise.draw(k, z, 6)
        if not differentiated or (gradient == Unrolled(last=2) and k == 5):
            z = z.detach()
    if gradient == Phantom(advance=True):
        for _ in range(5):
            z = 0.5 * z + 0.5 * f(z)
    expected = loss_at(deq, z, samples)
    torch.testing.assert_close(made.loss, expected.detach(), rtol=1e-12, atol=0)
    residual = residual_of(f(z.detach()).detach(), z.detach())
    torch.testing.assert_close(made.solution.residual, residual, rtol=1e-9, atol=0)
    if differentiated or gradient == Phantom(advance=True):
        assert_same(deq, made.objective, expected)


def test_two_runs_of_a_step_are_shaken_differently() -> None:
    deq, samples = model(), batch()
    made = step(deq, path_noise=0.3, progressive_weight=0.5)
    seeds = generator(0, 1, PATH)
    first, second = (int(torch.randint(0, 2**62 + 1, (), generator=seeds)) for _ in range(2))
    depths = generator(0, 1, DEPTH)
    n = int(torch.randint(0, 8, (), generator=depths))
    length = n + int(torch.randint(1, 8 - n + 1, (), generator=depths))
    losses = []
    for seed, steps in ((first, 8), (second, length)):
        f, z = deq.bind(samples.x), zeros()
        for k in range(steps):
            z = f(z) + 0.3 * Perturbed(seed=seed).draw(k, z, 6)
        losses.append(loss_at(deq, z, samples))
    torch.testing.assert_close(made.objective, (losses[0] + losses[1]) / 2, rtol=1e-12, atol=0)


def test_budgets_are_uniform_from_low_to_high() -> None:
    """Of 3000 draws from 2 … 6 each comes up 600 times, within 5 standard deviations of a binomial."""
    source = generator(3, 1, BUDGET)
    counts = Counter(whole_number(2, 6, source) for _ in range(3000))
    assert sorted(counts) == [2, 3, 4, 5, 6]
    assert all(abs(count - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8) for count in counts.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_a_random_budget_is_that_of_the_whole_step(gradient: Gradient, seed: int) -> None:
    """The same step with the drawn budget given outright."""
    drawn = int(torch.randint(1, 13, (), generator=generator(seed, 1, BUDGET)))
    deq = model(gradient)
    made = step(deq, seed=seed, random_budget=(1, 12), corrections=2)
    assert set(made.solution.steps.tolist()) == {drawn + (5 if gradient == Phantom(advance=True) else 0)}
    given = model(gradient, Budget(max_iter=drawn, tol=0.0, keep="last"))
    exact = step(given, seed=seed, corrections=2)
    assert torch.equal(made.objective, exact.objective)
    for found, expected in zip(gradients(deq, made.objective), gradients(given, exact.objective), strict=True):
        assert torch.equal(found, expected)


def test_a_budget_per_sample_ends_each_row_at_its_own() -> None:
    deq = model(OneStep())
    samples = batch(torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    made = step(deq, samples, random_budget=(1, 4), random_budget_per="sample")
    expected = torch.randint(1, 5, (64,), generator=generator(0, 1, BUDGET))
    assert torch.equal(made.solution.steps, expected)
    assert sorted(set(expected.tolist())) == [1, 2, 3, 4]
    f, z, states = deq.bind(samples.x), zeros(64), []
    for _ in range(4):
        z = f(z).detach()
        states.append(z)
    own = torch.stack(states)[expected - 1, torch.arange(64)]
    torch.testing.assert_close(made.solution.z, own, rtol=1e-12, atol=1e-14)


def test_the_first_steps_are_unrolled_to_their_depth_whatever_the_budget() -> None:
    deq, samples = model(Implicit()), batch()
    made = step(deq, unrolled_warmup_steps=1, unrolled_depth=3, random_budget=(9, 9))
    f, z = deq.bind(samples.x), zeros()
    for _ in range(3):
        z = f(z)
    assert_same(deq, made.objective, loss_at(deq, z, samples))


def test_the_model_is_left_as_it_was() -> None:
    """What a step draws is for that step: validation solves with the model's own solver and whole budget."""
    gradient, budget, solver = OneStep(), Budget(max_iter=8, tol=0.0), Anderson()
    deq = model(gradient, budget, solver)
    step(deq, random_budget=(1, 3), path_damping=0.9, path_noise=0.1, start="normal", progressive_weight=0.5)
    assert deq.gradient is gradient
    assert deq.budget is budget
    assert deq.solver is solver
    with torch.no_grad():
        logits, _ = deq(batch().x)
    exact = torch.linalg.solve(torch.eye(WIDTH, dtype=torch.float64) - deq.cell.w, (batch().x @ deq.cell.u.T).T).T
    torch.testing.assert_close(logits, deq.cell.readout(exact).detach(), rtol=1e-6, atol=1e-8)


def test_the_penalty_is_on_top_and_takes_no_others_draws() -> None:
    """A penalty drawn at half the steps leaves loss and path as they are."""
    deq = model(OneStep())
    with_penalty = [
        step(deq, seed=seed, path_noise=0.1, jacobian_weight=2.0, jacobian_frequency=0.5) for seed in range(8)
    ]
    without = [step(deq, seed=seed, path_noise=0.1) for seed in range(8)]
    assert {made.penalty is None for made in with_penalty} == {True, False}
    for one, two in zip(with_penalty, without, strict=True):
        assert torch.equal(one.loss, two.loss)
        extra = 0.0 if one.penalty is None else 2.0 * one.penalty
        torch.testing.assert_close(one.objective, two.objective + extra, rtol=1e-14, atol=0)
