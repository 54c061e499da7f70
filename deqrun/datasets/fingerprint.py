"""Tells by content which data a split holds: a digest of each sample, and one of the whole."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import Split
from deqrun.datasets.pictures import Pictures

__all__ = ["MOST_BYTES", "MOST_ROWS", "digest_of", "places", "row_digests"]

MOST_ROWS = 2_000_000
MOST_BYTES = 4 * 2**30
"""Samples and bytes of a split that are read at most, about ten seconds on one core; of more, evenly spaced ones."""

CHUNK = 1024


def places(inputs: Tensor | Pictures) -> NDArray[np.int64]:
    """The samples that are read: all of them, or evenly spaced ones where there are too many."""
    n = len(inputs)
    each = max(1, inputs[:1].numel() * inputs.element_size())
    most = max(1, min(getattr(inputs, "digested", MOST_ROWS), MOST_BYTES // each))
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def row_digests(inputs: Tensor | Pictures) -> NDArray[np.uint64]:
    """(k,) 64 bits of the content of each sample that `places` names, its dtype and shape included."""
    chosen = places(inputs)
    form = f"{inputs.dtype} {tuple(inputs.shape[1:])}".encode()
    digests = np.empty(len(chosen), dtype=np.uint64)
    for low in range(0, len(chosen), CHUNK):
        part = chosen[low : low + CHUNK]
        whole = part[-1] - part[0] + 1 == len(part)
        rows = inputs[int(part[0]) : int(part[-1]) + 1] if whole else inputs[torch.from_numpy(part)]
        content = rows.detach().cpu().reshape(len(part), -1).contiguous()
        octets = content.view(torch.uint8).numpy() if content.numel() else np.zeros((len(part), 0), dtype=np.uint8)
        for place, row in enumerate(octets):
            digest = blake2b(row.tobytes(), digest_size=8, key=form[:64]).digest()
            digests[low + place] = int.from_bytes(digest, "little")
    return digests


def digest_of(split: Split, rows: NDArray[np.uint64]) -> str:
    """16 hexadecimal digits of a split: its number of samples, their digests in order, and their targets."""
    chosen = torch.from_numpy(places(split.inputs))
    targets = split.targets[chosen] if len(chosen) < len(split) else split.targets
    digest = blake2b(str(len(split)).encode(), digest_size=8)
    digest.update(rows.astype("<u8").tobytes())
    digest.update(np.ascontiguousarray(targets.cpu().numpy()).astype("<i8").tobytes())
    return digest.hexdigest()
