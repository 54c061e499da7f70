"""Signals against the definitions, and a recorder fed by a solve whose rows leave early."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl

from deqrun.analysis.signals import (
    Reading,
    SignalRecorder,
    acceleration,
    answers_agree,
    certainty,
    entropy_change,
    kl_divergence,
    state_change,
    step_cosine,
)
from deqrun.solvers import Budget, Picard, solve
from tests.problems import RowMap


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_classes_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = ln 2 − H(p), H(q) − H(p) the same."""
    now, before = (Reading.of(torch.tensor([[math.log(odds), 0.0]], dtype=torch.float64)) for odds in (3, 1))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert kl_divergence(now, before).item() == pytest.approx(math.log(2) - entropy, rel=1e-12)
    assert entropy_change(now, before).item() == pytest.approx(math.log(2) - entropy, rel=1e-12)
    assert not answers_agree(now, Reading.of(torch.tensor([[0.0, 1.0]])))
    assert state_change(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 1.0]])).item() == pytest.approx(3 / 5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 100.0])
def test_equal_to_the_distributions_of_pytorch(scale: float) -> None:
    logits, others = scale * random(50, 7), scale * random(50, 7, seed=1)
    now, before = Reading.of(logits), Reading.of(others)
    p, q = Categorical(logits=logits), Categorical(logits=others)
    torch.testing.assert_close(kl_divergence(now, before), torch_kl(p, q), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(entropy_change(now, before), (p.entropy() - q.entropy()).abs(), rtol=1e-9, atol=1e-12)


def test_small_divergences_in_float32_are_exact() -> None:
    """Near p, KL is ½ Σ p (δ − δ̄)²: 1e-11 here, far below float32's rounding of Σ p ln(p/q)."""
    logits, step = random(40, 10), 1e-5 * random(40, 10, seed=1)
    exact = torch_kl(Categorical(logits=logits + step), Categorical(logits=logits))
    in_float32 = kl_divergence(Reading.of((logits + step).float()), Reading.of(logits.float()))
    assert exact.median() < 1e-10
    assert ((in_float32 - exact).abs() / exact).median() < 0.05
    assert (in_float32 >= 0).all()


def test_only_asked_positions_count() -> None:
    """The mean over what is asked equals that of the asked positions as samples of their own."""
    logits, others = random(2, 5, 3, 4), random(2, 5, 3, 4, seed=1)
    asked = torch.zeros(2, 3, 4, dtype=torch.bool)
    asked[0, 0, :] = asked[1, 1:, 2] = True
    now, before = Reading.of(logits, asked), Reading.of(others, asked)
    for signal in (kl_divergence, entropy_change):
        alone = [
            signal(
                Reading.of(logits[row].flatten(1)[:, place].T), Reading.of(others[row].flatten(1)[:, place].T)
            ).mean()
            for row, place in enumerate(asked.flatten(1))
        ]
        torch.testing.assert_close(signal(now, before), torch.stack(alone))
    changed = logits.clone()
    changed[0, :, 2, 3] = changed[0, :, 2, 3].flip(0)  # not asked
    changed[1, :, 1, 2] = -changed[1, :, 1, 2]  # asked, and the most likely class is now another
    assert answers_agree(Reading.of(changed, asked), now).tolist() == [True, False]


def test_all_positions_are_asked_where_no_mask_is_given() -> None:
    logits, others = random(3, 5, 6), random(3, 5, 6, seed=1)
    with_mask = Reading.of(logits, torch.ones(3, 6, dtype=torch.bool))
    torch.testing.assert_close(
        kl_divergence(Reading.of(logits), Reading.of(others)), kl_divergence(with_mask, Reading.of(others))
    )


def test_what_is_no_number_is_no_reason_to_stop() -> None:
    broken, fine = Reading.of(torch.tensor([[torch.nan, 1.0]])), Reading.of(torch.tensor([[0.0, 1.0]]))
    for now, before in ((broken, fine), (fine, broken), (broken, broken)):
        assert kl_divergence(now, before).item() == math.inf
        assert entropy_change(now, before).item() == math.inf
    assert not answers_agree(broken, broken)
    assert state_change(torch.tensor([[torch.nan]]), torch.tensor([[1.0]])).item() == math.inf


def test_a_class_that_is_impossible() -> None:
    """p gives class 0 no chance: 0 ln 0 = 0; the other way round the divergence is infinite."""
    certain, even = Reading.of(torch.tensor([[-torch.inf, 0.0]])), Reading.of(torch.tensor([[0.0, 0.0]]))
    assert kl_divergence(certain, even).item() == pytest.approx(math.log(2))
    assert kl_divergence(even, certain).item() == math.inf
    assert entropy_change(certain, even).item() == pytest.approx(math.log(2))


def halving() -> tuple[RowMap, Tensor]:
    """z ← r z: the rates stop three rows at different iterates of a tolerance on the absolute residual."""
    rates = torch.tensor([[0.5], [0.1], [0.9]], dtype=torch.float64)
    return RowMap(lambda z, rate: rate * z, (rates,)), torch.ones(3, 1, dtype=torch.float64)


def test_recorder_along_a_solve_whose_rows_leave_early() -> None:
    """‖z_k − z_{k−1}‖ / ‖z_k‖ of z_k = r^k is 1/r − 1; the read-out says class 1 until z falls below 0.2."""
    f, z0 = halving()
    recorder = SignalRecorder(iterates=13, batch=3)

    def observe(k: int, z: Tensor, rows: Tensor) -> None:
        recorder(k, z, torch.cat([torch.full_like(z, 0.2), z], dim=1), rows)

    solution = solve(f, z0, solver=Picard(), budget=Budget(12, 0.01, norm="absolute"), observe=observe)
    assert solution.steps.tolist() == [6, 2, 12]
    signals = recorder.arrays()
    change = signals["change"]
    assert np.isinf(change[0]).all()
    for row, (rate, steps) in enumerate([(0.5, 6), (0.1, 2), (0.9, 12)]):
        np.testing.assert_allclose(change[1 : steps + 1, row], 1 / rate - 1, rtol=1e-6)
        assert np.isnan(change[steps + 1 :, row]).all()
    assert signals["stable"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0]
    assert signals["stable"][:, 1].tolist() == [0, 0, 1, *[0] * 10]
    assert signals["stable"][:, 2].tolist() == list(range(13))
    k, before = (Reading.of(torch.tensor([[0.2, 0.5**k]], dtype=torch.float64)) for k in (5, 4))
    assert signals["kl"][5, 0] == pytest.approx(kl_divergence(k, before).item(), rel=1e-6)
    assert signals["entropy"][5, 0] == pytest.approx(entropy_change(k, before).item(), rel=1e-6)


def test_the_head_s_probability_at_every_iterate_of_rows_that_leave_early() -> None:
    """Logit 3 − 10 z of z_k = r^k, from k = 0 on; NaN after a row has stopped, and no other signal changes."""
    f, z0 = halving()
    plain, headed = SignalRecorder(13, 3), SignalRecorder(13, 3, further=["head"])

    def observe(k: int, z: Tensor, rows: Tensor) -> None:
        logits = torch.cat([torch.full_like(z, 0.2), z], dim=1)
        plain(k, z, logits, rows)
        headed(k, z, logits, rows, 3 - 10 * z[:, 0])

    solve(f, z0, solver=Picard(), budget=Budget(12, 0.01, norm="absolute"), observe=observe)
    signals = headed.arrays()
    for row, (rate, steps) in enumerate([(0.5, 6), (0.1, 2), (0.9, 12)]):
        logits = 3 - 10 * rate ** np.arange(steps + 1)
        np.testing.assert_allclose(signals["head"][: steps + 1, row], 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert np.isnan(signals["head"][steps + 1 :, row]).all()
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(signals[name], array)


def test_iterates_come_in_order() -> None:
    recorder = SignalRecorder(3, 1)
    with pytest.raises(ValueError, match="Iterates must come in order: 0 was next, got 1"):
        recorder(1, torch.zeros(1, 1), torch.zeros(1, 2), torch.tensor([0]))


def test_certainty_by_hand() -> None:
    """Odds 6:3:1 and 2:1:1 at two positions: largest 0.6 and 0.5, leads 0.3 and 0.25; NaN of a broken read-out."""
    logits = torch.tensor([[[6.0, 2.0], [3.0, 1.0], [1.0, 1.0]]], dtype=torch.float64).log()
    first = torch.tensor([[True, False]])
    for asked, expected in ((None, (0.55, 0.275)), (first, (0.6, 0.3)), (~first, (0.5, 0.25))):
        assert [value.item() for value in certainty(logits, asked)] == pytest.approx(expected)
    assert [value.item() for value in certainty(logits[:, :, 0])] == pytest.approx([0.6, 0.3])
    assert [value.item() for value in certainty(logits[:, :1, 0])] == [1.0, 1.0]
    logits[0, 2, 0] = torch.nan
    assert all(value.isnan().all() for value in certainty(logits))
    assert certainty(logits, ~first)[0].item() == pytest.approx(0.5)


def test_bends_and_angles_by_hand() -> None:
    """From (0, 0) to (3, 4), and on to (3, 9): the steps are (3, 4) and (0, 5), their cosine 0.8, their change √10."""
    first, before, z = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 9.0]])
    assert step_cosine(z, before, first).item() == pytest.approx(0.8)
    assert acceleration(z, before, first).item() == pytest.approx(math.sqrt(10) / 5)
    assert step_cosine(first, before, first).item() == pytest.approx(-1.0)
    assert step_cosine(1e-30 * z, 1e-30 * before, first).item() == pytest.approx(0.8)
    assert step_cosine(before, before, first).isnan().item()
    assert acceleration(torch.tensor([[math.nan, 0.0]]), before, first).item() == math.inf


