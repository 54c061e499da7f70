"""One self-contained page of a run: no network, no server, all charts inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deqrun.records.files import write_whole
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.report.charts import Figure, Renderer, specification, sweep_figures, training_figures, training_overview
from deqrun.report.charts.style import unchecked
from deqrun.report.findings import findings
from deqrun.report.html import environment, vega_bundle
from deqrun.report.page_parts import grouped, headline, note, origin, subtitle, sweep_columns


@dataclass(frozen=True)
class Drawn:
    """The charts of a run: built once, for the page and for the PNGs."""

    sweep: list[Figure]
    training: list[Figure]
    overview: Figure | None


def drawn(record: RunRecord) -> Drawn:
    """The charts of a run."""
    with unchecked():
        return Drawn(sweep_figures(record), training_figures(record), training_overview(record))


def write_report(folder: Path | str, record: RunRecord | None = None) -> Path:
    """Write report.html and figures/*.png of a run into its folder; returns the page's path.

    record  of the run, where it has been read: a run that ends shows a status that it writes once the page is there

    A run still in training gets a page of its records so far. Raises ValueError where the folder is no run.
    """
    folder = Path(folder)
    with Renderer() as renderer:  # before the records are read: it starts meanwhile
        record = record or read_run(folder)
        charts = drawn(record)
        with _figures_written(folder / "figures", charts, renderer):
            page = report_html(record, charts)
    return write_whole(folder / "report.html", page)


def report_html(record: RunRecord, charts: Drawn | None = None) -> str:
    """The page of one run; `charts` are drawn where they aren't given."""
    charts = charts or drawn(record)
    figures = [*charts.sweep, *charts.training]
    return (
        environment()
        .get_template("run.html.j2")
        .render(
            sweep_figures=charts.sweep,
            training_figures=charts.training,
            specs={figure.name: specification(figure.chart, container=True) for figure in figures},
            bundle=vega_bundle(),
            title=record.name,
            record=record,
            subtitle=subtitle(record),
            headline=headline(record),
            note=note(record),
            findings=grouped(findings(record)),
            sweep=sweep_columns(record),
            config=_config_text(record),
            origin=origin(record),
        )
    )


@contextmanager
def _figures_written(folder: Path, charts: Drawn, renderer: Renderer) -> Iterator[None]:
    """Within: the PNGs are drawn in the background; they are written at the end."""
    figures = charts.sweep + ([charts.overview] if charts.overview else [])
    with renderer.drawing(figures) as pictures:
        yield
    for figure, picture in zip(figures, pictures.result(), strict=True):
        write_whole(folder / f"{figure.name}.png", picture)


def _config_text(record: RunRecord) -> str:
    return (record.folder / "config.yaml").read_text(encoding="utf-8", errors="replace").rstrip()
