"""The Tiny Recursive Model: its published sizes, its formula written a second time, and its layers by themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.gradients.jacobian import jacobian_penalty
from deqrun.models import BoundCell, Cell, TRMCell, describe
from deqrun.models.token_layers import RotaryAttention, SwiGLU, rms_norm, swiglu_width, truncated_normal_
from tests.models.cells import bound, build, inputs, states, trm

SUDOKU: dict[str, Any] = {"input_shape": (11, 81), "num_classes": 11, "output_shape": (81,)}
"""81 cells, and the tokens of the published data: padding, empty, and nine digits."""


def parameters(**changes: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TRMCell(**SUDOKU, **changes).parameters())


@pytest.mark.parametrize(("mixer", "published"), [("attention", 6_828_034), ("mlp", 5_028_866)])
def test_it_has_as_many_parameters_as_the_author_s_code_on_sudoku(mixer: str, published: int) -> None:
    assert parameters(mixer=mixer) == published


def test_the_bill_of_its_parameters() -> None:
    """Embedding, head, halting head, and of each block three matrices of SwiGLU and four of attention."""
    swiglu = 3 * 512 * 1536
    assert parameters() == 2 * 11 * 512 + (2 * 512 + 2) + 2 * (4 * 512**2 + swiglu)
    assert parameters(mixer="mlp") == 2 * 11 * 512 + (2 * 512 + 2) + 2 * (3 * 97 * 512 + swiglu)
    assert parameters(puzzle_embedding=True) - parameters() == 512
    assert parameters() - parameters(halting_head=False) == 1_026
    assert parameters(recursions=1) == parameters(recursions=9) == parameters(prefix=0)


def test_evaluations_cost_one_network_for_each_update() -> None:
    with torch.device("meta"):
        cell = TRMCell(**SUDOKU, recursions=4)
    network = 97 * 2 * (4 * 512**2 + 3 * 512 * 1536) + 2 * 2 * 97**2 * 512
    assert describe(cell).multiply_adds == 5 * network


@pytest.mark.parametrize(
    ("features", "expansion", "hidden"), [(512, 4, 1536), (97, 4, 512), (384, 4, 1024), (64, 4, 256)]
)
def test_hidden_features_are_multiples_of_256(features: int, expansion: float, hidden: int) -> None:
    assert swiglu_width(features, expansion) == hidden


def by_hand(cell: Cell, name: str, u: Tensor) -> Tensor:
    """A SwiGLU of the cell's weights by its formula."""
    weights = cell.state_dict()
    gate_up, down = weights[f"{name}.gate_up.weight"], weights[f"{name}.down.weight"]
    gate, up = (u @ half.T for half in gate_up.chunk(2))
    return (gate / (1 + (-gate).exp()) * up) @ down.T


def unit(u: Tensor, dim: int) -> Tensor:
    return u / (u.square().mean(dim, keepdim=True) + 1e-5).sqrt()


