"""Monotone cells against dense matrices, float64 Newton, finite differences and the bounds of their theory."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra.utils
import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from deqrun.gradients import Implicit
from deqrun.models import DEQ, Cell, MonotoneCell, MonotoneConvCell, describe
from deqrun.models.monotone import MonotoneMap
from deqrun.solvers import Anderson, Budget, ForwardBackward, PeacemanRachford, Picard, Solver, Status, solve
from tests.models.cells import inputs, states
from tests.problems import newton
from tests.usual import usual

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
EXACT = Budget(max_iter=6000, tol=1e-13)


def dense_cell(m: float = 0.4) -> MonotoneCell:
    return MonotoneCell(input_shape=(2, 3), num_classes=3, width=10, m=m)


def conv_cell(kernel_size: int = 3, m: float = 0.4, image: tuple[int, int] = (4, 5)) -> MonotoneConvCell:
    return MonotoneConvCell(
        input_shape=(2, *image), num_classes=3, channels=3, kernel_size=kernel_size, m=m, pool=min(2, *image)
    )


def trained(make: Callable[[], MonotoneMap]) -> MonotoneMap:
    """Parameters where an optimizer takes them that only wants ‖z*‖ to grow, far from where they start."""
    cell = make()
    model, optimizer = (
        DEQ(cell, PeacemanRachford(), Budget(60, 1e-6), Implicit()),
        torch.optim.Adam(cell.parameters(), 0.07),
    )
    for _ in range(25):
        optimizer.zero_grad()
        model(inputs(cell))[0].pow(2).sum().neg().backward()
        optimizer.step()
    return cell


def scaled(make: Callable[[], MonotoneMap], factor: float) -> MonotoneMap:
    cell = make()
    with torch.no_grad():
        cell.A.mul_(factor)
        cell.B.mul_(factor)
    return cell


MAKERS: dict[str, Callable[[], MonotoneMap]] = {
    "dense": dense_cell,
    "dense, large": lambda: scaled(dense_cell, 4.0),
    "dense, trained": lambda: trained(lambda: dense_cell().double()),
    "conv": conv_cell,
    "conv, large": lambda: scaled(conv_cell, 4.0),
    "conv, trained": lambda: trained(lambda: conv_cell().double()),
    "conv, 1x1": lambda: conv_cell(kernel_size=1),
    "conv, 5x5": lambda: conv_cell(kernel_size=5, image=(5, 6)),
    "conv, as small as its kernel": lambda: conv_cell(image=(3, 3)),
}
EVERY_CELL = pytest.mark.parametrize("name", usual(MAKERS, nightly=["conv, trained"]))
SPLITTING = pytest.mark.parametrize("solver", [ForwardBackward(), PeacemanRachford()], ids=["fb", "pr"])


@functools.cache
def _built(name: str) -> MonotoneMap:
    torch.manual_seed(0)
    return MAKERS[name]().double().eval()


def build(name: str) -> MonotoneMap:
    """The cell in float64, the same at every call."""
    return copy.deepcopy(_built(name))


def matrix_of(linear: Callable[[Tensor], Tensor], cell: Cell) -> Tensor:
    """The matrix (D, D) of a linear map on states, column by column."""
    basis = torch.eye(cell.state_size, dtype=torch.float64).view(-1, *cell.state_shape)
    return linear(basis).flatten(1).T.detach()


def by_definition(cell: MonotoneMap) -> Tensor:
    """(1 − m) I − AᵀA + B − Bᵀ (D, D) with the matrices of A and B themselves."""
    if isinstance(cell, MonotoneCell):
        A, B = cell.A.detach(), cell.B.detach()
    else:
        half = cell.A.shape[-1] // 2

        def matrix(kernel: Tensor) -> Tensor:
            return matrix_of(lambda z: F.conv2d(F.pad(z, (half,) * 4, mode="circular"), kernel), cell)

        A, B = matrix(cell.A), matrix(cell.B)
    return (1 - cell.m) * torch.eye(len(A), dtype=A.dtype) - A.T @ A + B - B.T


def dense_equilibrium(cell: MonotoneMap, x: Tensor) -> Tensor:
    """z* of every row by Newton's method with dense solves, which shares nothing with the solvers."""
    weight, rows = by_definition(cell), cell.inject(x)[0].detach().flatten(1)

    def row_map(bias: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: torch.relu(weight @ z + bias)

    found = [newton(row_map(bias), np.zeros(len(bias))) for bias in rows]
    return torch.as_tensor(np.stack(found)).view(len(x), *cell.state_shape)


@EVERY_CELL
def test_the_operator_is_its_definition(name: str) -> None:
    cell = build(name)
    expected = by_definition(cell)
    torch.testing.assert_close(matrix_of(cell.operator(), cell), expected, rtol=1e-12, atol=1e-13)
    symbol = cell.operator().symbol()
    assert torch.linalg.eigvals(symbol).abs().max() == pytest.approx(torch.linalg.eigvals(expected).abs().max().item())


@EVERY_CELL
def test_the_map_is_relu_of_the_affine_part(name: str) -> None:
    cell = build(name)
    x, z = inputs(cell), states(cell)
    expected = torch.relu(z.flatten(1) @ by_definition(cell).T + cell.inject(x)[0].flatten(1))
    torch.testing.assert_close(cell.bind(x)(z).flatten(1), expected, rtol=1e-12, atol=1e-12)


@EVERY_CELL
def test_identity_minus_the_operator_is_strongly_monotone(name: str) -> None:
    """The least eigenvalue of its symmetric part is m or more, whatever became of the parameters."""
    cell = build(name)
    matrix = torch.eye(cell.state_size, dtype=torch.float64) - matrix_of(cell.operator(), cell)
    assert torch.linalg.eigvalsh((matrix + matrix.T) / 2).min() >= cell.m - 1e-11 * matrix.norm()


@EVERY_CELL
def test_the_constants_are_those_of_the_dense_matrix(name: str) -> None:
    """β = min ⟨v, M v⟩ / ‖M v‖² is the least eigenvalue of the pencil (M + Mᵀ) / 2, MᵀM; it is at least m / ‖M‖²."""
    cell = build(name)
    matrix = np.eye(cell.state_size) - by_definition(cell).numpy()
    constants = cell.operator().constants()
    pencil = scipy.linalg.eigh((matrix + matrix.T) / 2, matrix.T @ matrix, eigvals_only=True)
    assert constants.monotonicity == cell.m
    assert constants.cocoercivity == pytest.approx(pencil.min(), rel=1e-8)
    assert constants.cocoercivity >= cell.m / np.linalg.norm(matrix, 2) ** 2


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
@EVERY_CELL
def test_the_resolvent_is_the_dense_inverse(name: str, alpha: float, transposed: bool) -> None:
    cell, v = build(name), states(build(name))
    identity, weight = torch.eye(cell.state_size, dtype=torch.float64), by_definition(cell)
    system = identity + alpha * (identity - (weight.T if transposed else weight))
    operator = cell.operator()
    operator.resolvent(v, 3.0)  # the inverse of another alpha must not be taken for this one's
    expected = torch.linalg.solve(system, v.flatten(1).T).T
    torch.testing.assert_close(operator.resolvent(v, alpha, transposed).flatten(1), expected, rtol=1e-10, atol=1e-12)


@EVERY_CELL
def test_the_bound_resolvent_includes_the_injection(name: str) -> None:
    """w = (I + α (I − W))⁻¹ (v + α (U x + b)) solves w + α (w − affine(w)) = v."""
    cell = build(name)
    f, v, alpha = cell.bind(inputs(cell)), states(cell), 0.7
    w = f.resolvent(v, alpha)
    torch.testing.assert_close(w + alpha * (w - f.affine(w)), v, rtol=1e-10, atol=1e-12)


@SPLITTING
@EVERY_CELL
def test_both_solvers_reach_the_dense_solution(name: str, solver: Solver) -> None:
    cell = build(name)
    x = inputs(cell, batch=3)
    with torch.no_grad(), cell.fixed_weights():
        solution = solve(cell.bind(x), torch.zeros_like(states(cell, 3)), solver=solver, budget=EXACT)
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.z, dense_equilibrium(cell, x), rtol=1e-9, atol=1e-10)


