"""The usual tests compose faster, and compose the same."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig
from omegaconf.nodes import ValueNode

from deqrun.settings.sources import open_sources
from tests.composing import OWN_COPIES, _copied


def assert_same_node(one: Any, two: Any) -> None:
    """Of one kind, with equal metadata and flags, and with children whose parent it is."""
    assert type(one) is type(two)
    assert one._metadata == two._metadata
    assert one._metadata is not two._metadata
    assert one._metadata.flags is not two._metadata.flags
    if isinstance(one, ValueNode):
        assert one._value() == two._value()
        return
    content, other = one.__dict__["_content"], two.__dict__["_content"]
    assert type(content) is type(other)
    if not isinstance(content, dict | list):
        assert content == other
        return
    assert content is not other
    pairs = zip(content.items(), other.items(), strict=True) if isinstance(content, dict) else None
    for (key, mine), (its_key, its) in pairs or (((0, a), (0, b)) for a, b in zip(content, other, strict=True)):
        assert key == its_key
        assert mine._get_parent() is one
        assert its._get_parent() is two
        assert_same_node(mine, its)


def test_a_fast_copy_is_omegaconfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole configs with Hydra's node, its dataclasses and lists in them, and of a part that keeps its parent."""
    for kind, own in OWN_COPIES.items():
        monkeypatch.setattr(kind, "__deepcopy__", own)
    with open_sources() as sources:
        for overrides in (["study=demo"], ["model=mdeq", "sweep.solvers=[picard]"], ["study=looped_text"]):
            config = sources.compose("train", overrides, multirun=True)
            assert isinstance(config, DictConfig)
            assert_same_node(_copied(config), OWN_COPIES[DictConfig](config, {}))
            solvers = config.sweep._get_node("solvers")
            assert isinstance(solvers, ListConfig)
            copied = _copied(solvers)
            assert_same_node(copied, OWN_COPIES[ListConfig](solvers, {}))
            assert copied._get_parent() is solvers._get_parent()
