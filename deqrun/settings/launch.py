"""The processes of one run: how many it starts. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deqrun.settings.component import Section

__all__ = ["LaunchSettings"]


class LaunchSettings(Section):
    """The ranks of a run, which share its batches: `launch.*`.

    devices          ranks that the run starts, each with a device of its own; None: this process alone
    timeout_minutes  the longest that a rank waits for the others, and the launcher for ranks that are to end
    """

    devices: Annotated[int, Field(strict=True, ge=1, lt=2**16)] | None = None
    timeout_minutes: Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)] = 10.0

    @property
    def several(self) -> bool:
        """Whether the run starts ranks."""
        return self.devices is not None and self.devices > 1
