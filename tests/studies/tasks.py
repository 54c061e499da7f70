"""Tasks for workers, which import this module by themselves: each does one thing to a file, or fails in one way."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from deqrun.errors import Interrupted, UserError


def write_square(path: Path, number: int) -> None:
    print(f"squaring {number}", flush=True)
    path.write_text(str(number**2), encoding="utf-8")


def refuse(path: Path) -> None:
    raise UserError(f"{path.name} is refused.")


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def say_interrupted() -> None:
    raise Interrupted("The run was interrupted.")


def die() -> None:
    os._exit(3)


def break_down() -> None:
    raise RuntimeError("a fault of the program")


def wait_for_the_end(begun: Path) -> None:
    """Ends only if it is made to."""
    begun.write_text("begun", encoding="utf-8")
    time.sleep(600)


def refuse_when(begun: Path) -> None:
    """Fails as soon as another task has begun."""
    while not begun.exists():
        time.sleep(0.01)
    raise UserError("Refused once the other had begun.")


def measure(number: int) -> dict[str, Any]:
    return {"square": number**2, "process": os.getpid()}


def refuse_to_measure() -> dict[str, Any]:
    raise UserError("No such measurement.")
