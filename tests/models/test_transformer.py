"""The transformer against its formula in loops, its published size by formula, causality, and its arguments."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from deqrun.models import BoundCell, TransformerCell, describe
from deqrun.models.relative_attention import RelativeAttention, shifted, sinusoids
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Solver, Status, solve
from tests.models.cells import bound, inputs, states

SEQUENCE, PICTURE = (3, 7), (3, 4, 5)


def transformer(**parameters: object) -> TransformerCell:
    """A small cell in float64, answering at every position, its biases away from their zeros."""
    torch.manual_seed(0)
    given: dict[str, object] = {"input_shape": SEQUENCE, "num_classes": 4, "width": 8, "heads": 2, "inner": 12}
    given |= parameters
    given.setdefault("output_shape", given["input_shape"][1:])  # type: ignore[index]
    cell = TransformerCell(**given).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return cell.eval()


def weight_of(layer: object) -> Tensor:
    return layer.weight() if callable(layer.weight) else layer.weight  # type: ignore[attr-defined, no-any-return]


def sinusoid(distance: int, features: int) -> Tensor:
    """e(δ), one number at a time."""
    omega = [10_000 ** (-2 * k / features) for k in range(features // 2)]
    numbers = [math.sin(w * distance) for w in omega] + [math.cos(w * distance) for w in omega]
    return torch.tensor(numbers, dtype=torch.float64)


def places(positions: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(positions) == 1:
        return [(i,) for i in range(positions[0])]
    return [(row, column) for row in range(positions[0]) for column in range(positions[1])]


def attention_in_loops(attention: RelativeAttention, z: Tensor, injected: Tensor) -> Tensor:
    """Transformer-XL's attention of one sample, z (L, width): a sum over positions for each head and position."""
    width, heads, where = attention.width, attention.heads, places(attention.positions)
    d, features = width // heads, width // len(attention.positions)
    q, k, v = (weight_of(attention.project) @ z.T).T.add(injected).split(width, dim=1)
    distance_weight, rows = weight_of(attention.project_distance), []
    for i, here in enumerate(where):
        heads_of_i = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            a, b = attention.content_bias[head, 0], attention.distance_bias[head, 0]
            seen = range(i + 1) if attention.causal else range(len(where))
            scores = []
            for j in seen:
                e = torch.cat([sinusoid(x - y, features) for x, y in zip(here, where[j], strict=True)])
                content, distance = (q[i, part] + a) @ k[j, part], (q[i, part] + b) @ (distance_weight @ e)[part]
                scores.append((content + distance) / math.sqrt(d))
            shares = torch.stack(scores).softmax(0)
            heads_of_i.append(sum(share * v[j, part] for share, j in zip(shares, seen, strict=True)))
        rows.append(torch.cat(heads_of_i))  # type: ignore[arg-type]
    return torch.stack(rows) @ weight_of(attention.output).T + attention.output.bias  # type: ignore[operator]


