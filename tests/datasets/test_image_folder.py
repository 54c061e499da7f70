"""Folders of class folders: which picture is in which split, what its pixels are, and what can be wrong with them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deqrun.cli import main
from deqrun.datasets import SPLITS, DataUnavailable
from deqrun.datasets.image_folder import ImageFolder, read_layout
from deqrun.datasets.pictures import Pictures
from deqrun.datasets.torchvision_import import torchvision_datasets
from deqrun.experiment.data.record import record_of
from deqrun.records.reading import read_run

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def write(path: Path, value: int | tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    """A picture of one colour or grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(value, tuple) else "L", size, value).save(path)


def fill(folder: Path, classes: dict[str, range]) -> None:
    """Grey pictures, one for each number, which is its grey."""
    for name, values in classes.items():
        for value in values:
            write(folder / name / f"{value:03}.png", value)


def numbers(data: ImageFolder, split: str) -> dict[int, set[int]]:
    """The pictures of a split by class, each told by its grey."""
    samples = data.load(split)
    found: dict[int, set[int]] = {}
    for picture, label in zip(samples.inputs, samples.targets.tolist(), strict=True):
        assert (picture == picture.flatten()[0]).all()
        found.setdefault(label, set()).add(int(picture.flatten()[0]))
    assert sum(map(len, found.values())) == len(samples)
    return found


def test_a_folder_without_splits_is_split_within_every_class(tmp_path: Path) -> None:
    fill(tmp_path, {"b": range(100, 120), "a": range(10)})
    data = ImageFolder(root=str(tmp_path), size=8)
    parts = {split: numbers(data, split) for split in SPLITS}
    assert data.num_classes == 2
    assert {split: [len(part[0]), len(part[1])] for split, part in parts.items()} == {
        "train": [7, 14],
        "validation": [1, 2],
        "test": [2, 4],
    }
    for label, values in ((0, range(10)), (1, range(100, 120))):
        assert set().union(*(part[label] for part in parts.values())) == set(values)
    other = ImageFolder(root=str(tmp_path), size=8, split_seed=1)
    assert numbers(other, "test") != parts["test"]
    assert numbers(ImageFolder(root=str(tmp_path), size=8), "test") == parts["test"]


@pytest.mark.parametrize("validating", ["val", "valid", "validation"])
def test_folders_of_all_three_splits_are_taken_as_they_are(tmp_path: Path, validating: str) -> None:
    """Whatever the seed; a class may be missing in a held-out part, and pictures may lie deeper."""
    fill(tmp_path / "train", {"a": range(4), "b": range(10, 13)})
    fill(tmp_path / validating, {"b": range(20, 22)})
    fill(tmp_path / "test", {"a": range(30, 31), "b/deep/er": range(40, 41)})
    for seed in (0, 1):
        data = ImageFolder(root=str(tmp_path), size=8, split_seed=seed)
        assert numbers(data, "train") == {0: {0, 1, 2, 3}, 1: {10, 11, 12}}
        assert numbers(data, "validation") == {1: {20, 21}}
        assert numbers(data, "test") == {0: {30}, 1: {40}}


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_one_held_out_folder_tests_and_training_pictures_validate(tmp_path: Path, held_out: str) -> None:
    """As ImageNet's val/ does, whose pictures are what results are reported on."""
    fill(tmp_path / "train", {"a": range(10), "b": range(100, 110)})
    fill(tmp_path / held_out, {"a": range(30, 32), "b": range(40, 42)})
    data = ImageFolder(root=str(tmp_path), size=8, validation_share=0.3)
    assert numbers(data, "test") == {0: {30, 31}, 1: {40, 41}}
    train, validation = numbers(data, "train"), numbers(data, "validation")
    assert [len(validation[0]), len(validation[1])] == [3, 3]
    assert train[0] | validation[0] == set(range(10))
    assert not train[0] & validation[0]


