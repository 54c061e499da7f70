"""Property tests draw the same examples on every machine, and no test depends on how fast it is, or on its place."""

import gc
import os
import sys

import pytest
import torch
from hypothesis import settings

from tests.composing import compose_faster
from tests.usual import thin

settings.register_profile("nightly", deadline=None, derandomize=True)
settings.register_profile("usual", deadline=None, derandomize=True, max_examples=15)

# Imports and collecting make little garbage: the collector rests until they are over.
gc.disable()

# Bytecode is kept, whatever the environment says: each process that a test starts would compile deqrun anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """`make test` draws few examples of each property and composes faster; with the nightly tests nothing is spared."""
    usual = config.option.markexpr == "not nightly"
    settings.load_profile("usual" if usual else "nightly")
    if usual:
        compose_faster()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest leaves out the nightly tests."""
    thin(items)


def pytest_collection_finish() -> None:
    """Torch and the tests stay to the end: the garbage collector need not walk through them again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Each test finds PyTorch's generator as every other does, whichever ran before it."""
    torch.manual_seed(0)
