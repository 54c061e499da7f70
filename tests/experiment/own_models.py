"""Models that know nothing of deqrun, written from their papers, with the methods of an adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GRU(nn.Module):
    """A plain GRU that reads the same flattened input at every iteration (Cho et al. 2014)."""

    def __init__(self, checkpoint: str | None = None, width: int = 24) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell, self.head = nn.GRUCell(64, width), nn.Linear(width, 10)
        if checkpoint is not None:
            self.load_state_dict(torch.load(Path(checkpoint), weights_only=True))

    def inject(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.cell.hidden_size)

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return self.cell(x, z)

    def readout(self, z: Tensor) -> Tensor:
        return self.head(z)


class LoopedBlock(nn.Module):
    """One encoder block of PyTorch's, looped with its input added at each iteration (Fan et al. 2024), on 8 tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 10)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.embed(x.squeeze(1)),)

    def start(self, e: Tensor) -> Tensor:
        return e

    def f(self, z: Tensor, e: Tensor) -> Tensor:
        return self.block(z + e)

    def readout(self, z: Tensor) -> Tensor:
        return self.head(z.mean(1))


class TinyRecursion(nn.Module):
    """A Tiny Recursive Model (arXiv 2510.04871) with the MLP over positions, its states y and z a tuple.

    One iteration: z = g(x + y + z) n times, then y = g(y + z); g is one block: MLP over positions, SwiGLU, RMS norms.
    """

    def __init__(self, side: int = 4, width: int = 16, n: int = 2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.n, self.positions, self.width = n, side * side, width
        self.embed = nn.Linear(side, width, bias=False)
        self.mix, self.gate = nn.Linear(self.positions, self.positions), nn.Linear(width, 2 * width)
        self.down, self.head = nn.Linear(width, width), nn.Linear(width, side)
        self.first_y, self.first_z = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.side = side

    def inject(self, x: Tensor) -> Tensor:
        return self.embed(x[:, : self.side].flatten(2).mT)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first_y.expand_as(x).contiguous(), self.first_z.expand_as(x).contiguous()

    def g(self, h: Tensor) -> Tensor:
        h = F.rms_norm(h + self.mix(h.mT).mT, (self.width,))
        value, gate = self.gate(h).chunk(2, dim=-1)
        return F.rms_norm(h + self.down(F.silu(gate) * value), (self.width,))

    def f(self, state: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        y, z = state
        for _ in range(self.n):
            z = self.g(x + y + z)
        return self.g(y + z), z

    def readout(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(state[0]).mT.unflatten(2, (self.side, self.side))
