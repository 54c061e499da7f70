"""Property tests draw the same examples on every machine, and no test depends on how fast it is, or on its place."""

import gc
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, TextIO

import omegaconf.omegaconf
import pytest
import torch
import yaml
from hypothesis import settings

from tests.usual import thin

settings.register_profile("nightly", deadline=None, derandomize=True)
settings.register_profile("usual", deadline=None, derandomize=True, max_examples=15)


_parsed: dict[str, Any] = {}


def _load(source: str | TextIO, Loader: type[yaml.SafeLoader]) -> Any:
    """yaml.load, which parses a text once: tests compose the same few files thousands of times."""
    text = source if isinstance(source, str) else source.read()
    try:
        if text not in _parsed:
            _parsed[text] = yaml.load(text, Loader=Loader)
        return deepcopy(_parsed[text])
    except yaml.YAMLError:  # told with the file's name
        if not isinstance(source, str):
            source.seek(0)
        return yaml.load(source, Loader=Loader)


omegaconf.omegaconf.yaml = SimpleNamespace(**(vars(yaml) | {"load": _load}))


def pytest_configure(config: pytest.Config) -> None:
    """`make test` draws few examples of each property, a run with the nightly tests Hypothesis's hundred."""
    settings.load_profile("usual" if config.option.markexpr == "not nightly" else "nightly")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest leaves out the nightly tests."""
    thin(items)


def pytest_collection_finish() -> None:
    """Torch and the tests stay to the end: the garbage collector need not walk through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Each test finds PyTorch's generator as every other does, whichever ran before it."""
    torch.manual_seed(0)
