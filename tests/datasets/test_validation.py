"""Refused values are named, with what is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from deqrun.arguments import require_at_least, require_share


def test_allowed_values_are_handed_on() -> None:
    assert require_at_least("length", np.int64(3), 3) == 3
    assert require_share("share", 0.25) == 0.25


@pytest.mark.parametrize(("value", "reason"), [(2, "too small"), (3.0, "not an integer"), ("3", "not an integer")])
def test_a_count_is_whole_and_large_enough(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"length={value!r} is {reason}: allowed are .* from 3"):
        require_at_least("length", value, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.5, float("nan"), float("inf"), True, "0.5"])
def test_a_share_is_strictly_between_0_and_1(value: object) -> None:
    with pytest.raises(ValueError, match="is not a share: allowed are numbers above 0 and below 1"):
        require_share("share", value)  # type: ignore[arg-type]
