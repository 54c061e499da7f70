"""Settings: the composed config, typed, checked and frozen. Imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deqrun.settings.load import load_settings, read_settings, sections_of, settings_from
from deqrun.settings.trust import TRUSTED_PACKAGES

if TYPE_CHECKING:
    from deqrun.settings.baseline import BaselineSettings
    from deqrun.settings.component import ComponentSettings
    from deqrun.settings.launch import LaunchSettings
    from deqrun.settings.schema import BudgetSettings, Settings, SweepSettings, TrackerSettings, TrainSettings

__all__ = [
    "TRUSTED_PACKAGES",
    "BaselineSettings",
    "BudgetSettings",
    "ComponentSettings",
    "LaunchSettings",
    "Settings",
    "SweepSettings",
    "TrackerSettings",
    "TrainSettings",
    "load_settings",
    "read_settings",
    "sections_of",
    "settings_from",
]


def __getattr__(name: str) -> Any:
    """Each class when it is first asked for: without pydantic a command that only composes needs a fifth less time."""
    if name in __all__:
        return getattr(import_module("deqrun.settings.schema"), name)
    raise AttributeError(f"module 'deqrun.settings' has no attribute '{name}'")
