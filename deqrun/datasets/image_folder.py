"""Any folder of class folders as a data set."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deqrun.arguments import require_at_least, require_choice, require_share
from deqrun.datasets.dataset import DataUnavailable, Split, stratified_split
from deqrun.datasets.images import Images
from deqrun.datasets.pictures import Pictures
from deqrun.datasets.torchvision_import import torchvision_datasets

__all__ = ["ImageFolder", "Layout", "read_layout"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of ImageNet's training pictures, which are used for photographs in general."""

VALIDATION_NAMES = ("val", "valid", "validation")


class ImageFolder(Images):
    """Pictures in root/train/CLASS and root/test/CLASS, or in root/CLASS alone.

    With a folder root/train, root/test is the test part, and root/val (or valid, or validation) validates; if only
    one of the two is there it is the test part, and one without class folders is none. Whatever part has no folder is
    taken from the training part, at random within every class, by `split_seed`. Without root/train both parts are
    taken so from root/CLASS. The classes are the class folders of the training part, in the order of their names;
    pictures may lie at any depth below.

    Of each picture, turned upright as its EXIF entry says and laid on white where it is transparent, the largest
    square in the middle is scaled to size x size pixels, bilinearly.

    root              the folder
    size              pixels a side
    channels          3: colour; 1: grey
    split_seed        seed of the splits that the folder does not make
    validation_share  share of the pictures in root/train, or else in root, that validates, where no folder does
    test_share        share of the same that tests, where no folder does
    augment           as in Images
    mean, std         per channel, of intensities in [0, 1]; null: ImageNet's, averaged if there is one channel
    decode            'once': all pictures at the first load, into n · channels · size² bytes of memory; 'batch': the
                      pictures of a batch when it is put together, in `train.workers` processes
    cache_mb          megabytes of decoded pictures that each process keeps with decode='batch'

    Raises ValueError for parameters outside of their ranges. `num_classes` and `load` raise DataUnavailable where there
    is no such folder, where it holds fewer than two classes, and where a picture can't be read.
    """

    name = "image_folder"

    def __init__(
        self,
        *,
        root: str | None = None,
        size: int = 32,
        channels: int = 3,
        split_seed: int = 0,
        validation_share: float = 0.1,
        test_share: float = 0.2,
        augment: str = "none",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        decode: str = "once",
        cache_mb: int = 512,
    ) -> None:
        super().__init__(split_seed=split_seed, validation_share=validation_share, augment=augment)
        self.test_share = require_share("test_share", test_share)
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share={validation_share} and test_share={test_share} leave nothing to train on: "
                "allowed are shares with a sum below 1."
            )
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} is not allowed: 3 is colour, 1 is grey.")
        self.root = root
        self.decode = require_choice("decode", decode, ("once", "batch"))
        self.cache_mb = require_at_least("cache_mb", cache_mb, 0)
        self.size = require_at_least("size", size, 1)
        self.input_shape = (channels, self.size, self.size)
        self.mean = _per_channel("mean", mean, IMAGENET_MEAN, channels)
        self.std = _per_channel("std", std, IMAGENET_STD, channels)
        if not all(0 < deviation < math.inf for deviation in self.std):
            raise ValueError(f"std={list(self.std)} is not allowed: deviations are above 0.")

    @cached_property
    def layout(self) -> Layout:
        """The folder's layout, without its pictures."""
        return read_layout(self.root)

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known only from the folder
        return self.layout.classes

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known only from the folder
        return len(self.layout.classes)

    def memory(self) -> int:
        if self.decode == "batch":
            return self.cache_mb * 10**6
        pictures = sum(len(files) for part in self.layout.parts.values() for _, _, files in os.walk(part))
        return pictures * math.prod(self.input_shape)

    def _read(self) -> dict[str, Split]:
        # Files and labels first: the splits need no pixel.
        listed = {name: self._listed(folder) for name, folder in self.layout.parts.items()}
        pictures, labels = listed["train"]
        _require_every_class(self.layout, labels)
        wanted = {"validation": self.validation_share, "test": self.test_share}
        shares = {name: share for name, share in wanted.items() if name not in listed}
        if shares:
            indices = stratified_split(labels.numpy(), (*shares.values(), 1 - sum(shares.values())), self.split_seed)
            for name, index in zip((*shares, "train"), indices, strict=True):
                listed[name] = pictures.only(index), labels[index]
        return {name: Split(self._inputs(name, part), targets) for name, (part, targets) in listed.items()}

    def _inputs(self, name: str, pictures: Pictures) -> Tensor | Pictures:
        return pictures if self.decode == "batch" else pictures.decoded(f"decoding {name}")

    def _listed(self, folder: Path) -> tuple[Pictures, Tensor]:
        """The pictures of one part, in the order of their paths, and their labels."""
        loaders = torchvision_datasets().folder
        places = {name: place for place, name in enumerate(self.layout.classes) if (folder / name).is_dir()}
        listed = loaders.make_dataset(folder, places, extensions=loaders.IMG_EXTENSIONS, allow_empty=True)
        found = [(path, label) for path, label in listed if not Path(path).name.startswith(".")]
        decode = partial(read_picture, size=self.size, channels=self.input_shape[0])
        pictures = Pictures([path for path, _ in found], decode, self.input_shape, self.cache_mb * 10**6)
        return pictures, torch.tensor([label for _, label in found], dtype=torch.long)


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a folder are.

    classes  names of the class folders, in order
    parts    folders of class folders, by split; 'train' is always there
    """

    classes: tuple[str, ...]
    parts: dict[str, Path]


def read_layout(root: str | None) -> Layout:
    """The layout of a folder; raises DataUnavailable, one sentence, where it has none."""
    if root is None:
        raise DataUnavailable(
            "dataset=image_folder needs a folder of class folders; name one with dataset.root=FOLDER."
        )
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise DataUnavailable(f"There is no folder {folder}; name one of class folders with dataset.root=FOLDER.")
    try:
        parts = _parts(folder)
        classes = _subfolders(parts["train"])
    except OSError as error:
        raise DataUnavailable(f"{folder} can't be read ({error.strerror}).") from error
    if len(classes) < 2:
        raise DataUnavailable(
            f"{parts['train']} holds {len(classes) or 'no'} class folder{'s' * (not classes)}, and two are the least; "
            "allowed are root/train/CLASS/*.png with root/test/CLASS/*.png, or root/CLASS/*.png."
        )
    for part in parts.values():
        unknown = sorted(set(_subfolders(part)) - set(classes))
        if unknown:
            raise DataUnavailable(
                f"{part / unknown[0]} is of a class that {parts['train']} has no folder for; there are "
                f"{', '.join(classes[:10])}{', …' * (len(classes) > 10)}."
            )
    return Layout(tuple(classes), parts)


def _parts(folder: Path) -> dict[str, Path]:
    """The folders of class folders by split; root itself where there is no root/train with folders in it."""

    def present(*names: str) -> list[Path]:
        return [folder / name for name in names if (folder / name).is_dir() and _subfolders(folder / name)]

    train, validation, test = present("train"), present(*VALIDATION_NAMES), present("test")
    held_out = validation + test
    if held_out and not train:
        raise DataUnavailable(f"{folder} holds {held_out[0].name}/ but no train/ with class folders in it; add that.")
    if len(validation) > 1:
        given = " and ".join(f"{part.name}/" for part in validation)
        raise DataUnavailable(f"{folder} holds {given}; one of them is to validate, beside train/ and test/.")
    parts = {"train": train[0] if train else folder}
    if validation and test:
        parts["validation"] = validation[0]
    if held_out:
        parts["test"] = held_out[-1]
    return parts


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def read_picture(path: str, size: int, channels: int) -> Tensor:
    """(channels, size, size) uint8 of one picture; raises DataUnavailable where it can't be read."""
    try:
        with Image.open(path) as file:
            picture = _flat(ImageOps.exif_transpose(file)).convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataUnavailable(f"{path} can't be read as a picture ({reason}); repair it, or take it away.") from error
    fitted = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(fitted))
    return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]


def _flat(picture: Image.Image) -> Image.Image:
    """A picture of 8 bits without transparency: transparent pixels become white, as on a page."""
    if picture.mode.startswith("I;16"):  # Pillow's conversion would cut off what is above 255
        return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"its numbers, of mode {picture.mode}, have no known range")
    if not picture.has_transparency_data:
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))


def _require_every_class(layout: Layout, targets: Tensor) -> None:
    missing = np.flatnonzero(targets.bincount(minlength=len(layout.classes)).numpy() == 0)
    if len(missing):
        raise DataUnavailable(f"{layout.parts['train'] / layout.classes[missing[0]]} holds no picture.")


def _per_channel(
    name: str, given: Sequence[float] | None, photographs: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        return photographs if channels == len(photographs) else (sum(photographs) / len(photographs),)
    if len(given) != channels:
        raise ValueError(
            f"{name}={list(given)} has {len(given)} numbers: allowed is one for each of {channels} channels."
        )
    if not all(math.isfinite(value) for value in given):
        raise ValueError(f"{name}={list(given)} is not allowed: intensities are finite numbers, as 0.5.")
    return tuple(float(value) for value in given)
