"""A command line whose experiments are replaced, as the tests of the command line have it."""

from tests.cli.conftest import deqrun, launches, refused, workspace

__all__ = ["deqrun", "launches", "refused", "workspace"]
