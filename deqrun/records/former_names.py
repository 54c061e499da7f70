"""Names in records of earlier versions, and their present names."""

from collections.abc import Mapping
from typing import Any

FORMER = {"peer": "baseline", "peer_layers": "baseline_layers"}


def with_present_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config or a summary whose keys, and the groups it chose from, bear their present names."""
    present = {FORMER.get(key, key): value for key, value in content.items()}
    if isinstance(choices := present.get("choices"), Mapping):
        present["choices"] = {FORMER.get(group, group): option for group, option in choices.items()}
    tracker, train = present.get("tracker"), present.get("train")
    if isinstance(tracker, Mapping) and isinstance(train, Mapping) and "log_every" in tracker:
        # It stood beside the trackers, and counted only where there was one.
        kept = {key: value for key, value in tracker.items() if key != "log_every"}
        tracks = kept.get("name") != "none" and kept.get("mode") != "disabled"
        present["tracker"] = kept
        present["train"] = {"log_every": tracker["log_every"] if tracks else None, **train}
    return present
