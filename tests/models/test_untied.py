"""Nets of untied layers against layers composed by hand, and their sizes against formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqrun.gradients import Unrolled
from deqrun.models import (
    DEQ,
    Cell,
    ConvCell,
    MDEQCell,
    MLPCell,
    UntiedCell,
    describe,
    describe_baseline,
    untied_baseline,
)
from deqrun.models.cell_parts import parameter_names
from deqrun.solvers import Budget, Picard
from tests.models.cells import CELLS, build, inputs, states
from tests.usual import usual

DIGITS: dict[str, Any] = {"input_shape": (1, 8, 8), "num_classes": 10}

USUAL = usual(CELLS, [name for name in CELLS if name.startswith("mdeq, ")])
"""Variants of one cell are for the night."""


def mlp(**changes: Any) -> MLPCell:
    return MLPCell(**DIGITS | changes)


def conv(**changes: Any) -> ConvCell:
    return ConvCell(**DIGITS | changes)


def whole(net: UntiedCell) -> DEQ:
    """The net as it is trained."""
    budget = Budget(net.depth, 0.0, keep="last")
    return DEQ(net, Picard(), budget, Unrolled(steps=net.depth))


def untied(name: str, layers: int) -> UntiedCell:
    """Of the cell of that name, in float64 and evaluation mode, the same at every call."""
    torch.manual_seed(0)
    net = UntiedCell([CELLS[name]() for _ in range(layers)])
    return net.double().eval()


def separate(name: str, layers: int) -> list[Cell]:
    """The cells of which that net was made, each with all its own."""
    torch.manual_seed(0)
    return [CELLS[name]().double().eval() for _ in range(layers)]


@pytest.mark.parametrize("name", USUAL)
def test_the_answer_is_that_of_the_layers_one_by_one(name: str) -> None:
    net, cells = untied(name, 3), separate(name, 3)
    x = inputs(net)
    injection = cells[0].inject(x)
    z = start = cells[0].initial_state(injection).double()
    iterates = []
    for cell in cells:
        z = cell(z, injection)
        iterates.append(z)
    with torch.no_grad():
        logits, solution = whole(net)(x)
    torch.testing.assert_close(logits, cells[0].readout(z))
    torch.testing.assert_close(solution.z, z)
    changes = [
        (after - before).flatten(1).norm(dim=1) / after.flatten(1).norm(dim=1)
        for before, after in zip([start, *iterates], iterates, strict=False)
    ]
    torch.testing.assert_close(solution.residuals, torch.stack([*changes, torch.zeros_like(changes[0])]))
    assert solution.nfe.tolist() == [3] * len(x)


@pytest.mark.parametrize("name", USUAL)
def test_training_reaches_every_parameter(name: str) -> None:
    net = untied(name, 3).train()
    deq = whole(net)
    logits, _ = deq(inputs(net))
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


class TanhLayer(nn.Module):
    """h ↦ tanh(W h + u) with u given."""

    def __init__(self, weight: Tensor, u: Tensor) -> None:
        super().__init__()
        self.weight, self.u = nn.Parameter(weight.clone()), u

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.weight.T + self.u)


def test_the_gradient_is_that_of_a_sequential() -> None:
    net = untied("mlp", 4)
    x, y = inputs(net), torch.tensor([0, 1, 2, 0, 1])
    encoder = nn.Linear(2 * 8 * 8, 12, dtype=torch.float64)
    head = nn.Linear(12, 3, dtype=torch.float64)
    first = net.layers[0]
    encoder.load_state_dict(first.encoder.state_dict())
    head.load_state_dict(first.classifier.state_dict())
    u = encoder(x.flatten(1))
    sequential = nn.Sequential(*(TanhLayer(layer.layers[0].weight.detach(), u) for layer in net.layers), head)
    nn.functional.cross_entropy(sequential(torch.zeros(5, 12, dtype=torch.float64)), y).backward()
    with net.fixed_weights():
        logits, _ = whole(net)(x)
        nn.functional.cross_entropy(logits, y).backward()
    for layer, expected in zip(net.layers, sequential, strict=False):
        torch.testing.assert_close(layer.layers[0].weight.grad, expected.weight.grad)
    for ours, expected in ((first.encoder, encoder), (first.classifier, head)):
        torch.testing.assert_close(ours.weight.grad, expected.weight.grad)
        torch.testing.assert_close(ours.bias.grad, expected.bias.grad)


@pytest.mark.parametrize("name", USUAL)
def test_parameters_are_the_maps_once_a_layer_and_all_others_once(name: str) -> None:
    cell = describe(build(name))
    net = describe(untied(name, 5))
    assert net.parameters == cell.parameters + 4 * cell.map_parameters
    assert (net.map_parameters, net.injection_parameters) == (5 * cell.map_parameters, cell.injection_parameters)
    assert (net.multiply_adds, net.untied_layers) == (cell.multiply_adds, 5)
    baseline = describe_baseline(net, cell, 5)
    assert baseline.multiply_adds == baseline.deq_multiply_adds == cell.answer_multiply_adds(5)
    assert (baseline.kind, baseline.parameters, baseline.deq_parameters) == ("untied", net.parameters, cell.parameters)


def test_matched_multiply_adds_are_the_cells_own_layers() -> None:
    torch.manual_seed(4)
    net = untied_baseline(conv, 3, "multiply_adds")
    torch.manual_seed(4)
    cells = [conv() for _ in range(3)]
    for layer, cell in zip(net.layers, cells, strict=True):
        assert torch.equal(layer.widen.weight, cell.widen.weight)
    assert net.narrowed == {}


@pytest.mark.parametrize("layers", [1, 2, 5, 8, 32])
def test_an_mlp_of_matched_parameters_by_hand(layers: int) -> None:
    """With width w the net has layers · w² + 64 w + w + 10 w + 10 parameters, the DEQ 128² + 75 · 128 + 10."""
    most = 128**2 + 75 * 128 + 10
    fitting = [w for w in range(1, 129) if layers * w**2 + 75 * w + 10 <= most]
    net = untied_baseline(mlp, layers, "parameters")
    assert net.state_shape == (max(fitting),)
    assert describe(net).parameters == layers * max(fitting) ** 2 + 75 * max(fitting) + 10


@pytest.mark.parametrize("layers", [1, 2, 8])
def test_a_conv_of_matched_parameters_by_hand(layers: int) -> None:
    """c channels, i inner ones, c <= i <= 4 c: two 3x3 convolutions and three norms a layer."""

    def parameters(c: int, i: int, layers: int) -> int:
        return layers * (2 * 9 * c * i + 2 * i + 4 * c) + (9 * c + c + 2 * c) + (2 * c + 160 * c + 10)

    assert parameters(32, 64, 1) == 42_698
    grid = [(c, i) for c in range(8, 33, 8) for i in range(8, 129, 8) if c <= i <= 4 * c]
    most = max(n for c, i in grid if (n := parameters(c, i, layers)) <= 42_698)
    net = untied_baseline(conv, layers, "parameters")
    assert describe(net).parameters == most
    assert parameters(net.narrowed["channels"], net.narrowed["inner_channels"], layers) == most


def test_an_mdeq_is_narrowed_in_all_branches_by_one_factor() -> None:
    def make(**changes: Any) -> MDEQCell:
        given: dict[str, Any] = {"channels": [8, 16], "head_channels": [2, 4], "groups": 4, "final_channels": 16}
        return MDEQCell(**DIGITS | given | changes)

    net = untied_baseline(make, 3, "parameters")
    assert net.narrowed["channels"] == [4, 8]
    assert describe(net).parameters <= describe(make()).parameters
    wider = {"channels": [4, 8], "expansion": net.narrowed["expansion"] + 1}
    assert describe(UntiedCell([make(**wider) for _ in range(3)])).parameters > describe(make()).parameters


@pytest.mark.parametrize("make", [mlp, conv])
def test_one_layer_of_matched_parameters_is_the_cell(make: Any) -> None:
    torch.manual_seed(5)
    net = untied_baseline(make, 1, "parameters")
    torch.manual_seed(5)
    cell = make()
    assert describe(net).parameters == describe(cell).parameters
    x = inputs(cell).float()
    z0 = states(cell).float()
    assert torch.equal(net(z0, net.inject(x)), cell(z0, cell.inject(x)))


def test_looking_for_the_width_draws_no_random_numbers() -> None:
    torch.manual_seed(6)
    net = untied_baseline(mlp, 4, "parameters")
    torch.manual_seed(6)
    again = UntiedCell([mlp(width=net.state_size) for _ in range(4)])
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), again.parameters(), strict=True))


def test_a_saved_net_is_the_same_when_loaded() -> None:
    net, other = untied("conv", 3), UntiedCell([CELLS["conv"]() for _ in range(3)]).double().eval()
    other.load_state_dict(net.state_dict())
    x = inputs(net)
    with torch.no_grad():
        assert torch.equal(whole(net)(x)[0], whole(other)(x)[0])


class SharingCell(Cell):
    """f(z; x) = tanh(W z + W x): map and injection share W; a scale that only the injection has is no module's."""

    def __init__(self, *, input_shape: Sequence[int] = (4,), num_classes: int = 2) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        self.state_shape = (4,)
        self.w, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, num_classes)
        self.scale = nn.Parameter(torch.rand(4))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.w(self.scale * x),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return torch.tanh(self.w(z) + injection[0])

    def readout(self, z: Tensor) -> Tensor:
        return self.head(z)  # type: ignore[no-any-return]


