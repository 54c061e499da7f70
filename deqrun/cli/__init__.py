"""The command line: which command, what it was given, and the checks that run before anything starts."""

from deqrun.cli.dispatch import main

__all__ = ["main"]
