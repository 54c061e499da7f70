"""Image classification sets: pictures kept as bytes, standardised batch by batch, and torchvision's own loaders."""

from __future__ import annotations

import pickle
import shutil
import tarfile
import zlib
from abc import abstractmethod
from functools import cache, cached_property
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deqrun.arguments import require_share
from deqrun.datasets.augmentation import crop_flip, require_augmentation
from deqrun.datasets.dataset import Dataset, DataUnavailable, Split, require_split, stratified_split
from deqrun.datasets.fetching import folder_aside, impatient, move_files
from deqrun.datasets.torchvision_import import torchvision_datasets

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "SVHN", "FashionMNIST", "Images", "TorchvisionImages"]

SILENCE = 30.0
"""Seconds without a byte after which a download is given up."""

MISSING = (RuntimeError, OSError, HTTPException)
"""Errors of torchvision's loaders where files are missing, have another checksum, or are out of reach."""

DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    EOFError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zlib.error,
)
"""Their errors, besides, where a file has another form than they take for granted: of MNIST's, only the archives'
checksums are compared."""


class Images(Dataset):
    """Pictures with one label each, in memory as uint8 (n, channels, height, width): a quarter of float32.

    Encoded they are (x / 255 − mean) / std, per channel.

    mean, std         per channel, of intensities in [0, 1], over all pixels
    split_seed        seed of the stratified splits, apart from the training's
    validation_share  share of the training part that validates, above 0, below 1
    augment           'none', or 'crop_flip': in training each image is shifted by up to 4 pixels both ways, black
                      coming in at the sides, and mirrored with probability ½
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, *, split_seed: int, validation_share: float, augment: str) -> None:
        self.split_seed = split_seed
        self.validation_share = require_share("validation_share", validation_share)
        self.augmentation = require_augmentation(augment)

    def load(self, split: str) -> Split:
        """Read every part at the first call, so that a missing one is known before the training."""
        require_split(split)
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, Split]:
        splits = self._read()
        empty = [name for name, split in splits.items() if len(split) == 0]
        if empty:
            raise DataUnavailable(
                f"The {empty[0]} split of {self.name} holds no image: its share of the "
                f"{sum(map(len, splits.values()))} images, taken within every class, comes to none; add images, or "
                "change the shares."
            )
        return splits

    @abstractmethod
    def _read(self) -> dict[str, Split]:
        """The three splits; raises DataUnavailable where they can't be read."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Standardised float32 of stored uint8, both (batch, channels, height, width)."""
        shift, scale = _affine(self.mean, self.std, inputs.device)
        return (inputs.float() - shift) / scale

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`deqrun.datasets.augmentation.crop_flip` of encoded x where that was chosen, else x itself."""
        if self.augmentation == "none":
            return x
        black = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return crop_flip(x, generator, black)


class TorchvisionImages(Images):
    """A set that torchvision loads: its own test part, and its training part split into train and validation.

    root      folder that holds the files, in torchvision's layout
    download  fetch them there first where they are missing

    The rest as in Images. Mean and deviation are the training part's. Raises ValueError for parameters outside
    of their ranges, and on loading DataUnavailable where the files are missing or damaged, or can't be fetched.
    """

    loader: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    """The files that are looked for in `root`."""
    archives: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files from which torchvision can make `files` without the network."""

    def __init__(
        self,
        *,
        root: str = "data",
        download: bool = False,
        split_seed: int = 0,
        validation_share: float = 0.1,
        augment: str = "none",
    ) -> None:
        super().__init__(split_seed=split_seed, validation_share=validation_share, augment=augment)
        self.root, self.download = Path(root).expanduser(), download

    def _read(self) -> dict[str, Split]:
        try:
            whole, test = self._parts()
        except DataUnavailable:
            if not self.download:
                raise
            self._fetch()
            whole, test = self._parts()
        shares = (self.validation_share, 1 - self.validation_share)
        validation, train = stratified_split(whole.targets.numpy(), shares, self.split_seed)
        return {
            "train": Split(whole.inputs[train], whole.targets[train]),
            "validation": Split(whole.inputs[validation], whole.targets[validation]),
            "test": test,
        }

    def _parts(self) -> tuple[Split, Split]:
        """Training and test part as torchvision reads them, checksums compared where it has any."""
        loaders = torchvision_datasets()
        try:
            return self._part(loaders, self.root, train=True), self._part(loaders, self.root, train=False)
        except (*MISSING, *DAMAGED) as error:
            there = any((self.root / name).exists() for name in self.files)
            raise DataUnavailable(
                f"The data set {self.name} {'is incomplete or damaged' if there else 'was not found'} in "
                f"{self.root.resolve()} (looked for {' and '.join(self.files)}); fetch it with dataset.download=true, "
                f"or name the folder that holds it with dataset.root=FOLDER."
            ) from error

    def _part(self, loaders: ModuleType, root: Path, *, train: bool, download: bool = False) -> Split:
        data = getattr(loaders, self.loader)(root, download=download, **self._choice(train))
        images = self._channels_first(torch.as_tensor(np.asarray(data.data))).contiguous()
        labels = torch.as_tensor(np.asarray(getattr(data, "targets", getattr(data, "labels", None)))).long()
        if images.shape != (len(labels), *self.input_shape):
            raise ValueError(f"{len(labels)} labels and images of shape {tuple(images.shape)}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}")
        return Split(images, labels)

    def _choice(self, train: bool) -> dict[str, Any]:
        return {"train": train}

    def _channels_first(self, images: Tensor) -> Tensor:
        return images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)

    def _fetch(self) -> None:
        """Download aside, and move the files into `root` once all are there and have been read."""
        loaders = torchvision_datasets()
        try:
            with folder_aside(self.root) as aside, impatient(SILENCE):
                self._copy_archives(aside)
                for train in (True, False):
                    self._part(loaders, aside, train=train, download=True)
                move_files(aside, self.root)
        except (*MISSING, *DAMAGED) as error:
            raise DataUnavailable(
                f"The data set {self.name} could not be fetched into {self.root.resolve()} "
                f"({' '.join(str(error).split()).rstrip('.') or type(error).__name__}); try again with a network, or "
                f"copy {' and '.join(self.files)} there from a machine that has one."
            ) from error

    def _copy_archives(self, folder: Path) -> None:
        """Unpack an earlier download again, instead of downloading, if its checksum is right."""
        for archive in [path for pattern in self.archives for path in self.root.glob(pattern)]:
            copy = folder / archive.relative_to(self.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive, copy)


