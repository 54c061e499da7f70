"""Hydra's composing in half the time, for the usual tests, which compose thousands of configs from the same few files.

Texts, interpolations, overrides and versions are parsed once, and configs are copied node by node without
`copy.deepcopy`'s bookkeeping. `make test-all` leaves the libraries as they are, so that all composing is also tested
with their own code.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from typing import Any

import hydra.version
import omegaconf._utils
import omegaconf.base
import omegaconf.grammar_parser
import yaml
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Metadata
from omegaconf.nodes import AnyNode, BooleanNode, EnumNode, FloatNode, IntegerNode, StringNode, ValueNode

VALUES = (AnyNode, BooleanNode, EnumNode, FloatNode, IntegerNode, StringNode)

OWN_COPIES = {kind: kind.__deepcopy__ for kind in (DictConfig, ListConfig, *VALUES)}
"""OmegaConf's own."""


def composes_faster() -> bool:
    """Whether this process does."""
    return DictConfig.__deepcopy__ is _copied


def compose_faster() -> None:
    """Replace the slow parts of OmegaConf and Hydra in this process."""
    for kind in (DictConfig, ListConfig, *VALUES):
        kind.__deepcopy__ = _copied  # type: ignore[method-assign]
    # A singleton, from which every read is a copy; Hydra copies all of it for each composition.
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
    OmegaConf.load = staticmethod(functools.partial(_load, OmegaConf.load))  # type: ignore[method-assign]
    yaml.load = functools.partial(_parsed, yaml.load)
    parse = functools.lru_cache(4096)(omegaconf.grammar_parser.parse)
    omegaconf.base.parse = omegaconf._utils.parse = parse  # type: ignore[attr-defined]
    hydra.version._get_version = functools.cache(hydra.version._get_version)
    make_choices = defaults_list._create_interpolation_map
    defaults_list._create_interpolation_map = functools.partial(functools.partial, make_choices)
    resolve = InputDefault._resolve_interpolation_impl
    InputDefault._resolve_interpolation_impl = functools.partialmethod(_resolved, resolve)
    OverridesParser.parse_rule = functools.partialmethod(_parse_rule, OverridesParser.parse_rule)  # type: ignore[assignment,method-assign]


def _copied(node: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of a config, as OmegaConf makes it: the root keeps its parent, values are shared."""
    new = object.__new__(type(node))
    new.__dict__.update(node.__dict__)
    new.__dict__["_metadata"] = _copied_metadata(node.__dict__["_metadata"])
    if isinstance(node, ValueNode):
        new.__dict__["_flags_cache"] = None
        return new
    if node.__dict__["_flags_cache"]:
        new.__dict__["_flags_cache"] = dict(node.__dict__["_flags_cache"])
    content = node.__dict__["_content"]
    if isinstance(content, dict):
        new.__dict__["_content"] = {key: _child(value, new) for key, value in content.items()}
    elif isinstance(content, list):
        new.__dict__["_content"] = [_child(value, new) for value in content]
    return new


def _child(node: Any, parent: Any) -> Any:
    if type(node) in (DictConfig, ListConfig, *VALUES):
        new = _copied(node)
    else:
        before, node.__dict__["_parent"] = node.__dict__["_parent"], None
        try:
            new = copy.deepcopy(node)
        finally:
            node.__dict__["_parent"] = before
    new.__dict__["_parent"] = parent
    return new


def _copied_metadata(metadata: Metadata) -> Metadata:
    new = object.__new__(type(metadata))
    new.__dict__.update(metadata.__dict__)
    new.flags = dict(metadata.flags or {})
    new.resolver_cache = copy.deepcopy(metadata.resolver_cache) if metadata.resolver_cache else defaultdict(dict)
    return new


def _resolved(default: InputDefault, resolve: Any, choices: Any, text: str | None) -> str:
    """An entry of a defaults list; the choices so far are made a config where the entry interpolates one of them."""
    return resolve(default, choices(), text) if text is None or "${" in text else text


_loaded: dict[str, Any] = {}


def _load(load: Any, file: Any) -> Any:
    """OmegaConf.load, which makes a config of each text once."""
    if not hasattr(file, "read"):
        return load(file)
    text = file.read()
    if text not in _loaded:
        file.seek(0)
        _loaded[text] = load(file)  # errors are told with the file's name
    return copy.deepcopy(_loaded[text])


_texts: dict[tuple[str, type], Any] = {}


def _parsed(load: Any, source: Any, Loader: type) -> Any:
    """yaml.load, which parses a text once."""
    if not isinstance(source, str):
        return load(source, Loader)
    if (source, Loader) not in _texts:
        _texts[source, Loader] = load(source, Loader)
    return copy.deepcopy(_texts[source, Loader])


_rules: dict[tuple[str, str], Any] = {}


def _parse_rule(parser: OverridesParser, parse_rule: Any, text: str, rule: str) -> Any:
    """OverridesParser.parse_rule, which parses each override once; functions may have effects, and are called anew."""
    if rule != "override" or "(" in text:
        return parse_rule(parser, text, rule)
    if (text, rule) not in _rules:
        _rules[text, rule] = parse_rule(parser, text, rule)
    return copy.deepcopy(_rules[text, rule])
