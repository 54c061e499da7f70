"""Cells that are wrong in one way each, and a few that are right; FAULTS says by which sentence each is known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from deqrun.models import Cell


class Right(Cell):
    """f(z; x) = tanh(W z + U x)."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int, width: int = 16) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        self.state_shape = (width,)
        self.encoder = nn.Linear(math.prod(input_shape), width)
        self.recur = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def inject(self, x: Tensor) -> Any:
        return (self.encoder(x.flatten(1)),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return torch.tanh(self.recur(z) + injection[0])

    def readout(self, z: Tensor) -> Tensor:
        return self.head(z)


class BareTensor(Right):
    """Right: a tensor is taken for a tuple of one."""

    def inject(self, x: Tensor) -> Any:
        return self.encoder(x.flatten(1))


class Attention(Right):
    """Right: PyTorch's own encoder layer, batch first, without dropout; its attention is differentiated twice."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.state_shape = (8, 16)
        self.encoder = nn.Linear(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)

    def inject(self, x: Tensor) -> Any:
        return (self.encoder(x[:, 0]),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return self.layer(z + injection[0])

    def readout(self, z: Tensor) -> Tensor:
        return self.head(z.mean(1))


class AttentionWithDropout(Attention):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)


class AttentionBatchSecond(Attention):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0)


class NoStateShape(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        del self.state_shape


class ListStateShape(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.state_shape = [16]  # type: ignore[assignment]


class DictInjection(Right):
    def inject(self, x: Tensor) -> Any:
        return {"features": self.encoder(x.flatten(1))}


class NoneInjection(Right):
    def inject(self, x: Tensor) -> Any:
        return (self.encoder(x.flatten(1)), None)


class EmptyInjection(Right):
    def inject(self, x: Tensor) -> Any:
        return ()


class BatchLast(Right):
    def inject(self, x: Tensor) -> Any:
        return (self.encoder(x.flatten(1)).T,)


class TensorInForward(Right):
    """Takes the tuple for a tensor."""

    def forward(self, z: Tensor, injection: Any) -> Tensor:
        return torch.tanh(self.recur(z) + injection)


class WrongShape(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z, injection)[:, :8]


class WrongDtype(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z, injection).double()


class WrongLogits(Right):
    def readout(self, z: Tensor) -> Tensor:
        return self.head(z).softmax(1).argmax(1)


class TupleReadout(Right):
    def readout(self, z: Tensor) -> Any:
        return self.head(z), z


class MixesRows(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z - z.mean(0), injection)


class MixesRowsLater(Right):
    """Mixes rows by a weight that begins at 0."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z + self.share * z.roll(1, 0), injection)


class BatchNormInF(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return self.norm(super().forward(z, injection))


class BatchNormOfPictures(Right):
    """Of pictures batch norm takes one row alone, too, and gives something else."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        value = super().forward(z, injection)
        return self.norm(value.view(-1, 1, 4, 4)).view_as(value)


class NoiseInF(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        value = super().forward(z, injection)
        return value + 0.1 * torch.randn_like(value)


class DropoutInF(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.dropout = nn.Dropout(0.1)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return self.dropout(super().forward(z, injection))


class NoiseInInjection(Right):
    """Draws in evaluation, too."""

    def inject(self, x: Tensor) -> Any:
        return (nn.functional.dropout(self.encoder(x.flatten(1)), 0.5),)


class Counts(Right):
    """Is another map at each call."""

    calls = 0

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        return super().forward(z / self.calls, injection)


class WritesState(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        z.mul_(0.5)
        return super().forward(z, injection)


class Detached(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z.detach(), injection)


class IgnoresState(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return torch.tanh(injection[0])


class NoWeights(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.requires_grad_(False)


class DividesByZero(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z / z.norm(dim=1, keepdim=True), injection)


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()


class OnceOnly(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(_OnceOnly.apply(z), injection)


class ReadsNumbers(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        scale = 0.5 if float(injection[0].sum()) > 1e9 else 1.0
        return super().forward(z * scale, injection)


class BrokenForward(Right):
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z, injection) @ torch.zeros(3, 3)


class UnknownName(Right):
    def inject(self, x: Tensor) -> Any:
        return (self.encodr(x),)


class BrokenConstructor(Right):
    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.state_shape = shape["state_shape"]


class NoReadout(Cell):
    """Abstract still."""

    def inject(self, x: Tensor) -> Any:
        return (x,)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return z


class NotACell(nn.Module):
    pass


RIGHT = (Right, BareTensor, Attention)

FAULTS: dict[type, str] = {
    NoStateShape: "state_shape is None; a cell's constructor sets it",
    ListStateShape: "state_shape is [16]; a cell's constructor sets it",
    DictInjection: "inject returned a dict; it must return a tensor or a tuple of tensors",
    NoneInjection: "inject returned a NoneType in a tuple; it must return a tensor or a tuple of tensors",
    EmptyInjection: "inject returned no tensor; it must return a tuple of one or more",
    BatchLast: "inject returned (16, 3) at place 0 for a batch of 3; each tensor has the batch as its first dimension",
    TensorInForward: "for +: 'Tensor' and 'tuple'; its second argument is the tuple that inject returned, here of 1",
    WrongShape: "forward returned the shape (3, 8) for a batch of 3; it must return (3, 16)",
    WrongDtype: "forward returned float64 for a state of float32; f(z; x) keeps the state's dtype",
    WrongLogits: "readout returned the shape (3,) for a batch of 3; it must return (3, 10)",
    TupleReadout: "readout returned a tuple; it must return a tensor",
    MixesRows: "f of a row depends on the rows beside it; each sample is its own problem",
    MixesRowsLater: "f of a row depends on the rows beside it; each sample is its own problem",
    BatchNormInF: "forward fails with ValueError: Expected more than 1 value per channel when training",
    BatchNormOfPictures: "f of a row depends on the rows beside it in training; each sample is its own problem",
    AttentionBatchSecond: "f of a row depends on the rows beside it; each sample is its own problem",
    AttentionWithDropout: "f(z; x) of the same z and injection differs between two calls in training, as dropout does",
    NoiseInF: "f(z; x) of the same z and injection differs between two calls in training",
    DropoutInF: "f(z; x) of the same z and injection differs between two calls in training, as dropout does",
    NoiseInInjection: "inject differs between two calls in evaluation; random numbers are for training alone",
    Counts: "f(z; x) of the same z and injection differs between two calls",
    WritesState: "the cell writes into z; solvers keep what they give to it",
    Detached: "f(z; x) has no derivative by z; it must depend on z by torch operations",
    IgnoresState: "f(z; x) has no derivative by z; it must depend on z by torch operations",
    NoWeights: "the cell has no weights to train; set nn.Parameter or layers as its attributes",
    DividesByZero: "f, evaluated 1 time from the start, gives numbers that are not finite",
    OnceOnly: "f can't be differentiated twice (RuntimeError: trying to differentiate twice",
    ReadsNumbers: "the cell can't be followed by shapes alone (RuntimeError",
    BrokenForward: "forward fails with RuntimeError",
    UnknownName: "inject fails with AttributeError: 'UnknownName' object has no attribute 'encodr'",
    BrokenConstructor: "can't be constructed (KeyError: 'state_shape')",
    NoReadout: "Can't instantiate abstract class NoReadout",
    NotACell: "is not a Cell, which model must be",
}
"""Wrong cells, and the sentence that each is refused with."""
