"""Equilibrium Reasoners, the pre-norm reasoner and the looped language model: the properties that each is built for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.models import EqRCell, FPRMCell, LoopedLMCell
from deqrun.models.looped_lm import SLOWEST_RATE
from tests.models.cells import build, inputs, states

SHAPE: dict[str, Any] = {"input_shape": (2, 6), "num_classes": 3, "output_shape": (6,), "width": 8, "heads": 2}


def eqr(**changes: Any) -> EqRCell:
    torch.manual_seed(0)
    return EqRCell(**{**SHAPE, "prefix": 2, "layers": 1, **changes}).double()


def looped(**changes: Any) -> LoopedLMCell:
    torch.manual_seed(0)
    return LoopedLMCell(**SHAPE | changes).double()


def scale_weights(cell: torch.nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(factor)


@pytest.mark.parametrize("relaxation", [0.1, 0.5, 0.95])
def test_relaxation_mixes_the_state_with_the_unrelaxed_map(relaxation: float) -> None:
    cell, whole = eqr(relaxation=relaxation), eqr(relaxation=1.0)
    x, z = inputs(cell), states(cell)
    expected = (1 - relaxation) * z + relaxation * whole.bind(x)(z)
    torch.testing.assert_close(cell.bind(x)(z), expected)


def test_starts_of_eqr() -> None:
    fixed, zeros = eqr(), eqr(start="zeros")
    injection = fixed.inject(inputs(fixed))
    start = fixed.initial_state(injection)
    assert torch.equal(start, start[:1, :1].expand_as(start))
    assert start.abs().max() > 0
    assert zeros.initial_state(injection).abs().max() == 0


@pytest.mark.parametrize("relaxation", [0.0, -1.0, 1.5])
def test_other_relaxations_are_refused(relaxation: float) -> None:
    with pytest.raises(ValueError, match=r"relaxation=.*allowed|relaxation=.* not allowed"):
        eqr(relaxation=relaxation)


def spectral(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight, 2))


def branch_bound(block: torch.nn.Module, width: int) -> float:
    """A bound of ‖attention‖ + ‖SwiGLU‖ of normalised features at one position: ‖N(u)‖ <= √width, |SiLU(a)| <= |a|."""
    weights = block.state_dict()
    values = weights["mix.project.weight"][2 * width :]
    attention = spectral(weights["mix.output.weight"]) * spectral(values) * math.sqrt(width)
    gate, up = weights["transform.gate_up.weight"].chunk(2)
    return attention + spectral(weights["transform.down.weight"]) * spectral(gate) * spectral(up) * width


@pytest.mark.parametrize("factor", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("residual", [0.3, 0.9])
def test_iterates_of_the_scaled_residual_end_in_a_ball_for_all_weights(residual: float, factor: float) -> None:
    torch.manual_seed(0)
    cell = FPRMCell(**SHAPE, residual=residual).double()
    scale_weights(cell, factor)
    decay = residual**4
    bound = sum(branch_bound(block, 8) for block in cell.blocks) / (1 - decay)
    with torch.no_grad():
        f, z = cell.bind(inputs(cell)), 1e6 * states(cell)
        first = float(z.norm(dim=-1).max())
        for k in range(1, 200):
            z = f(z)
            assert float(z.norm(dim=-1).max()) <= (decay**k * first + bound) * (1 + 1e-9)


def test_without_branches_a_scaled_residual_shrinks_by_rho_twice_a_block() -> None:
    cell = FPRMCell(**SHAPE, residual=0.7).double()
    with torch.no_grad():
        for block in cell.blocks:
            block.mix.output.weight.zero_()
            block.transform.down.weight.zero_()
    z = states(cell)
    torch.testing.assert_close(cell.bind(inputs(cell))(z), 0.7**4 * z)


@pytest.mark.parametrize("residual", [0.0, 1.0, 1.5])
def test_a_residual_that_does_not_shrink_is_refused(residual: float) -> None:
    with pytest.raises(ValueError, match=f"residual={residual}"):
        FPRMCell(**SHAPE, residual=residual)


EXTREMES = [-1e30, -1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4, 1e30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_linear_part_is_stable_for_every_weight(dtype: torch.dtype) -> None:
    cell = looped(width=16, heads=2).to(dtype)
    draws = torch.Generator().manual_seed(0)
    weights = [torch.full((16,), value) for value in EXTREMES]
    weights += [scale * torch.randn(16, generator=draws) for scale in (0.1, 1.0, 10.0, 1e3) for _ in range(25)]
    largest = math.exp(-SLOWEST_RATE)
    for weight in weights:
        with torch.no_grad():
            cell.log_rate.copy_(weight)
        decay = cell.decay()
        assert float(decay.detach().min()) >= 0.0
        assert float(decay.detach().max()) <= largest * (1 + 1e-6) < 1.0
        (gradient,) = torch.autograd.grad(decay.sum(), cell.log_rate)
        assert gradient.isfinite().all()


def test_the_jacobian_of_the_linear_part_is_diagonal_with_that_radius() -> None:
    """With the branches off, f(z) = A z + (1 − A) b e: its Jacobian is diag(A), its fixed point b e."""
    cell = looped()
    with torch.no_grad():
        cell.gain.normal_()
        for block in cell.loop:
            block.mix.output.weight.zero_()  # type: ignore[union-attr]
            block.transform.down.weight.zero_()  # type: ignore[union-attr]
    f, z = cell.bind(inputs(cell, 1)), states(cell, 1)
    jacobian = torch.autograd.functional.jacobian(f, z).reshape(48, 48)
    torch.testing.assert_close(jacobian, torch.diag(cell.decay().repeat(6)))
    fixed = cell.gain * f.injection[0]
    torch.testing.assert_close(f(fixed), fixed)


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_iterates_of_the_looped_model_stay_bounded_for_all_weights(factor: float) -> None:
    cell = looped(layers=2)
    scale_weights(cell, factor)
    with torch.no_grad():
        cell.log_rate.fill_(-50.0)  # the slowest decay that there is
        f, z = cell.bind(inputs(cell)), cell.initial_state(cell.inject(inputs(cell))).double()
        branches = sum(branch_bound(block, 8) for block in cell.loop)
        driven = float(cell.gain.abs().max()) * math.sqrt(8)
        decay = float(cell.decay().max())
        for _ in range(300):
            z = f(z)
        assert float(z.norm(dim=-1).max()) <= branches / (1 - decay) + driven


@pytest.mark.parametrize("name", ["looped_lm", "looped_lm, one answer"])
def test_later_tokens_change_no_earlier_state(name: str) -> None:
    cell = build(name)
    x = inputs(cell)
    changed = x.clone()
    changed[:, :, 4:] += 1.0
    with torch.no_grad():
        states_of = []
        for given in (x, changed):
            f = cell.bind(given)
            z = f(f(states(cell)))
            states_of.append(z)
    assert torch.equal(states_of[0][:, :4], states_of[1][:, :4])
    assert not torch.allclose(states_of[0][:, 4:], states_of[1][:, 4:])


def test_one_answer_is_the_answer_at_the_last_position() -> None:
    each, one = looped(), looped(output_shape=())
    one.load_state_dict(each.state_dict())
    z = states(each)
    torch.testing.assert_close(one.readout(z), each.readout(z)[..., -1])
