"""A run folder as one object: what was asked, what came out, and how to draw it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deqrun.errors import UserError, one_line, unknown
from deqrun.loading.frames import frame
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.records.states import RunState, state_of

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    import polars as pl

    from deqrun.loading.model import RunModel
    from deqrun.report.charts import Figure
    from deqrun.settings import Settings

__all__ = ["LoadedRun", "NotebookFigure", "load_run"]


def load_run(folder: Path | str, *, allow_foreign_targets: bool = False) -> LoadedRun:
    """The run in a folder, whatever it holds by now.

    allow_foreign_targets  whether `model()` may construct classes from outside of deqrun and torch: code of your own

    Raises UserError, a ValueError of one sentence, where the folder is no run or is damaged.
    """
    folder = Path(folder).expanduser()
    try:
        return LoadedRun(read_run(folder), allow_foreign_targets)
    except ValueError as error:
        raise UserError(one_line(error)) from error


@dataclass(frozen=True)
class NotebookFigure:
    """A figure of the report. A notebook shows it as a picture, drawn on this machine; `chart` is Altair's."""

    figure: Figure

    @property
    def title(self) -> str:
        return self.figure.title

    @property
    def caption(self) -> str:
        return self.figure.caption

    @property
    def chart(self) -> alt.Chart | alt.LayerChart | alt.ConcatChart | alt.FacetChart:
        """The chart, to change or to save as JSON, SVG or HTML."""
        return self.figure.chart

    def png(self) -> bytes:
        """The picture."""
        from deqrun.report.charts import png

        return png(self.figure)

    def _repr_png_(self) -> bytes:
        return self.png()


class LoadedRun:
    """A run: settings, records, figures, and its model. `record` is `deqrun.records.run.RunRecord`, which has more.

    folder, name, status, summary, trajectories  as the record has them
    config                                       config.yaml as plain values
    epochs, steps, evaluations, sweep, halting, breadth, savings
                                                 rows, each kind a tuple
    """

    def __init__(self, record: RunRecord, allow_foreign_targets: bool = False) -> None:
        self.record = record
        self._allow_foreign_targets = allow_foreign_targets
        self.folder, self.name, self.config = record.folder, record.name, record.config
        self.status, self.summary = record.status, record.summary
        self.epochs, self.steps, self.evaluations = record.epochs, record.steps, record.evaluations
        self.sweep, self.halting, self.breadth = record.sweep, record.halting, record.breadth
        self.savings, self.trajectories = record.savings, record.trajectories

    @property
    def state(self) -> RunState:
        """completed, running, interrupted, killed, failed …: now, whatever status.json still says."""
        return state_of(self.folder, self.record.status)

    @cached_property
    def settings(self) -> Settings:
        """The config as typed settings. Raises UserError where a class in it is not trusted."""
        from deqrun.settings import read_settings

        return read_settings(self.folder / "config.yaml", allow_foreign_targets=self._allow_foreign_targets)

    def pandas(self, kind: str = "sweep") -> pd.DataFrame:
        """The rows of a kind (epochs, steps, evaluations, sweep, halting, breadth or savings) as a pandas frame.

        Needs the extra `frames`.
        """
        found: pd.DataFrame = frame("pandas", kind, self.record)
        return found

    def polars(self, kind: str = "sweep") -> pl.DataFrame:
        """The rows of a kind (epochs, steps, evaluations, sweep, halting, breadth or savings) as a polars frame.

        Needs the extra `frames`.
        """
        found: pl.DataFrame = frame("polars", kind, self.record, strict=False)
        return found

    @cached_property
    def figures(self) -> dict[str, NotebookFigure]:
        """The figures of the run's report that there are numbers for, by name."""
        from deqrun.report.page import drawn

        charts = drawn(self.record)
        return {figure.name: NotebookFigure(figure) for figure in (*charts.sweep, *charts.training)}

    def figure(self, name: str) -> NotebookFigure:
        """One figure, as accuracy_budget. Raises UserError with the names that there are."""
        if name not in self.figures:
            raise UserError(unknown(name, f"a figure of {self.folder}", self.figures))
        return self.figures[name]

    def model(self, device: str = "cpu") -> RunModel:
        """The model with the weights that validation chose, to call on tensors of your own; its data is not needed.

        Raises UserError where the run has no checkpoint, or a class in its config is not trusted.
        """
        from deqrun.loading.model import load_model

        return load_model(self.settings, self.folder, device)

    def __repr__(self) -> str:
        return f"LoadedRun('{self.folder}': {self.name}, {self.state})"

    def _repr_html_(self) -> str:
        """A small table for notebooks; every text of the run is escaped."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        from deqrun.report.page_parts import headline, subtitle

        facts = [("run", self.name), ("folder", str(self.folder)), ("state", str(self.state))]
        facts += [("what", subtitle(self.record))]
        return facts + [(one.label, f"{one.value} ({one.note})") for one in headline(self.record)]
