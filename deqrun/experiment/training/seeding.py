"""One seed per purpose, so that no draw depends on how many were made before it."""

from __future__ import annotations

import numpy as np
import torch


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers (seed, epoch, purpose): distinct inputs give unrelated streams."""
    state = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])


def generator(*parts: int) -> torch.Generator:
    """A host generator seeded by `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*parts))