@SPLITTING
@EVERY_CELL
def test_every_start_leads_to_the_same_equilibrium(name: str, solver: Solver) -> None:
    """Four starts for one input, from near to far."""
    cell = build(name)
    x = inputs(cell, batch=1).expand(4, *cell.input_shape)
    start = states(cell, batch=4) * torch.tensor([0.1, 1.0, 30.0, 1000.0], dtype=torch.float64).view(
        4, *[1] * len(cell.state_shape)
    )
    with torch.no_grad(), cell.fixed_weights():
        z = solve(cell.bind(x), start, solver=solver, budget=EXACT).z
    torch.testing.assert_close(z, z[:1].expand_as(z), rtol=1e-9, atol=1e-10)


def test_plain_iteration_needs_more_than_monotonicity() -> None:
    cell = build("conv, large")
    x = inputs(cell)
    with torch.no_grad():
        plain = solve(cell.bind(x), torch.zeros_like(states(cell)), solver=Picard(), budget=Budget(300, 1e-4))
    assert (plain.status != Status.CONVERGED).all()


@EVERY_CELL
def test_the_equilibrium_is_lipschitz_in_the_injection(name: str) -> None:
    """‖z*(b) − z*(b′)‖ <= ‖b − b′‖ / m: subtract the two inclusions and use I − W ⪰ m I and the monotone ∂g."""
    cell = build(name)
    x, other = inputs(cell, batch=4), inputs(cell, batch=4).flip(0)
    with torch.no_grad():
        distance = (dense_equilibrium(cell, x) - dense_equilibrium(cell, other)).flatten(1).norm(dim=1)
        change = (cell.inject(x)[0] - cell.inject(other)[0]).flatten(1).norm(dim=1)
    assert (distance <= change / cell.m * (1 + 1e-9)).all()


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 4)])
def test_a_cyclic_shift_of_the_image_shifts_the_equilibrium(shift: tuple[int, int]) -> None:
    cell = build("conv, large")
    x, budget = inputs(cell), Budget(400, 1e-12)
    z, shifted = (
        solve(cell.bind(image), torch.zeros_like(states(cell)), solver=PeacemanRachford(), budget=budget).z
        for image in (x, x.roll(shift, (2, 3)))
    )
    torch.testing.assert_close(shifted, z.roll(shift, (2, 3)), rtol=1e-9, atol=1e-10)


