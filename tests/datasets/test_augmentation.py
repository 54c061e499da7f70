"""Augmentation beside Pillow's own cutting and mirroring, its shares, and where its randomness comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deqrun.datasets.augmentation import PADDING, crop_flip, require_augmentation
from deqrun.datasets.images import CIFAR10, MNIST


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=seeded(7))


def by_pillow(picture: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """One picture with a black border of 4 pixels, cut at a place, and turned left to right."""
    height, width = picture.shape[1:]
    channels = []
    for channel in picture.numpy():
        bordered = ImageOps.expand(Image.fromarray(channel), PADDING, fill=0)
        cut = bordered.crop((right, down, right + width, down + height))
        channels.append(np.asarray(ImageOps.mirror(cut) if mirrored else cut))
    return torch.from_numpy(np.stack(channels))


def found(changed: Tensor, original: Tensor) -> list[tuple[int, int, bool]]:
    """Every (rows down, columns right, mirrored) by which Pillow makes `changed` of `original`."""
    places = [(down, right, mirrored) for down in range(9) for right in range(9) for mirrored in (False, True)]
    return [place for place in places if torch.equal(by_pillow(original, *place), changed)]


def test_each_image_is_shifted_and_mirrored_as_pillow_does() -> None:
    """The draws, taken from a second generator as the docstring says, put into Pillow picture by picture."""
    images = pictures(40)
    changed = crop_flip(images.float(), seeded(1), fill=[0.0, 0.0, 0.0])
    again = seeded(1)
    down, right = torch.randint(9, (2, 40), generator=again).tolist()
    mirrored = (torch.rand(40, generator=again) < 0.5).tolist()
    expected = [by_pillow(*case) for case in zip(images, down, right, mirrored, strict=True)]
    assert torch.equal(changed, torch.stack(expected).float())


def test_images_are_drawn_for_one_by_one_and_uniformly() -> None:
    """Of 3,000 copies of one picture: each of 9 shifts either way 1/9 of the time, half mirrored (within 5 σ)."""
    original = pictures(1, channels=1)
    copies = crop_flip(original.expand(3000, -1, -1, -1).float(), seeded(2), fill=[0.0])
    kinds, counts = copies.byte().unique(dim=0, return_counts=True)
    places = [found(kind, original[0]) for kind in kinds]
    assert all(len(place) == 1 for place in places)
    assert len(kinds) == 9 * 9 * 2
    draws = np.repeat([place[0] for place in places], counts.numpy(), axis=0)
    for column in (0, 1):
        shares = np.bincount(draws[:, column], minlength=9) / 3000
        assert np.abs(shares - 1 / 9).max() < 5 * (1 / 9 * 8 / 9 / 3000) ** 0.5
    assert abs(draws[:, 2].mean() - 0.5) < 5 * (0.25 / 3000) ** 0.5
    assert abs(np.corrcoef(draws.T) - np.eye(3)).max() < 5 / 3000**0.5


@pytest.mark.parametrize("kind", [CIFAR10, MNIST])
def test_borders_are_black_in_the_models_units(kind: type[CIFAR10]) -> None:
    """To change what is encoded and to encode what was changed is the same."""
    dataset = kind(augment="crop_flip")
    images = pictures(30, *dataset.input_shape)
    changed = dataset.augment(dataset.encode(images), seeded(3))
    bytes_changed = crop_flip(images.float(), seeded(3), fill=[0.0] * len(dataset.mean))
    torch.testing.assert_close(changed, dataset.encode(bytes_changed))


def test_the_given_generator_is_the_only_source() -> None:
    images, state = pictures(20).float(), torch.get_rng_state()
    one = crop_flip(images, seeded(4), fill=[0.0] * 3)
    torch.manual_seed(99)
    assert torch.equal(one, crop_flip(images, seeded(4), fill=[0.0] * 3))
    assert not torch.equal(one, crop_flip(images, seeded(5), fill=[0.0] * 3))
    torch.set_rng_state(state)
    crop_flip(images, seeded(4), fill=[0.0] * 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_going_on_from_a_generators_state_goes_on_with_its_numbers() -> None:
    images, source, resumed = pictures(20).float(), seeded(6), torch.Generator()
    crop_flip(images, source, fill=[0.0] * 3)
    resumed.set_state(source.get_state())
    assert torch.equal(crop_flip(images, source, fill=[0.0] * 3), crop_flip(images, resumed, fill=[0.0] * 3))


def test_the_input_and_none_are_left_alone() -> None:
    images = pictures(5).float()
    before = images.clone()
    crop_flip(images, seeded(0), fill=[1.0] * 3)
    assert torch.equal(images, before)
    source = seeded(0)
    assert CIFAR10(augment="none").augment(images, source) is images
    assert torch.equal(source.get_state(), seeded(0).get_state())


@pytest.mark.parametrize(("given", "nearest"), [("crop", "crop_flip"), ("nope", "none"), ("", "none")])
def test_an_unknown_augmentation_is_told(given: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"allowed are none, crop_flip \(nearest: {nearest}\)\.$"):
        require_augmentation(given)
