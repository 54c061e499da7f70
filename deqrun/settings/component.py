"""A section of the config, and one that names a class to construct, with its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator


class Section(BaseModel):
    """A section of the config: frozen, and with no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, ser_json_inf_nan="constants")


class ComponentSettings(Section):
    """A class and its constructor's parameters, which may be components too: a section with `_target_`."""

    target: str
    parameters: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _from_section(cls, section: Any) -> Any:
        if not isinstance(section, Mapping) or section.keys() == {"target", "parameters"}:
            return section
        if not isinstance(section.get("_target_"), str):
            raise ValueError("has no _target_; it names the section's class, as in deqrun.solvers.Anderson")
        given = {str(key): value for key, value in section.items() if key != "_target_"}
        reserved = [key for key in given if key.startswith("_")]
        if reserved:
            raise ValueError(f"holds {reserved[0]}; beside _target_ only the constructor's parameters are allowed")
        parameters = {key: _nested(key, value) for key, value in given.items()}
        return {"target": section["_target_"], "parameters": parameters}

    @model_serializer
    def _to_section(self) -> dict[str, Any]:
        return {"_target_": self.target} | {key: _plain(value) for key, value in self.parameters.items()}

    def walk(self, where: str) -> Iterator[tuple[str, ComponentSettings]]:
        """This component and all inside it, each with its dotted key."""
        yield where, self
        for key, value in self.parameters.items():
            if isinstance(value, ComponentSettings):
                yield from value.walk(f"{where}.{key}")


def _nested(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping) or "_target_" not in value:
        return value
    try:
        return ComponentSettings.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{key} {error.errors()[0]['ctx']['error']}") from error


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, ComponentSettings) else value