def test_the_matrices_start_as_random_matrix_theory_says() -> None:
    """AᵀA ends at 4/3 (Marchenko & Pastur), the skew part at 2 √(2/3) (Wigner), up to the width's fluctuations."""
    torch.manual_seed(0)
    cell = MonotoneCell(input_shape=(4,), num_classes=2, width=600)
    A, B = cell.A.detach(), cell.B.detach()
    assert torch.linalg.matrix_norm(A, 2).item() ** 2 == pytest.approx(4 / 3, rel=0.04)
    assert torch.linalg.matrix_norm(B - B.T, 2).item() == pytest.approx(2 * math.sqrt(2 / 3), rel=0.04)


ADJOINTS: dict[str, Solver] = {
    "fb": ForwardBackward(),
    "fb, small steps": ForwardBackward(alpha=0.02),
    "pr": PeacemanRachford(),
    "pr, alpha": PeacemanRachford(alpha=0.5),
}


def model(cell: MonotoneMap, adjoint: Solver) -> DEQ:
    return DEQ(cell, PeacemanRachford(), EXACT, Implicit(adjoint, EXACT))


@pytest.mark.parametrize("adjoint", usual(ADJOINTS, nightly=["fb, small steps", "pr, alpha"]))
@EVERY_CELL
def test_the_adjoint_is_the_dense_one(name: str, adjoint: str) -> None:
    """dL/d(Ux + b) = D u with u = (I − Wᵀ D)⁻¹ ∂L/∂z*, D = diag(z* > 0): dense solves, row by row."""
    cell = build(name)
    x = inputs(cell, batch=3)
    features: list[Tensor] = []

    def keep(module: nn.Module, given: object, out: Tensor) -> None:
        out.retain_grad()
        features.append(out)

    cell.encoder.register_forward_hook(keep)
    logits, solution = model(cell, ADJOINTS[adjoint])(x)
    logits.square().sum().backward()
    assert solution.adjoint is not None
    assert (solution.adjoint.status == Status.CONVERGED).all()
    z = solution.z.detach().requires_grad_()
    (v,) = torch.autograd.grad(cell.readout(z).square().sum(), z)
    weight, identity = by_definition(cell), torch.eye(cell.state_size, dtype=torch.float64)
    for row in range(3):
        active = torch.diag((solution.z[row].flatten() > 0).double())
        u = torch.linalg.solve(identity - weight.T @ active, v[row].flatten())
        torch.testing.assert_close(solution.adjoint.z[row].flatten(), u, rtol=1e-8, atol=1e-10)
        assert features[0].grad is not None
        torch.testing.assert_close(features[0].grad[row].flatten(), active @ u, rtol=1e-8, atol=1e-10)


