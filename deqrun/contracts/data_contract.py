"""Try a data set: its attributes, its three splits, their numbers, and samples that splits share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqrun.contracts.finding import Fault, Finding, called, name_of, run_checks
from deqrun.datasets import IGNORED, SPLITS, Dataset, Split
from deqrun.datasets.fingerprint import digest_of, row_digests

__all__ = ["DATA_CHECKS", "check_data"]

DOCS = "docs/datasets.md"
CHUNK = 4096
SAMPLES = 3
LEAST = 2
"""Samples that a split has at least: fewer have no interval, and train no norm."""

SHARED = 0.01
"""Share of a split that may be in another one: real data holds a few samples twice."""

NUMERIC = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
)

DATA_CHECKS = {
    "attributes": "check_attributes",
    "load": "check_load",
    "sizes": "check_sizes",
    "encode": "check_encode",
    "finite": "check_finite",
    "targets": "check_targets",
    "classes": "check_classes",
    "splits apart": "check_splits_apart",
    "same each time": "check_same_each_time",
    "loss": "check_loss",
    "augment": "check_augment",
}
"""Name of each check and the method that makes it, in the order in which they are made."""


def check_data(make: Callable[[], Dataset]) -> list[Finding]:
    """Try the data set that `make` constructs; it is constructed twice, and all of its splits are read.

    Raises DataUnavailable where its files are not there.
    """
    trial = _Trial(make)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run_checks({name: getattr(trial, method) for name, method in DATA_CHECKS.items()}, DOCS)


class _Trial:
    """A data set and its splits, as far as they have been read."""

    def __init__(self, make: Callable[[], Dataset]) -> None:
        self.make, self.data = make, make()
        self.splits: dict[str, Split] = {}

    def check_attributes(self) -> None:
        """`name`, `input_shape`, `num_classes` and `output_shape` are there and of their types."""
        for name in ("name", "input_shape", "num_classes"):
            if called(f"attribute {name}", lambda name=name: getattr(self.data, name, None)) is None:  # type: ignore[misc]
                raise Fault(f"the data set has no {name}; set name, input_shape and num_classes")
        for name in ("input_shape", "output_shape"):
            shape = getattr(self.data, name)
            whole = isinstance(shape, tuple) and all(type(side) is int and side > 0 for side in shape)
            if not whole or (name == "input_shape" and not shape):
                example = "(channels, height, width)" if name == "input_shape" else "() or (height, width)"
                raise Fault(f"{name} is {shape!r}; it must be a tuple of positive whole numbers, as {example}")
        classes = self.data.num_classes
        if type(classes) is not int or classes < 2:
            raise Fault(f"num_classes is {classes!r}; it must be a whole number from 2")

    def check_load(self) -> None:
        """Each split is a `Split` of two tensors of numbers."""
        for name in SPLITS:
            split = called(f"load({name!r})", lambda name=name: self.data.load(name))  # type: ignore[misc]
            if not isinstance(split, Split):
                raise Fault(
                    f"load({name!r}) returned a {type(split).__name__}; it must return Split(inputs, targets) "
                    "of deqrun.datasets"
                )
            for field in ("inputs", "targets"):
                self._require_tensor(name, field, getattr(split, field))
            self.splits[name] = split

    def _require_tensor(self, split: str, field: str, value: object) -> None:
        if isinstance(value, np.ndarray):
            raise Fault(
                f"{field} of the {split} split are a NumPy array; they must be a tensor, as torch.from_numpy makes one"
            )
        if not isinstance(value, Tensor) or value.dtype not in NUMERIC:
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise Fault(f"{field} of the {split} split are a {kind}; they must be a tensor of numbers")
        if value.device != torch.device("cpu") or value.requires_grad:
            raise Fault(
                f"{field} of the {split} split are on {value.device} or carry a gradient; they must be plain "
                "tensors in the host's memory"
            )
        if value.dim() == 0:
            raise Fault(f"{field} of the {split} split are a single number; samples come first")

    def check_sizes(self) -> None:
        """Each split has enough samples, and as many targets as inputs."""
        for name, split in self.splits.items():
            if len(split.inputs) != len(split.targets):
                raise Fault(
                    f"the {name} split has {len(split.inputs)} inputs and {len(split.targets)} targets; there "
                    "must be as many of both"
                )
            if len(split) < LEAST:
                found = "is empty" if len(split) == 0 else "has one sample"
                raise Fault(
                    f"the {name} split {found}; each needs {LEAST} samples at least, and some hundreds to tell "
                    "models apart"
                )

    def check_encode(self) -> None:
        """Encoded inputs are float32 of the input's shape."""
        for name, split in self.splits.items():
            x = called("encode", lambda split=split: self.data.encode(split.inputs[:SAMPLES].clone()))  # type: ignore[misc]
            wanted = (len(split.inputs[:SAMPLES]), *self.data.input_shape)
            if not isinstance(x, Tensor) or tuple(x.shape) != wanted:
                given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise Fault(
                    f"encoded inputs of the {name} split are {given} for {wanted[0]} samples; they must be "
                    f"{wanted}, by input_shape={self.data.input_shape}, channels first"
                )
            if x.dtype != torch.float32:
                raise Fault(
                    f"encoded inputs are {name_of(x.dtype)}; models see float32, so store float32, or let encode "
                    "return inputs.float()"
                )

    def check_finite(self) -> None:
        """No input is NaN or infinite, in any split."""
        for name, split in self.splits.items():
            for low in range(0, len(split), CHUNK):
                inputs = split.inputs[low : low + CHUNK]
                x = inputs if inputs.is_floating_point() else self.data.encode(inputs[:SAMPLES])
                self._require_finite(name, low, x)
                if inputs.is_floating_point() and low == 0:
                    self._require_finite(name, low, self.data.encode(inputs))

    def _require_finite(self, split: str, low: int, x: Tensor) -> None:
        wrong = ~x.isfinite().flatten(1).all(1)
        if bool(wrong.any()):
            first = low + int(wrong.nonzero()[0])
            raise Fault(
                f"input {first} of the {split} split is not finite (NaN or infinity); leave such samples out, "
                "or fill them in"
            )

    def check_targets(self) -> None:
        """Targets are long, of their shape, and name classes that there are."""
        for name, split in self.splits.items():
            targets, wanted = split.targets, (len(split), *self.data.output_shape)
            if tuple(targets.shape) != wanted:
                raise Fault(
                    f"targets of the {name} split are of shape {tuple(targets.shape)}; they must be {wanted}, "
                    "the class's number for each answer, not one-hot"
                )
            if targets.dtype != torch.int64:
                raise Fault(
                    f"targets of the {name} split are {name_of(targets.dtype)}; they must be int64, as .long() gives"
                )
            self._require_range(name, targets)

    def _require_range(self, name: str, targets: Tensor) -> None:
        asked = targets != IGNORED if self.data.output_shape else torch.ones_like(targets, dtype=torch.bool)
        outside = asked & ((targets < 0) | (targets >= self.data.num_classes))
        if bool(outside.any()):
            ignored = f", and {IGNORED} where nothing is asked" if self.data.output_shape else ""
            raise Fault(
                f"the {name} split has a target of {int(targets[outside][0])}; allowed are 0 to "
                f"{self.data.num_classes - 1}, by num_classes={self.data.num_classes}{ignored}"
            )
        if not bool(asked.flatten(1).any(1).all() if asked.dim() > 1 else asked.all()):
            raise Fault(f"a sample of the {name} split asks for nothing: all of its targets are {IGNORED}")

    def check_classes(self) -> None:
        """The training split holds two classes at least, and every class that the others ask for."""
        seen = set(self.splits["train"].targets.unique().tolist()) - {IGNORED}
        if len(seen) < 2:
            raise Fault(
                f"every target of the train split is {next(iter(seen))}; there must be two classes at least, "
                "so mix the samples before they are split"
            )
        for name in SPLITS[1:]:
            unseen = set(self.splits[name].targets.unique().tolist()) - {IGNORED} - seen
            if unseen:
                raise Fault(
                    f"class {min(unseen)} is in the {name} split and not in train, where {len(seen)} classes "
                    "are; mix the samples before they are split, as stratified_split does"
                )

    def check_splits_apart(self) -> None:
        """No split holds samples of another."""
        self.rows = {name: row_digests(split.inputs) for name, split in self.splits.items()}
        if self.data.repeats:
            return
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            shared = int(np.isin(self.rows[other], self.rows[one]).sum())
            if shared > SHARED * len(self.rows[other]):
                raise Fault(
                    f"{shared} of the {len(self.rows[other])} samples of the {other} split are in {one}, too; "
                    "splits share none, or repeats = True says that samples come twice by nature"
                )

    def check_same_each_time(self) -> None:
        """Constructed again with the same parameters, the data set holds the same."""
        again = self.make()
        for name, split in self.splits.items():
            anew = again.load(name)
            if digest_of(anew, row_digests(anew.inputs)) != digest_of(split, self.rows[name]):
                raise Fault(
                    f"the {name} split is another when the data set is constructed again; draw with a "
                    "generator of its own, seeded by a parameter as split_seed"
                )

    def check_loss(self) -> None:
        """`loss` and `correct` give one number per sample."""
        split = self.splits["train"]
        targets = split.targets[:SAMPLES]
        logits = torch.randn(len(targets), self.data.num_classes, *self.data.output_shape)
        for name, kind in (("loss", "floating-point numbers"), ("correct", "bool")):
            value: Any = called(name, lambda name=name: getattr(self.data, name)(logits, targets))  # type: ignore[misc]
            right = isinstance(value, Tensor) and tuple(value.shape) == (len(targets),)
            if not right or (value.dtype == torch.bool) != (name == "correct"):
                given = (
                    f"{tuple(value.shape)} {name_of(value.dtype)}"
                    if isinstance(value, Tensor)
                    else type(value).__name__
                )
                raise Fault(
                    f"{name} returned {given} for {len(targets)} samples; it must return {kind} of shape "
                    f"({len(targets)},), one for each"
                )

    def check_augment(self) -> None:
        """Augmented inputs and targets have their shape and dtype still, and targets name classes that there are."""
        split = self.splits["train"]
        x, targets = self.data.encode(split.inputs[:SAMPLES].clone()), split.targets[:SAMPLES]
        changed = called("augment", lambda: self.data.augment(x.clone(), torch.Generator().manual_seed(0)))
        self._require_kept("augment", x, changed)
        pair = called(
            "augment_pair", lambda: self.data.augment_pair(x.clone(), targets.clone(), torch.Generator().manual_seed(0))
        )
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise Fault(f"augment_pair returned a {type(pair).__name__}; it must return inputs and targets")
        self._require_kept("augment_pair", x, pair[0])
        self._require_kept("augment_pair", targets, pair[1])
        self._require_range("augmented train", pair[1])

    def _require_kept(self, name: str, before: Tensor, after: object) -> None:
        if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
            given = f"{tuple(after.shape)}" if isinstance(after, Tensor) else type(after).__name__
            raise Fault(f"{name} returned {given} for {tuple(before.shape)}; it keeps shape and dtype")
