"""Data sets that are wrong in one way each, and a right one; FAULTS says by which sentence each is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqrun.datasets import SPLITS, Dataset, Split


class Right(Dataset):
    """Random vectors in three classes by the sign of their sums."""

    name = "right"
    input_shape: Any = (1, 8)
    num_classes: Any = 3
    sizes = (60, 20, 20)

    def load(self, split: str) -> Any:
        place = SPLITS.index(split)
        inputs = torch.randn(self.sizes[place], 1, 8, generator=torch.Generator().manual_seed(place))
        return Split(self.inputs(inputs, split), self.targets(torch.arange(len(inputs)) % 3, split))

    def inputs(self, inputs: Tensor, split: str) -> Any:
        return inputs

    def targets(self, targets: Tensor, split: str) -> Any:
        return targets


class NoName(Right):
    name = None  # type: ignore[assignment]


class NoShape(Right):
    input_shape = None


class ListShape(Right):
    input_shape = [1, 8]  # noqa: RUF012


class EmptyShape(Right):
    input_shape = ()


class OneClassOnly(Right):
    num_classes = 1


class FloatClasses(Right):
    num_classes = 3.0


class PairInsteadOfSplit(Right):
    def load(self, split: str) -> Any:
        made = super().load(split)
        return made.inputs, made.targets


class NumpyInputs(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        return inputs.numpy()


class NumpyTargets(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets.numpy()


class ListTargets(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets.tolist()


class FailsToLoad(Right):
    def load(self, split: str) -> Any:
        return np.load("no_such_file.npy")


class EmptyTrain(Right):
    sizes = (0, 20, 20)


class EmptyValidation(Right):
    sizes = (60, 0, 20)


class TinyTest(Right):
    sizes = (60, 20, 1)


class FewerTargets(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets[:-1]


class ChannelsLast(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        return inputs.mT


class Doubles(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        return inputs.double()


class Bytes(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        return (inputs.abs() * 50).to(torch.uint8)


class NaNInput(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        inputs[17 % len(inputs), 0, 3] = torch.nan
        return inputs


class InfiniteTest(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        inputs[5, 0, 0] = torch.inf if split == "test" else 0.0
        return inputs


class DividesByZero(Right):
    def encode(self, inputs: Tensor) -> Tensor:
        return inputs / (inputs - inputs)


class FloatTargets(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets.float()


class ByteTargets(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets.to(torch.uint8)


class OneHot(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return torch.nn.functional.one_hot(targets, 3)


class FromOne(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets + 1


class NegativeTarget(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets - 1


class OneClassSeen(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets * 0


class UnseenClass(Right):
    def targets(self, targets: Tensor, split: str) -> Any:
        return targets % 2 if split == "train" else targets


class SameSplits(Right):
    def load(self, split: str) -> Any:
        return super().load("train")


class SharesHalf(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        if split == "test":
            inputs[:10] = super().load("train").inputs[:10]
        return inputs


class AnotherEachTime(Right):
    def inputs(self, inputs: Tensor, split: str) -> Any:
        return inputs[torch.randperm(len(inputs))]


class ScalarLoss(Right):
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super().loss(logits, targets).mean()


class CorrectIsAShare(Right):
    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super().correct(logits, targets).float().mean()


class AugmentCrops(Right):
    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x[..., 1:]


class AugmentsTheAnswerAway(Right):
    def augment_pair(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, targets[:, None]


class AugmentsToNoClass(Right):
    def augment_pair(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, targets + 100


class AugmentsInputsAlone(Right):
    def augment_pair(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x  # type: ignore[return-value]


class BrokenConstructor(Right):
    def __init__(self) -> None:
        self.table = {}["path"]  # type: ignore[var-annotated]


class NotADataset:
    pass


FAULTS: dict[type, str] = {
    NoName: "the data set has no name; set name, input_shape and num_classes",
    NoShape: "the data set has no input_shape; set name, input_shape and num_classes",
    ListShape: "input_shape is [1, 8]; it must be a tuple of positive whole numbers",
    EmptyShape: "input_shape is (); it must be a tuple of positive whole numbers",
    OneClassOnly: "num_classes is 1; it must be a whole number from 2",
    FloatClasses: "num_classes is 3.0; it must be a whole number from 2",
    PairInsteadOfSplit: "load('train') returned a tuple; it must return Split(inputs, targets) of deqrun.datasets",
    NumpyInputs: "inputs of the train split are a NumPy array; they must be a tensor, as torch.from_numpy makes one",
    NumpyTargets: "targets of the train split are a NumPy array; they must be a tensor, as torch.from_numpy makes one",
    ListTargets: "targets of the train split are a list; they must be a tensor of numbers",
    FailsToLoad: "load('train') fails with FileNotFoundError",
    EmptyTrain: "the train split is empty; each needs 2 samples at least",
    EmptyValidation: "the validation split is empty; each needs 2 samples at least",
    TinyTest: "the test split has one sample; each needs 2 samples at least",
    FewerTargets: "the train split has 60 inputs and 59 targets; there must be as many of both",
    ChannelsLast: "encoded inputs of the train split are (3, 8, 1) for 3 samples; they must be (3, 1, 8)",
    Doubles: "encoded inputs are float64; models see float32",
    Bytes: "encoded inputs are uint8; models see float32",
    NaNInput: "input 17 of the train split is not finite (NaN or infinity)",
    InfiniteTest: "input 5 of the test split is not finite (NaN or infinity)",
    DividesByZero: "input 0 of the train split is not finite (NaN or infinity)",
    FloatTargets: "targets of the train split are float32; they must be int64",
    ByteTargets: "targets of the train split are uint8; they must be int64",
    OneHot: "targets of the train split are of shape (60, 3); they must be (60,), the class's number for each answer",
    FromOne: "the train split has a target of 3; allowed are 0 to 2, by num_classes=3",
    NegativeTarget: "the train split has a target of -1; allowed are 0 to 2, by num_classes=3",
    OneClassSeen: "every target of the train split is 0; there must be two classes at least",
    UnseenClass: "class 2 is in the validation split and not in train, where 2 classes are",
    SameSplits: "60 of the 60 samples of the test split are in train, too; splits share none",
    SharesHalf: "10 of the 20 samples of the test split are in train, too; splits share none",
    AnotherEachTime: "the train split is another when the data set is constructed again",
    ScalarLoss: "loss returned () float32 for 3 samples; it must return floating-point numbers of shape (3,)",
    CorrectIsAShare: "correct returned () float32 for 3 samples; it must return bool of shape (3,)",
    AugmentCrops: "augment returned (3, 1, 7) for (3, 1, 8); it keeps shape and dtype",
    AugmentsTheAnswerAway: "augment_pair returned (3, 1) for (3,); it keeps shape and dtype",
    AugmentsToNoClass: "the augmented train split has a target of 10",
    AugmentsInputsAlone: "augment_pair returned a Tensor; it must return inputs and targets",
    BrokenConstructor: "can't be constructed (KeyError: 'path')",
    NotADataset: "is not a Dataset, which dataset must be",
}
"""Wrong data sets, and the sentence that each is refused with."""
