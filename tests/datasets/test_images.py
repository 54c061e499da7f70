"""torchvision's own loaders on tiny files in the true form: values, splits, standardisation, and what goes wrong."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from deqrun.cli import main
from deqrun.datasets import SPLITS, Dataset, DataUnavailable, torchvision_import
from deqrun.datasets.images import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST, TorchvisionImages
from tests.datasets.image_files import (
    Labels,
    Pictures,
    cifar_files,
    idx_bytes,
    sample,
    tar_bytes,
    trust_cifar,
    trust_mnist,
    trust_svhn,
    write_files,
    write_mnist,
    write_svhn,
)

TASKS = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")

Part = tuple[Pictures, Labels]


class Made(NamedTuple):
    """A data set on disk, and what was written: pictures (n, channels, height, width) and labels of each part."""

    make: Callable[..., TorchvisionImages]
    root: Path
    train: Part
    test: Part


SETS: dict[str, type[TorchvisionImages]] = {
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": SVHN,
}


def on_disk(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    kind = SETS[name]
    grey = kind.input_shape[0] == 1
    shape = kind.input_shape[1:] if grey else kind.input_shape
    classes = kind.num_classes
    train, test = sample(10 * classes if classes == 10 else 200, classes, shape, 1), sample(classes, classes, shape, 2)
    if grey:
        write_mnist(root, train, test, folder=kind.loader, zipped=False)
        train, test = (train[0][:, None], train[1]), (test[0][:, None], test[1])
    elif name == "svhn":
        trust_svhn(monkeypatch, write_svhn(root, train, test))
    else:
        files = cifar_files(name, train, test)
        write_files(root / kind.files[0], files)
        trust_cifar(monkeypatch, kind.loader, files)
    return Made(partial(kind, root=str(root), validation_share=0.5), root, train, test)


@pytest.fixture(params=SETS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return on_disk(request.param, tmp_path / "data", monkeypatch)


def rows(inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[bytes, int]]:
    """Samples as values that can be compared and sorted."""
    assert inputs.dtype == torch.uint8
    return [(row.numpy().tobytes(), label) for row, label in zip(inputs, targets.tolist(), strict=True)]


def written(part: Part) -> list[tuple[bytes, int]]:
    return [(picture.tobytes(), int(label)) for picture, label in zip(*part, strict=True)]


def loaded(dataset: Dataset, split: str) -> list[tuple[bytes, int]]:
    samples = dataset.load(split)
    return rows(samples.inputs, samples.targets)


def test_pixels_and_labels_are_those_of_the_files(made: Made) -> None:
    """The test part in its order; training and validation part the rest, each picture once, with its label."""
    dataset = made.make()
    assert loaded(dataset, "test") == written(made.test)
    train, validation = loaded(dataset, "train"), loaded(dataset, "validation")
    assert sorted(train + validation) == sorted(written(made.train))
    for split in SPLITS:
        samples = dataset.load(split)
        assert samples.inputs.shape[1:] == dataset.input_shape
        assert samples.inputs.is_contiguous()
        assert samples.targets.dtype == torch.long


def test_every_class_is_split_in_proportion(made: Made) -> None:
    dataset = made.make()
    half = len(made.train[0]) // dataset.num_classes // 2
    for split in ("train", "validation"):
        counts = dataset.load(split).targets.bincount(minlength=dataset.num_classes)
        assert counts.tolist() == [half] * dataset.num_classes


def test_the_split_seed_moves_training_pictures_only(made: Made) -> None:
    one, again, other = (made.make(split_seed=seed) for seed in (1, 1, 2))
    torch.manual_seed(3)
    assert loaded(one, "validation") == loaded(again, "validation")
    assert loaded(one, "validation") != loaded(other, "validation")
    assert loaded(one, "test") == loaded(other, "test")


# Over all pixels of the training part, each channel by itself, to four digits. MNIST: PyTorch's own example. The others
# were computed by several people, and agree: Fashion-MNIST github.com/keon/3-min-pytorch/issues/26; CIFAR-10
# github.com/kuangliu/pytorch-cifar/issues/8; CIFAR-100 and SVHN as given in github.com/chatflip/CalculationMeanStd and
# github.com/VICO-UoE/DatasetCondensation.
PUBLISHED = {
    "mnist": ([0.1307], [0.3081]),
    "fashion_mnist": ([0.2860], [0.3530]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "svhn": ([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
}


def test_encoded_pixels_are_standardised_by_the_published_statistics(made: Made) -> None:
    dataset = made.make()
    mean, std = (np.array(values)[:, None, None] for values in PUBLISHED[dataset.name])
    encoded = dataset.encode(dataset.load("test").inputs)
    assert encoded.dtype == torch.float32
    np.testing.assert_allclose(encoded.numpy(), (made.test[0] / 255 - mean) / std, rtol=2e-6, atol=2e-6)


def test_absent_data_is_told_in_one_sentence(made: Made, tmp_path: Path) -> None:
    dataset = made.make(root=str(tmp_path / "elsewhere"))
    with pytest.raises(DataUnavailable) as raised:
        dataset.load("train")
    assert str(raised.value) == (
        f"The data set {dataset.name} was not found in {tmp_path / 'elsewhere'} (looked for "
        f"{' and '.join(dataset.files)}); fetch it with dataset.download=true, or name the folder that holds it with "
        "dataset.root=FOLDER."
    )
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_missing_is_told(made: Made) -> None:
    next(path for path in made.root.rglob("*") if path.name.startswith(("test", "t10k"))).unlink()
    with pytest.raises(DataUnavailable, match=r"is incomplete or damaged in .*dataset\.download=true"):
        made.make().load("train")


def test_a_damaged_file_is_told(made: Made) -> None:
    """A byte that is lost: of what has checksums they differ; MNIST's files are too short for their lengths."""
    file = next(path for path in sorted(made.root.rglob("*")) if path.is_file() and "images" not in path.name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataUnavailable, match="is incomplete or damaged in "):
        made.make().load("test")


