"""What stands in the charts' specifications, and that PNG and page are drawn from the same one."""

import json
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from deqrun.records.run import RunRecord
from deqrun.records.trajectory import TrajectoryKey
from deqrun.report.charts import (
    Renderer,
    accuracy_against_budget,
    accuracy_against_evaluations,
    png,
    pngs,
    residual_against_evaluations,
    specification,
    sweep_figures,
    training_figures,
    training_overview,
)
from deqrun.report.charts.style import SCALE, SOLVER_COLOURS


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every data row of a specification."""
    return [row for values in spec["datasets"].values() for row in values]


def encodings(spec: Any, channel: str) -> list[dict[str, Any]]:
    """All encodings of a channel, in whatever layer."""
    if isinstance(spec, list):
        return [found for part in spec for found in encodings(part, channel)]
    if not isinstance(spec, dict):
        return []
    own = spec.get("encoding", {}).get(channel)
    return ([own] if own else []) + [found for part in spec.values() for found in encodings(part, channel)]


def test_budget_chart(record: RunRecord) -> None:
    figure = accuracy_against_budget(record)
    assert figure is not None
    assert figure.caption.startswith("digits, test split, n = 360; tolerance 1e-5")
    spec = specification(figure.chart)
    x = next(encoding for encoding in encodings(spec, "x") if "axis" in encoding)
    assert x["axis"]["values"] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert (x["scale"]["type"], x["scale"]["base"]) == ("log", 2)
    assert {"max_iter": 12, "text": "training budget 12"} in rows(spec)
    colour = next(encoding for encoding in encodings(spec, "color") if "scale" in encoding)
    assert colour["scale"]["domain"] == ["anderson", "broyden", "picard"]
    assert colour["scale"]["range"] == [SOLVER_COLOURS[name] for name in ("anderson", "broyden", "picard")]


def test_the_close_view_is_the_same_data_cut_near_the_best(record: RunRecord) -> None:
    for chart in (accuracy_against_budget, accuracy_against_evaluations):
        whole, close = chart(record), chart(record, close=True)
        assert whole is not None
        assert close is not None
        assert close.name == f"{whole.name}_close"
        best = max(cell.accuracy for cell in record.cells("test", tol=1e-5))
        domains = [e["scale"]["domain"] for e in encodings(specification(close.chart), "y") if "scale" in e]
        assert all(domain[0] == pytest.approx(best - 0.05) and domain[1] >= best for domain in domains)
        assert specification(close.chart)["datasets"] == specification(whole.chart)["datasets"]


def test_no_close_view_where_all_is_near(tiny_record: RunRecord) -> None:
    alike = tuple(replace(cell, accuracy=0.9 + 0.03 * cell.max_iter) for cell in tiny_record.sweep)
    assert accuracy_against_budget(replace(tiny_record, sweep=alike), close=True) is None


def test_a_budget_of_zero_has_its_place(tiny_record: RunRecord) -> None:
    with_zero = replace(tiny_record, sweep=(*tiny_record.sweep, replace(tiny_record.sweep[0], max_iter=0, tol=1e-2)))
    figure = accuracy_against_budget(with_zero)
    assert figure is not None
    scales = [e["scale"] for e in encodings(specification(figure.chart), "x") if "scale" in e]
    assert (scales[0]["type"], scales[0]["domain"]) == ("symlog", [0, 3])


def test_residual_chart_draws_zero_at_the_floor_and_nothing_beyond_the_finite(tiny_record: RunRecord) -> None:
    picard = tiny_record.trajectories[TrajectoryKey("picard", "zeros", "test")]
    residual = np.array([[1.0] * 4, [1e-3] * 4, [0.0] * 4, [np.inf] * 4], dtype=np.float32)
    record = replace(
        tiny_record, trajectories={TrajectoryKey("picard", "zeros", "test"): replace(picard, residual=residual)}
    )
    figure = residual_against_evaluations(record)
    assert figure is not None
    spec = specification(figure.chart)
    drawn = {row["nfe"]: row for row in rows(spec) if "nfe" in row}
    domain = next(e["scale"]["domain"] for e in encodings(spec, "y") if "scale" in e)
    assert [drawn[nfe]["line"] for nfe in (1, 2, 3, 4)] == pytest.approx([1.0, 1e-3, domain[0], None])
    assert [drawn[nfe]["median"] for nfe in (1, 3, 4)] == ["1.0e0", "0", "inf"]
    assert {"tol": 1e-2, "text": "training tolerance 1e-2"} in rows(spec)


def test_frontier_chart_joins_the_frontier_only(record: RunRecord) -> None:
    figure = accuracy_against_evaluations(record)
    assert figure is not None
    spec = specification(figure.chart)
    points = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "point")
    line = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line")
    all_rows, joined = (spec["datasets"][layer["data"]["name"]] for layer in (points, line))
    assert len(all_rows) == 180
    assert joined == [row for row in all_rows if row["frontier"]]
    tooltip = {entry["field"] for entry in points["encoding"]["tooltip"]}
    assert {"max_iter", "tolerance", "accuracy", "accuracy_low", "accuracy_high", "nfe_mean", "converged"} <= tooltip


def test_training_panels(record: RunRecord) -> None:
    panels = {figure.name: specification(figure.chart) for figure in training_figures(record)}
    assert list(panels) == ["training_loss", "training_accuracy", "training_residual", "training_evaluations"]
    values = {
        (row["series"], row["epoch"]): row["value"] for row in rows(panels["training_residual"]) if "series" in row
    }
    assert values["adjoint", 7] == record.epochs[6].adjoint_residual
    scales = [e["scale"]["type"] for e in encodings(panels["training_residual"], "y") if "scale" in e]
    assert set(scales) == {"log"}
    assert {"epoch": 18} in rows(panels["training_loss"])


def test_shares_of_training_have_panels_where_they_were_recorded(record: RunRecord) -> None:
    epochs = tuple(
        replace(epoch, converged=0.9, adjoint_converged=0.8, gradient_share=0.01 * epoch.epoch)
        for epoch in record.epochs
    )
    panels = {figure.name: figure.chart for figure in training_figures(replace(record, epochs=epochs))}
    converged, gradient = (rows(specification(panels[f"training_{name}"])) for name in ("converged", "gradient"))
    shown = {(row["series"], row["epoch"]): row["value"] for row in converged + gradient if "series" in row}
    assert (shown["forward", 3], shown["adjoint", 3], shown["largest", 3]) == (0.9, 0.8, pytest.approx(0.03))


def test_what_is_missing_is_not_drawn(tiny_record: RunRecord) -> None:
    bare = replace(tiny_record, sweep=(), trajectories={}, epochs=())
    assert sweep_figures(bare) == []
    assert training_figures(bare) == []
    assert training_overview(bare) is None
    assert [figure.name for figure in sweep_figures(tiny_record)] == [
        "accuracy_budget",
        "accuracy_budget_close",
        "residual_evaluations",
        "accuracy_evaluations",
        "accuracy_evaluations_close",
    ]


@pytest.fixture(autouse=True)
def all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as a user has them; most usual tests draw small."""
    monkeypatch.setattr(pngs, "SCALE", SCALE)


