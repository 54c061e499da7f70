"""`deqrun compare`: one table in the terminal, one page, and a file on request, over whatever runs are named."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from deqrun.cli.run_folders import OUTPUTS
from deqrun.errors import UserError, one_line
from deqrun.records.claims import claimed
from deqrun.records.files import write_whole
from deqrun.records.folders import FoundFolders, find_folders

__all__ = ["Parser", "found_or_refused", "run_compare"]


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses with one sentence and has no abbreviations."""

    def __init__(self, command: str) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(one_line(f"deqrun {self.command}: {message}; deqrun {self.command} --help shows examples"))

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The arguments. Raises UserError for an empty one, as where a shell's variable is empty."""
        if not all(word.strip() for word in arguments):
            raise UserError(
                f"deqrun {self.command} was given an empty name, as where a shell's variable is empty; name folders."
            )
        return self.parse_intermixed_args(list(arguments))


def found_or_refused(command: str, given: Sequence[str], *, sweeps: bool = False) -> FoundFolders:
    """The run folders that are named, or all of outputs/. Raises UserError where there is none at all."""
    found = find_folders(given or [OUTPUTS], sweeps=sweeps)
    inside = any(left.path != OUTPUTS for left in found.left_out)  # rather than outputs/ itself
    if found.runs or (inside and not given and OUTPUTS.exists()):
        return found
    if not given:
        raise UserError(f"deqrun {command} found no run under {OUTPUTS}; deqrun train makes one, or name folders.")
    raise UserError(one_line(found.left_out[0].reason))


def run_compare(arguments: Sequence[str]) -> int:
    """Read the runs, print their table, write the page, and the export if one is asked for."""
    # What was typed is checked before any run is read: 500 runs take a while.
    parser = Parser("compare")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--sort", metavar="COLUMN", default="val_accuracy")
    parser.add_argument("--reverse", action="store_true")
    parser.add_argument("--export", type=Path, metavar="FILE")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--output", type=Path, metavar="DIR")
    given = parser.read(arguments)
    output = given.output or OUTPUTS / "compare" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    taken = output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir())))
    if given.output is not None and taken:
        raise UserError(f"--output {output} exists, and nothing is overwritten; give a folder that does not exist.")
    found = found_or_refused("compare", given.folders)
    # Imported once there is something to compare.
    from rich.console import Console

    from deqrun.report.compare.export import export, require_exportable, rows_apart, rows_folded
    from deqrun.report.compare.page import compare_html
    from deqrun.report.compare.recipes import compared, ordered
    from deqrun.report.compare.runs import read_runs
    from deqrun.report.compare.table import comparison_markdown, comparison_text
    from deqrun.report.tables import plain_text

    if given.export is not None:
        require_exportable(given.export)

    # Read, fold, and put into order.
    runs, damaged = read_runs(found.runs)
    if not runs:
        raise UserError(one_line((damaged or found.left_out)[0].reason))
    comparison = compared(runs, [*found.left_out, *damaged])
    recipes = ordered(comparison.recipes, comparison.keys, given.sort, reverse=given.reverse)

    # The page and its table as text in a folder of their own; then the terminal.
    with claimed(output, fresh=given.output is None, of_a_run=False) as own:
        write_whole(own / "compare.md", comparison_markdown(comparison, recipes))
        write_whole(own / "compare.txt", plain_text(comparison_text(comparison, recipes, every=True)))
        page = write_whole(own / "compare.html", compare_html(comparison, own))
    # The export last: a page is there even where its file can't be written.
    if given.export is not None:
        rows = rows_apart(comparison, recipes) if given.apart else rows_folded(comparison, recipes)
        export(given.export, rows, comparison, recipes, apart=given.apart)
    console = Console()
    console.print(comparison_text(comparison, recipes), highlight=False)
    if given.export is not None:
        console.print(f"export  {given.export}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"page    {page}", soft_wrap=True, highlight=False, markup=False)
    return 0