@SPLITTING
@pytest.mark.parametrize("name", ["dense, large", "conv, large"])
def test_gradients_are_finite_differences(name: str, solver: Solver) -> None:
    """Of every parameter, along a random direction; the loss is that of a solve to the last digits."""
    cell = build(name)
    x, deq = inputs(cell, batch=3), model(cell, solver)

    def loss() -> Tensor:
        return deq(x)[0].sin().sum()

    loss().backward()
    for key, parameter in cell.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        step, values = 1e-6, []
        with torch.no_grad():
            for move in (step, -2 * step):
                parameter.add_(move * direction)
                values.append(loss())
            parameter.add_(step * direction)
        difference = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((parameter.grad * direction).sum(), difference, rtol=1e-6, atol=1e-8)


def test_damped_picard_is_forward_backward_on_the_adjoint() -> None:
    """D is linear and a projection: D ((1 − α) u + α (Wᵀ D u + v)) is the forward–backward step of w = D u."""
    gradients = []
    for adjoint in (Picard(damping=0.05), PeacemanRachford()):
        cell = build("conv, large")
        logits, solution = model(cell, adjoint)(inputs(cell))
        logits.square().sum().backward()
        assert solution.adjoint is not None
        assert (solution.adjoint.status == Status.CONVERGED).all()
        gradients.append(torch.cat([p.grad.flatten() for p in cell.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


def test_a_splitting_adjoint_of_another_model_is_refused() -> None:
    weight = torch.tensor([[0.5]], requires_grad=True)
    solved, _ = Implicit(PeacemanRachford()).run(lambda z: z @ weight + 1, torch.zeros(2, 1), Anderson(), None)
    with pytest.raises(TypeError, match=r"PeacemanRachford.* needs a map with the methods"):
        solved.sum().backward()


@contextmanager
def counting(cell: MonotoneMap) -> Iterator[list[str]]:
    """How often W is formed and a matrix inverted within."""
    seen: list[str] = []
    operator, inverse = cell.operator, torch.linalg.inv_ex
    cell.operator = lambda: seen.append("operator") or operator()  # type: ignore[method-assign, func-returns-value]
    torch.linalg.inv_ex = lambda matrix: seen.append("inverse") or inverse(matrix)  # type: ignore[func-returns-value]
    try:
        yield seen
    finally:
        torch.linalg.inv_ex = inverse
        del cell.operator


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_a_training_step_forms_and_inverts_once(name: str) -> None:
    """One W; one inverse for the constants, and one for all resolvents, forward and adjoint: alpha is the same."""
    cell = build(name)
    with counting(cell) as seen:
        model(cell, PeacemanRachford())(inputs(cell))[0].sum().backward()
    assert sorted(seen) == ["inverse", "inverse", "operator"]


@EVERY_CELL
def test_fixed_weights_change_no_number_and_no_gradient(name: str) -> None:
    cell = build(name)
    x, z = inputs(cell), states(cell)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(cell.bind(x)(z).square().sum(), [cell.A, cell.B]))

    outside = gradients()
    with cell.fixed_weights():
        inside = gradients()
        with cell.fixed_weights(), torch.no_grad():
            nested = cell.bind(x)(z)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    torch.testing.assert_close(nested, cell.bind(x)(z), rtol=0, atol=0)


@EVERY_CELL
def test_rows_may_be_taken(name: str) -> None:
    cell = build(name)
    f, v, rows = cell.bind(inputs(cell)), states(cell), torch.tensor([3, 0])
    taken = f.take(rows)
    pairs: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (taken, f),
        (taken.affine, f.affine),
        (lambda v: taken.resolvent(v, 0.5), lambda v: f.resolvent(v, 0.5)),
    ]
    for of_rows, of_all in pairs:
        torch.testing.assert_close(of_rows(v[rows]), of_all(v)[rows], rtol=1e-10, atol=1e-12)


@SPLITTING
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_under_autocast_the_solver_still_converges_to_what_the_cell_can_tell(name: str, solver: Solver) -> None:
    """bfloat16 has 8 significant bits: the affine part is rounded to 2^-8, W and the resolvent are not."""
    cell = build(name)
    expected = dense_equilibrium(cell, inputs(cell))
    cell = cell.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), cell.fixed_weights():
        z0 = torch.zeros_like(expected, dtype=torch.float32)
        solution = solve(cell.bind(inputs(cell).float()), z0, solver=solver, budget=Budget(200, 2e-2))
    assert (solution.status == Status.CONVERGED).all()
    assert solution.z.dtype == torch.float32
    size = expected.flatten(1).norm(dim=1)
    assert ((solution.z - expected).flatten(1).norm(dim=1) <= 0.15 * size).all()


