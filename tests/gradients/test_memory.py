"""What an equilibrium keeps alive: the same for every number of iterations, and nothing once it is let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled, equilibrium
from deqrun.solvers import Anderson, Budget, Picard, Solver

GRADIENTS = pytest.mark.parametrize(
    "gradient",
    [Implicit(solver=Picard(), budget=Budget(max_iter=20)), OneStep(), Phantom(steps=5)],
    ids=["implicit", "one_step", "phantom"],
)
ITERATED = pytest.mark.parametrize(
    "gradient",
    [Unrolled(), Unrolled(checkpoint=4), Unrolled(last=3), Unrolled(last=6, checkpoint=2)],
    ids=["unrolled", "checkpointed", "truncated", "both"],
)
SOLVERS = pytest.mark.parametrize("solver", [Picard(), Anderson(memory=3)], ids=["picard", "anderson"])


class Cell(nn.Module):
    """tanh(W z + b), contracting."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.1 * torch.randn(16, 16, generator=draw))
        self.bias = nn.Parameter(torch.randn(16, generator=draw))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.bias)


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Whatever is freed here is freed by reference counts alone, at once."""
    gc.collect()
    gc.freeze()  # so that the next test need not walk through all of it again
    gc.disable()
    yield
    gc.enable()


def saved_for_backward(gradient: Any, solver: Solver, max_iter: int) -> tuple[int, int]:
    """(tensors, bytes) that autograd saves during one equilibrium of `max_iter` iterations."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, solution = equilibrium(
            Cell(), torch.zeros(4, 16), solver=solver, budget=Budget(max_iter=max_iter, tol=0.0), gradient=gradient
        )
    assert (solution.steps <= max_iter).all()
    return len(sizes), sum(sizes)


@GRADIENTS
@SOLVERS
def test_memory_does_not_grow_with_iterations(gradient: Any, solver: Solver) -> None:
    few, many = (saved_for_backward(gradient, solver, max_iter) for max_iter in (10, 100))
    assert few == many
    assert few[1] <= 4 * (4 * 16 + 2 * 16 * 16 + 16) * 4, "no more than a few copies of what one evaluation needs"


def test_of_unrolled_steps_it_grows_with_the_differentiated_ones() -> None:
    """Each step saves the same; what runs without a graph saves nothing."""
    one, ten, hundred = (saved_for_backward(Unrolled(), Picard(), steps)[1] for steps in (1, 10, 100))
    assert hundred - ten == 10 * (ten - one)
    assert saved_for_backward(Unrolled(last=10), Picard(), 100)[1] == pytest.approx(ten, rel=0.1)
    assert one > 0


def test_of_checkpointed_steps_only_the_states_between_segments_are_kept() -> None:
    """100 steps in segments of 10 keep 10 states of 4 × 16 numbers of 4 bytes until the backward pass."""
    assert saved_for_backward(Unrolled(checkpoint=10), Picard(), 100) == (10, 10 * 4 * 16 * 4)


