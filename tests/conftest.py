"""Property tests draw the same examples on every machine, and no test depends on how fast it is, or on its place."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("deqrun", deadline=None, derandomize=True)
settings.load_profile("deqrun")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Each test finds PyTorch's generator as every other does, whichever ran before it."""
    torch.manual_seed(0)
