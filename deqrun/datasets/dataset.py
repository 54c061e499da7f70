"""The interface of a data set: three splits, a loss, and a notion of "correct"."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.datasets.pictures import Pictures
from deqrun.datasets.puzzle_symmetries import Views

SPLITS = ("train", "validation", "test")

IGNORED = -100
"""A target that counts neither in the loss nor in the answer."""


class DataUnavailable(RuntimeError):  # noqa: N818  (it names what is the case)
    """The data is not on this machine; the message says where it was looked for and how to get it."""


@dataclass(frozen=True)
class Split:
    """Samples of one split, on the host.

    inputs   (n, …) as they are stored: float32, or whatever smaller form the data set's `encode` takes. Pictures that
             are decoded when they are indexed look like the tensor of all
    targets  (n, *output_shape) long; IGNORED where nothing is asked
    ratings  (n,) float64: how hard each sample is, by its publisher; NaN where that is unknown. None: not rated
    """

    inputs: Tensor | Pictures
    targets: Tensor
    ratings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)


class Dataset(ABC):
    """Known without its data: the attributes. `load` brings the samples.

    name           as on the command line
    input_shape    of one encoded sample, channels first: (channels, height, width) or (channels, length)
    num_classes    of each answer
    output_shape   positions that are answered: () is one label per sample, (length,) or (height, width) one each
    difficulty     the parameter that makes its samples harder, which a sweep may vary; None: it has none
    classes        names of the classes in the order of their numbers; None: their numbers are their names
    by_content     whether a sample's content alone says which split owns it, whatever the other parameters
    repeats        whether samples come twice by nature, as where few inputs are possible
    symmetric      whether `views` knows symmetries of its samples
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    output_shape: tuple[int, ...] = ()
    difficulty: str | None = None
    classes: tuple[str, ...] | None = None
    by_content: bool = False
    repeats: bool = False
    symmetric: bool = False

    @abstractmethod
    def load(self, split: str) -> Split:
        """The samples of 'train', 'validation' or 'test'; the splits share none.

        Raises DataUnavailable where the data is not there, ValueError on another split's name.
        """

    def memory(self) -> int:
        """Bytes that the samples of all splits take at least, told before they are read; 0 where that isn't known."""
        return 0

    def encode(self, inputs: Tensor) -> Tensor:
        """The model's input, (batch, *input_shape) float32, from stored inputs (batch, …), on their device."""
        return inputs

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random changes that leave the target right, of encoded x; training alone uses them. None by default."""
        return x

    def augment_pair(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random changes of encoded x and of its targets together; training calls it for each batch.

        By default `augment` of x, and the targets as they are. A data set overrides it where a change moves the
        answer, too, as a turned maze's path is turned.
        """
        return self.augment(x, generator), targets

    def views(self, batch: int, generator: torch.Generator) -> Views:
        """A random symmetry for each of so many samples, with the way back of its answers.

        A sweep votes over the answers to several views of a sample. Raises NotImplementedError where `symmetric` is
        False.
        """
        raise NotImplementedError(f"{type(self).__name__} knows no symmetries.")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, the mean over a sample's positions: (batch, classes, *output_shape) -> (batch,)."""
        losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
        if not self.output_shape:
            return losses
        asked = (targets != IGNORED).flatten(1).sum(1).clamp(min=1)
        return losses.flatten(1).sum(1) / asked

    def asked(self, targets: Tensor) -> Tensor | None:
        """Positions whose answers must be right, (batch, *output_shape) bool; None: there is one answer per sample.

        Whatever compares answers goes by these: `correct`, halting rules, votes of several starts.
        """
        return targets != IGNORED if self.output_shape else None

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the most likely class is the target at every position that is asked: (batch,) bool.

        NaN is never right.
        """
        right, asked = (logits.argmax(1) == targets) & ~logits.isnan().any(1), self.asked(targets)
        return right if asked is None else (right | ~asked).flatten(1).all(1)


def require_split(split: str) -> None:
    """ValueError unless `split` names one of the three."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.")


def stratified_split(labels: NDArray[np.int64], shares: tuple[float, ...], seed: int) -> list[Tensor]:
    """Disjoint, sorted index sets that take these shares of every class, at random by `seed`.

    shares sum to at most 1; the last set takes the rest when they sum to 1. A class of n samples gives
    round(n · cumulative share) samples to the sets up to each one, so each set is within one sample of its share.
    """
    generator = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        bounds = np.rint(np.cumsum((0.0, *shares)) * len(members)).astype(int)
        for part, low, high in zip(parts, bounds[:-1], bounds[1:], strict=True):
            part.append(members[low:high])
    return [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
