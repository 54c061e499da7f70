"""Settings: the composed config, typed, checked and frozen. Imports no torch."""

from deqrun.settings.baseline import BaselineSettings
from deqrun.settings.component import ComponentSettings
from deqrun.settings.launch import LaunchSettings
from deqrun.settings.load import load_settings, read_settings, sections_of, settings_from
from deqrun.settings.schema import BudgetSettings, Settings, SweepSettings, TrackerSettings, TrainSettings
from deqrun.settings.trust import TRUSTED_PACKAGES

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