def test_a_train_folder_alone_gives_all_three(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": range(10), "b": range(100, 110)})
    write(tmp_path / "test" / "unlabelled.png", 7)
    data = ImageFolder(root=str(tmp_path), size=8)
    assert [len(data.load(split)) for split in SPLITS] == [14, 2, 4]


def test_what_is_no_picture_or_hidden_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, {"a": range(5), "b": range(5), ".cache": range(5)})
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "a" / "._000.png").write_bytes(b"what macOS puts beside a picture")
    data = ImageFolder(root=str(tmp_path), size=8, validation_share=0.2)
    assert data.layout.classes == ("a", "b")
    assert sum(len(data.load(split)) for split in SPLITS) == 10


def test_the_documentation_names_the_kinds_of_files() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    known = torchvision_datasets().folder.IMG_EXTENSIONS
    assert f"files that end in {', '.join(known[:-1])} or {known[-1]}," in page


def read(path: Path, size: int, channels: int = 3) -> NDArray[np.uint8]:
    """The stored pixels of one picture, (size, size, channels)."""
    root = path.parent / "folder"
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            write(root / part / name / "0.png", 0)
    path.rename(root / "test" / "b" / f"1{path.suffix}")
    picture = ImageFolder(root=str(root), size=size, channels=channels).load("test").inputs[-1]
    return picture.permute(1, 2, 0).numpy()


def test_of_a_picture_that_is_not_square_the_middle_is_taken(tmp_path: Path) -> None:
    """16 wide, 8 high, each column another red: columns 4 … 11 remain, and rows of an upright one."""
    columns = np.zeros((8, 16, 3), dtype=np.uint8)
    columns[..., 0] = np.arange(16) * 10
    for name, pixels in {"wide": columns, "high": columns.transpose(1, 0, 2)}.items():
        (tmp_path / name).mkdir()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / name / "p.png")
        taken = read(tmp_path / name / "p.png", 8)
        middle = pixels[:, 4:12] if name == "wide" else pixels[4:12]
        np.testing.assert_array_equal(taken, middle)


def test_a_larger_picture_is_averaged_down(tmp_path: Path) -> None:
    """Halved, an even ramp 0, 2, 4, … becomes the triangle filter's means of it: the ramp between the pixels."""
    ramp = np.broadcast_to(np.arange(0, 64, 2, dtype=np.uint8), (32, 32))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "p.png")
    taken = read(tmp_path / "p.png", 16, channels=1)[..., 0]
    np.testing.assert_array_equal(taken[:, 1:-1], np.broadcast_to(np.arange(16)[1:-1] * 4 + 1, (16, 14)))


