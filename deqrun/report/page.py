"""One self-contained page of a run, and one of a comparison: no network, no server, all charts inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deqrun.report.charts import (
    Figure,
    png,
    specification,
    sweep_figures,
    training_figures,
    training_overview,
)
from deqrun.report.charts.data import labels
from deqrun.report.charts.style import run_colours
from deqrun.report.files import write_whole
from deqrun.report.findings import findings
from deqrun.report.html import environment, vega_bundle
from deqrun.report.page_parts import differences, grouped, headline, origin, subtitle, sweep_columns
from deqrun.report.records import RunRecord
from deqrun.report.run_folder import read_run
from deqrun.report.tables import (
    COMPARISON_HEADINGS,
    COMPARISON_NOTE,
    comparison_markdown,
    comparison_rows,
    comparison_table,
    plain_text,
)


def write_report(folder: Path | str) -> Path:
    """Write report.html and figures/*.png of a run into its folder; returns the page's path.

    A run still in training gets a page of what there is. Raises ValueError where the folder is no run.
    """
    folder = Path(folder)
    record = read_run(folder)
    _write_figures(folder / "figures", [record])
    return write_whole(folder / "report.html", report_html(record))


def write_comparison(folders: Sequence[Path | str], output: Path | str) -> Path:
    """Write compare.html, compare.md, compare.txt and figures/*.png of several runs into `output`.

    Returns the page's path. Raises ValueError where no folder is given, or one is no run.
    """
    if not folders:
        raise ValueError("No run folder was given; a comparison takes one or more.")
    records = [read_run(folder) for folder in folders]
    output = Path(output)
    _write_figures(output / "figures", records)
    write_whole(output / "compare.md", comparison_markdown(records))
    write_whole(output / "compare.txt", plain_text(comparison_table(records)))
    return write_whole(output / "compare.html", comparison_html(records))


def report_html(record: RunRecord) -> str:
    """The page of one run."""
    return _render(
        "run.html.j2",
        [record],
        title=record.name,
        record=record,
        subtitle=subtitle(record),
        headline=headline(record),
        findings=grouped(findings(record)),
        sweep=sweep_columns(record),
        config=_config_text(record),
        origin=origin(record),
    )


def comparison_html(records: Sequence[RunRecord]) -> str:
    """The page of several runs, overlaid."""
    names = labels(records)
    return _render(
        "comparison.html.j2",
        records,
        title=f"{len(records)} runs compared" if len(records) > 1 else f"{names[0]}, compared with nothing",
        headings=COMPARISON_HEADINGS,
        rows=[row.texts() for row in comparison_rows(records)],
        note=COMPARISON_NOTE,
        colours=run_colours(len(records)),
        names=names,
        differences=differences(records),
        runs=[
            (name, record, grouped(findings(record)), origin(record))
            for name, record in zip(names, records, strict=True)
        ],
    )  # fmt: skip


def _render(template: str, records: Sequence[RunRecord], **values: Any) -> str:
    sweep, training = sweep_figures(records), training_figures(records)
    specs = {figure.name: specification(figure.chart, container=True) for figure in [*sweep, *training]}
    return (
        environment()
        .get_template(template)
        .render(sweep_figures=sweep, training_figures=training, specs=specs, bundle=vega_bundle(), **values)
    )


def _write_figures(folder: Path, records: Sequence[RunRecord]) -> None:
    overview = training_overview(records)
    drawn: list[Figure] = sweep_figures(records) + ([overview] if overview else [])
    for figure in drawn:
        write_whole(folder / f"{figure.name}.png", png(figure))


def _config_text(record: RunRecord) -> str:
    return (record.folder / "config.yaml").read_text(encoding="utf-8", errors="replace").rstrip()
