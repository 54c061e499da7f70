"""The compare page in a browser, by mouse and keyboard: linked charts, seeds, the URL, hostile names, fresh data."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from deqrun.inference import shares_of_seeds, wilson
from deqrun.records.folders import find_folders
from deqrun.records.reading import read_run
from deqrun.report.compare import compare_html, compared, read_runs
from deqrun.report.compare.page import WEB, run_id
from deqrun.report.compare.recipes import folded
from deqrun.report.compare.runs import METRICS
from deqrun.report.compare.server import Board, Server
from scripts.devtools import CHROMIUM, Page, browser
from scripts.many_runs import write_runs

pytest.importorskip("websockets")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: none of chromium, chromium-browser and google-chrome is in PATH"
)

NASTY = "</script><script>window.hurt = 1</script><img src=http://leak.invalid/ onerror='window.hurt = 1'><b>x</b>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser(1200, 1000) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_complaints(page: Page) -> Iterator[None]:
    page.complaints.clear()
    page.requests.clear()
    yield
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))] == []


def written(folder: Path, runs: int = 20) -> Path:
    """compare.html over so many made runs, whose folders are beside it."""
    write_runs(folder / "runs", runs, (16, 32))
    for run in sorted((folder / "runs").iterdir())[:5]:
        (run / "report.html").write_text("<title>a report</title>")
    return rewritten(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page over twenty runs, which no test changes."""
    folder = tmp_path_factory.mktemp("compared")
    written(folder)
    return folder


def rewritten(folder: Path) -> Path:
    found = find_folders([folder / "runs"])
    runs, damaged = read_runs(found.runs)
    path = folder / "compare.html"
    path.write_text(compare_html(compared(runs, [*found.left_out, *damaged]), folder), encoding="utf-8")
    return path


def drawn(page: Page, chart: str) -> None:
    page.ask(f"document.querySelector('[data-chart={chart}]').scrollIntoView({{block: 'center'}})")
    page.wait(f"document.querySelector('[data-chart={chart}]').dataset.drawn")


def points(page: Page, chart: str) -> list[dict[str, Any]]:
    """The points that a chart has drawn."""
    drawn(page, chart)
    found: list[dict[str, Any]] = json.loads(page.ask(f"JSON.stringify(deqrunPoints('{chart}'))"))
    return found


def test_every_chart_is_drawn_and_its_bands_are_the_tables(page: Page, home: Path) -> None:
    page.open((home / "compare.html").as_uri())
    for chart in ("budget", "evaluations", "frontier", "residual", "training", "halting", "breadth", "difficulty"):
        assert len(points(page, chart)) >= 4, chart
    drawn(page, "parallel")
    # The first recipe: five seeds of mlp, picard, lr 1e-4; accuracy at budget 8 and the smallest tolerance.
    runs = [read_run(home / "runs" / f"{place:03d}") for place in range(5)]
    cells = [run.cells("test", "picard", "zeros", 8, 1e-5)[0].accuracy for run in runs]
    samples = runs[0].cells("test", "picard", "zeros", 8, 1e-5)[0].n
    claim = shares_of_seeds(cells, samples)
    (point,) = [p for p in points(page, "budget") if p["x"] == 8 and p["row"] == "lr=1e-4"]
    assert (point["y"], point["n"]) == (pytest.approx(np.mean(cells), abs=1e-4), 5)
    assert (point["low"], point["high"]) == (pytest.approx(claim.low, abs=2e-4), pytest.approx(claim.high, abs=2e-4))
    # Losses and residuals have no bounds: their bands are scipy's.
    losses = [run.epochs[-1].loss for run in runs]
    page.choose("#training", "loss")
    (point,) = [p for p in points(page, "training") if p["x"] == runs[0].epochs[-1].epoch and p["row"] == "lr=1e-4"]
    low, high = stats.t.interval(0.95, 4, np.mean(losses), stats.sem(losses))
    assert (point["low"], point["high"]) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


