"""The processes of one run: how many it starts, or which of torchrun's this one is. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LaunchSettings", "Place", "torchrun_place"]


class LaunchSettings(BaseModel):
    """The ranks of a run, which share its batches: `launch.*`.

    devices          ranks that the run starts, each with a device of its own; None: this process alone
    timeout_minutes  the longest that a rank waits for the others, and the launcher for ranks that are to end
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    devices: Annotated[int, Field(strict=True, ge=1, lt=2**16)] | None = None
    timeout_minutes: Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)] = 10.0

    @property
    def several(self) -> bool:
        """Whether the run starts ranks."""
        return self.devices is not None and self.devices > 1


@dataclass(frozen=True)
class Place:
    """A rank among the ranks of a run.

    rank, count          its number and how many there are, over all machines
    local, local_count   the same of this machine alone
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Place:
        """From the variables that torchrun sets. Raises KeyError or ValueError where one is missing or no number."""
        rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", rank))
        return cls(rank, count, local, int(environment.get("LOCAL_WORLD_SIZE", count)))


def torchrun_place() -> Place | None:
    """The place that torchrun gave this process; None where it was not started by torchrun, or by itself."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    try:
        place = Place.from_environment(os.environ)
    except ValueError:
        return None
    return place if place.count > 1 else None
