"""Character-level language modelling of any text file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import SPLITS, Dataset, DataUnavailable, Split, require_split

__all__ = ["Corpus", "Text"]

PERCENT = (0, 90, 95, 100)
"""Where the three parts of a text begin and end."""

CODE_POINTS = 0x110000
"""Unicode's."""


@dataclass(frozen=True)
class Corpus:
    """A text as tokens.

    tokens      (n,) long: the place of each character in the vocabulary; len(vocabulary) for one that is not in it
    vocabulary  the characters of the training part, by code point
    """

    tokens: Tensor
    vocabulary: str

    def part(self, split: str) -> Tensor:
        """The tokens of one split: the first 90 %, the next 5 % or the last 5 % of the text."""
        index = SPLITS.index(split)
        low, high = (len(self.tokens) * percent // 100 for percent in PERCENT[index : index + 2])
        return self.tokens[low:high]


class Text(Dataset):
    """Windows of a text; at every position of a window the answer is the next character.

    The text is split into three runs of characters, 90, 5 and 5 %, in the order train, validation, test. Windows are
    cut from each run alone, answers included, so none straddles two splits. The classes are the characters of the
    training part, and one more for every other character, which counts as an answer like the rest: to leave it out
    would flatter the model.

    The loss is in nats per character; divided by ln 2 it is bits per character. A window is right when its last
    answer is. That one was given the most context, and it alone is nowhere in the input: a model that sees to the
    right can read the others off, so for such a model the loss means nothing.

    path     the file, in UTF-8, read once per process, when something is first asked that depends on it; or
             module:NAME, the source of a Python module of this machine, which is not imported: module:pydoc_data.topics
             is the reference of Python's language in English
    length   characters of a window: input (classes, length) one-hot, output (length,)
    stride   characters between the starts of training windows; null: `length`. Those of validation and test are
             always `length` apart, so that each character is predicted once

    Raises ValueError for parameters outside these ranges. `num_classes`, `input_shape` and `load` raise
    DataUnavailable where no path was given, where there is no such text, and where it is too short for a window.
    """

    name = "text"

    def __init__(self, *, path: str | None = None, length: int = 64, stride: int | None = None) -> None:
        self.path = path
        self.length = require_at_least("length", length, 1)
        self.stride = self.length if stride is None else require_at_least("stride", stride, 1)
        self.output_shape = (self.length,)

    @cached_property
    def corpus(self) -> Corpus:
        """The text, known to have a window in each of its parts."""
        corpus = read_corpus(self.path)
        longest = min(len(corpus.part(split)) for split in SPLITS) - 1
        if longest < self.length:
            needed = (self.length + 1) * 20
            raise DataUnavailable(
                f"The text {self.path} has {len(corpus.tokens):,} characters, and 5 % of them hold no window of "
                f"dataset.length={self.length} and the character after it; give a text of {needed:,} or more"
                f"{f', or dataset.length={longest} or less' if longest >= 1 else ''}."
            )
        return corpus

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only from the text
        return (*self.corpus.vocabulary, "any other")

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known only from the text
        return len(self.corpus.vocabulary) + 1

    @cached_property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.num_classes, self.length

    def load(self, split: str) -> Split:
        """Views of the tokens: overlapping windows take no more memory than the text."""
        require_split(split)
        tokens, stride = self.corpus.part(split), self.stride if split == "train" else self.length
        return Split(tokens[:-1].unfold(0, self.length, stride), tokens[1:].unfold(0, self.length, stride))

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, classes, length) of stored tokens (batch, length)."""
        return F.one_hot(inputs, self.num_classes).movedim(-1, 1).float()

    def asked(self, targets: Tensor) -> Tensor:
        """The last position alone: the character after the window."""
        asked = torch.zeros_like(targets, dtype=torch.bool)
        asked[:, -1] = True
        return asked


def read_corpus(path: str | None) -> Corpus:
    """The text of a file; raises DataUnavailable, one sentence, where it can't be read."""
    if path is None:
        raise DataUnavailable("dataset=text needs a text file in UTF-8; name one with dataset.path=FILE.")
    file = _source(path.removeprefix("module:")) if path.startswith("module:") else Path(path)
    try:
        file = file.expanduser().resolve()
        status = file.stat()
        return _read(file, status.st_mtime_ns, status.st_size)
    except UnicodeDecodeError as error:
        raise DataUnavailable(
            f"The text {path!r} is not UTF-8 at byte {error.start:,}; name one that is with dataset.path=FILE."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataUnavailable(
            f"The text {path!r} can't be read ({reason}); name a text file with dataset.path=FILE."
        ) from error


def _source(module: str) -> Path:
    """The file of a module's source, found without importing it. Raises DataUnavailable."""
    package, _, name = module.rpartition(".")
    places = list(sys.path)
    for part in package.split(".") if package else []:
        spec = PathFinder.find_spec(part, places)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
    spec = PathFinder.find_spec(name, places)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise DataUnavailable(
            f"The text 'module:{module}' is no Python module with a source on this machine; name a text file with "
            "dataset.path=FILE, or module:pydoc_data.topics."
        )
    return Path(spec.origin)


@cache
def _read(file: Path, modified: int, size: int) -> Corpus:
    """The text of a file as it was at that time and of that size, so that one that changed is read again."""
    codes = np.frombuffer(file.read_bytes().decode("utf-8").encode("utf-32-le"), dtype="<u4")
    seen = np.zeros(CODE_POINTS, dtype=np.bool_)
    seen[codes[: len(codes) * PERCENT[1] // 100]] = True
    known = np.flatnonzero(seen)
    place = np.full(CODE_POINTS, len(known), dtype=np.int64)
    place[known] = np.arange(len(known))
    return Corpus(torch.from_numpy(place[codes]), "".join(map(chr, known)))