def test_the_pages_intervals_are_the_tables(page: Page, home: Path) -> None:
    """Of one to nine seeds, equal ones and shares of 0 and 1 among them: the coverage of the table's is the page's."""
    page.open((home / "compare.html").as_uri())
    draw = np.random.default_rng(0)
    accuracy = next(metric for metric in METRICS if metric.name == "test_accuracy")
    numbers = "JSON.parse(document.querySelector('#data').textContent)"
    script = (WEB / "fold.js").read_text(encoding="utf-8")
    for seeds in (1, 2, 3, 5, 9):
        for n in (20, 359):
            for shares in (draw.binomial(n, 0.9, seeds) / n, np.full(seeds, 0.5), np.ones(seeds), np.zeros(seeds)):
                expected = folded(list(shares), accuracy, n)
                assert expected is not None
                values = json.dumps(list(shares))
                found = page.ask(f"(() => {{ const data = {numbers}; {script}; return interval({values}, {n}); }})()")
                ends = [pytest.approx(end, abs=1e-5) for end in (expected.low, expected.high)]
                assert (found["over"], found["n"], [found["low"], found["high"]]) == (expected.over, seeds, ends)


def test_a_single_seed_has_the_interval_of_its_samples(page: Page, home: Path) -> None:
    page.open((home / "compare.html").as_uri())
    page.choose("#seeds", "apart")
    page.wait("document.querySelector('#table .tabulator-cell[tabulator-field=seed]')")
    point = next(point for point in points(page, "budget") if point["x"] == 8)
    (run,) = [run for run in (home / "runs").iterdir() if run_id(run) == point["id"]]
    (cell,) = read_run(run).cells("test", "picard", "zeros", 8, 1e-5)
    low, high = wilson(cell.accuracy, cell.n)
    assert point["y"] == pytest.approx(cell.accuracy, abs=1e-4)
    assert (point["low"], point["high"]) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))
    caption = page.ask("document.querySelector('figure[data-chart=budget] figcaption').innerText")
    assert "95 % interval over samples where a row has fewer than three seeds" in caption


def test_the_view_is_in_the_url(page: Page, home: Path) -> None:
    url = (home / "compare.html").as_uri()
    page.open(url)
    page.choose("#colour", "optimizer.lr")
    page.choose("#facet", "optimizer.lr")
    page.choose("#split", "validation")
    page.click("#table .tabulator-row:nth-child(2) input")
    page.type("#search", "e-4")
    page.wait("location.hash.includes('q=e-4')")
    page.wait("document.querySelectorAll('#table .tabulator-row').length === 2")
    address, legend = page.ask("location.href"), page.ask("document.querySelector('#legend').innerText")
    page.ask("location.hash = ''")
    page.wait("document.querySelector('#search').value === ''")
    page.call("Page.navigate", url="about:blank")
    page.open(address)
    values = "['#colour', '#facet', '#split', '#search'].map(name => document.querySelector(name).value)"
    assert page.ask(values) == ["optimizer.lr", "optimizer.lr", "validation", "e-4"]
    assert page.ask("document.querySelector('#legend').innerText") == legend
    assert page.ask("document.querySelectorAll('#table .tabulator-row').length") == 2
    page.call("Page.navigate", url="about:blank")
    page.open(f"{url}#colour=%3Cb%3E&split=nothing&facet=x&rows=zz.yy&sort=nothing&solver=__proto__")
    assert page.ask(values) == ["", "", "test", ""]


def test_a_click_opens_the_report(page: Page, tmp_path: Path) -> None:
    """Of a single run at once; of a folded row after a choice among its seeds."""
    page.open(written(tmp_path, 10).as_uri())
    page.ask("window.opened = []; window.open = (url) => window.opened.push(url); 0")
    page.click("#table .tabulator-row:nth-child(1) .tabulator-cell[tabulator-field=k0]")
    page.wait("document.querySelector('#detail').open")
    seeds = page.ask("[...document.querySelectorAll('#detail dt')].map(e => e.innerText)")
    assert seeds == [f"seed {seed}" for seed in range(5)]
    page.click("#detail button")
    page.choose("#seeds", "apart")
    page.wait("document.querySelector('#table .tabulator-cell[tabulator-field=seed]')")
    page.type("#search", "lr=1e-4 seed=3")
    page.wait("document.querySelectorAll('#table .tabulator-row').length === 1")
    page.click("#table .tabulator-row .tabulator-cell[tabulator-field=k0]")
    page.wait("window.opened.length")
    assert page.ask("window.opened") == ["./runs/003/report.html"]


