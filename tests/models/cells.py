"""One small cell of every kind, and what the tests do with each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deqrun.models import (
    BoundCell,
    Cell,
    ConvCell,
    EqRCell,
    FPRMCell,
    LoopedLMCell,
    MDEQCell,
    MLPCell,
    MonotoneCell,
    MonotoneConvCell,
    RecallCell,
    TransformerCell,
    TRMCell,
)

IMAGE = (2, 8, 8)
CLASSES = 3


def mdeq(**parameters: object) -> MDEQCell:
    given = {"input_shape": IMAGE, "channels": [8, 12], "head_channels": [2, 4], "final_channels": 16, "groups": 4}
    return MDEQCell(**{"num_classes": CLASSES, "expansion": 2, **given, **parameters})  # type: ignore[arg-type]


def trm(**parameters: object) -> TRMCell:
    """Without the halting head, which no logit depends on."""
    given = {"input_shape": (2, 7), "output_shape": (7,), "width": 8, "heads": 2, "recursions": 2, "prefix": 2}
    return TRMCell(**{"num_classes": CLASSES, "halting_head": False, **given, **parameters})  # type: ignore[arg-type]


CELLS: dict[str, Callable[[], Cell]] = {
    "mdeq": mdeq,
    "mdeq, four branches": lambda: mdeq(
        input_shape=(2, 32, 32), channels=[4, 8, 8, 12], head_channels=[2, 2, 4, 4], groups=4
    ),
    "mdeq, one branch": lambda: mdeq(channels=[8], head_channels=[2]),
    "mdeq, no weight norm": lambda: mdeq(weight_norm=False),
    "mdeq, downsampling": lambda: mdeq(input_shape=(2, 60, 60), downsampling=3),
    "conv": lambda: ConvCell(input_shape=IMAGE, num_classes=CLASSES, channels=8, inner_channels=12, groups=4),
    "conv, stride 2": lambda: ConvCell(
        input_shape=(2, 15, 11), num_classes=CLASSES, channels=8, inner_channels=12, groups=4, stride=2
    ),
    "mlp": lambda: MLPCell(input_shape=IMAGE, num_classes=CLASSES, width=12),
    "monotone": lambda: MonotoneCell(input_shape=IMAGE, num_classes=CLASSES, width=12),
    "monotone, convolutional": lambda: MonotoneConvCell(
        input_shape=(2, 6, 7), num_classes=CLASSES, channels=4, m=0.5, pool=3
    ),
    "transformer": lambda: TransformerCell(input_shape=(2, 9), num_classes=CLASSES, width=8, heads=2, inner=12),
    "transformer, picture": lambda: TransformerCell(
        input_shape=(2, 4, 5), num_classes=CLASSES, width=8, heads=2, inner=12, dropout=0.2, weight_norm=False
    ),
    "mlp, depth 3": lambda: MLPCell(input_shape=IMAGE, num_classes=CLASSES, width=12, depth=3, activation="relu"),
    "recall, string": lambda: RecallCell(input_shape=(2, 7), num_classes=CLASSES, output_shape=(7,), width=6),
    "recall, grid, as published": lambda: RecallCell(
        input_shape=(2, 5, 4), num_classes=CLASSES, output_shape=(5, 4), width=6, blocks=2, norm="none"
    ),
    "trm": lambda: trm(puzzle_embedding=True),
    "trm, mlp, one answer": lambda: trm(mixer="mlp", output_shape=(), input_shape=(2, 2, 3)),
    "eqr": lambda: EqRCell(
        input_shape=(2, 7), num_classes=CLASSES, output_shape=(7,), width=8, heads=2, layers=1, prefix=2
    ),
    "fprm": lambda: FPRMCell(input_shape=(2, 2, 3), num_classes=CLASSES, output_shape=(2, 3), width=8, heads=2),
    "looped_lm": lambda: LoopedLMCell(input_shape=(2, 7), num_classes=CLASSES, output_shape=(7,), width=8, heads=2),
    "looped_lm, one answer": lambda: LoopedLMCell(
        input_shape=(2, 7), num_classes=CLASSES, width=8, heads=2, prelude=0, coda=0
    ),
    "recall, one answer": lambda: RecallCell(input_shape=IMAGE, num_classes=CLASSES, width=6, kernel_size=1),
}


def build(name: str) -> Cell:
    """The cell in float64 and evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return CELLS[name]().double().eval()


def inputs(cell: Cell, batch: int = 5) -> Tensor:
    """Random inputs (batch, *input_shape), float64."""
    return torch.randn(batch, *cell.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def states(cell: Cell, batch: int = 5) -> Tensor:
    """Random states (batch, *state_shape), float64."""
    return torch.randn(batch, *cell.state_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def bound(cell: Cell, batch: int = 5) -> BoundCell:
    return BoundCell(cell, cell.inject(inputs(cell, batch)))
