"""The random numbers of an epoch of training: one generator per purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deqrun.experiment.ranks import rows_of
from deqrun.experiment.training.seeding import derived_seed, generator
from deqrun.solvers.device import generator as device_generator
from deqrun.solvers.device import noise_of, set_noise_of, traits

ORDER, NOISE, PROBE, AUGMENT, START, BUDGET, PATH, DEPTH, PENALTY, HALT, SPECTRAL = range(11)
"""Purposes of the seeds drawn per epoch; a number says which stream it is, and is never given to another purpose."""

AGAIN = ("probes", "penalties", "starts", "budgets", "paths", "depths", "spectral")
"""Fields of `Draws` that a step draws from once for a whole batch, though it may work on the batch in parts."""

ON_HOST = ("order", "penalties", "budgets", "paths", "depths", "halts")
"""Fields of `Draws` whose generators are on the host, whatever the device."""


@dataclass(frozen=True)
class Draws:
    """Generators of one epoch, each drawn from in the order of the steps.

    Their seeds come from (seed, epoch, purpose), so that none moves on another's stream: an option switched on for one
    purpose changes no number drawn for the others. A run that goes on at the start of an epoch needs no generator's
    state; one that goes on within an epoch takes `state_dict`, which has PyTorch's own generators, too.

    order     of the samples; on the host
    augment   random changes of the inputs; on the device
    probes    of the Jacobian penalty; on the device
    penalties whether a step carries it; on the host, where it is the same generator as probes
    starts    random initial states; on the device
    budgets   random training budgets; on the host
    paths     seeds of the noise along the path; on the host
    depths    iterations of the progressive loss; on the host
    halts     the fewest segments of each sample; on the host
    spectral  starts of the power iterations of the spectral penalty; on the device
    """

    order: torch.Generator
    augment: torch.Generator
    probes: torch.Generator
    penalties: torch.Generator
    starts: torch.Generator
    budgets: torch.Generator
    paths: torch.Generator
    depths: torch.Generator
    halts: torch.Generator
    spectral: torch.Generator

    @classmethod
    def of_epoch(cls, seed: int, epoch: int, device: torch.device) -> Draws:
        """Generators of an epoch; PyTorch's own, of which dropout draws, is seeded too."""
        # Dropout draws from PyTorch's own generator.
        torch.manual_seed(derived_seed(seed, epoch, NOISE))

        def on_device(purpose: int) -> torch.Generator:
            return device_generator(device, derived_seed(seed, epoch, purpose))

        probes = on_device(PROBE)
        return cls(
            order=generator(seed, epoch, ORDER),
            augment=on_device(AUGMENT),
            probes=probes,
            penalties=probes if traits(probes.device).at_hand else generator(seed, epoch, PENALTY),
            starts=on_device(START),
            budgets=generator(seed, epoch, BUDGET),
            paths=generator(seed, epoch, PATH),
            depths=generator(seed, epoch, DEPTH),
            halts=generator(seed, epoch, HALT),
            spectral=on_device(SPECTRAL),
        )

    def state_dict(self) -> dict[str, Any]:
        """States of the generators by purpose; `noise` is PyTorch's own of the host, `device_noise` the device's."""
        states = {name: source.get_state() for name, source in self._named()}
        states["noise"] = torch.get_rng_state()
        if (noise := noise_of(self.probes.device)) is not None:
            states["device_noise"] = noise
        return {"device": self.probes.device.type, "states": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the states of a checkpoint within the epoch.

        On another kind of device the generators there keep the epoch's seeds: an accelerator has other streams than the
        host, and no number of an uninterrupted run can be repeated.
        """
        states, same = state["states"], state["device"] == self.probes.device.type
        for name, source in self._named():
            if name in states and (same or name in ON_HOST):  # an older checkpoint has fewer streams
                source.set_state(states[name].cpu())
        torch.set_rng_state(states["noise"].cpu())
        if same and "device_noise" in states:
            set_noise_of(self.probes.device, states["device_noise"].cpu())

    def states(self) -> dict[str, Tensor]:
        """States of the generators that every part of a batch draws from alike; `rewind` goes back there."""
        return {name: getattr(self, name).get_state() for name in AGAIN}

    def rewind(self, states: dict[str, Tensor]) -> None:
        """Go back to earlier `states`."""
        for name, state in states.items():
            getattr(self, name).set_state(state)

    def _named(self) -> Iterator[tuple[str, torch.Generator]]:
        for field in fields(self):
            yield field.name, getattr(self, field.name)


def whole_number(low: int, high: int, source: torch.Generator) -> int:
    """One of low … high, each as likely."""
    return int(torch.randint(low, high + 1, (), generator=source))


class Part(NamedTuple):
    """Rows `first` to `end` − 1 of a batch of `size`, which is worked on in parts.

    Every part draws for the whole batch and takes its own rows, so that no number depends on the parts.
    """

    first: int
    end: int
    size: int
    idle: bool = False
    """Whether its rows are another part's, too: it works on them to keep up with the draws, and they count nothing."""

    @property
    def share(self) -> float:
        """Of the samples of the batch."""
        return 0.0 if self.idle else (self.end - self.first) / self.size

    def rows(self, drawn: Tensor) -> Tensor:
        """This part's rows of a draw (size, …)."""
        return drawn[self.first : self.end]


def rows_of_rank(part: Part) -> Part:
    """This rank's rows of a part; the first row, idle, where a part has fewer rows than there are ranks."""
    # A rank without rows still draws, or its generators would fall behind.
    first, end = rows_of(part.end - part.first)
    if first == end:
        return Part(part.first, part.first + 1, part.size, idle=True)
    return Part(part.first + first, part.first + end, part.size)


def parts(size: int, most: int) -> list[Part]:
    """A batch of `size` in parts of at most `most` rows, in order."""
    return [Part(first, min(first + most, size), size) for first in range(0, size, most)]