def test_further_signals_and_measures_along_a_solve_whose_rows_leave_early() -> None:
    """z_k = r^k: steps of (1 − r) r^(k−1) all one way, bends of (1 − r)² r^(k−2) over r^(k−1).

    Two positions say class 1 while z is above 0.2 and 0.03; the targets are 1 and 0.
    """
    f, z0 = halving()
    further = ("confidence", "margin", "acceleration", "positions", "cosine", "step")
    recorder = SignalRecorder(13, 3, further=further, targets=torch.tensor([[1, 0]]).expand(3, 2))

    def observe(k: int, z: Tensor, rows: Tensor) -> None:
        levels = torch.tensor([[0.2, 0.03]], dtype=z.dtype).expand(len(z), 2)
        recorder(k, z, torch.stack([levels, z.expand(-1, 2)], dim=1), rows)

    solve(f, z0, solver=Picard(), budget=Budget(12, 0.01, norm="absolute"), observe=observe)
    found = recorder.arrays()
    assert list(found) == ["change", "kl", "entropy", "stable", *further]
    for row, (rate, steps) in enumerate([(0.5, 6), (0.1, 2), (0.9, 12)]):
        k = np.arange(steps + 1)
        np.testing.assert_allclose(found["step"][1 : steps + 1, row], (1 - rate) * rate ** (k[1:] - 1), rtol=1e-5)
        np.testing.assert_allclose(found["acceleration"][2 : steps + 1, row], (1 - rate) ** 2 / rate, rtol=1e-5)
        np.testing.assert_allclose(found["cosine"][2 : steps + 1, row], 1.0, rtol=1e-6)
        assert np.isinf(found["acceleration"][:2, row]).all()
        assert np.isnan(found["step"][0, row])
        assert np.isnan(found["cosine"][:2, row]).all()
        right = ((rate**k > 0.2).astype(float) + (rate**k <= 0.03)) / 2
        np.testing.assert_allclose(found["positions"][: steps + 1, row], right)
        assert (found["positions"][steps:, row] == right[-1]).all()  # held
        p = 1 / (1 + np.exp(np.array([[0.2], [0.03]]) - rate**k))
        np.testing.assert_allclose(found["confidence"][: steps + 1, row], np.maximum(p, 1 - p).mean(0), rtol=1e-6)
        np.testing.assert_allclose(found["margin"][: steps + 1, row], np.abs(2 * p - 1).mean(0), rtol=1e-5)
        for name in ("confidence", "margin", "acceleration", "cosine", "step"):
            assert np.isnan(found[name][steps + 1 :, row]).all()
