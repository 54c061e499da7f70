"""Property tests draw the same examples on every machine, and no test depends on how fast it is, or on its place."""

import gc
import os
import sys

import pytest
import torch
from hypothesis import settings

from tests.composing import compose_faster
from tests.pictures import draw_small
from tests.usual import thin

settings.register_profile("nightly", deadline=None, derandomize=True)
settings.register_profile("usual", deadline=None, derandomize=True, max_examples=15)

# Imports and collecting make little garbage: the collector rests until they are over.
gc.disable()

# Bytecode is kept, whatever the environment says: each process that a test starts would compile deqrun anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """`make test` takes few examples of each property, one thread, composes faster and draws small.

    Nightly nothing is spared.
    """
    usual = config.option.markexpr == "not nightly"
    settings.load_profile("usual" if usual else "nightly")
    if usual:
        compose_faster()
        one_thread()


def one_thread() -> None:
    """PyTorch takes one thread here, and in the processes that tests start.

    The tensors are small, and each worker's threads wait for one another by spinning: where others want the cores too,
    as the other workers do, that takes twenty times as long as the work.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the nightly tests before pytest brings all in their order, which takes long."""
    thin(items)
    if config.option.markexpr == "not nightly":
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Torch and the tests stay to the end: the garbage collector need not walk through them again and again."""
    if session.config.option.markexpr == "not nightly":
        draw_small()
    gc.collect()
    gc.freeze()
    gc.enable()


# Without an accelerator `torch.manual_seed` notes for later who called it, which takes longer than many a test.
seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Each test finds PyTorch's generator as every other does, whichever ran before it."""
    seed(0)
