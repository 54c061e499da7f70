"""Picture files as the inputs of a split, decoded when they are asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["DECODERS", "Pictures"]

DECODERS = 8
"""Threads that decode at most: Pillow lets go of Python's lock while it decodes and resizes."""


class Pictures:
    """Looks like the (n, channels, height, width) uint8 tensor of all pictures, and decodes those that are indexed.

    Decoded pictures are kept up to `cache` bytes, in each process; the least recently used ones go first.

    paths   the files, in order
    decode  path -> (channels, height, width) uint8
    shape   of one picture
    cache   bytes
    """

    dtype = torch.uint8
    digested = 4096
    """Samples that a fingerprint reads at most: all of them would be decoded once more."""

    def __init__(
        self, paths: Sequence[str], decode: Callable[[str], Tensor], shape: tuple[int, ...], cache: int
    ) -> None:
        self.paths, self.decode, self.cache = list(paths), decode, cache
        self.shape = (len(paths), *shape)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | Tensor | int) -> Tensor:
        """The pictures (k, channels, height, width) at a slice or at places (k,); (channels, height, width) of one."""
        places = torch.arange(len(self))[index]
        if places.dim() == 0:
            return self._pictures([int(places)])[0]
        return self._pictures(places.tolist())

    def only(self, places: Tensor) -> Pictures:
        """The pictures at these places alone, not decoded."""
        return Pictures([self.paths[place] for place in places.tolist()], self.decode, self.shape[1:], self.cache)

    def decoded(self, words: str) -> Tensor:
        """All of them in memory; `words` are the progress bar's."""
        found = torch.empty(self.shape, dtype=torch.uint8)
        with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as threads:
            decoded = threads.map(self.decode, self.paths)
            for place, picture in enumerate(
                tqdm(decoded, words, len(self), leave=False, dynamic_ncols=True, disable=None)
            ):
                found[place] = picture
        return found

    def element_size(self) -> int:
        """Bytes of a number."""
        return 1

    def _pictures(self, places: Sequence[int]) -> Tensor:
        found = torch.empty(len(places), *self.shape[1:], dtype=torch.uint8)
        missing = []
        for row, place in enumerate(places):
            picture = self._kept.get(place)
            if picture is None:
                missing.append((row, place))
            else:
                self._kept.move_to_end(place)
                found[row] = picture
        for (row, place), picture in zip(missing, self._decoded([place for _, place in missing]), strict=True):
            found[row] = picture
            self._keep(place, picture)
        return found

    def _decoded(self, places: Sequence[int]) -> Sequence[Tensor]:
        paths = [self.paths[place] for place in places]
        if len(paths) < 2:
            return [self.decode(path) for path in paths]
        # A forked process has none of the threads of its parent.
        if self._threads is None or self._owner != os.getpid():
            self._threads, self._owner = ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)), os.getpid()
        return list(self._threads.map(self.decode, paths))

    def _keep(self, place: int, picture: Tensor) -> None:
        size = picture.numel()
        if size > self.cache:
            return
        self._kept[place] = picture
        while len(self._kept) * size > self.cache:
            self._kept.popitem(last=False)

    def __getstate__(self) -> dict[str, object]:
        """For another process, which decodes by itself."""
        return {**vars(self), "_threads": None, "_kept": OrderedDict()}
