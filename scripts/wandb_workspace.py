"""Build a view at W&B that compares runs of deqrun, from the curves that a run has. Needs an account to save it.

    python scripts/wandb_workspace.py RUN --entity ENTITY [--project deqrun] [--name NAME] [--group-by KEY]
    python scripts/wandb_workspace.py RUN --entity ENTITY --dry-run     # print the panels, without an account

RUN is a run folder. The view has sections for accuracy against budget, the frontier, residuals, halting and breadth,
training, and the figures. Runs are grouped by the key of --group-by, such as solver._target_, so that seeds share one
line with a band. Needs: pip install 'deqrun[workspaces]'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deqrun.experiment.trackers.rows import AXES, curve_rows, figure_files, scalars
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord

LOGARITHMIC = ("residual",)
SECTIONS = {
    "accuracy": "Accuracy against budget",
    "frontier": "Accuracy against mean evaluations",
    "residual": "Residual against iterations",
    "halting": "Halting rules",
    "breadth": "Breadth",
    "train": "Training, by epoch",
    "steps": "Training, by step",
}


def curves(record: RunRecord) -> dict[str, list[str]]:
    """The keys of each family of curves that the run has at W&B."""
    rows = curve_rows(record)
    rows += [scalars(row, "train", "epoch") for row in record.epochs]
    rows += [scalars(row, "steps", "step") for row in record.steps]
    keys = dict.fromkeys(key for row in rows for key in row)
    axes = set(AXES.values())
    return {family: [key for key in keys if key.startswith(f"{family}/") and key not in axes] for family in SECTIONS}


def panels(family: str, keys: Iterable[str], group_by: str | None) -> list[Any]:
    """A line plot for each curve of a family, against the family's axis."""
    import wandb_workspaces.reports.v2 as wr

    axis = AXES[f"{family}/*"]
    return [
        wr.LinePlot(
            title=key.partition("/")[2],
            x=axis,
            y=[key],
            log_y=family in LOGARITHMIC,
            groupby=wr.Config(group_by) if group_by else None,
            groupby_aggfunc="mean" if group_by else None,
            groupby_rangefunc="stddev" if group_by else None,
        )
        for key in keys
    ]


def workspace(record: RunRecord, entity: str, project: str, name: str, group_by: str | None) -> Any:
    """The view, not yet saved."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name="Summary",
            panels=[
                wr.ScalarChart(title="test accuracy", metric=wr.SummaryMetric("test_accuracy")),
                wr.ScalarChart(title="evaluations to tolerance", metric=wr.SummaryMetric("evaluations_to_tolerance")),
                wr.RunComparer(diff_only="split"),
            ],
            is_open=True,
        )
    ]
    for family, keys in curves(record).items():
        if keys:
            made = panels(family, keys, group_by)
            sections.append(ws.Section(name=SECTIONS[family], panels=made, is_open=family == "accuracy"))
    if figures := [f"figures/{name}" for name in figure_files(record)]:
        sections.append(ws.Section(name="Figures", panels=[wr.MediaBrowser(media_keys=figures)]))
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)


def main() -> int:
    """Build the view, and save or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--entity", required=True)
    parser.add_argument("--project", default="deqrun")
    parser.add_argument("--name", default="deqrun")
    parser.add_argument("--group-by", default=None)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    try:
        record = read_run(given.run)
        made = workspace(record, given.entity, given.project, given.name, given.group_by)
    except ValueError as error:
        print(f"wandb_workspace: {error}", file=sys.stderr)
        return 2
    except ImportError:
        print("wandb_workspace: wandb-workspaces is not installed: pip install 'deqrun[workspaces]'", file=sys.stderr)
        return 2
    for section in made.sections:
        print(f"{section.name}: {len(section.panels)} panels")
    if given.dry_run:
        return 0
    made.save()
    print(f"view  {made.url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