@pytest.mark.parametrize(
    ("name", "input_shape", "parameters", "state_size"),
    [
        ("monotone", (1, 8, 8), 65 * 128 + 2 * 128 * 128 + 129 * 10, 128),
        ("monotone_conv", (1, 8, 8), 10 * 32 + 2 * 9 * 32 * 32 + (32 * 16 + 1) * 10, 2048),
        ("monotone_conv", (3, 32, 32), 28 * 32 + 2 * 9 * 32 * 32 + (32 * 16 + 1) * 10, 32_768),
    ],
)
def test_configs_build_the_documented_models(
    name: str, input_shape: tuple[int, ...], parameters: int, state_size: int
) -> None:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    cell = hydra.utils.instantiate(config, input_shape=input_shape, num_classes=10)
    assert sum(parameter.numel() for parameter in cell.parameters()) == parameters
    assert cell.state_size == state_size


def test_an_evaluation_costs_one_product_with_w() -> None:
    """W is formed once per solve: what AᵀA costs is no cost of an evaluation. A 3x3 kernel makes a W of 5x5."""
    dense = describe(MonotoneCell(input_shape=(1, 8, 8), num_classes=10, width=50))
    conv = describe(MonotoneConvCell(input_shape=(1, 8, 8), num_classes=10, channels=6))
    assert (dense.multiply_adds, dense.map_parameters) == (50 * 50, 2 * 50 * 50)
    assert (conv.multiply_adds, conv.map_parameters) == (25 * 6 * 6 * 64, 2 * 9 * 6 * 6)


BAD_EVERYWHERE: list[tuple[dict[str, object], str]] = [
    ({"m": 0.0}, "m=0.0 is not allowed: it must be a finite number above 0"),
    ({"m": -1.0}, "m=-1.0 is not allowed"),
    ({"m": math.nan}, "m=nan is not allowed"),
    ({"m": "1"}, "m='1' is not allowed"),
]
BAD: list[tuple[type[MonotoneMap], dict[str, object], str]] = [
    *((kind, *bad) for kind in (MonotoneCell, MonotoneConvCell) for bad in BAD_EVERYWHERE),
    (MonotoneCell, {"width": 0}, "width=0 is too small: allowed are integers from 1"),
    (MonotoneConvCell, {"channels": 0}, "channels=0 is too small"),
    (MonotoneConvCell, {"kernel_size": 4}, r"kernel_size=4 is even: allowed are 1, 3, 5, … \(nearest: 5\)"),
    (MonotoneConvCell, {"kernel_size": 9}, "height and width from 9"),
    (MonotoneConvCell, {"pool": 9}, r"pool=9 exceeds the state's shorter side: allowed are 1 to 8 \(nearest: 8\)"),
    (MonotoneConvCell, {"input_shape": (8, 8)}, r"input_shape=\[8, 8\] is not an image"),
]


@pytest.mark.parametrize(("kind", "wrong", "sentence"), BAD)
def test_a_bad_parameter_is_refused_with_what_is_allowed(
    kind: type[MonotoneMap], wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(**{"input_shape": (1, 8, 8), "num_classes": 10, **wrong})  # type: ignore[arg-type]
