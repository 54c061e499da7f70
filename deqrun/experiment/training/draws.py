"""The random numbers of an epoch of training: one generator per purpose."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deqrun.experiment.training.seeding import derived_seed, generator
from deqrun.solvers.device import generator as device_generator
from deqrun.solvers.device import traits

ORDER, NOISE, PROBE, AUGMENT, START, BUDGET, PATH, DEPTH, PENALTY = range(9)
"""Purposes of the seeds drawn per epoch; a number says which stream it is, and is never given to another purpose."""


@dataclass(frozen=True)
class Draws:
    """Generators of one epoch, each drawn from in the order of the steps.

    Their seeds come from (seed, epoch, purpose), so that a resumed run needs no generator's state, and none moves on
    another's stream: an option switched on for one purpose changes no number drawn for the others.

    order     of the samples; on the host
    augment   random changes of the inputs; on the device
    probes    of the Jacobian penalty; on the device
    penalties whether a step carries it; on the host, where it is the same generator as probes
    starts    random initial states; on the device
    budgets   random training budgets; on the host
    paths     seeds of the noise along the path; on the host
    depths    iterations of the progressive loss; on the host
    """

    order: torch.Generator
    augment: torch.Generator
    probes: torch.Generator
    penalties: torch.Generator
    starts: torch.Generator
    budgets: torch.Generator
    paths: torch.Generator
    depths: torch.Generator

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
        )


def whole_number(low: int, high: int, source: torch.Generator) -> int:
    """One of low … high, each as likely."""
    return int(torch.randint(low, high + 1, (), generator=source))