class _Alive(torch.autograd.Function):
    """The identity, with a token among its saved tensors: alive as long as what an evaluation saved is."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, tokens: weakref.WeakSet[Tensor], counts: list[int]) -> Tensor:
        token = z.new_empty(0)
        tokens.add(token)
        ctx.save_for_backward(token)
        ctx.tokens, ctx.counts = tokens, counts
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        with_this_one = ctx.saved_tensors  # a checkpointed segment is evaluated again where the first one is asked for
        ctx.counts.append(len(ctx.tokens))
        del with_this_one
        return grads[0], None, None


@pytest.mark.parametrize(
    ("gradient", "after_forward", "most"),
    [
        (Implicit(Picard(), Budget(max_iter=20)), 1, 1),
        (OneStep(), 1, 1),
        (Phantom(steps=5), 5, 5),
        (Unrolled(steps=36), 36, 36),
        (Unrolled(steps=36, last=7), 7, 7),
        (Unrolled(steps=36, checkpoint=6), 0, 6),
        (Unrolled(steps=36, checkpoint=10), 0, 10),
        (Unrolled(steps=36, last=12, checkpoint=4), 0, 4),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("without_collector")
def test_evaluations_whose_saved_tensors_are_alive(gradient: Gradient, after_forward: int, most: int) -> None:
    """Between the passes, and at most during the backward pass: a checkpointed segment is rebuilt one at a time."""
    cell, tokens, counts = Cell(), weakref.WeakSet[Tensor](), list[int]()
    z, _ = equilibrium(
        lambda z: _Alive.apply(cell(z), tokens, counts), torch.zeros(4, 16), solver=Picard(), gradient=gradient
    )
    assert len(tokens) == after_forward
    z.sum().backward()
    assert max(counts) == most
    assert len(tokens) == 0


@pytest.mark.parametrize("passes", [1, 3])
def test_no_gradient_is_left_at_the_root_of_the_recorded_graph(passes: int) -> None:
    """f's argument needs a gradient for the products; were it a leaf, each backward pass would leave one there."""
    cell, arguments = Cell(), []

    def f(z: Tensor) -> Tensor:
        arguments.append(z)
        out: Tensor = cell(z)
        return out

    z, _ = equilibrium(f, torch.zeros(4, 16), gradient=Implicit(Picard(), Budget(max_iter=20)))
    loss = z.sum()
    for _ in range(passes):
        loss.backward(retain_graph=True)
    recorded = [argument for argument in arguments if argument.requires_grad]
    assert len(recorded) == 1
    assert not recorded[0].is_leaf
    assert not any(root.grad is not None for root in _leaves_above(recorded[0]))


def _leaves_above(tensor: Tensor) -> list[Tensor]:
    """The leaf tensors that a tensor was computed from."""
    waiting, found = [tensor.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting.extend(edge for edge, _ in node.next_functions)
    return found


@ITERATED
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("backward", [True, False], ids=["backward", "forward_only"])
def test_nothing_of_unrolled_steps_survives_either(gradient: Gradient, backward: bool) -> None:
    test_nothing_survives_its_last_reference(gradient, Picard(), backward)


@GRADIENTS
@SOLVERS
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("backward", [True, False], ids=["backward", "forward_only"])
def test_nothing_survives_its_last_reference(gradient: Any, solver: Solver, backward: bool) -> None:
    cell = Cell()
    z, solution = equilibrium(cell, torch.zeros(4, 16), solver=solver, budget=Budget(max_iter=20), gradient=gradient)
    if backward:
        z.sum().backward()
    alive = weakref.ref(cell), weakref.ref(cell.weight), weakref.ref(z)
    del cell, z, solution
    assert [reference() for reference in alive] == [None, None, None]


@pytest.mark.usefixtures("without_collector")
def test_the_solution_alone_does_not_keep_the_map_alive() -> None:
    """A training loop may keep solutions for its log: they must not hold the weights and the graph."""
    cell = Cell()
    z, solution = equilibrium(
        cell,
        torch.zeros(4, 16),
        solver=Picard(),
        budget=Budget(max_iter=20),
        gradient=Implicit(solver=Picard(), budget=Budget(max_iter=20)),
    )
    z.sum().backward()
    alive = weakref.ref(cell)
    del cell, z
    assert alive() is None
    assert solution.adjoint is not None


@SOLVERS
def test_the_map_is_evaluated_with_a_graph_a_bounded_number_of_times(solver: Solver) -> None:
    """During the solve grad mode is off; one evaluation with a graph at the end is all backward needs."""
    cell, with_graph = Cell(), []

    def f(z: Tensor) -> Tensor:
        with_graph.append(torch.is_grad_enabled())
        out: Tensor = cell(z)
        return out

    z, _ = equilibrium(
        f,
        torch.zeros(4, 16),
        solver=solver,
        budget=Budget(max_iter=30, tol=0.0),
        gradient=Implicit(solver=solver, budget=Budget(max_iter=30, tol=0.0)),
    )
    z.sum().backward()
    assert sum(with_graph) <= 2
