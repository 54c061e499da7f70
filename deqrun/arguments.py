"""Checks of constructor arguments: a refusal is one sentence with the value given, those allowed, and the nearest.

Configs are typed by hand, so a wrong value has to be explained here, where its meaning is known,
and not by a shape error three layers further down.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping, Sequence


def require_at_least(name: str, value: int, minimum: int) -> int:
    """`value` as an int if it is whole and >= `minimum`; raises ValueError otherwise."""
    whole = _whole(name, value, minimum)
    if whole < minimum:
        raise ValueError(f"{name}={value} is too small: allowed are integers from {minimum} (nearest: {minimum}).")
    return whole


def require_odd(name: str, value: int) -> int:
    """`value` if it is an odd positive integer, as kernels that keep an image's size are; else ValueError."""
    whole = require_at_least(name, value, 1)
    if whole % 2 == 0:
        raise ValueError(f"{name}={value} is even: allowed are 1, 3, 5, … (nearest: {whole + 1}).")
    return whole


def require_fraction(name: str, value: float) -> float:
    """`value` if it is in [0, 1), the range of a dropout probability; raises ValueError otherwise."""
    if not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise ValueError(f"{name}={value!r} is no dropout probability: allowed are numbers in [0, 1), e.g. 0.25.")
    return float(value)


def require_choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`; raises ValueError, naming the likest of them, otherwise."""
    names = sorted(allowed)
    if value not in names:
        likest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name}={value!r} is unknown: allowed are {', '.join(names)} (nearest: {likest}).")
    return value


def require_divisor(name: str, value: int, totals: Mapping[str, int]) -> int:
    """`value` if it divides every one of `totals`, as a group norm's groups its channels; else ValueError."""
    whole, common = require_at_least(name, value, 1), math.gcd(*totals.values())
    if common % whole:
        divisors = [divisor for divisor in range(1, common + 1) if common % divisor == 0]
        nearest = min(divisors, key=lambda divisor: abs(divisor - whole))
        given = " and ".join(f"{total_name}={total}" for total_name, total in totals.items())
        allowed = ", ".join(map(str, divisors))
        raise ValueError(f"{name}={value} does not divide {given}: allowed are {allowed} (nearest: {nearest}).")
    return whole


def require_multiple(name: str, value: int, factor: int) -> int:
    """`value` if it is a positive multiple of `factor`; raises ValueError otherwise."""
    whole = require_at_least(name, value, 1)
    if whole % factor:
        nearest = max(1, round(whole / factor)) * factor
        raise ValueError(f"{name}={value} is not allowed here: it must be a multiple of {factor} (nearest: {nearest}).")
    return whole


def require_same_length(name: str, values: Sequence[int], other_name: str, others: Sequence[int]) -> None:
    """Raises ValueError unless the two lists have an entry each for every branch."""
    if len(values) != len(others):
        raise ValueError(
            f"{name}={list(values)} has {len(values)} entries: allowed is one for each of the {len(others)} "
            f"entries of {other_name}={list(others)}."
        )


def require_shape(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """`value` as a tuple of positive ints; raises ValueError if it is empty or has another entry."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) == 0:
        raise ValueError(f"{name}={value!r} is not a shape: allowed are positive integers, e.g. [1, 8, 8].")
    return tuple(require_at_least(f"{name}[{i}]", entry, 1) for i, entry in enumerate(value))


def require_image(name: str, value: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """`value` as (channels, height, width) with sides >= `smallest` pixels; raises ValueError otherwise."""
    shape = require_shape(name, value)
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ValueError(
            f"{name}={list(shape)} is not an image that this model takes: allowed is [channels, height, "
            f"width] with height and width from {smallest}, e.g. [1, {max(8, smallest)}, {max(8, smallest)}]."
        )
    return shape[0], shape[1], shape[2]


def require_positions(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """`value` as (channels, length) or (channels, height, width); raises ValueError otherwise."""
    shape = require_shape(name, value)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"{name}={list(shape)} is neither a sequence nor a picture: allowed are [channels, length] and "
            "[channels, height, width], e.g. [1, 16] or [1, 8, 8]."
        )
    return shape


def require_output(output_shape: Sequence[int], positions: Sequence[int]) -> None:
    """Raises ValueError unless one answer is asked per sample, or one at each of the input's positions."""
    if tuple(output_shape) not in ((), tuple(positions)):
        raise ValueError(
            f"output_shape={list(output_shape)} is not what this model answers: allowed are {list(positions)}, one "
            "answer at every position of the input, and [], one per sample."
        )


def require_pool(pool: int, state_shape: tuple[int, ...]) -> int:
    """`pool` if a state (channels, height, width) can be averaged to that many pixels a side; else ValueError."""
    pool, largest = require_at_least("pool", pool, 1), min(state_shape[1:])
    if pool > largest:
        raise ValueError(
            f"pool={pool} exceeds the state's shorter side: allowed are 1 to {largest} (nearest: {largest})."
        )
    return pool


def require_positive(name: str, value: float) -> float:
    """`value` as a float if it is a finite number above 0; raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise ValueError(f"{name}={value!r} is not allowed: it must be a finite number above 0, e.g. 1.0.")
    return float(value)


def require_share(name: str, value: float) -> float:
    """`value` as a float if it is above 0 and below 1; raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value!r} is not a share: allowed are numbers above 0 and below 1, e.g. 0.1.")
    return float(value)


def _whole(name: str, value: int, minimum: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} is not an integer: allowed are whole numbers from {minimum}.") from None


def require_instance(what: str, value: object, kind: type) -> None:
    """TypeError unless value is None or a `kind`; `what` begins the sentence."""
    if value is None or isinstance(value, kind):
        return
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    if isinstance(value, type):
        got = f"the class {value.__name__}; write {value.__name__}()"
    else:
        got = f"{type(value).__name__} {value!r}"
    raise TypeError(f"{what} must be {article} {kind.__name__} or None, got {got}.")


def require_count(what: str, value: object, lowest: int) -> None:
    """ValueError unless value is a whole number >= lowest."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{what} must be a whole number >= {lowest}, got {value!r}.")


def require_damping(what: str, value: object) -> None:
    """ValueError unless value is a number in (0, 2], the range of `Picard`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 2:
        raise ValueError(f"{what} must be a number in (0, 2], got {value!r}.")