class MNIST(TorchvisionImages):
    """70,000 handwritten digits, 1x28x28 (LeCun et al. 1998)."""

    name, input_shape, num_classes, loader = "mnist", (1, 28, 28), 10, "MNIST"
    mean, std = (0.1307,), (0.3081,)
    files, archives = ("MNIST/raw",), ("MNIST/raw/*.gz",)


class FashionMNIST(TorchvisionImages):
    """70,000 pictures of clothing, 1x28x28 (Xiao et al. 2017)."""

    name, input_shape, num_classes, loader = "fashion_mnist", (1, 28, 28), 10, "FashionMNIST"
    mean, std = (0.2860,), (0.3530,)
    files, archives = ("FashionMNIST/raw",), ("FashionMNIST/raw/*.gz",)


class CIFAR10(TorchvisionImages):
    """60,000 colour photographs, 3x32x32, ten classes (Krizhevsky 2009)."""

    name, input_shape, num_classes, loader = "cifar10", (3, 32, 32), 10, "CIFAR10"
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    files, archives = ("cifar-10-batches-py",), ("cifar-10-python.tar.gz",)


class CIFAR100(TorchvisionImages):
    """60,000 colour photographs, 3x32x32, a hundred classes (Krizhevsky 2009)."""

    name, input_shape, num_classes, loader = "cifar100", (3, 32, 32), 100, "CIFAR100"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    files, archives = ("cifar-100-python",), ("cifar-100-python.tar.gz",)


class SVHN(TorchvisionImages):
    """99,289 street-view house digits, 3x32x32, the digit in the middle of each (Netzer et al. 2011)."""

    name, input_shape, num_classes, loader = "svhn", (3, 32, 32), 10, "SVHN"
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    files = archives = ("train_32x32.mat", "test_32x32.mat")

    def _choice(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}

    def _channels_first(self, images: Tensor) -> Tensor:
        return images


@cache
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """255 · mean and 255 · std, each (channels, 1, 1), on a device."""
    per_channel = torch.tensor((mean, std), device=device) * 255
    return per_channel[0, :, None, None], per_channel[1, :, None, None]
