"""From a run's records to what a person looks at: findings, tables, charts, and one self-contained page.

Everything here is a view of the files in a run folder; nothing is measured, and nothing is trained.
"""

from deqrun.report.findings import Finding, findings
from deqrun.report.page import write_comparison, write_report
from deqrun.report.records import Epoch, RunRecord, RunStatus, Summary
from deqrun.report.run_folder import read_run
from deqrun.report.sweep_rows import SweepCell
from deqrun.report.trajectory import Trajectory

__all__ = [
    "Epoch",
    "Finding",
    "RunRecord",
    "RunStatus",
    "Summary",
    "SweepCell",
    "Trajectory",
    "findings",
    "read_run",
    "write_comparison",
    "write_report",
]
