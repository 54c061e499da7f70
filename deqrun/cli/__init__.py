"""The command line: the command, its overrides, and the checks that run before anything starts."""

from deqrun.cli.dispatch import main

__all__ = ["main"]
