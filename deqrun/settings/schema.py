"""The composed config as typed, frozen settings: types, ranges, and one sentence for whatever is wrong.

Hydra's DictConfig stops here. A `Settings` holds all of a user's choices; written as
config.yaml into the run folder, it rebuilds the same run without Hydra. Defaults live in the YAML files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from deqrun.errors import unknown
from deqrun.records.halting_rules import HALTING_RULES
from deqrun.records.yaml_text import write_yaml
from deqrun.settings.baseline import BaselineSettings, require_explicit
from deqrun.settings.component import ComponentSettings, Section
from deqrun.settings.launch import LaunchSettings
from deqrun.settings.trust import how_to_allow, is_packaged, is_trusted

Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
PositiveCount = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Iterations = Annotated[int, Field(strict=True, ge=0, le=10**6)]  # the sweep keeps every one of them in memory
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
PositiveFraction = Annotated[float, Field(strict=True, gt=0, le=1)]
Average = Annotated[float, Field(strict=True, gt=0, lt=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
HaltingRule = Literal[tuple(HALTING_RULES)]  # type: ignore[valid-type]
Precision = Literal["float32", "bfloat16", "float64"]
Flag = Annotated[bool, Field(strict=True)]
RunName = Annotated[str, StringConstraints(pattern=r"^\w[\w.,=+-]*$", max_length=100)]


class TrainSettings(Section):
    """How a model is trained: `train.*`. Where `steps` are given, they decide the length, and not the epochs.

    With neither epochs nor steps nothing is trained: the weights are asked as they are.
    """

    epochs: PositiveCount | None
    batch_size: PositiveCount
    eval_batch_size: PositiveCount
    workers: Count
    pin_memory: Flag
    channels_last: Flag
    schedule: Literal["constant", "cosine", "steps"]
    warmup_fraction: Fraction
    clip_norm: Positive | None
    jacobian_weight: NonNegative
    jacobian_frequency: PositiveFraction
    unrolled_warmup_steps: Count
    unrolled_depth: PositiveCount
    start: Literal["zeros", "normal", "mixture", "previous"]
    start_scale: Positive
    random_budget: tuple[Count, Count] | None
    random_budget_per: Literal["step", "sample"]
    path_damping: PositiveFraction
    path_noise: NonNegative
    progressive_weight: Fraction
    corrections: Count
    correction_decay: PositiveFraction
    # Runs from before these keys go on as they began.
    steps: PositiveCount | None = None
    log_every: PositiveCount | None = None
    checkpoint_minutes: Positive | None = None
    keep_last: PositiveCount = 1
    accumulate: PositiveCount = 1
    ema: Average | None = None
    eval_every: PositiveCount | None = None
    eval_iterations: tuple[Iterations, ...] = ()
    decay: Literal["matrices", "all"] = "all"
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    tf32: Flag = False
    compile: Flag = False
    milestones: tuple[Fraction, ...] = (0.4, 2 / 3)
    segments: PositiveCount = 1
    loss: Literal["cross_entropy", "stablemax"] = "cross_entropy"
    random_budget_law: Literal["uniform", "poisson_lognormal", "exponential", "gamma"] = "uniform"
    random_budget_mean: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] | None = None
    random_budget_spread: Positive = 0.5
    spectral_weight: NonNegative = 0.0
    spectral_target: Positive = 0.9
    spectral_steps: PositiveCount = 4
    fixed_point_weight: NonNegative = 0.0
    halt_weight: NonNegative = 0.0
    halt_exploration: Fraction | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.steps is not None or self.epochs is not None

    @field_validator("random_budget", mode="before")
    @classmethod
    def _is_a_range(cls, value: Any) -> Any:
        whole = isinstance(value, list | tuple) and all(type(end) is int for end in value)
        if value is None or (whole and len(value) == 2 and 0 <= value[0] <= value[1]):
            return value
        raise ValueError(
            f"is {value}; it must be null or two whole numbers [low,high] with 0 <= low <= high, as in [4,24]"
        )

    @field_validator("milestones")
    @classmethod
    def _in_order(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"is {list(values)}; shares of all steps come in ascending order, as in [0.4,0.667]")
        return values

    @field_validator("eval_iterations")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(values)))

    @model_validator(mode="after")
    def _evaluates_something(self) -> TrainSettings:
        if self.eval_every is not None and not self.eval_iterations:
            raise ValueError(
                f"has eval_every={self.eval_every}, but no budgets to evaluate at; give train.eval_iterations, as in "
                "[1,4,16,64], as well"
            )
        return self

    @model_validator(mode="after")
    def _has_a_range_for_its_law(self) -> TrainSettings:
        law, mean = self.random_budget_law, self.random_budget_mean
        if law == "uniform" and mean is not None:
            raise ValueError(
                f"has random_budget_mean={mean}, but random_budget_law=uniform has the mean of its range; give "
                "random_budget_law=poisson_lognormal, exponential or gamma, or random_budget_mean=null"
            )
        if law != "uniform" and self.random_budget is None:
            raise ValueError(
                f"has random_budget_law={law}, but no random_budget to keep its draws within; give "
                "train.random_budget=[low,high] as well, as in [1,64]"
            )
        return self

    @model_validator(mode="after")
    def _can_halt(self) -> TrainSettings:
        if self.halt_exploration is None:
            return self
        if self.segments == 1:
            raise ValueError(
                f"has halt_exploration={self.halt_exploration}, but one segment, after which every sample ends; give "
                "train.segments as well, from 2, or halt_exploration=null"
            )
        if self.halt_weight == 0:
            raise ValueError(
                f"has halt_exploration={self.halt_exploration}, but halt_weight=0, so that no loss trains the head "
                "that decides; give train.halt_weight as well, as in 0.5, or halt_exploration=null"
            )
        return self

    @model_validator(mode="after")
    def _has_samples_for_every_part(self) -> TrainSettings:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"has accumulate={self.accumulate}, more parts than batch_size={self.batch_size} has samples; it must "
                f"be at most {self.batch_size}"
            )
        return self


class BudgetSettings(Section):
    """The budget of one solve in training: `budget.*`, the fields of `deqrun.solvers.Budget`."""

    max_iter: Count
    tol: NonNegative
    norm: Literal["relative", "absolute", "max"]
    keep: Literal["best", "last"]
    patience: PositiveCount | None
    min_iter: Count = 0

    @model_validator(mode="after")
    def _has_room(self) -> BudgetSettings:
        if self.min_iter > self.max_iter:
            raise ValueError(f"min_iter={self.min_iter} must be at most max_iter={self.max_iter}")
        return self


class SweepSettings(Section):
    """The grid of test-time budgets: `sweep.*`. Lists are put in order, without doubles; empty: no sweep."""

    iterations: tuple[Iterations, ...]
    tolerances: tuple[NonNegative, ...]
    solvers: tuple[str, ...]
    starts: tuple[Literal["zeros", "normal", "other"], ...]
    splits: tuple[Literal["validation", "test"], ...]
    batch_size: PositiveCount
    # Runs from before these keys go on as they began.
    start_seed: Seed = 0
    start_scale: Positive = 1.0
    precisions: tuple[Precision, ...] = ("float32",)
    difficulties: tuple[PositiveCount, ...] = ()
    halting: tuple[HaltingRule, ...] = ()  # type: ignore[valid-type]
    breadth: tuple[PositiveCount, ...] = ()
    breadth_start: Literal["normal", "zeros"] = "normal"
    noise: tuple[NonNegative, ...] = (0.0,)
    symmetries: Count = 0
    measures: tuple[Literal["positions", "cosine", "step"], ...] = ()
    spectrum: Count = 0
    loss: Flag = False
    states: Count = 0
    keep: Literal["samples", "curves", "grid"] = "samples"

    @field_validator("difficulties", "halting", "breadth", "measures", "symmetries", "noise", mode="before")
    @classmethod
    def _none(cls, value: Any, field: ValidationInfo) -> Any:
        return cls.model_fields[str(field.field_name)].default if value is None else value

    @field_validator("starts")
    @classmethod
    def _has_solutions(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if "other" in values and "zeros" not in values:
            raise ValueError(
                f"is [{', '.join(values)}]; other starts at solutions found from zeros, so give [zeros,other] at least"
            )
        return values

    @field_validator("iterations", "difficulties", "breadth")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(values)))

    @field_validator("noise")
    @classmethod
    def _beside_none(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        # Without noise is always there, since everything else is compared with it.
        return tuple(sorted({0.0, *values}))

    @model_validator(mode="after")
    def _has_draws(self) -> SweepSettings:
        shaken = next((level for level in self.noise if level > 0), None)
        if shaken is not None and not self.breadth and not self.symmetries:
            raise ValueError(
                f"has noise=[{shaken:g}], but no number of draws; give sweep.breadth, as in [1,4], as well"
            )
        if self.breadth_start == "zeros" and shaken is None and self.breadth:
            raise ValueError(
                "has breadth_start=zeros without noise, so that all draws are one; give sweep.noise, as in [0.01], or "
                "breadth_start=normal"
            )
        return self

    @field_validator("tolerances")
    @classmethod
    def _descending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(values), reverse=True))

    @field_validator("solvers", "starts", "splits", "precisions", "halting", "measures")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to sweep."""
        axes = (self.iterations, self.tolerances, self.solvers, self.starts, self.splits, self.precisions)
        return not all(axes)