def attended(cell: Cell, name: str, heads: int, u: Tensor) -> Tensor:
    """Rotary attention of one sample (length, width), one pair of positions at a time, features as complex numbers."""
    weights, (length, width) = cell.state_dict(), u.shape
    d = width // heads
    q, k, v = (u @ weights[f"{name}.project.weight"].T).split(width, dim=1)
    rates = [10_000 ** (-2 * t / d) for t in range(d // 2)]

    def turned(vector: Tensor, place: int) -> list[complex]:
        pairs = zip(vector[: d // 2].tolist(), vector[d // 2 :].tolist(), strict=True)
        turns = (complex(math.cos(rate * place), math.sin(rate * place)) for rate in rates)
        return [complex(*pair) * turn for pair, turn in zip(pairs, turns, strict=True)]

    out = torch.zeros_like(u)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(length):
            mine = turned(q[i, part], i)
            scores = [
                sum((a * b.conjugate()).real for a, b in zip(mine, turned(k[j, part], j), strict=True)) / math.sqrt(d)
                for j in range(length)
            ]
            shares = torch.tensor(scores, dtype=u.dtype).softmax(0)
            out[i, part] = sum(share * v[j, part] for j, share in enumerate(shares))  # type: ignore[assignment]
    return out @ weights[f"{name}.output.weight"].T


def network(cell: TRMCell, u: Tensor, mixer: str) -> Tensor:
    """Both blocks of one sample (length, width), by the paper's formula and the cell's weights."""
    for block in ("net.0", "net.1"):
        if mixer == "mlp":
            u = unit(u + by_hand(cell, f"{block}.mix", u.T).T, 0)
        else:
            u = unit(u + attended(cell, f"{block}.mix", cell.heads, u), 1)
        u = unit(u + by_hand(cell, f"{block}.transform", u), 1)
    return u


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_an_evaluation_is_the_paper_s_recursion(mixer: str) -> None:
    torch.manual_seed(0)
    cell = trm(mixer=mixer, puzzle_embedding=True).double()
    with torch.no_grad():
        assert cell.puzzle is not None
        cell.puzzle.normal_()
    x, state = inputs(cell, 1), states(cell, 1)
    weights = cell.state_dict()
    tokens = torch.cat([weights["puzzle"], torch.zeros(1, 8), x[0].T @ weights["embed.weight"].T]) * math.sqrt(8)
    y, z = state[0]
    for _ in range(2):
        z = network(cell, z + y + tokens, mixer)
    y = network(cell, y + z, mixer)
    with torch.no_grad():
        value = cell.bind(x)(state)
    torch.testing.assert_close(value[0], torch.stack([y, z]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cell.readout(value)[0], weights["head.weight"] @ y[2:].T, rtol=1e-9, atol=1e-9)


def test_states_have_unit_mean_squares_after_an_evaluation() -> None:
    cell = build("trm")
    value = bound(cell)(states(cell))
    torch.testing.assert_close(value.square().mean(-1), torch.ones_like(value[..., 0]), rtol=1e-3, atol=1e-3)


def test_starts_are_two_fixed_vectors_that_a_checkpoint_keeps() -> None:
    cell, other = trm().double(), trm().double()
    other.load_state_dict(cell.state_dict())
    start = cell.initial_state(cell.inject(inputs(cell)))
    assert start.shape == (5, *cell.state_shape)
    assert torch.equal(start, start[:1, :, :1].expand_as(start))
    assert not torch.equal(start[:, 0], start[:, 1])
    assert torch.equal(other.initial_state(other.inject(inputs(other))), start)
    assert not any("start" in name for name, _ in cell.named_parameters())


def test_the_halting_head_begins_at_minus_five_and_reads_the_first_position() -> None:
    cell = trm(halting_head=True).double()
    z = states(cell)
    assert torch.equal(cell.halting(z), torch.full((5, 2), -5.0, dtype=torch.float64))
    with torch.no_grad():
        cell.halt.weight.normal_()  # type: ignore[union-attr]
    seen = torch.autograd.grad(cell.halting(z.requires_grad_()).sum(), z)[0].ne(0)
    assert seen[:, 0, 0].all()
    seen[:, 0, 0] = False
    assert not seen.any()
    assert torch.equal(cell.halt_logit(z), cell.halting(z)[:, 0])
    assert cell.has_halting_head
    assert not trm().has_halting_head
    with pytest.raises(ValueError, match="no halting head"):
        trm().halt_logit(z)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    """The same content three positions later is answered alike, if nothing else is there to be attended to."""
    torch.manual_seed(0)
    attention = RotaryAttention(8, 2, 7).double()
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def score(i: int, j: int) -> Tensor:
        placed = torch.zeros(1, 2, 7, 4, dtype=torch.float64)
        placed[0, :, i] = q.view(2, 4)
        other = torch.zeros_like(placed)
        other[0, :, j] = k.view(2, 4)
        return (attention._turned(placed)[0, :, i] * attention._turned(other)[0, :, j]).sum(-1)

    for distance in range(-3, 4):
        scores = torch.stack([score(i, i - distance) for i in range(7) if 0 <= i - distance < 7])
        torch.testing.assert_close(scores, scores[:1].expand_as(scores))
    assert not torch.allclose(score(3, 3), score(3, 1))


def test_the_norm_is_one_of_root_mean_squares_in_every_precision() -> None:
    u = 3 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        normal = rms_norm(u.to(dtype))
        assert normal.dtype == dtype
        torch.testing.assert_close(normal.double().square().mean(-1), torch.ones(4).double(), rtol=tolerance, atol=0)


def test_truncated_normals_have_the_deviation_asked_for_and_no_tail() -> None:
    torch.manual_seed(0)
    draws = truncated_normal_(torch.empty(400_000), 0.1)
    assert float(draws.std()) == pytest.approx(0.1, rel=0.01)
    assert float(draws.abs().max()) <= 0.2 / 0.87962566 * 1.0001


@pytest.mark.parametrize("name", ["trm", "trm, mlp, one answer", "eqr", "fprm", "looped_lm"])
def test_a_jacobian_penalty_has_the_gradient_of_finite_differences(name: str) -> None:
    cell = build(name)
    x, z, noise = inputs(cell, 2), states(cell, 2), torch.Generator().manual_seed(3)

    def penalty() -> Tensor:
        torch.manual_seed(5)
        return jacobian_penalty(BoundCell(cell, cell.inject(x)), z)

    weight = next(parameter for name, parameter in cell.named_parameters() if ".mix." in name and "prelude" not in name)
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=noise)
    (gradient,) = torch.autograd.grad(penalty(), weight)
    step = 1e-6
    with torch.no_grad():
        kept = weight.clone()
        values = []
        for sign in (1, -1):
            weight.copy_(kept + sign * step * direction)
            with torch.enable_grad():
                values.append(float(penalty().detach()))
        weight.copy_(kept)
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"width": 9}, "multiple of 2"),
        ({"heads": 3}, "does not divide"),
        ({"mixer": "conv"}, "allowed are attention, mlp"),
        ({"recursions": 0}, "integers from 1"),
        ({"layers": 0}, "integers from 1"),
        ({"expansion": 0.0}, "above 0"),
        ({"prefix": 0, "puzzle_embedding": True}, "integers from 1"),
        ({"output_shape": (3,)}, "answer at every position"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trm(**given)


def test_a_swiglu_s_gate_decides() -> None:
    """Where the gate is far below 0 nothing passes; far above, the product of two linear maps."""
    layer = SwiGLU(4, 1.0).double()
    u = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(u), by_hand_of(layer, u))
    torch.testing.assert_close(layer(torch.zeros_like(u)), torch.zeros_like(u))


def by_hand_of(layer: SwiGLU, u: Tensor) -> Tensor:
    gate, up = (u @ half.T for half in layer.gate_up.weight.chunk(2))
    return (gate * torch.sigmoid(gate) * up) @ layer.down.weight.T
