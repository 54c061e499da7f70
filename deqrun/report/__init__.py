"""Views of a run's records: findings, tables, charts, and one self-contained page.

Everything here is a view of the files in a run folder; nothing is measured, and nothing is trained.
"""

from deqrun.report.findings import Finding, findings
from deqrun.report.page import write_report

__all__ = ["Finding", "findings", "write_report"]
