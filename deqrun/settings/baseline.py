"""Explicit baselines of a DEQ: their settings, their stand-in for a solve, and the settings they rule out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deqrun.settings.component import Section

__all__ = ["BaselineSettings", "require_explicit", "with_baseline"]

PLAIN_ITERATION = {"_target_": "deqrun.solvers.Picard", "damping": 1.0}
BACK_PROPAGATION = {"_target_": "deqrun.gradients.Unrolled", "damping": 1.0, "last": None}

ALLOWED = ("solver=picard", "gradient=unrolled")
"""Overrides of solver and gradient that agree with a baseline: the ones that it sets anyway."""

NO_PATH = {
    "train.start": "zeros",
    "train.jacobian_weight": 0,
    "train.unrolled_warmup_steps": 0,
    "train.random_budget": None,
    "train.path_damping": 1,
    "train.path_noise": 0,
    "train.progressive_weight": 0,
    "train.corrections": 0,
    "train.spectral_weight": 0,
    "train.fixed_point_weight": 0,
    "train.halt_weight": 0,
}
"""Training of the way to a fixed point, switched off: a net of untied layers has neither the one nor the other."""


class BaselineSettings(Section):
    """The explicit net that is trained in the DEQ's place: `baseline.*`.

    kind     none: the DEQ | tied: its cell applied `layers` times | untied: layers with weights of their own
    match    of an untied net: has the DEQ's parameters, or its multiply-adds of `layers` evaluations
    """

    kind: Literal["none", "tied", "untied"]
    layers: Annotated[int, Field(strict=True, ge=1)] | None
    match: Literal["parameters", "multiply_adds"] | None

    @property
    def explicit(self) -> bool:
        """Whether there is a baseline at all."""
        return self.kind != "none"

    @model_validator(mode="after")
    def _is_whole(self) -> BaselineSettings:
        if not self.explicit:
            given = [f"{name}={value}" for name in ("layers", "match") if (value := getattr(self, name)) is not None]
            if given:
                raise ValueError(
                    f"has {given[0]}, but no net is asked for; give baseline=tied or baseline=untied as well."
                )
        elif self.layers is None:
            raise ValueError(
                f"has kind={self.kind} but no layers; give baseline={self.kind}, which has all that belongs."
            )
        elif self.kind == "tied" and self.match is not None:
            raise ValueError(
                f"has match={self.match}, but a tied net has the cell's own parameters and nothing to match; leave it "
                "out, or give baseline=untied."
            )
        elif self.kind == "untied" and self.match is None:
            raise ValueError("has match=null, but an untied net matches something; give parameters or multiply_adds.")
        return self


def with_baseline(sections: Mapping[str, Any], typed: Iterable[str]) -> dict[str, Any]:
    """The sections of a run with the solver and gradient of its baseline; unchanged where it has none.

    A study chooses them for its DEQ, and is right to; on the command line beside `baseline` they are a contradiction.

    sections   as composed, `choices` among them
    typed      the overrides of the command line
    Raises ValueError where one of them asks for another solver or gradient.
    """
    baseline = sections.get("baseline")
    if not isinstance(baseline, Mapping) or baseline.get("kind") not in ("tied", "untied"):
        return dict(sections)
    for override in typed:
        key = override.lstrip("+~").partition("=")[0]
        group = key.partition(".")[0].partition("@")[0]
        if group in ("solver", "gradient") and key != "gradient.checkpoint" and override not in ALLOWED:
            raise ValueError(
                f"{override} does not go with baseline={baseline['kind']}: nothing is solved, and all layers are "
                f"back-propagated through; leave {key} out, or leave the baseline out."
            )
    gradient = sections.get("gradient")
    checkpoint = gradient.get("checkpoint", 0) if isinstance(gradient, Mapping) else 0
    choices = {group: option for group, option in sections["choices"].items() if "@gradient" not in group}
    return dict(sections) | {
        "solver": PLAIN_ITERATION,
        "gradient": BACK_PROPAGATION | {"steps": baseline.get("layers"), "checkpoint": checkpoint},
        "choices": choices | {"solver": "picard", "gradient": "unrolled"},
    }


def require_explicit(baseline: BaselineSettings, sections: Mapping[str, Any]) -> None:
    """Nothing in a run's sections contradicts its baseline. Raises ValueError, one sentence."""
    if not baseline.explicit:
        return
    layers = baseline.layers
    needed: dict[str, Any] = {
        "budget.max_iter": layers,
        "budget.tol": 0,
        "budget.keep": "last",
        "budget.patience": None,
        "budget.min_iter": 0,
    }
    needed |= {f"solver.{key}": value for key, value in PLAIN_ITERATION.items()}
    needed |= {f"gradient.{key}": value for key, value in (BACK_PROPAGATION | {"steps": layers}).items()}
    needed |= NO_PATH if baseline.kind == "untied" else {"train.random_budget": None}
    for key, value in needed.items():
        group, _, name = key.partition(".")
        given = sections[group].get(name, value)
        if given != value:
            others = "; sweep.solvers asks with others" if group == "solver" and baseline.kind == "tied" else ""
            raise ValueError(
                f"{key}={_typed(given)} does not go with baseline={baseline.kind} and baseline.layers={layers}; it "
                f"must be {_typed(value)}, which the baseline sets by itself{others}."
            )
    if baseline.kind == "untied":
        _require_layer_by_layer(sections)


def _require_layer_by_layer(sections: Mapping[str, Any]) -> None:
    """A sweep of untied layers goes through them one after the other, and stops at none of its own accord."""
    others = [name for name, solver in sections["sweep_solvers"].items() if dict(solver) != PLAIN_ITERATION]
    if others:
        raise ValueError(
            f"sweep.solvers holds {others[0]}, but untied layers have no fixed point to solve for (baseline=untied); "
            "give sweep.solvers=[picard], undamped, which goes from layer to layer."
        )
    tolerances = [tol for tol in sections["sweep"]["tolerances"] if tol != 0]
    if tolerances:
        raise ValueError(
            f"sweep.tolerances holds {tolerances[0]:g}, but untied layers have no fixed point to come near "
            "(baseline=untied); give sweep.tolerances=[0]."
        )


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return "null" if value is None else str(value)
