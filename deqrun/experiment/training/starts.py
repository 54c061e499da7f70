"""Where solves begin in training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from deqrun.experiment.ranks import gathered, several
from deqrun.experiment.training.draws import Part

Start = Literal["zeros", "normal", "mixture", "previous"]


class Starts:
    """z_0 of each training sample, from `own`, the cell's initial state for it (0 unless the cell says otherwise).

        zeros      own
        normal     own + scale · ε with ε ~ N(0, I)
        mixture    own or, with probability ½ for each sample, own + scale · ε: the mixed initialization, half zeros
                   and half normal, of Anil et al. 2022 (arXiv 2211.09961)
        previous   where that very sample's solve ended the last time it was trained on; own the first time, and
                   where that state was not finite

    `previous` keeps every sample's state on the host, in the dtype of the solves; it is part of a checkpoint.
    """

    def __init__(self, kind: Start, scale: float, samples: int) -> None:
        self.kind, self.scale, self.samples = kind, scale, samples
        self._ends: Tensor | None = None  # (samples, *state_shape)
        self._known = torch.zeros(samples, dtype=torch.bool)
        self._calls = 0  # of `end`, as many at every rank
        self._mine: list[tuple[int, Tensor, Tensor]] = []  # call, places and ends of this rank since the last sharing

    def begin(self, own: Tensor, places: Tensor, source: torch.Generator, part: Part | None = None) -> Tensor:
        """z_0 (batch, *state_shape).

        own     (batch, *state_shape) initial states of the cell
        places  (batch,) of the samples in the training split, on the host
        source  of random numbers, on own's device
        part    the rows of a larger batch that these are; None: they are a whole one
        """
        if self.kind == "zeros":
            return own
        if self.kind == "previous":
            return self._previous(own, places)
        # Drawn for all rows, whether or not they take it: the stream stays the same.
        part = part or Part(0, len(own), len(own))
        shape = (part.size, *own.shape[1:])
        noise = torch.randn(shape, generator=source, dtype=own.dtype, device=own.device)
        shaken = own + self.scale * part.rows(noise)
        if self.kind == "normal":
            return shaken
        chosen = part.rows(torch.rand(part.size, generator=source, device=own.device)) < 0.5
        return torch.where(_per_row(chosen, own), shaken, own)

    def end(self, places: Tensor, z: Tensor, part: Part | None = None) -> None:
        """Take note of where the solves of these samples ended, z (batch, *state_shape)."""
        self._calls += 1
        if self.kind != "previous" or (part is not None and part.idle):
            return
        # On the host: every sample's state would fill a device.
        z = z.detach().cpu()
        if several():
            self._mine.append((self._calls, places, z))
        self._note(places, z)

    def share(self) -> None:
        """Take note of the ends that other ranks came to, in the order of the calls.

        A sample may come to another rank later: in the next epoch, or in the next segment of its batch.
        """
        if self.kind != "previous" or not several():
            return
        every = [end for ends in gathered(self._mine) for end in ends]
        for _, places, z in sorted(every, key=lambda end: end[0]):
            self._note(places, z)
        self._mine = []

    def _note(self, places: Tensor, z: Tensor) -> None:
        if self._ends is None:
            self._ends = torch.zeros(self.samples, *z.shape[1:], dtype=z.dtype)
        self._ends[places] = z
        self._known[places] = z.flatten(1).isfinite().all(1)

    def _previous(self, own: Tensor, places: Tensor) -> Tensor:
        if self._ends is None:
            return own
        ends = self._ends[places].to(own, non_blocking=True)
        known = self._known[places].to(own.device, non_blocking=True)
        return torch.where(_per_row(known, own), ends, own)

    def state_dict(self) -> dict[str, Any]:
        """The states for a checkpoint; empty where none are kept."""
        return {} if self._ends is None else {"ends": self._ends, "known": self._known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        if state:
            self._ends, self._known = state["ends"].cpu(), state["known"].cpu()


def _per_row(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (like.dim() - 1))