def test_grey_and_colour(tmp_path: Path) -> None:
    """Grey pictures have three equal channels in colour; colours become ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B."""
    write(tmp_path / "grey" / "p.png", 200)
    write(tmp_path / "colour" / "p.png", (100, 50, 200))
    write(tmp_path / "colour" / "q.png", (100, 50, 200))
    assert (read(tmp_path / "grey" / "p.png", 4) == 200).all()
    assert (read(tmp_path / "colour" / "p.png", 4) == (100, 50, 200)).all()
    assert (read(tmp_path / "colour" / "q.png", 4, channels=1) == round(29.9 + 29.35 + 22.8)).all()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    """Orientation 6: the camera was turned, and the stored left side is the top."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4], pixels[:, 4:] = RED, BLUE
    entry = Image.Exif()
    entry[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=entry)
    turned = read(tmp_path / "p.png", 8)
    assert (turned[:4] == RED).all()
    assert (turned[4:] == BLUE).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P, one colour transparent", "RGB, one colour transparent", "1"])
def test_palettes_and_transparency(mode: str, tmp_path: Path) -> None:
    """Black on the left; the right is transparent, or in a palette without transparency and in bilevel, white."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    options: dict[str, int | tuple[int, int, int]] = {}
    if mode == "1":
        picture = picture.getchannel("A").point(lambda alpha: 255 - alpha).convert("1")
    elif mode.startswith("P"):
        picture = picture.getchannel("A").point(lambda alpha: 0 if alpha else 1)
        picture.putpalette([0, 0, 0, *(BLUE if "transparent" in mode else WHITE)])
        options = {"transparency": 1} if "transparent" in mode else {}
    elif mode.startswith("RGB,"):
        picture = Image.composite(Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), GREEN), picture.getchannel("A"))
        options = {"transparency": GREEN}
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "p.png", **options)
    taken = read(tmp_path / "p.png", 8)
    assert (taken[:, :4] == 0).all()
    assert (taken[:, 4:] == 255).all()


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    """k · 257 is the sixteen-bit form of k. Pillow's own conversion cuts off at 255."""
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257
    Image.fromarray(values).save(tmp_path / "p.png")
    np.testing.assert_array_equal(read(tmp_path / "p.png", 8, channels=1)[..., 0], np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("kind", ["text", "empty", "cut off", "numbers without a range"])
def test_a_picture_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    fill(tmp_path, {"a": range(5), "b": range(5)})
    bad = tmp_path / "b" / ("bad.tif" if kind.startswith("numbers") else "bad.png")
    if kind == "cut off":
        write(bad, RED, (64, 64))
        bad.write_bytes(bad.read_bytes()[:-40])
    elif kind.startswith("numbers"):
        Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(bad)
    else:
        bad.write_bytes(b"no picture" if kind == "text" else b"")
    with pytest.raises(DataUnavailable) as raised:
        ImageFolder(root=str(tmp_path)).load("train")
    sentence = rf"{bad} can't be read as a picture \(.*[^.]\); repair it, or take it away\."
    assert re.fullmatch(sentence, str(raised.value))  # a dot matches no line break


def test_statistics_are_imagenets_unless_given(tmp_path: Path) -> None:
    """torchvision.models documents (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."""
    x = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    colour = ImageFolder(size=2).encode(x)
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(colour[0, :, 0, 0], torch.tensor(expected))
    grey = ImageFolder(size=2, channels=1).encode(x[:, :1])
    assert grey[0, 0, 0, 0].item() == pytest.approx((0.2 - 0.449) / 0.226, rel=1e-5)
    own = ImageFolder(size=2, channels=1, mean=[0.1], std=[0.5]).encode(x[:, :1])
    assert own[0, 0, 0, 0].item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"channels": 2}, "channels=2 is not allowed: 3 is colour, 1 is grey."),
        ({"size": 0}, r"size=0 is too small"),
        ({"test_share": 1.0}, "test_share=1.0 is not a share"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"mean": [0.5]}, r"mean=\[0.5\] has 1 numbers: allowed is one for each of 3 channels"),
        ({"std": [0.5, 0.0, 0.5]}, r"std=\[0.5, 0.0, 0.5\] is not allowed: deviations are above 0"),
        ({"std": [0.5, float("nan"), 0.5]}, "intensities are finite numbers"),
    ],
)
def test_parameters_outside_of_their_ranges_are_told(parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageFolder(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([], "holds no class folders, and two are the least; allowed are root/train/CLASS"),
        (["a"], "holds 1 class folder, and two are the least"),
        (["train/a", "test/a"], "train holds 1 class folder, and two are the least"),
        (["test/a", "test/b"], "holds test/ but no train/ with class folders in it; add that."),
        (
            ["train/a", "train/b", "test/a", "test/c"],
            r"test/c is of a class that .*/train has no folder for; there are a, b.",
        ),
        (["train/a", "train/b", "val/a", "valid/a"], "holds val/ and valid/; one of them is to validate"),
    ],
)
def test_a_folder_of_another_layout_is_told(folders: list[str], sentence: str, tmp_path: Path) -> None:
    for folder in folders:
        write(tmp_path / folder / "0.png", 0)
    with pytest.raises(DataUnavailable, match=sentence):
        read_layout(str(tmp_path))


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"needs a folder of class folders; name one with dataset\.root=FOLDER"):
        read_layout(None)
    with pytest.raises(DataUnavailable, match=f"There is no folder {tmp_path / 'none'}; name one of class folders"):
        read_layout(str(tmp_path / "none"))


