"""Small runs of the real thing: a tiny cell on the real digits.

A page takes longer than the run: report=true asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from deqrun.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[2] / "configs"

SMALL = [
    "model=mlp",
    "model.width=24",
    "tracker=none",
    "report=false",
    "threads=1",
    "train.epochs=3",
    "train.batch_size=256",
    "optimizer.lr=1e-2",
    "sweep.iterations=[1,2,4,8]",
    "sweep.tolerances=[1e-1,1e-3]",
    "sweep.spectrum=4",
]


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., Settings]:
    """Settings of a small training run, with overrides."""

    @cache
    def make(*overrides: str) -> Settings:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            chosen = any(text.startswith(("gradient", "solver@gradient", "baseline")) for text in overrides)
            brief = [] if chosen else ["gradient.budget.max_iter=6"]  # of the adjoint: half of a step's time
            return load_settings(compose("train", [*SMALL, *brief, *overrides], return_hydra_config=True))

    return make
