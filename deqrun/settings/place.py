"""Which of torchrun's processes this one is. Needs neither torch nor pydantic, so that every command may ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Place", "torchrun_place"]


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
