"""`deqrun check`: tries a cell and a data set on a few samples, and prints a line for each check."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from deqrun.cli.preflight import Plan, settings_of, sources_of
from deqrun.cli.request import Request, read_request
from deqrun.errors import UserError
from deqrun.settings import Settings

__all__ = ["run_check"]

WIDTH = 100
FAILED = 2


def run_check(arguments: Sequence[str]) -> int:
    """Check the parts that the arguments name, or both where they name none; 0, or 2 once a check fails."""
    request = read_request("check", arguments)
    if not request.runs or request.flags.shell_completion or request.flags.multirun:
        raise UserError("deqrun check takes overrides and --config-dir; other flags are deqrun train's.")
    with sources_of(request) as sources:
        job = Plan(request, sources).jobs[0]
        settings = settings_of("check", job.cfg, job.overrides)
    for part in _named(request):  # the data set first: no cell can be tried on one that fails
        if _printed(part, settings):
            return FAILED
    return 0


def _named(request: Request) -> list[str]:
    """dataset, model, or both, in that order."""
    groups = {text.lstrip("+").partition("=")[0].partition(".")[0] for text in request.overrides}
    both = ["dataset", "model"]
    named = [part for part in both if part in groups]
    return named if named and groups.isdisjoint({"study", "run"}) else both


def _printed(part: str, settings: Settings) -> bool:
    """Print the checks of one part; whether one of them fails."""
    from deqrun.experiment.own_parts import cell_findings, data_findings

    found = data_findings(settings) if part == "dataset" else cell_findings(settings)
    component = settings.dataset if part == "dataset" else settings.model
    print(f"{part}={settings.choices.get(part)}  {component.target}")
    for finding in found:
        print(
            textwrap.fill(finding.outcome, WIDTH, initial_indent=f"  {finding.check:<16}", subsequent_indent=" " * 18)
        )
    return any(finding.fault for finding in found)
