"""The model against a cell whose equilibrium and gradients are known in closed form."""

from __future__ import annotations

from pathlib import Path

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from deqrun.gradients import Implicit, OneStep
from deqrun.models import DEQ, BoundCell, Cell, MLPCell
from deqrun.models.weight_norm import WeightNormConv2d
from deqrun.solvers import Anderson, Budget, Picard
from tests.models.cells import CELLS, build, inputs, mdeq

TIGHT = Budget(max_iter=300, tol=1e-13)
CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def deq(cell: Cell, budget: Budget = TIGHT) -> DEQ:
    return DEQ(cell, Anderson(), budget, Implicit(Anderson(), TIGHT))


@pytest.fixture
def linear() -> MLPCell:
    """f(z; x) = W z + U x + b, whose equilibrium is (I - W)⁻¹(U x + b)."""
    torch.manual_seed(0)
    return MLPCell(input_shape=(2, 3), num_classes=4, width=16, activation="identity").double()


def closed_form(cell: MLPCell, x: Tensor) -> Tensor:
    weight = cell.get_parameter("layers.0.weight")
    identity = torch.eye(len(weight), dtype=weight.dtype)
    features = x.flatten(1) @ cell.encoder.weight.T + cell.encoder.bias
    return cell.classifier(torch.linalg.solve(identity - weight, features.T).T)


def gradients(cell: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(cell.parameters())))


def test_logits_of_a_linear_cell_are_the_closed_form(linear: MLPCell) -> None:
    x = inputs(linear)
    with torch.no_grad():
        logits, solution = deq(linear)(x)
    torch.testing.assert_close(logits, closed_form(linear, x), rtol=1e-9, atol=1e-9)
    assert solution.residual.max() <= TIGHT.tol


def test_implicit_gradients_of_a_linear_cell_are_the_closed_forms(linear: MLPCell) -> None:
    x = inputs(linear)
    logits, _ = deq(linear)(x)
    ours = gradients(linear, logits.square().sum())
    theirs = gradients(linear, closed_form(linear, x).square().sum())
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-7, atol=1e-9)


def test_the_gradient_may_be_chosen_per_call(linear: MLPCell) -> None:
    x = inputs(linear)
    logits, solution = deq(linear)(x, OneStep())
    f = BoundCell(linear, linear.inject(x))
    by_hand = linear.readout(f(solution.z.detach()))
    for mine, exact in zip(gradients(linear, logits.sum()), gradients(linear, by_hand.sum()), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


def test_the_input_is_injected_once_per_solve() -> None:
    cell = mdeq().eval()
    calls: list[int] = []
    inject = cell.inject
    cell.inject = lambda x: calls.append(len(x)) or inject(x)  # type: ignore[method-assign, func-returns-value]
    evaluations: list[int] = []
    cell.register_forward_hook(lambda module, given, out: evaluations.append(len(out)))
    model = DEQ(cell, Picard(), Budget(max_iter=7, tol=0.0), OneStep())
    with torch.no_grad():
        model(torch.randn(3, 2, 8, 8))
    assert (calls, evaluations) == ([3], [3] * 8)  # iterate k costs k evaluations, and one tells its residual
    model(torch.randn(3, 2, 8, 8))[0].sum().backward()
    assert (calls, len(evaluations)) == ([3, 3], 8 + 9)  # and one more to record the gradient


def test_masks_are_the_same_within_a_solve_and_others_in_the_next() -> None:
    torch.manual_seed(0)
    cell = mdeq(dropout=0.5).train()
    seen: list[tuple[Tensor, ...]] = []
    cell.register_forward_pre_hook(lambda module, given: seen.append(given[1][1:]))
    model = DEQ(cell, Picard(), Budget(max_iter=4, tol=0.0), OneStep())
    x = torch.randn(3, 2, 8, 8)
    for _ in range(2):
        model(x)[0].sum().backward()
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for solve in (first, second):
        assert all(torch.equal(a, b) for masks in solve for a, b in zip(masks, solve[0], strict=True))
    assert not torch.equal(first[0][0], second[0][0])


def test_weights_are_computed_once_per_solve_and_their_gradient_is_whole() -> None:
    cell = mdeq(dropout=0.0).double().eval()
    layer = cell.get_submodule("blocks.0.widen")
    assert isinstance(layer, WeightNormConv2d)
    weight, computed = layer.weight, []
    layer.weight = lambda: computed.append(1) or weight()  # type: ignore[method-assign, func-returns-value]
    model, x = deq(cell, Budget(max_iter=5, tol=0.0)), inputs(cell)
    logits, solution = model(x, OneStep())
    assert len(computed) == 1

    z = solution.z.requires_grad_()
    (loss_by_z,) = torch.autograd.grad(cell.readout(z).sum(), z)
    by_hand = (model.bind(x)(z.detach()) * loss_by_z).sum()  # outside of the context: weights at each call
    for parameter in (layer.direction, layer.gain):
        mine, exact = (torch.autograd.grad(loss, parameter, retain_graph=True) for loss in (logits.sum(), by_hand))
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", CELLS)
def test_a_sample_alone_gets_the_answer_it_gets_in_a_batch(name: str) -> None:
    cell = build(name)
    model, x = deq(cell, Budget(max_iter=6, tol=0.0, keep="last")), inputs(cell)
    with torch.no_grad():
        together = model(x)[0]
        alone = torch.cat([model(row)[0] for row in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("dtype", "state"), [(torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_the_start_is_zero_in_the_parameters_dtype(dtype: torch.dtype, state: torch.dtype) -> None:
    cell = mdeq().to(dtype)
    model = deq(cell)
    z0 = model.start(model.bind(torch.zeros(3, 2, 8, 8, dtype=dtype)))
    assert (z0.shape, z0.dtype) == ((3, *cell.state_shape), state)
    assert not z0.any()


def test_the_state_stays_in_32_bits_under_autocast() -> None:
    cell = build("conv").float()
    model = deq(cell, Budget(max_iter=5, tol=0.0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _, solution = model(inputs(cell).float())
    assert solution.z.dtype == torch.float32


def test_without_gradients_nothing_is_recorded(linear: MLPCell) -> None:
    with torch.no_grad():
        logits, solution = deq(linear)(inputs(linear))
    assert not logits.requires_grad
    assert solution.adjoint is None


@pytest.mark.parametrize(
    ("name", "input_shape", "parameters", "state_size"),
    [
        ("mdeq", (3, 32, 32), 158_890, 30_720),
        ("mdeq_large", (3, 32, 32), 11_097_438, 61_440),
        ("mdeq", (1, 8, 8), 158_458, 1_920),
        ("conv", (1, 8, 8), 42_698, 2_048),
        ("mlp", (1, 8, 8), 65 * 128 + 128 * 128 + 129 * 10, 128),
    ],
)
def test_configs_build_the_documented_models(
    name: str, input_shape: tuple[int, ...], parameters: int, state_size: int
) -> None:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    cell = hydra.utils.instantiate(config, input_shape=input_shape, num_classes=10)
    assert sum(parameter.numel() for parameter in cell.parameters()) == parameters
    assert cell.state_size == state_size
