"""Pictures of few pixels for the usual tests: to fill pixels takes half of the time that a page takes.

All before is as for a user: charts, Vega-Lite, the process that draws. `make test-all` fills all pixels, as does
`tests/report/charts/test_figures.py`.
"""

from __future__ import annotations

import sys

SCALE = 0.25
"""Pixels of a picture for each pixel of its chart."""


def draw_small() -> None:
    """Draw small in this process, if it has what draws: most single files of tests have not, and need not."""
    pngs = sys.modules.get("deqrun.report.charts.pngs")
    if pngs is not None:
        pngs.SCALE = SCALE  # type: ignore[attr-defined]
