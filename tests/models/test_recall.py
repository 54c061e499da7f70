"""The recall cell against the published network's formula and sizes, and what recall and its absence mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deqrun.gradients import Unrolled
from deqrun.models import DEQ, RecallCell
from deqrun.solvers import Budget, Picard, Status, solve
from tests.models.cells import bound, build, inputs, states


def weight(cell: RecallCell, name: str) -> Tensor:
    return cell.get_parameter(f"{name}.weight")


def published(cell: RecallCell, z: Tensor, x: Tensor) -> Tensor:
    """One iteration as the authors write it: a convolution of [z, x], then residual blocks."""
    conv = F.conv1d if z.dim() == 3 else F.conv2d
    joint = torch.cat([weight(cell, "mix"), weight(cell, "hear")], dim=1)
    u = conv(torch.cat([z, x], dim=1), joint, padding=1)
    if z.dim() == 3:
        u = torch.relu(u)
    for i in range(len(cell.blocks)):
        inner = torch.relu(conv(u, weight(cell, f"blocks.{i}.0"), padding=1))
        u = torch.relu(conv(inner, weight(cell, f"blocks.{i}.1"), padding=1) + u)
    return u


def test_is_the_published_iteration_on_grids() -> None:
    cell = build("recall, grid, as published")
    assert isinstance(cell, RecallCell)
    torch.testing.assert_close(bound(cell)(states(cell)), published(cell, states(cell), inputs(cell)))


def test_is_the_published_iteration_on_strings_divided_by_its_size() -> None:
    cell = build("recall, string")
    assert isinstance(cell, RecallCell)
    u = published(cell, states(cell), inputs(cell))
    value = bound(cell)(states(cell))
    torch.testing.assert_close(value, u / u.pow(2).mean(1, keepdim=True).add(1e-6).sqrt())
    assert value.pow(2).mean(1).max() <= 1


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        # Bansal et al. 2022's code, counted layer by layer: projection, recall, two blocks of two, three of the head.
        ({"input_shape": (1, 32), "width": 400}, 3 * (1 * 400 + 401 * 400 + 4 * 400**2 + 400**2 + 400 * 200 + 200 * 2)),
        (
            {"input_shape": (3, 24, 24), "width": 128},
            9 * (3 * 128 + 131 * 128 + 4 * 128**2 + 128 * 32 + 32 * 8 + 8 * 2),
        ),
    ],
)
def test_published_sizes(given: dict[str, object], parameters: int) -> None:
    output = given["input_shape"][1:]  # type: ignore[index]
    cell = RecallCell(**given, num_classes=2, output_shape=output, blocks=2, norm="none", start="projection")  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in cell.parameters()) == parameters


@pytest.mark.parametrize("recall", [True, False])
def test_the_start_is_the_projection_where_asked(recall: bool) -> None:
    torch.manual_seed(0)
    cell = RecallCell(
        input_shape=(2, 7), num_classes=3, output_shape=(7,), width=6, recall=recall, start="projection"
    ).double()
    x = inputs(cell)
    z0 = cell.initial_state(cell.inject(x))
    torch.testing.assert_close(z0, torch.relu(F.conv1d(x, weight(cell, "project"), padding=1)))


def test_with_recall_the_default_start_is_zero() -> None:
    cell = build("recall, string")
    assert not cell.initial_state(cell.inject(inputs(cell))).any()


def test_without_recall_the_map_does_not_hear_of_the_input() -> None:
    """The same state goes on alike whatever the input was; the answer depends on the input through the start."""
    torch.manual_seed(0)
    cell = RecallCell(input_shape=(2, 7), num_classes=3, output_shape=(7,), width=6, recall=False).double()
    x, z = inputs(cell), states(cell)
    torch.testing.assert_close(cell.bind(x)(z), cell.bind(-x)(z), rtol=0, atol=0)
    deq = DEQ(cell, Picard(), Budget(3, 0.0, keep="last"), Unrolled())
    assert (deq(x)[0] - deq(-x)[0]).abs().max() > 1e-3


def test_back_propagation_reaches_the_projection_through_the_start() -> None:
    torch.manual_seed(0)
    cell = RecallCell(input_shape=(2, 7), num_classes=3, output_shape=(7,), width=6, recall=False).double()
    deq = DEQ(cell, Picard(), Budget(3, 0.0, keep="last"), Unrolled())
    deq(inputs(cell))[0].square().sum().backward()
    assert weight(cell, "project").grad is not None
    assert weight(cell, "project").grad.abs().max() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("kernel_size", "blocks"), [(3, 1), (3, 2), (5, 1)])
def test_k_iterations_reach_as_far_as_their_convolutions(kernel_size: int, blocks: int) -> None:
    """Iterate k at a position sees k (2 blocks + 1) (kernel − 1) / 2 positions to each side, less the last's W and U.

    The input enters at U, so the first iteration has no W to look through: its reach is that of U and the blocks.
    """
    torch.manual_seed(0)
    cell = RecallCell(
        input_shape=(1, 41), num_classes=2, output_shape=(41,), width=8, kernel_size=kernel_size, blocks=blocks
    ).double()
    x = torch.randn(1, 1, 41, dtype=torch.float64, requires_grad=True)
    for k in (1, 2):
        f, z = cell.bind(x), torch.zeros(1, *cell.state_shape, dtype=torch.float64)
        for _ in range(k):
            z = f(z)
        (gradient,) = torch.autograd.grad(z[0, :, 20].sum(), x)
        reach = k * (2 * blocks + 1) * (kernel_size // 2)
        seen = gradient[0, 0].abs() > 0
        assert seen[20 - reach : 20 + reach + 1].all()
        assert not seen[: max(0, 20 - reach)].any()
        assert not seen[20 + reach + 1 :].any()


@pytest.mark.parametrize("length", [7, 20])
def test_one_set_of_weights_serves_every_length(length: int) -> None:
    """Far from the ends a longer string's iterate is the shorter one's: convolutions know no position."""
    torch.manual_seed(0)
    short = RecallCell(input_shape=(2, 41), num_classes=3, output_shape=(41,), width=6).double()
    long = RecallCell(input_shape=(2, 41 + length), num_classes=3, output_shape=(41 + length,), width=6).double()
    long.load_state_dict(short.state_dict())
    x = torch.randn(1, 2, 41 + length, dtype=torch.float64)
    z_long, z_short = (
        solve(cell.bind(part), torch.zeros(1, *cell.state_shape).double(), budget=Budget(4, 0.0, keep="last")).z
        for cell, part in ((long, x), (short, x[..., length:]))
    )
    torch.testing.assert_close(z_long[..., length + 12 :], z_short[..., 12:])


def test_where_all_channels_are_zero_they_stay_so() -> None:
    cell = RecallCell(input_shape=(1, 5), num_classes=2, output_shape=(5,), width=4)
    solution = solve(cell.bind(torch.zeros(2, 1, 5)), torch.zeros(2, 4, 5), budget=Budget(3, 1e-6))
    assert solution.status.tolist() == [int(Status.CONVERGED)] * 2
    assert not solution.z.any()


def test_one_answer_is_the_average_of_the_positions() -> None:
    one = build("recall, one answer")
    every = RecallCell(input_shape=(2, 8, 8), num_classes=3, output_shape=(8, 8), width=6, kernel_size=1).double()
    every.load_state_dict(one.state_dict())
    torch.testing.assert_close(one.readout(states(one)), every.readout(states(one)).mean((2, 3)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"recall": False, "start": "zeros"}, "would never hear of the input: allowed is start='projection'"),
        ({"norm": "rsm"}, r"norm='rsm' is unknown: allowed are none, rms \(nearest: rms\)"),
        ({"start": "zero"}, r"start='zero' is unknown: allowed are projection, zeros \(nearest: zeros\)"),
        ({"blocks": 0}, "blocks=0 is too small"),
        ({"kernel_size": 2}, r"kernel_size=2 is even: allowed are 1, 3, 5, … \(nearest: 3\)"),
        ({"head_channels": [8, 0]}, r"head_channels\[1\]=0 is too small"),
        ({"input_shape": (16,)}, r"input_shape=\[16\] is neither a sequence nor a picture"),
        ({"output_shape": (8,)}, r"output_shape=\[8\] is not what this model answers: allowed are \[16\]"),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RecallCell(**{"input_shape": (1, 16), "num_classes": 2, **wrong})  # type: ignore[arg-type]
