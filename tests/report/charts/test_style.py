"""Colours are assigned by name, and stay."""

import itertools
import json
import math

import pytest

from deqrun.report.charts.style import SOLVER_COLOURS, data, run_colours, solver_colours, solver_shapes

# Linear transformations from linear RGB to what a dichromat sees: Viénot, Brettel and Mollon (1999), eqs. for
# protanopes and deuteranopes, folded into one matrix each.
PROTANOPE = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTERANOPE = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))


def linear(colour: str) -> list[float]:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lab(rgb: list[float]) -> list[float]:
    """CIELAB under D65 of linear RGB."""
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * c for m, c in zip(row, rgb, strict=True)) for row in to_xyz]
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (max(v, 0) / w for v, w in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    )
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def seen(colour: str, by: tuple[tuple[float, ...], ...] | None) -> list[float]:
    rgb = linear(colour)
    return lab(rgb if by is None else [sum(m * c for m, c in zip(row, rgb, strict=True)) for row in by])


@pytest.mark.parametrize("vision", [None, PROTANOPE, DEUTERANOPE], ids=["full", "protanope", "deuteranope"])
def test_the_solvers_colours_are_told_apart_by_everybody(vision: tuple[tuple[float, ...], ...] | None) -> None:
    """A CIE76 difference of 2.3 is just noticeable; these keep more than five times that."""
    for first, second in itertools.combinations(SOLVER_COLOURS.values(), 2):
        assert math.dist(seen(first, vision), seen(second, vision)) > 12, (first, second)


def test_a_solver_keeps_its_colour_in_any_company() -> None:
    assert solver_colours(["anderson", "picard"]) == [SOLVER_COLOURS["anderson"], SOLVER_COLOURS["picard"]]
    assert solver_colours(["picard", "zeta", "broyden"])[0] == SOLVER_COLOURS["picard"]
    assert solver_colours(["zeta"]) == solver_colours(["anderson", "zeta"])[1:]


def test_solvers_nobody_foresaw_differ_from_each_other() -> None:
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    assert len(set(solver_colours(names))) == 6
    assert not set(solver_colours(names)) & set(SOLVER_COLOURS.values())
    assert len({*solver_shapes(names[:3])}) == 3


def test_run_colours_are_distinct_up_to_eight() -> None:
    assert len(set(run_colours(8))) == 8
    assert run_colours(9)[8] == run_colours(1)[0]


def test_chart_data_is_valid_json() -> None:
    rows = data([{"a": math.nan, "b": math.inf, "c": 1.5, "d": "x"}]).to_dict()
    assert json.loads(json.dumps(rows["values"], allow_nan=False)) == [{"a": None, "b": None, "c": 1.5, "d": "x"}]
