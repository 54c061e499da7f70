"""Views of a run for a dashboard. A tracker that fails says so once and never stops the run."""

from deqrun.experiment.trackers.making import make_tracker, require_trackers, tracked
from deqrun.experiment.trackers.place import Place, place_of
from deqrun.experiment.trackers.safe import Patience, SafeTracker
from deqrun.experiment.trackers.tracker import NoTracker, Several, TrackedRun, Tracker

__all__ = [
    "NoTracker",
    "Patience",
    "Place",
    "SafeTracker",
    "Several",
    "TrackedRun",
    "Tracker",
    "make_tracker",
    "place_of",
    "require_trackers",
    "tracked",
]
