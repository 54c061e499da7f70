"""The page is complete in itself, whatever text a run holds."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from deqrun.records.run import RunRecord
from deqrun.report.html import embedded_json, unbroken
from deqrun.report.page import report_html, write_report
from tests.records.synthetic_run import write_synthetic_run

NASTY = "</script><script>alert(1)</script><!-- & \"x\" 'y' {{ 7 * 7 }} \N{LINE SEPARATOR}"


class Elements(HTMLParser):
    """All start tags with their attributes, and the text inside each script element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def texts(value: Any) -> Iterator[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


@pytest.fixture(scope="module")
def html(record: RunRecord) -> str:
    return report_html(record)


def test_nothing_is_fetched(html: str) -> None:
    elements = Elements(html)
    for tag, attributes in elements.tags:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes), (tag, attributes)
    assert "@import" not in html
    assert "url(" not in html.split("<script>")[0]
    policy = [
        attributes["content"] for tag, attributes in elements.tags if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")
    assert "eval" not in policy[0]


def test_every_drawing_has_its_specification_and_vega_is_there_once(html: str) -> None:
    elements = Elements(html)
    drawings = {attributes["data-spec"] for _, attributes in elements.tags if "data-spec" in attributes}
    specs = {a["id"] for tag, a in elements.tags if tag == "script" and a.get("type") == "application/json"}
    assert drawings == specs
    assert len(drawings) == 9
    assert [len(script) > 500_000 for script in elements.scripts].count(True) == 1


def test_no_text_of_a_run_becomes_markup(record: RunRecord) -> None:
    """The browser's reading of the page has the same elements whatever the run is called."""
    plain = replace(record, summary=replace(record.summary, name="plain", command="plain"))
    nasty = replace(record, summary=replace(record.summary, name=NASTY, command=NASTY))
    renamed = replace(nasty, sweep=tuple(replace(c, solver=f"{c.solver}{NASTY}") for c in nasty.sweep))
    expected = [tag for tag, _ in Elements(report_html(plain)).tags]
    assert [tag for tag, _ in Elements(report_html(nasty)).tags] == expected
    page = Elements(report_html(renamed))
    assert [tag for tag, _ in page.tags].count("script") == expected.count("script")
    embedded = [text for script in page.scripts[1:-1] for text in texts(json.loads(script))]
    assert f"anderson{NASTY}" in embedded


@pytest.mark.parametrize("value", [NASTY, {"a": ["<b>", "&amp;"], "</script>": 1}, "\\u003c", "plain"])
def test_embedded_json_gives_back_what_went_in(value: object) -> None:
    text = str(embedded_json(value))
    assert json.loads(text) == value
    assert not re.search("[<>&]", text)


def test_embedded_json_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json([float("nan")])


def test_numbers_do_not_break_across_lines() -> None:
    text = str(unbroken("97.2 % of n = 1,360 <samples> at 1e-3, \N{MINUS SIGN}0.3 points"))
    assert text == (
        '<span class="number">97.2 %</span> of <span class="number">n = 1,360</span> &lt;samples&gt; at '
        '<span class="number">1e-3</span>, \N{MINUS SIGN}0.3 points'
    )


def test_headline_and_findings_stand_on_the_page(html: str, record: RunRecord) -> None:
    text = re.sub("<[^>]*>", "", html.split("<script>")[0])
    for number in (f"{100 * (record.summary.test_accuracy or 0):.1f} %", "49,482", "n = 360", "42.7 s", "3f9a1c0b77e2"):
        assert number in text
    assert "not shown" in text
    assert text.count("1e-5") > 30  # the sweep's rows


def test_a_run_in_training_has_a_page(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run")
    for name in ("summary.json", "sweep.jsonl", "trajectories.npz"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"status": "interrupted", "reason": "Stopped by the user.", "epoch": 20}')
    page = write_report(folder).read_text()
    assert "This run is not complete: interrupted at epoch 20 (Stopped by the user.)" in page
    assert page.count("data-spec=") == 4
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["training.png"]


def test_reports_need_neither_torch_nor_the_rest() -> None:
    code = (
        "import sys, deqrun.report; print([m for m in sys.modules if m.split('.')[0] in {'torch', 'hydra', 'wandb'}])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
