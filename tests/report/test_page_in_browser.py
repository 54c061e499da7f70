"""The page in a browser: every chart is drawn, nothing is complained of, and nothing leaves the machine."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from deqrun.inference import Estimate
from deqrun.report import write_report
from deqrun.report.answer import Answer, AnswerTable, AskedRun, Conclusion, KeyFigure, Origin, write_answer
from deqrun.report.charts.answers import Axis, Point, Rule, Value, cloud, curves, values
from deqrun.report.page_parts import Column
from tests.records.synthetic_run import write_synthetic_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--virtual-time-budget=10000",
    # Whatever is asked for, no name is found: the browser can reach nothing but files.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--v=0",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: none of chromium, chromium-browser and google-chrome is in PATH"
)


@dataclass(frozen=True)
class Visit:
    """What a page became, what it said on the console, and what it asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: Path, tmp_path: Path) -> Visit:
    log = tmp_path / "net.json"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, page_requests(log.read_text()))


def page_requests(log: str) -> list[str]:
    """URLs that the page asked for. The browser's own errands, which have no origin, are not the page's."""
    events = json.loads(log)["events"]
    asked = [event["params"] for event in events if "url" in event.get("params", {}) and "initiator" in event["params"]]
    return [each["url"] for each in asked if each["initiator"] != "not an origin"]


def outside(requests: list[str]) -> list[str]:
    return [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


def drawings(dom: str) -> dict[str, str]:
    """What stands inside each drawing, by the name of its chart."""
    parts = re.split(r'(?=<div class="drawing)', dom)[1:]
    return {re.search(r'data-spec="spec-([^"]+)"', part)[1]: part for part in parts}  # type: ignore[index]


def assert_drawn(found: Visit, charts: list[str]) -> None:
    by_name = drawings(found.dom)
    assert list(by_name) == charts
    for name, part in by_name.items():
        assert 'data-drawn="yes"' in part, name
        assert "<svg" in part, name
        points = re.findall(r'<path aria-label="[^"]*" role="graphics-symbol" aria-roledescription="point"', part)
        assert len(points) >= 20, (name, len(points))
    assert found.console == []
    assert outside(found.requests) == []


TRAINING = ["training_loss", "training_accuracy", "training_residual", "training_evaluations"]
SWEEP = [
    "accuracy_budget",
    "accuracy_budget_close",
    "residual_evaluations",
    "accuracy_evaluations",
    "accuracy_evaluations_close",
]


def test_a_run(tmp_path: Path) -> None:
    page = write_report(write_synthetic_run(tmp_path / "run", "</script><img src=http://leak.invalid/>"))
    found = visit(page, tmp_path)
    assert_drawn(found, SWEEP + TRAINING)
    # A mark for each cell of the test sweep, drawn or not: 3 solvers × 12 budgets, and × 5 tolerances.
    marks = drawings(found.dom)
    assert marks["accuracy_budget"].count('aria-roledescription="point"') == 3 * 12
    assert marks["accuracy_evaluations"].count('aria-roledescription="point"') == 3 * 12 * 5
    assert "<h1>&lt;/script&gt;&lt;img src=http://leak.invalid/&gt;</h1>" in found.dom


def test_a_study(tmp_path: Path) -> None:
    """Every kind of chart that an answer has, the axes logarithmic and in percent, a series in one point, and NaN."""
    points = [Point(f"kind {i % 3}", 1.0 + i, 0.04 * i, 0.03 * i, 0.05 * i, f"</script> {i}") for i in range(24)]
    values_of = [Value(f"row {i}", 0.1 * i, 0.1 * i - 0.05, 0.1 * i + 0.05, "a") for i in range(24)]
    axes = Axis("evaluations", log=True), Axis("accuracy", percent=True)
    figures = [
        curves(
            "bent",
            "Curves",
            "In bands.",
            [*points, Point("one", 5.0, 0.5, 0.4, 0.6)],
            *axes,
            rules=[Rule("here", x=3.0)],
        ),
        cloud("strewn", "A cloud", "Of points.", [*points, Point("alone", 2.0, math.nan)], *axes),
        values("listed", "Values", "With intervals.", values_of, Axis("gain"), rules=[Rule("none", x=0.0)]),
    ]
    table = AnswerTable("In full", [Column("name", ["<b>"], words=True), Column("value", ["1"])], "So & so.")
    of = Estimate(0.5, 0.4, 0.6, 20, seeds=2, own=(0.45, 0.55))
    conclusion = Conclusion("Yes </script>.", (KeyFigure("a <share> & more", of),))
    answer = Answer(conclusion, ["Much <b>more</b>."], figures, [table], seeds=[0, 1])
    origin = Origin(
        "some", "small", "Does it?", "deqrun train study=some", "deqrun 0", [AskedRun("a", "runs/a", "run")]
    )
    found = visit(write_answer(tmp_path / "study", answer, origin), tmp_path)
    assert_drawn(found, ["bent", "strewn", "listed"])
    assert drawings(found.dom)["bent"].count('aria-roledescription="point"') == 25
    assert drawings(found.dom)["bent"].count('class="mark-rule role-mark') == 2  # that at 3, and the bar of the one
    assert "Yes &lt;/script&gt;." in found.dom
    assert "<li>Much &lt;b&gt;more&lt;/b&gt;.</li>" in found.dom
    assert found.dom.count("a &lt;share&gt; &amp; more") == 2  # among the key figures, and with the seeds apart
    assert found.dom.index("Yes &lt;/script&gt;.") < found.dom.index("40.0 to 60.0") < found.dom.index("Seeds apart")


def test_a_page_that_calls_home_would_be_caught(tmp_path: Path) -> None:
    """The checks above can fail: this page asks for a picture elsewhere, and complains."""
    page = tmp_path / "leak.html"
    page.write_text('<img src="http://elsewhere.invalid/x.png"><script>console.error("oh")</script>')
    found = visit(page, tmp_path)
    assert outside(found.requests) == ["http://elsewhere.invalid/x.png"]
    assert any("oh" in line for line in found.console)