def normalised(y: Tensor) -> Tensor:
    return (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


every_kind = pytest.mark.parametrize(
    ("input_shape", "causal", "weight_norm"),
    [
        (SEQUENCE, True, True),
        (SEQUENCE, False, True),
        (PICTURE, False, False),
        (PICTURE, True, True),
        ((2, 1), True, True),
    ],
)


@every_kind
def test_one_evaluation_is_the_formula_in_loops(input_shape: tuple[int, ...], causal: bool, weight_norm: bool) -> None:
    cell = transformer(input_shape=input_shape, causal=causal, weight_norm=weight_norm)
    x, z = inputs(cell, 2), states(cell, 2)
    embedded = torch.einsum("wc,bcl->blw", cell.embed.weight, x.flatten(2))
    injected = embedded @ weight_of(cell.inject_input).T + cell.inject_input.bias  # type: ignore[operator]
    for row in range(2):
        y = normalised(z[row] + attention_in_loops(cell.attention, z[row], injected[row]))
        h = torch.relu(y @ weight_of(cell.widen).T + cell.widen.bias)  # type: ignore[operator]
        expected = normalised(y + h @ weight_of(cell.narrow).T + cell.narrow.bias)  # type: ignore[operator]
        torch.testing.assert_close(bound(cell, 2)(z)[row], expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad(), cell.fixed_weights():  # PyTorch computes attention by another algorithm here
        torch.testing.assert_close(bound(cell, 2)(z)[-1], expected, rtol=1e-10, atol=1e-10)


def test_readout_is_linear_at_each_position_or_of_their_average() -> None:
    cell = transformer(input_shape=PICTURE)
    z, weight, bias = states(cell, 2), cell.classifier.weight, cell.classifier.bias
    answers = cell.readout(z)
    assert answers.shape == (2, 4, 4, 5)
    torch.testing.assert_close(answers[1, :, 2, 3], weight @ z[1, 2 * 5 + 3] + bias)  # type: ignore[operator]
    single = transformer(input_shape=PICTURE, output_shape=())
    torch.testing.assert_close(single.readout(z), answers.mean((2, 3)))


def test_shifting_takes_each_distance_to_its_pair() -> None:
    distances = torch.tensor([2, 1, 0, -1, -2, -3]).expand(4, 3, 6)  # columns are δ = n - 1, …, -n
    i, j = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    assert torch.equal(shifted(distances), (i - j).expand(4, 3, 3))
    assert torch.equal(shifted(torch.tensor([[[5.0, 7.0]]])), torch.tensor([[[5.0]]]))


def test_inner_product_of_sinusoids_depends_on_the_difference_alone() -> None:
    # Σ_k cos(ω_k (a - b)): the identity for which sinusoids are taken at all.
    e = sinusoids(torch.arange(-9, 10), 8, torch.float64)
    omega = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    difference = torch.arange(19, dtype=torch.float64)[:, None] - torch.arange(19, dtype=torch.float64)
    torch.testing.assert_close(e @ e.T, torch.cos(difference[..., None] * omega).sum(-1), rtol=1e-12, atol=1e-12)


class TestCausality:
    @pytest.mark.parametrize("input_shape", [SEQUENCE, PICTURE])
    def test_no_position_hears_of_a_later_one(self, input_shape: tuple[int, ...]) -> None:
        cell = transformer(input_shape=input_shape, causal=True)
        length, at = cell.state_shape[0], 4
        x, z = inputs(cell, 1).requires_grad_(), states(cell, 1).requires_grad_()
        value = BoundCell(cell, cell.inject(x))(z)
        of_x, of_z = torch.autograd.grad((value[0, at] * states(cell, 1)[0, at]).sum(), (x, z))
        of_x, of_z = of_x.flatten(2).abs().amax((0, 1)), of_z.abs().amax((0, 2))
        assert of_x[at + 1 :].max() == of_z[at + 1 :].max() == 0
        assert min(of_x[: at + 1].min(), of_z[: at + 1].min()) > 0
        assert length > at + 1

    def test_nor_does_its_equilibrium(self) -> None:
        cell = transformer(causal=True)
        x, other = inputs(cell, 1), inputs(cell, 1)
        other[..., 4:] = -other[..., 4:]
        with torch.no_grad():
            first, second = (
                solve(cell.bind(each), torch.zeros(1, 7, 8).double(), solver=Picard(), budget=Budget(30, 0.0)).z
                for each in (x, other)
            )
        torch.testing.assert_close(first[:, :4], second[:, :4], rtol=0, atol=1e-14)
        assert (first - second)[:, 4:].abs().amax(2).min() > 1e-3

    @pytest.mark.parametrize(("input_shape", "causal"), [(SEQUENCE, True), (PICTURE, False)])
    def test_sequences_are_causal_and_pictures_not_unless_told(
        self, input_shape: tuple[int, ...], causal: bool
    ) -> None:
        assert transformer(input_shape=input_shape).causal is causal
        assert transformer(input_shape=input_shape, causal=not causal).causal is not causal


class TestLength:
    def test_the_same_weights_serve_every_length(self) -> None:
        short, long = transformer(), transformer(input_shape=(3, 12))
        assert {name: p.shape for name, p in short.state_dict().items()} == {
            name: p.shape for name, p in long.state_dict().items()
        }
        # A causal model of a longer sequence says the same at the beginning.
        x, z = inputs(long, 2), states(long, 2)
        shortened = BoundCell(short, short.inject(x[..., :7]))
        torch.testing.assert_close(shortened(z[:, :7]), bound(long, 2)(z)[:, :7], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(("input_shape", "moved"), [((3, 12), (2,)), ((3, 5, 8), (1, 3))])
    def test_scores_move_with_the_content(self, input_shape: tuple[int, ...], moved: tuple[int, ...]) -> None:
        attention = transformer(input_shape=input_shape, causal=False).attention
        sides = input_shape[1:]
        before = tuple(slice(0, side - by) for side, by in zip(sides, moved, strict=True))
        after = tuple(slice(by, side) for side, by in zip(sides, moved, strict=True))
        content = torch.randn(1, *sides, 8, dtype=torch.float64)
        moved_content = torch.randn_like(content)
        moved_content[(0, *after)] = content[(0, *before)]
        scores, moved_scores = (
            distance_scores(attention, each.flatten(1, -2)).view(2, *sides, *sides) for each in (content, moved_content)
        )
        torch.testing.assert_close(
            moved_scores[(slice(None), *after, *after)], scores[(slice(None), *before, *before)], rtol=1e-10, atol=1e-12
        )

    def test_a_transposed_picture_is_a_transposed_state(self) -> None:
        # Once the two axes' halves of R have changed places.
        cell = transformer(input_shape=(3, 4, 5), causal=False, weight_norm=False)
        turned = transformer(input_shape=(3, 5, 4), causal=False, weight_norm=False)
        turned.load_state_dict(cell.state_dict())
        with torch.no_grad():
            weight = turned.attention.project_distance.get_parameter("weight")
            weight.copy_(weight.roll(4, dims=1))
        x, z = inputs(cell, 2), states(cell, 2)
        of_turned = BoundCell(turned, turned.inject(x.mT.contiguous()))
        value = of_turned(z.unflatten(1, (4, 5)).transpose(1, 2).flatten(1, 2))
        expected = bound(cell, 2)(z).unflatten(1, (4, 5)).transpose(1, 2).flatten(1, 2)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def distance_scores(attention: RelativeAttention, z: Tensor) -> Tensor:
    """What distances add to the scores, (heads, L, L), of a state z (1, L, width)."""
    q = attention.project(z)[..., : attention.width].unflatten(2, (attention.heads, -1)).transpose(1, 2)
    return attention._distance_scores(q)[0]


class TestSize:
    @pytest.mark.parametrize("weight_norm", [True, False])
    @pytest.mark.parametrize(("width", "inner", "channels", "classes"), [(64, 256, 10, 10), (12, 5, 3, 2)])
    def test_parameters_by_formula(
        self, weight_norm: bool, width: int, inner: int, channels: int, classes: int
    ) -> None:
        cell = transformer(
            input_shape=(channels, 9), num_classes=classes, width=width, inner=inner, weight_norm=weight_norm
        )
        size = describe(cell)
        gains = 3 * width + width + width + inner + width if weight_norm else 0
        attention = 3 * width**2 + width**2 + 2 * width + width**2 + width
        feed_forward = 2 * width * inner + inner + width
        assert size.map_parameters == attention + feed_forward + gains
        assert size.injection_parameters == channels * width + 3 * width**2 + 3 * width
        assert size.readout_parameters == classes * width + classes

    def test_multiply_adds_by_hand(self) -> None:
        size, length, width, inner = (
            describe(transformer(input_shape=(10, 70), width=64, heads=4, inner=256)),
            70,
            64,
            256,
        )
        projections, feed_forward = 4 * length * width**2, 2 * length * width * inner
        content_and_values, distances = 2 * length**2 * width, length * 2 * length * width
        assert size.multiply_adds == projections + feed_forward + content_and_values + distances
        assert size.injection_multiply_adds == length * (10 * width + 3 * width**2)
        assert size.readout_multiply_adds == length * width * 4

    def test_multiply_adds_of_a_picture_by_hand(self) -> None:
        size, pixels = describe(transformer(input_shape=PICTURE)), 20
        distances = pixels * 8 * (2 * 4 + 2 * 5)  # rows and columns have keys of their own, not each pair
        assert size.multiply_adds == 4 * pixels * 64 + 2 * pixels * 96 + 2 * pixels**2 * 8 + distances


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden(), NewtonKrylov()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("input_shape", [SEQUENCE, PICTURE])
def test_every_solver_finds_the_same_equilibrium(solver: Solver, input_shape: tuple[int, ...]) -> None:
    cell = contractive(input_shape)
    with torch.no_grad(), cell.fixed_weights():
        f, z0 = cell.bind(inputs(cell, 3)), torch.zeros(3, *cell.state_shape, dtype=torch.float64)
        plain = z0
        for _ in range(60):
            plain = f(plain)
        solution = solve(f, z0, solver=solver, budget=Budget(max_iter=60, tol=1e-8))
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.z, plain, rtol=0, atol=1e-6)


def contractive(input_shape: tuple[int, ...]) -> TransformerCell:
    """A cell that plain iteration solves soon: what attention says of the input outweighs the state."""
    cell = transformer(input_shape=input_shape)
    with torch.no_grad():
        cell.attention.project.get_parameter("gain").mul_(0.1)
        cell.attention.output.get_parameter("gain").mul_(20.0)
        cell.narrow.get_parameter("gain").mul_(0.1)
    return cell


@pytest.mark.parametrize("input_shape", [SEQUENCE, PICTURE])
def test_a_product_with_the_jacobian_can_be_differentiated(input_shape: tuple[int, ...]) -> None:
    # What a Jacobian penalty and Newton's products need, and PyTorch's fused attention could not give.
    cell = transformer(input_shape=input_shape)
    f, z = bound(cell, 1), states(cell, 1).requires_grad_()
    probe, direction = states(cell, 2).split(1)
    (product,) = torch.autograd.grad(f(z), z, probe, create_graph=True)
    (gradient,) = torch.autograd.grad(product.square().sum(), z)

    def squared_norm(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(f(at), at, probe)[0].square().sum()

    step = 1e-6
    difference = (squared_norm(z + step * direction) - squared_norm(z - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-5)


class TestFixedWeights:
    def test_evaluations_inside_and_outside_agree(self) -> None:
        cell = transformer()
        free = bound(cell)(states(cell))
        with cell.fixed_weights():
            torch.testing.assert_close(bound(cell)(states(cell)), free, rtol=1e-12, atol=1e-12)

    def test_the_keys_of_distances_are_those_at_entry_until_the_context_ends(self) -> None:
        cell = transformer(weight_norm=False)
        before, changed = bound(cell)(states(cell)).detach(), copy.deepcopy(cell)
        with torch.no_grad(), cell.fixed_weights():
            for each in (cell, changed):
                each.attention.project_distance.get_parameter("weight").mul_(2.0)
            torch.testing.assert_close(bound(cell)(states(cell)), before)
        torch.testing.assert_close(bound(cell)(states(cell)), bound(changed)(states(changed)))
        assert (bound(cell)(states(cell)) - before).abs().max() > 1e-3

    @pytest.mark.parametrize("weight_norm", [True, False])
    def test_a_gradient_passes_after_evaluations_without_one(self, weight_norm: bool) -> None:
        cell = transformer(weight_norm=weight_norm)
        weights = states(cell)
        (bound(cell)(states(cell)) * weights).sum().backward()
        expected = {name: p.grad for name, p in cell.named_parameters()}
        cell.zero_grad()
        with cell.fixed_weights():
            f = bound(cell)
            with torch.no_grad():
                f(states(cell))
            (f(states(cell)) * weights).sum().backward()
        for name, parameter in cell.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-12, msg=name)


class TestDropout:
    def test_one_mask_per_sample_for_all_positions_of_a_solve(self) -> None:
        cell, x = transformer(dropout=0.5).train(), torch.ones(6, *SEQUENCE, dtype=torch.float64)
        injected, *masks = cell.inject(x)
        assert [tuple(mask.shape) for mask in masks] == [(6, 1, 8), (6, 1, 12), (6, 1, 8)]
        # The same symbol at every position, embedded and then dropped, says the same at every position.
        torch.testing.assert_close(injected, injected[:, :1].expand_as(injected))
        assert len({tuple(row) for row in injected[:, 0].tolist()}) == 6
        f, z = BoundCell(cell, (injected, *masks)), states(cell, 6)
        assert torch.equal(f(z), f(z))

    def test_masks_act_where_the_published_code_has_them(self) -> None:
        cell = transformer(dropout=0.5)
        (injected,), z = cell.inject(inputs(cell)), states(cell)
        shapes = ((8,), (12,), (8,))
        ones = [torch.ones(5, 1, *shape, dtype=z.dtype) for shape in shapes]
        attention, inner, output = (torch.rand_like(one) for one in ones)
        y = normalised(z + cell.attention(z, injected) * attention)
        expected = normalised(y + cell.narrow(torch.relu(cell.widen(y)) * inner) * output)
        torch.testing.assert_close(cell(z, (injected, attention, inner, output)), expected)
        torch.testing.assert_close(cell(z, (injected, *ones)), cell(z, (injected,)))

    @pytest.mark.parametrize(("dropout", "training"), [(0.5, False), (0.0, True)])
    def test_there_is_none_in_evaluation_or_at_probability_zero(self, dropout: float, training: bool) -> None:
        cell = transformer(dropout=dropout).train(training)
        assert len(cell.inject(inputs(cell))) == 1


def test_without_biases_permuted_symbols_without_distances_are_permuted_answers() -> None:
    # What is left when distances say nothing is a set: attention by content alone.
    cell = transformer(causal=False, weight_norm=False)
    with torch.no_grad():
        cell.attention.project_distance.get_parameter("weight").zero_()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    x, z = inputs(cell), states(cell)
    permuted = BoundCell(cell, cell.inject(x[..., order]))(z[:, order])
    torch.testing.assert_close(permuted, bound(cell)(z)[:, order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 9}, r"width=9 is not allowed here: it must be a multiple of 2 \(nearest: 8\)"),
        ({"width": 6, "input_shape": PICTURE}, r"width=6 .* multiple of 4 \(nearest: 8\)"),
        ({"width": 1}, r"width=1 .* multiple of 2 \(nearest: 2\)"),
        ({"heads": 3}, r"heads=3 does not divide width=8: allowed are 1, 2, 4, 8 \(nearest: [24]\)"),
        ({"inner": 0}, "inner=0 is too small: allowed are integers from 1"),
        ({"dropout": 1.0}, r"dropout=1.0 is no dropout probability"),
        ({"input_shape": (64,), "output_shape": ()}, r"input_shape=\[64\] is neither a sequence nor a picture"),
        ({"output_shape": (6,)}, r"output_shape=\[6\] is not what this model answers: allowed are \[7\]"),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        transformer(**wrong)
