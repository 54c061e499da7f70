"""The outcome of one check, and how checks are run one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["Fault", "Finding", "run_checks"]


class Fault(Exception):  # noqa: N818  (it names the cause)
    """A check that does not hold; its message is the sentence to print."""


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


def run_checks(checks: Iterable[tuple[str, Callable[[], None]]]) -> list[Finding]:
    """Run checks in order up to the first that raises `Fault`; the later ones are not tried."""
    found: list[Finding] = []
    for name, check in checks:
        if any(finding.fault for finding in found):
            found.append(Finding(name, tried=False))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said again where the part is used
                check()
            found.append(Finding(name))
        except Fault as fault:
            found.append(Finding(name, str(fault)))
    return found