def test_png_is_twice_the_charts_size_and_the_page_has_the_same_chart(record: RunRecord) -> None:
    figure = accuracy_against_budget(record)
    assert figure is not None
    image = png(figure)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert width > 2 * 640
    assert height > 2 * 320
    fixed, fluid = specification(figure.chart), specification(figure.chart, container=True)
    assert (fixed.pop("width"), fluid.pop("width")) == (640, "container")
    assert json.dumps(fixed) == json.dumps(fluid)


@pytest.fixture(scope="module")
def drawn_here(record: RunRecord) -> Callable[[str], bytes]:
    """A figure of the record as PNG, drawn once."""
    return cache(lambda name: png({figure.name: figure for figure in sweep_figures(record)}[name]))


@pytest.mark.parametrize(
    "command",
    [
        None,
        ["/nonexistent"],
        *(pytest.param(c, marks=pytest.mark.nightly) for c in (["cat"], ["false"], ["head", "-c", "9"])),
    ],
    ids=str,
)
def test_the_process_that_draws_gives_the_pictures_drawn_here(
    record: RunRecord, drawn_here: Callable[[str], bytes], command: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes of the process: it draws, it can't be started, it ends at once, it answers with something else."""
    figures = sweep_figures(record)[:1]
    start = subprocess.Popen
    if command is not None:
        monkeypatch.setattr(subprocess, "Popen", lambda _, **pipes: start(command, **pipes))
    with Renderer() as renderer, renderer.drawing(figures) as pictures:
        pass
    assert pictures.result() == [drawn_here(figure.name) for figure in figures]


def test_more_rows_than_altairs_limit_are_drawn(record: RunRecord) -> None:
    """Altair refuses 5000 rows by default; thirty starts of 180 cells have 5400."""
    many = replace(record, sweep=tuple(replace(cell, start=f"start {i}") for i in range(30) for cell in record.sweep))
    figure = accuracy_against_evaluations(many)
    assert figure is not None
    assert max(len(values) for values in specification(figure.chart)["datasets"].values()) == 5400
