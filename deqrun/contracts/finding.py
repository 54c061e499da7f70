"""The outcome of one check, and how checks are run one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from deqrun.datasets import DataUnavailable

__all__ = ["Fault", "Finding", "called", "name_of", "reason", "run_checks"]

T = TypeVar("T")


class Fault(Exception):  # noqa: N818  (it names the cause)
    """A check that does not hold; its message is the sentence to print, up to its full stop."""


@dataclass(frozen=True)
class Finding:
    """One check of a part.

    check   its name, as the table shows it
    fault   the sentence that names the fault and the remedy; '' where the check holds
    tried   False where an earlier fault left nothing to try it on
    """

    check: str
    fault: str = ""
    tried: bool = True

    @property
    def outcome(self) -> str:
        """'ok', the sentence, or why there is none."""
        return self.fault or ("ok" if self.tried else "not tried, since the part fails before")


def run_checks(checks: Mapping[str, Callable[[], None]], page: str) -> list[Finding]:
    """Run checks in order up to the first that raises `Fault`; the later ones are not tried.

    page  of the docs that a sentence ends with
    """
    found: list[Finding] = []
    for name, check in checks.items():
        if any(finding.fault for finding in found):
            found.append(Finding(name, tried=False))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said again where the part is used
                check()
            found.append(Finding(name))
        except Fault as fault:
            found.append(Finding(name, f"{fault} ({page})."))
    return found


def called(name: str, call: Callable[[], T], hint: str = "") -> T:
    """The value of a user's method; whatever it raises becomes a sentence, unless its data is not there."""
    try:
        return call()
    except (Fault, DataUnavailable):
        raise
    except Exception as error:
        raise Fault(f"{name} fails with {reason(error)}{hint}") from error


def reason(error: Exception) -> str:
    """An exception in one line: its kind, and the beginning of its message."""
    text = " ".join(str(error).split()).rstrip(".")[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def name_of(dtype: torch.dtype) -> str:
    """'float32'."""
    return str(dtype).removeprefix("torch.")