@pytest.mark.nightly
def test_pointing_at_a_row_lights_its_lines(page: Page, home: Path) -> None:
    page.open((home / "compare.html").as_uri())
    drawn(page, "budget")
    page.ask("scrollTo(0, 0)")
    row = "document.querySelector('#table .tabulator-row').getBoundingClientRect()"
    place = page.ask(f"(r => [r.x + 200, r.y + r.height / 2])({row})")
    page.move(5, 5)
    page.move(*place)
    page.wait("document.querySelector('#table .tabulator-row.hot')")
    page.move(5, 5)
    page.wait("!document.querySelector('#table .tabulator-row.hot')")


def test_no_text_of_a_run_becomes_html(page: Page, tmp_path: Path) -> None:
    """Keys, values, solvers, rules, reasons and folders of a stranger stand on the page as text."""
    write_runs(tmp_path / "runs", 10)
    for place, run in enumerate(sorted((tmp_path / "runs").iterdir())):
        config = (run / "config.yaml").read_text()
        quoted = NASTY.replace("'", "''")
        config = config.replace("lr: 0.0001", f"lr: '{quoted}'").replace("model: mlp", f"model: '{quoted}{place // 5}'")
        config += f"'{quoted}': {place // 5}\n"
        (run / "config.yaml").write_text(config)
        for name in ("sweep.jsonl", "halting.jsonl"):
            rows = (run / name).read_text().replace('"residual"', json.dumps(NASTY))
            (run / name).write_text(rows.replace('"picard"', json.dumps(f"picard{NASTY}")))
    nasty_folder = tmp_path / "runs" / "<img src=x onerror=alert(1)>"
    nasty_folder.mkdir()
    (nasty_folder / "config.yaml").write_text("a: 1\n")
    (nasty_folder / "status.json").write_text(json.dumps({"status": "failed", "reason": NASTY}))
    broken = tmp_path / "runs" / "<b>broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("[")
    page.open(rewritten(tmp_path).as_uri())
    for chart in ("budget", "halting", "training", "parallel"):
        page.ask(f"document.querySelector('[data-chart={chart}]').scrollIntoView()")
        page.wait("document.querySelectorAll('canvas').length > 0")
    page.choose("#colour", "row")
    page.choose("#seeds", "apart")
    page.click("#others summary")
    assert "<b>x</b>" in page.ask("document.querySelector('#table').innerText")
    assert "<b>broken" in page.ask("document.querySelector('#others').innerText")
    assert page.ask("window.hurt === undefined && document.querySelectorAll('img, #table b, #others b').length === 0")
    assert page.ask("document.scripts.length") == 4


def test_four_hundred_pixels_do_not_scroll_sideways(page: Page, home: Path) -> None:
    page.size(400, 800, dark=True)
    page.open((home / "compare.html").as_uri())
    drawn(page, "budget")
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    assert page.ask("document.querySelector('[data-chart=budget] canvas').getBoundingClientRect().right <= innerWidth")
    page.size(1200, 1000)


def test_a_dashboard_shows_a_new_epoch_and_keeps_the_view(page: Page, tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", 6)
    run = tmp_path / "runs" / "005"
    (run / "status.json").write_text(json.dumps({"status": "failed", "reason": "stopped", "epoch": 20}))
    server = Server(Board(lambda: find_folders([tmp_path / "runs"])), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        page.open(server.url)
        page.choose("#colour", "row")
        page.wait("document.querySelector('#table').innerText.includes('failed, epoch 20')")
        assert max(point["x"] for point in points(page, "training")) == 20
        page.wait("document.querySelector('#live').innerText.includes('live')")
        with open(run / "train.jsonl", "a", encoding="utf-8") as file:
            file.write('{"epoch": 21, "val_accuracy": 0.9}\n')
        page.wait("document.querySelector('#table').innerText.includes('failed, epoch 21')", 15)
        page.wait("Math.max(...deqrunPoints('training').map(point => point.x)) === 21", 15)
        assert page.ask("document.querySelector('#colour').value") == "row"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