def test_layers_whose_weights_take_part_in_the_injection_inject_each_their_own() -> None:
    net = UntiedCell([SharingCell().double() for _ in range(3)])
    x = torch.randn(5, 4, dtype=torch.float64)
    z = torch.zeros(5, 4, dtype=torch.float64)
    for layer in net.layers:
        z = torch.tanh((z + net.layers[0].scale * x) @ layer.w.weight.T)
    with torch.no_grad():
        torch.testing.assert_close(whole(net)(x)[0], net.layers[0].head(z))
    assert describe(net).parameters == 3 * 16 + 10 + 4
    assert describe(net).injection_parameters == 3 * 16 + 4
    assert parameter_names(SharingCell()).of_map == {"w.weight"}


def test_a_cell_that_cannot_be_narrowed_says_so() -> None:
    with pytest.raises(ValueError, match=r"SharingCell does not say how it is narrowed.*match=multiply_adds"):
        untied_baseline(lambda **_: SharingCell(), 2, "parameters")


def test_too_many_layers_to_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers=400.*channels=8, inner_channels=8.*42,698; give fewer layers"):
        untied_baseline(conv, 400, "parameters")
    with pytest.raises(ValueError, match=r"layers=0 is too small"):
        untied_baseline(conv, 0, "multiply_adds")