def _names_another(given: str, kind: str, allowed: Sequence[str]) -> str:
    """'names acc, which is not a figure of a run; allowed: …': the end of a sentence that begins with the key."""
    return "names " + unknown(given, kind, allowed).replace(f" is not {kind};", f", which is not {kind};", 1)


TRACKERS = ("wandb", "tensorboard", "mlflow", "trackio")


class TrackerSettings(Section):
    """Where records are mirrored: `tracker.*`. Of group, job_type and tags null stands for deqrun's own choice."""

    name: str | tuple[str, ...]
    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    job_type: str | None
    tags: tuple[str, ...] | None
    # Runs from before these keys go on as they began.
    figures: Flag = True
    report: Flag = True
    checkpoint: Flag = True
    uri: str | None = None

    @field_validator("name", mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        for name in given:
            if name not in ("none", *TRACKERS):
                raise ValueError(_names_another(str(name), "a tracker", ["none", *TRACKERS]))
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The trackers, each once; none where the mode is disabled."""
        given = (self.name,) if isinstance(self.name, str) else self.name
        return () if self.mode == "disabled" else tuple(dict.fromkeys(name for name in given if name != "none"))


ADAPTED = "deqrun.models.adapted.AdaptedCell"
"""The cell of a model from elsewhere."""

DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda", "mps", "xpu")
NUMBERED = ("cuda", "xpu")
"""Of these a machine may have several: cuda:1 is the second."""


class Settings(Section):
    """All of a user's choices for a run. Equal settings give equal runs.

    device         auto, cpu, cuda, mps or xpu, of cuda and xpu with a number if wanted, as in cuda:1

    choices        the option taken of each config group, e.g. {'model': 'mdeq', 'solver': 'anderson'}
    sweep_solvers  the solvers that `sweep.solvers` names, resolved: config.yaml needs no config folder
    run, resume    the run folder given by `run=`, and whether to go on with it
    data_changed   refuse or match, where the run's data changed
    launch         the ranks that share its batches
    report         whether the run ends with its page and charts
    objective      the number that a search is told: a name of `RunRecord.figures`
    """

    name: RunName
    seed: Seed
    device: str
    threads: PositiveCount | None
    run: Path | None
    resume: Flag
    allow_foreign_targets: Flag = Field(exclude=True)
    choices: dict[str, str]
    model: ComponentSettings
    dataset: ComponentSettings
    solver: ComponentSettings
    budget: BudgetSettings
    gradient: ComponentSettings
    optimizer: ComponentSettings
    train: TrainSettings
    sweep: SweepSettings
    sweep_solvers: dict[str, ComponentSettings]
    tracker: TrackerSettings
    data_changed: Literal["refuse", "match_classes"] = "refuse"
    report: Flag = True
    objective: str = "val_accuracy"
    # Runs of before there were any have no baseline, and were one process.
    baseline: BaselineSettings = BaselineSettings(kind="none", layers=None, match=None)
    launch: LaunchSettings = LaunchSettings()

    @model_validator(mode="after")
    def _trusts_every_target(self) -> Settings:
        for where, component in self.components():
            trusted = is_packaged(component.target) or self.allow_foreign_targets or is_trusted(component.target)
            if not trusted:
                raise ValueError(
                    f"{where}._target_={component.target} is outside of deqrun and torch, {how_to_allow()}"
                )
        return self

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, value: str) -> str:
        kind, colon, number = value.partition(":")
        numbered = kind in NUMBERED and number.isascii() and number.isdigit() and len(number) < 4
        if kind not in DEVICES or (colon and not numbered):
            allowed = [*DEVICES[:3], "cuda:1", *DEVICES[3:]]
            told = _names_another(value, "a device", allowed)
            # The usual word for it: by its letters it would be taken for xpu.
            raise ValueError(told.replace("the nearest is xpu", "the nearest is cuda") if kind == "gpu" else told)
        return value

    @model_validator(mode="after")
    def _has_a_device_for_each_rank(self) -> Settings:
        if self.launch.several and (":" in self.device or self.device == "mps"):
            kind = self.device.partition(":")[0]
            nearest = "cpu" if kind == "mps" else kind
            raise ValueError(
                f"launch.devices={self.launch.devices} asks for several devices, and device={self.device} is one; "
                f"allowed are auto, cpu, cuda and xpu (nearest: device={nearest})"
            )
        return self

    @field_validator("objective")
    @classmethod
    def _is_a_figure(cls, value: str) -> str:
        if value != "val_accuracy":
            from deqrun.records.run import FIGURES  # which needs NumPy: settings start without

            if value not in FIGURES:
                raise ValueError(_names_another(value, "a figure of a run", FIGURES))
        return value

    @model_validator(mode="after")
    def _agrees_with_its_baseline(self) -> Settings:
        require_explicit(self.baseline, self.sections())
        return self

    @property
    def solve_iterations(self) -> int:
        """Solver steps of one solve outside of training: `budget.max_iter` times `train.segments`."""
        return self.budget.max_iter * self.train.segments

    @model_validator(mode="after")
    def _has_segments_of_a_tied_map(self) -> Settings:
        if self.train.segments > 1 and self.baseline.kind == "untied":
            raise ValueError(
                f"train.segments={self.train.segments} begins a solve where another ended, but baseline=untied has its "
                "layers once; allowed are train.segments=1 and baseline=none or tied"
            )
        return self

    @model_validator(mode="after")
    def _can_draw_budgets(self) -> Settings:
        if self.train.random_budget is None or self.gradient.target.rpartition(".")[2] != "Unrolled":
            return self
        given = f"train.random_budget={list(self.train.random_budget)}"
        if self.gradient.parameters.get("steps") is not None:
            raise ValueError(
                f"{given} has no effect with gradient.steps={self.gradient.parameters['steps']}, which fixes the "
                "iterations; give gradient.steps=null"
            )
        if self.train.random_budget_per == "sample":
            raise ValueError(
                f"{given} can't be drawn per sample with gradient=unrolled, where all samples take the same steps; "
                "give train.random_budget_per=step"
            )
        return self

    @property
    def own_weights(self) -> bool:
        """Whether the model comes from elsewhere, with its weights."""
        return self.model.target == ADAPTED

    def components(self) -> Iterator[tuple[str, ComponentSettings]]:
        """Every component, nested ones too, with its dotted key."""
        for group in ("model", "dataset", "solver", "gradient", "optimizer"):
            yield from getattr(self, group).walk(group)
        for name, solver in self.sweep_solvers.items():
            yield from solver.walk(f"sweep_solvers.{name}")

    def sections(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, as in config.yaml."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that two runs share exactly where their numbers are meant to be the same.

        Left out are settings that change no number: name, folder, tracker, device, threads, ranks, how batches are
        loaded, and how often training is recorded.
        """
        apart: dict[str, Any] = dict.fromkeys(
            ("name", "run", "resume", "tracker", "device", "threads", "launch", "data_changed", "report", "objective"),
            True,
        )
        records = {"log_every", "checkpoint_minutes", "keep_last", "eval_every", "eval_iterations"}
        apart |= {"train": {"workers", "pin_memory", *records}}
        return sha256(write_yaml(self.model_dump(mode="json", exclude=apart)).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The text of config.yaml; `read_settings` gives back equal settings.

        Whether foreign targets are allowed is not in it: each command line says so anew.
        """
        return write_yaml(self.sections())