def test_any_damage_to_an_idx_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's unpacked files have no checksum: cut anywhere, or with another header, they are refused."""
    made = on_disk("mnist", tmp_path, monkeypatch)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        file = tmp_path / "MNIST" / "raw" / name
        whole = file.read_bytes()
        damaged = [whole[:length] for length in range(20)] + [whole[:-1], whole + b"\0", whole[:-784]]
        damaged += [whole[:i] + bytes([value]) + whole[i + 1 :] for i in range(8) for value in (0, 2, 9, 14, 255)]
        for content in [content for content in damaged if content != whole]:
            file.write_bytes(content)
            with pytest.raises(DataUnavailable, match="is incomplete or damaged in "):
                made.make().load("train")
        file.write_bytes(whole)
    assert len(made.make().load("test")) == 10


def test_labels_and_shapes_are_those_of_the_set(tmp_path: Path) -> None:
    """What torchvision reads without a word but the model could not take."""
    train, test = sample(20, 10, (28, 28), 1), sample(10, 10, (28, 28), 2)
    cases = {
        "a label too many": (train[0], np.append(train[1], 3)),
        "a class too many": (train[0], train[1] + 1),
        "another size": (train[0][:, :14, :14], train[1]),
    }
    for name, part in cases.items():
        write_mnist(tmp_path / name, part, test, zipped=False)
        with pytest.raises(DataUnavailable, match="is incomplete or damaged in "):
            MNIST(root=str(tmp_path / name)).load("train")


def test_too_few_pictures_for_a_split_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = on_disk("cifar10", tmp_path, monkeypatch)
    with pytest.raises(DataUnavailable, match=r"validation split of cifar10 holds no image: its share of"):
        made.make(validation_share=0.01).load("train")


def test_parameters_outside_of_their_ranges_are_told() -> None:
    with pytest.raises(ValueError, match=r"validation_share=0 is not a share: .*e\.g\. 0\.1"):
        CIFAR10(validation_share=0)
    with pytest.raises(ValueError, match=r"augment='crop' is unknown: allowed are none, crop_flip"):
        CIFAR10(augment="crop")
    with pytest.raises(ValueError, match="no split 'val'"):
        CIFAR10().load("val")


