"""The halting rules, each declared once: its signal, its direction, its unit, and how a person reads it.

A new rule is a line of `RULES`. A signal that is not in a trajectory yet is recorded by `deqrun.analysis.signals`, and
is an array of `deqrun.records.trajectory.Trajectory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # settings read the names, and start at once without NumPy
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BOUNDS", "HALTING_RULES", "RULES", "HaltingRule"]


class Recorded(Protocol):
    """The arrays that a rule may use, (T+1, n) over iterates and samples."""

    @property
    def residual(self) -> NDArray[Any]: ...
    @property
    def correct(self) -> NDArray[np.bool_]: ...
    @property
    def signals(self) -> Mapping[str, NDArray[Any]]: ...


@dataclass(frozen=True)
class HaltingRule:
    """A signal and its direction. A sample stops at the first iterate whose signal passes the threshold.

    name      as settings, rows and charts have it
    words     how it stops, after 'stops'
    signal    (T+1, n) from the recorded arrays; NaN where there is none
    counts    whether it counts iterates, and so rises
    rises     whether it stops upwards: at the first value of at least the threshold
    unit      of the threshold, as a person reads it
    bound     whether it is a bound to compare with rather than a rule: the fixed budget and the oracle
    recorded  whether the signal is an array of the trajectory that has to be asked for
    """

    name: str
    words: str
    signal: Callable[[Recorded], NDArray[Any]]
    counts: bool = False
    unit: str = ""
    bound: bool = False
    recorded: bool = False
    rises: bool = False

    @property
    def upward(self) -> bool:
        """Whether a sample stops at the first value of at least the threshold, rather than at most."""
        return self.counts or self.rises


def _steps(recorded: Recorded) -> NDArray[Any]:
    import numpy as np

    steps = np.arange(len(recorded.residual), dtype=np.float64)[:, None]
    return np.broadcast_to(steps, recorded.residual.shape)


def _wrong(recorded: Recorded) -> NDArray[Any]:
    """0 where the answer is right, inf where it is wrong: right answers are below any threshold."""
    import numpy as np

    return np.where(recorded.correct, 0.0, np.inf)


def _doubt(recorded: Recorded) -> NDArray[Any]:
    """1 − p, with p the halting head's probability that the answer is right."""
    return 1 - recorded.signals["head"]


def _kept(name: str, words: str, unit: str = "", counts: bool = False, rises: bool = False) -> HaltingRule:
    """A rule by an array of the trajectory that bears its name."""
    return HaltingRule(name, words, lambda recorded: recorded.signals[name], counts, unit, recorded=True, rises=rises)


HALTING_RULES = {
    rule.name: rule
    for rule in (
        HaltingRule("residual", "on the residual", lambda recorded: recorded.residual),
        _kept("change", "on the change of the state"),
        _kept("kl", "on the change of the answer's distribution (KL)", " nats"),
        _kept("entropy", "on the change of its entropy", " nats"),
        _kept("stable", "once the answer has stood for some iterates", " iterates", counts=True),
        _kept("confidence", "on the largest probability of the answer", rises=True),
        _kept("margin", "on the margin between the two likeliest answers", rises=True),
        _kept("acceleration", "on the change of the state's step"),
        HaltingRule("head", "on the doubt of the halting head", _doubt, recorded=True),
        HaltingRule("budget", "at a fixed budget", _steps, counts=True, unit=" iterations", bound=True),
        HaltingRule("oracle", "at the first right answer", _wrong, bound=True),
    )
}
RULES = tuple(name for name, rule in HALTING_RULES.items() if not rule.bound)
BOUNDS = tuple(name for name, rule in HALTING_RULES.items() if rule.bound)