def test_a_class_without_pictures_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"a": range(3), "b": range(3)})
    (tmp_path / "c").mkdir()
    with pytest.raises(DataUnavailable, match=f"^{tmp_path / 'c'} holds no picture"):
        ImageFolder(root=str(tmp_path)).load("train")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that lacks something is refused before anything is made; a whole one is trained on."""
    monkeypatch.chdir(tmp_path)
    command = (
        "train dataset=image_folder model=mlp model.width=4 tracker=none threads=1 train.epochs=1 sweep=none run=out"
    )
    assert main(command.split()) == 2
    assert capsys.readouterr().err.startswith("deqrun: dataset=image_folder needs a folder of class folders; ")
    fill(tmp_path / "pictures", {"a": range(20), "b": range(200, 220)})
    (tmp_path / "pictures" / "a" / "bad.png").write_text("no picture")
    command += " sweep=none dataset.root=pictures dataset.size=8 dataset.augment=crop_flip"
    assert main(command.split()) == 2
    assert f"deqrun: {tmp_path / 'pictures' / 'a' / 'bad.png'} can't be read as a pict" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    (tmp_path / "pictures" / "a" / "bad.png").unlink()
    assert main(command.split()) == 0
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("key", ["mean", "std"])
def test_intensities_that_are_no_numbers_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}=\[nan\] is not allowed: intensities are finite numbers"):
        ImageFolder(channels=1, **{key: [float("nan")]})


@pytest.fixture
def sorts(tmp_path: Path) -> Path:
    fill(tmp_path / "train", {"a": range(20), "b": range(40, 70)})
    fill(tmp_path / "test", {"a": range(100, 108), "b": range(110, 113)})
    return tmp_path


def test_pictures_decoded_by_batch_are_the_pictures_decoded_at_once(sorts: Path) -> None:
    once, batch = (ImageFolder(root=str(sorts), size=6, decode=decode, cache_mb=1) for decode in ("once", "batch"))
    for split in SPLITS:
        whole, lazy = once.load(split), batch.load(split)
        assert isinstance(lazy.inputs, Pictures)
        assert torch.equal(whole.targets, lazy.targets)
        assert (len(lazy.inputs), lazy.inputs.shape) == (len(whole.inputs), whole.inputs.shape)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
        for index in (slice(None), slice(1, 4), slice(0, 0), order, order[:1], torch.empty(0, dtype=torch.long), 0, -1):
            assert torch.equal(lazy.inputs[index], whole.inputs[index])
        assert record_of(once).digests == record_of(batch).digests


@pytest.mark.parametrize("room", [0, 1, 3, 100])
def test_so_many_decoded_pictures_are_kept(room: int) -> None:
    """The least recently used go first; the count of decodings is that of a cache of `room` pictures."""
    decoded: list[str] = []

    def decode(path: str) -> torch.Tensor:
        decoded.append(path)
        return torch.full((1, 2, 2), int(path), dtype=torch.uint8)

    pictures = Pictures([str(i) for i in range(5)], decode, (1, 2, 2), 4 * room)
    asked = [0, 1, 0, 2, 3, 0, 4, 4, 1, 0]
    kept: list[int] = []
    expected = []
    for place in asked:
        assert (pictures[place] == place).all()
        if place not in kept:
            expected.append(str(place))
        kept = [other for other in kept if other != place] + [place]
        kept = kept[len(kept) - room :] if room < len(kept) else kept
    assert decoded == expected


def test_a_run_by_batches_has_the_numbers_of_a_run_from_memory(sorts: Path, tmp_path: Path) -> None:
    """With worker processes, which decode for themselves."""
    common = ["train", "model=mlp", "dataset=image_folder", f"dataset.root={sorts}", "dataset.size=6", "train.epochs=2"]
    common += ["train.batch_size=16", "threads=1", "tracker=none", "sweep=none", "report=false"]
    assert main([*common, f"run={tmp_path / 'once'}"]) == 0
    assert main([*common, f"run={tmp_path / 'batch'}", "dataset.decode=batch", "train.workers=2"]) == 0
    rows = [[vars(row) | {"seconds": None} for row in read_run(tmp_path / run).epochs] for run in ("once", "batch")]
    assert rows[0] == rows[1]
