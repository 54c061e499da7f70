"""The compare page with many runs, used by clicks in a browser, and measured.

    python scripts/compare_page.py [--runs 500] [--keep FOLDER]

Makes well-formed run folders (`many_runs.py`), compares them with `deqrun compare`, opens the page in headless
Chromium, and searches, sorts, ticks, colours, facets and unfolds seeds with mouse and keyboard. Each step is timed
until the page shows its result.
Exit code 1 where a step does not do what it says, or the page complains, or asks for anything outside of itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from devtools import Page, browser
from many_runs import write_runs

MOST_BYTES = 10_000_000
MOST_SECONDS = 2.0
DRAWN = "document.querySelector('[data-chart=budget]').dataset.drawn"


def column(field: str) -> str:
    """The cells of a column in the rows that are in sight, as JavaScript."""
    return f"[...document.querySelectorAll('#table .tabulator-row .tabulator-cell[tabulator-field={field}]')]"


def cells(page: Page, field: str) -> list[str]:
    """The texts of a column in the rows that are in sight."""
    found: list[str] = page.ask(f"{column(field)}.map(cell => cell.innerText)")
    return found


def steps() -> dict[str, Callable[[Page], None]]:
    """Each step by its name: it ends when the page shows the result, and raises where that is wrong."""

    def search(page: Page) -> None:
        page.type("#search", "picard mlp")
        page.wait(f"{column('k1')}.every(cell => cell.innerText === 'picard')")
        assert set(cells(page, "k0")) == {"mlp"}
        page.type("#search", "")
        page.wait(f"{column('k0')}.some(cell => cell.innerText === 'conv')")

    def sort(page: Page) -> None:
        page.click("#table .tabulator-col[tabulator-field=m_evaluations]")
        page.wait("location.hash.includes('sort=evaluations')")
        shown = [float(text.split()[0]) for text in cells(page, "m_evaluations")]
        assert shown == sorted(shown), shown

    def tick(page: Page) -> None:
        before = page.ask(DRAWN), page.ask("document.querySelectorAll('#legend .entry').length")
        page.click("#table .tabulator-row:nth-child(12) input")
        page.wait(f"{DRAWN} !== '{before[0]}'")
        assert page.ask("document.querySelectorAll('#legend .entry').length") != before[1]

    def colour(page: Page) -> None:
        before = page.ask(DRAWN)
        page.choose("#colour", "solver")
        page.wait(f"{DRAWN} !== '{before}'")
        names = page.ask("[...document.querySelectorAll('#legend .entry')].map(e => e.innerText)")
        assert set(names) <= {"anderson", "picard"}, names

    def facet(page: Page) -> None:
        before = page.ask(DRAWN)
        page.choose("#facet", "model")
        page.wait(f"{DRAWN} !== '{before}'")

    def show_all(page: Page) -> None:
        before = page.ask(DRAWN)
        page.click("#all")
        page.wait(f"{DRAWN} !== '{before}'")
        page.ask("document.querySelector('[data-chart=budget]').scrollIntoView()")

    def unfold(page: Page) -> None:
        before = page.ask("document.querySelector('#subtitle').textContent")
        page.choose("#seeds", "apart")
        page.wait("document.querySelector('#table .tabulator-cell[tabulator-field=seed]')")
        assert not any("±" in text for text in cells(page, "m_val_accuracy"))
        assert before

    def fold(page: Page) -> None:
        page.choose("#seeds", "folded")
        page.wait("document.querySelector('#table .tabulator-cell[tabulator-field=seeds]')")
        assert all("±" in text for text in cells(page, "m_val_accuracy"))

    return {
        "search, and empty the search": search,
        "sort by evaluations": sort,
        "tick a row": tick,
        "colour by solver": colour,
        "facet by model": facet,
        "show all rows": show_all,
        "seeds apart": unfold,
        "seeds folded": fold,
    }


def measure(html: Path) -> bool:
    """Print what each step takes; whether all is as it should be."""
    size = html.stat().st_size
    good = size <= MOST_BYTES
    print(f"| page | {size / 1e6:.2f} MB |\n|---|---:|")
    with browser(1200, 1400) as page:
        started = time.monotonic()
        page.open(html.as_uri())
        page.wait(f"Boolean({DRAWN})")
        ready = time.monotonic() - started
        paint = page.ask("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        good = good and paint < MOST_SECONDS
        print(f"| first paint | {paint:.2f} s |\n| table built and first chart drawn | {ready:.2f} s |")
        for name, step in steps().items():
            begun = time.monotonic()
            step(page)
            print(f"| {name} | {time.monotonic() - begun:.2f} s |")
        outside = [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
        print(f"| complaints | {len(page.complaints)} |\n| requests outside of the page | {len(outside)} |")
        for line in (*page.complaints, *outside):
            print(line, file=sys.stderr)
        return good and not page.complaints and not outside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="the runs and the page go here, and stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = given.keep or Path(scratch)
        write_runs(home / "runs", given.runs, (16, 32, 48))
        begun = time.monotonic()
        command = [sys.executable, "-m", "deqrun", "compare", str(home / "runs"), "--output", str(home / "page")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{given.runs} runs compared in {time.monotonic() - begun:.1f} s\n")
        return 0 if measure(home / "page" / "compare.html") else 1


if __name__ == "__main__":
    sys.exit(main())
