"""The charts of answers: what they draw, and that they can be drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deqrun.report.charts import Figure, png, specification
from deqrun.report.charts.answers import Axis, Point, Rule, Value, cloud, curves, values

POINTS = [
    Point(name, float(x), float(y * x), y * x - 1.0, y * x + 1.0)
    for name, y in (("a", 1), ("b", 2))
    for x in (1, 4, 16)
]


def marks(figure: Figure) -> list[str]:
    def of(layer: dict[str, Any]) -> list[str]:
        if "layer" in layer:
            return [mark for inner in layer["layer"] for mark in of(inner)]
        return [layer["mark"] if isinstance(layer["mark"], str) else layer["mark"]["type"]]

    return of(specification(figure.chart))


def test_curves_have_a_band_where_there_are_intervals() -> None:
    bare = [Point(point.series, point.x, point.y) for point in POINTS]
    axes = Axis("x", log=True), Axis("y")
    assert marks(curves("c", "t", "", POINTS, *axes)) == ["area", "line", "point"]
    assert marks(curves("c", "t", "", bare, *axes, rules=[Rule("one", y=1.0)])) == ["rule", "text", "line", "point"]


def test_few_whole_places_are_the_ticks() -> None:
    spec = specification(curves("c", "t", "", POINTS, Axis("x", log=True), Axis("y")).chart)
    assert spec["layer"][-1]["encoding"]["x"]["axis"]["values"] == [1, 4, 16]


def test_a_series_keeps_the_colour_it_is_given() -> None:
    spec = specification(curves("c", "t", "", POINTS, Axis("x"), Axis("y"), colours={"b": "#123456"}).chart)
    assert spec["layer"][-1]["encoding"]["color"]["scale"]["range"][1] == "#123456"


@pytest.mark.parametrize(
    "figure",
    [
        curves("c", "t", "caption", POINTS, Axis("x"), Axis("y", percent=True), rules=[Rule("r", x=2.0)]),
        cloud("d", "t", "caption", POINTS, Axis("x", log=True), Axis("y"), diagonal=True),
        values("v", "t", "caption", [Value("row", 1.0, 0.5, 2.0, "a"), Value("row", 1.0, series="b")], Axis("x")),
        values("w", "t", "caption", [Value("row", 1.0, -math.inf, math.inf)], Axis("x"), rules=[Rule("0", x=0.0)]),
    ],
    ids=lambda figure: figure.name,
)
def test_each_is_drawn(figure: Figure) -> None:
    assert png(figure).startswith(b"\x89PNG")


def test_a_clouds_legend_shows_its_open_marks() -> None:
    """Points without a fill are their outlines: a legend that leaves outlines out shows nothing beside the names."""
    spec = specification(cloud("d", "t", "", POINTS, Axis("x"), Axis("y")).chart)
    dots = spec["layer"][-1]
    assert not dots["mark"].get("filled", False)
    for channel in ("color", "shape"):
        assert dots["encoding"][channel]["legend"].get("symbolStrokeWidth", 1) > 0