def test_a_torchvision_that_cannot_be_imported_is_not_taken_for_missing_data(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::roi_align does not exist")

    monkeypatch.setattr(torchvision_import, "import_module", broken)
    with pytest.raises(RuntimeError, match="roi_align") as raised:
        made.make().load("train")
    assert not isinstance(raised.value, DataUnavailable)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be looked up, as on a machine that is not connected."""

    def fail(*arguments: object, **named: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", SETS)
def test_without_a_network_a_download_is_a_sentence_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    with pytest.raises(DataUnavailable) as raised:
        SETS[name](root=str(root), download=True).load("train")
    sentence = str(raised.value)
    assert sentence.startswith(f"The data set {name} could not be fetched into {root} (")
    assert sentence.endswith(
        f"name resolution>); try again with a network, or copy {' and '.join(SETS[name].files)} there from a machine "
        "that has one."
    )
    assert "\n" not in sentence
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("no_network")
def test_a_failed_download_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataUnavailable, match="could not be fetched"):
        CIFAR10(root=str(tmp_path), download=True).load("train")
    assert [path.name for path in tmp_path.rglob("*")] == ["notes.txt"]


@pytest.mark.usefixtures("no_network")
def test_data_that_is_there_needs_no_network(made: Made) -> None:
    assert loaded(made.make(download=True), "test") == written(made.test)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_archives_that_are_there_are_unpacked_without_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout that a download leaves: MNIST/raw/*.gz. They are unpacked beside themselves, once."""
    train, test = sample(20, 10, (28, 28), 1), sample(10, 10, (28, 28), 2)
    folder = SETS[name].loader
    trust_mnist(monkeypatch, folder, write_mnist(tmp_path, train, test, folder=folder, zipped=True))
    dataset = SETS[name](root=str(tmp_path), download=True, validation_share=0.5)
    assert loaded(dataset, "test") == written((test[0][:, None], test[1]))
    archives = {path.name for path in tmp_path.rglob("*.gz")}
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert len(archives) == 4
    assert files == archives | {name.removesuffix(".gz") for name in archives}
    assert (tmp_path / folder / "raw" / "t10k-labels-idx1-ubyte").read_bytes() == idx_bytes(test[1].astype(np.uint8))


class Server(NamedTuple):
    """A web server of this test alone, and the paths that were asked of it."""

    url: str
    content: dict[str, bytes]
    asked: list[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    content: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (its name there)
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Server(f"http://127.0.0.1:{running.server_port}", content, asked)
        running.shutdown()


def serve_cifar10(server: Server, monkeypatch: pytest.MonkeyPatch) -> Part:
    """CIFAR-10's archive on the server; the test part that is in it."""
    train, test = sample(20, 10, (3, 32, 32), 1), sample(10, 10, (3, 32, 32), 2)
    files = cifar_files("cifar10", train, test)
    archive = tar_bytes("cifar-10-batches-py", files)
    server.content["/cifar-10-python.tar.gz"] = archive
    trust_cifar(monkeypatch, "CIFAR10", files, archive)
    monkeypatch.setattr(
        torchvision_import.torchvision_datasets().CIFAR10, "url", f"{server.url}/cifar-10-python.tar.gz"
    )
    return test


# Python before 3.12 knows no filter for archives; 3.12 and 3.13 warn where torchvision gives none.
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
def test_a_download_is_read_and_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched once, into a folder made for it; damaged later, it is made good from the archive without the network."""
    test = serve_cifar10(server, monkeypatch)
    make = partial(CIFAR10, root=str(tmp_path / "data"), validation_share=0.5)
    assert loaded(make(download=True), "test") == written(test)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
    ]
    asked = len(server.asked)
    assert loaded(make(), "test") == written(test)
    (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").write_bytes(b"no longer whole")
    with pytest.raises(DataUnavailable, match="is incomplete or damaged"):
        make().load("test")
    assert loaded(make(download=True), "test") == written(test)
    assert len(server.asked) == asked


def test_a_download_with_another_checksum_is_thrown_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_cifar10(server, monkeypatch)
    server.content["/cifar-10-python.tar.gz"] = b"a page that asks to log in"
    with pytest.raises(DataUnavailable, match=r"could not be fetched into .* \(File not found or corrupted\);"):
        CIFAR10(root=str(tmp_path / "data"), download=True).load("train")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_it_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dataset=cifar10", "model=conv", "tracker=none", "threads=1"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("run ")  # the folder that it would have been: nothing is left of it
    assert not (tmp_path / "outputs").exists()
    assert err == (
        f"deqrun: The data set cifar10 was not found in {tmp_path / 'data'} (looked for cifar-10-batches-py); fetch it "
        "with dataset.download=true, or name the folder that holds it with dataset.root=FOLDER.\n"
    )
    assert list(tmp_path.rglob("*")) == []
    shown = re.search(r"\$ deqrun train dataset=cifar10\n((?:    .*\n)+)", TASKS)
    assert shown is not None
    assert " ".join(shown[1].split()) == err.strip().replace(str(tmp_path), "/home/you")


@pytest.mark.parametrize("name", SETS)
def test_the_documentation_tells_each_set_as_it_is(name: str) -> None:
    """Input, classes, mean, deviation and files of its row in docs/tasks.md."""
    row = re.search(rf"^\| `{name}` \|.*$", TASKS, re.MULTILINE)
    assert row is not None
    _, _, shape, classes, mean, deviation, files = (cell.strip() for cell in row[0].strip("|").split("|"))
    kind = SETS[name]
    assert shape == "x".join(map(str, kind.input_shape))
    assert int(classes) == kind.num_classes
    assert tuple(map(float, mean.split(","))) == kind.mean == tuple(PUBLISHED[name][0])
    assert tuple(map(float, deviation.split(","))) == kind.std == tuple(PUBLISHED[name][1])
    assert tuple(file.strip("` /") for file in files.split(",")) == kind.files


@pytest.mark.usefixtures("no_network")
def test_the_command_line_says_that_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dataset=mnist", "dataset.download=true", "model=conv", "tracker=none"]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("deqrun: The data set mnist could not be fetched into ")
    assert "Traceback" not in err
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", SETS)
def test_a_model_can_be_described_without_the_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["describe", f"dataset={name}", "model=mlp"]) == 0
    assert name in capsys.readouterr().out
