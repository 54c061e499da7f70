"""Random changes of a batch of images in training, drawn for each image by itself.

torchvision's random transforms v2 draw once for whatever they are given, so a batch would be shifted as one. Here the
draws are a vector with one entry per image, from the generator that is given and no other; what is done by them are
v2's own operations, on the whole batch at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from deqrun.datasets.torchvision_import import torchvision_functional

__all__ = ["AUGMENTATIONS", "PADDING", "crop_flip", "require_augmentation"]

AUGMENTATIONS = ("none", "crop_flip")

PADDING = 4
"""Pixels on each side, for images of 32x32 as for others (He et al. 2015, arXiv 1512.03385, section 4.2)."""


def require_augmentation(value: str) -> str:
    """`value` if it names an augmentation; raises ValueError otherwise."""
    if value not in AUGMENTATIONS:
        nearest = difflib.get_close_matches(str(value), AUGMENTATIONS, n=1, cutoff=0.0)[0]
        raise ValueError(f"augment={value!r} is unknown: allowed are {', '.join(AUGMENTATIONS)} (nearest: {nearest}).")
    return value


def crop_flip(x: Tensor, generator: torch.Generator, fill: Sequence[float], padding: int = PADDING) -> Tensor:
    """Each image shifted by up to `padding` pixels both ways, and mirrored with probability ½.

    With k_i, l_i uniform on 0 … 2·padding, image i becomes rows k_i … k_i + H − 1 and columns l_i … l_i + W − 1 of
    itself padded on every side; then its columns are reversed where a fair coin says so.

    x          (batch, channels, H, W), on the generator's device
    generator  gives all draws: 2·batch integers, then batch coins
    fill       value of the padding in each channel: the value of a black pixel in `x`
    """
    operations = torchvision_functional()
    batch, (height, width) = len(x), x.shape[-2:]
    down, right = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=x.device)
    mirrored = torch.rand(batch, generator=generator, device=x.device) < 0.5
    padded = operations.pad(x, [padding] * 4, fill=list(fill))
    # Every shifted image is a view of the padded one, so that one indexing takes each image's own.
    shifted = padded.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(batch, device=x.device), :, down, right]
    changed: Tensor = torch.where(mirrored[:, None, None, None], operations.horizontal_flip(shifted), shifted)
    return changed
