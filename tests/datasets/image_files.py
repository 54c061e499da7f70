"""Tiny image sets in the form in which their publishers' files lie on disk.

Where torchvision knows the checksums of the published files, `trust` puts those of the written files into its lists;
the loaders themselves are left alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from deqrun.datasets.torchvision_import import torchvision_datasets

Pictures = NDArray[np.uint8]
"""(n, height, width) or (n, 3, height, width)"""

Labels = NDArray[np.int64]


def sample(n: int, classes: int, shape: tuple[int, ...], seed: int) -> tuple[Pictures, Labels]:
    """n random pictures, the first pixel of each telling its number, and labels 0, 1, … in turn."""
    pictures = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    pictures.reshape(n, -1)[:, 0] = np.arange(n)
    return pictures, np.arange(n) % classes


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """The IDX format of MNIST: 0, 0, 8 for unsigned bytes, the number of axes, their big-endian lengths, the values."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.astype(np.uint8).tobytes()


def write_mnist(
    root: Path, train: tuple[Pictures, Labels], test: tuple[Pictures, Labels], *, folder: str = "MNIST", zipped: bool
) -> dict[str, str]:
    """root/FOLDER/raw/*-ubyte, or only their .gz as they are downloaded; MD5 by archive name."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    checksums = {}
    for part, (pictures, labels) in {"train": train, "t10k": test}.items():
        for name, values in {f"{part}-images-idx3-ubyte": pictures, f"{part}-labels-idx1-ubyte": labels}.items():
            archive = gzip.compress(idx_bytes(values), mtime=0)
            checksums[f"{name}.gz"] = md5(archive)
            if zipped:
                (raw / f"{name}.gz").write_bytes(archive)
            else:
                (raw / name).write_bytes(idx_bytes(values))
    return checksums


def cifar_files(name: str, train: tuple[Pictures, Labels], test: tuple[Pictures, Labels]) -> dict[str, bytes]:
    """The pickles of the "python version", by name: rows of 3,072 bytes, red, green, blue, each row by row."""
    if name == "cifar10":
        batches = np.array_split(np.arange(len(train[0])), 5)
        parts = {f"data_batch_{i}": (train[0][b], train[1][b]) for i, b in enumerate(batches, 1)}
        parts["test_batch"] = test
        meta, labels_key = ("batches.meta", {"label_names": [str(label) for label in range(10)]}), "labels"
    else:
        parts = {"train": train, "test": test}
        meta, labels_key = ("meta", {"fine_label_names": [str(label) for label in range(100)]}), "fine_labels"
    contents = {
        part: {"data": pictures.reshape(len(pictures), 3072), labels_key: labels.tolist(), "filenames": []}
        for part, (pictures, labels) in parts.items()
    }
    files = {part: pickle.dumps(content, protocol=2) for part, content in contents.items()}
    return files | {meta[0]: pickle.dumps(meta[1], protocol=2)}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def tar_bytes(folder: str, files: dict[str, bytes]) -> bytes:
    """A .tar.gz of one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_svhn(root: Path, train: tuple[Pictures, Labels], test: tuple[Pictures, Labels]) -> dict[str, str]:
    """MATLAB files: X (32, 32, 3, n), y (n, 1) with 10 for the digit 0; MD5 by split."""
    root.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for part, (pictures, labels) in {"train": train, "test": test}.items():
        path = root / f"{part}_32x32.mat"
        digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(path, {"X": pictures.transpose(2, 3, 1, 0), "y": digits})
        checksums[part] = md5(path.read_bytes())
    return checksums


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def trust_mnist(monkeypatch: pytest.MonkeyPatch, loader: str, checksums: dict[str, str]) -> None:
    monkeypatch.setattr(getattr(torchvision_datasets(), loader), "resources", list(checksums.items()))


def trust_cifar(monkeypatch: pytest.MonkeyPatch, loader: str, files: dict[str, bytes], archive: bytes = b"") -> None:
    kind = getattr(torchvision_datasets(), loader)
    for part in ("train_list", "test_list"):
        listed = [[name, md5(files[name])] for name, _ in getattr(kind, part)]
        monkeypatch.setattr(kind, part, listed)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(files[kind.meta["filename"]])})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))


def trust_svhn(monkeypatch: pytest.MonkeyPatch, checksums: dict[str, str]) -> None:
    kind = torchvision_datasets().SVHN
    known = {part: [url, name, checksums.get(part, old)] for part, (url, name, old) in kind.split_list.items()}
    monkeypatch.setattr(kind, "split_list", known)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """A CIFAR-10 of n training and n // 2 test pictures, whose checksums torchvision takes for the right ones."""
    files = cifar_files("cifar10", sample(n, 10, (3, 32, 32), 1), sample(n // 2, 10, (3, 32, 32), 2))
    write_files(root / "cifar-10-batches-py", files)
    trust_cifar(monkeypatch, "CIFAR10", files)
