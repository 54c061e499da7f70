"""The charts of a run: one definition each, for the page and for PNG. Colour and point shape tell solvers apart."""

from deqrun.records.kept_states import read_kept_states
from deqrun.records.run import RunRecord
from deqrun.report.charts.breadth import breadth_figures
from deqrun.report.charts.budget import accuracy_against_budget, loss_against_budget
from deqrun.report.charts.calibration import calibration_of_the_head
from deqrun.report.charts.difficulty import accuracy_by_difficulty
from deqrun.report.charts.frontier import accuracy_against_evaluations
from deqrun.report.charts.halting import accuracy_by_halting
from deqrun.report.charts.pngs import Renderer, png
from deqrun.report.charts.residual import residual_against_evaluations
from deqrun.report.charts.states import state_trajectories
from deqrun.report.charts.style import Figure, specification
from deqrun.report.charts.training import training_figures, training_overview

__all__ = [
    "Figure",
    "Renderer",
    "accuracy_against_budget",
    "accuracy_against_evaluations",
    "accuracy_by_difficulty",
    "accuracy_by_halting",
    "breadth_figures",
    "calibration_of_the_head",
    "loss_against_budget",
    "png",
    "residual_against_evaluations",
    "specification",
    "state_trajectories",
    "sweep_figures",
    "training_figures",
    "training_overview",
]


def sweep_figures(record: RunRecord, split: str = "test") -> list[Figure]:
    """The figures of test-time compute that the record has numbers for."""
    drawn = [
        accuracy_against_budget(record, split),
        accuracy_against_budget(record, split, close=True),
        loss_against_budget(record, split),
        residual_against_evaluations(record, split),
        accuracy_against_evaluations(record, split),
        accuracy_against_evaluations(record, split, close=True),
        accuracy_by_halting(record, split),
        accuracy_by_halting(record, split, close=True),
        calibration_of_the_head(record, split),
        accuracy_by_difficulty(record, split),
        state_trajectories(read_kept_states(record.folder)) if split == "test" else None,
        *breadth_figures(record, split),
    ]
    return [figure for figure in drawn if figure is not None]
