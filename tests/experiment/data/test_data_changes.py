"""A run is asked about, and goes on with, the data that it was trained on; other data are refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deqrun.cli import main
from deqrun.datasets import SPLITS
from deqrun.datasets.image_folder import ImageFolder
from deqrun.datasets.prefix_sums import PrefixSums
from deqrun.errors import UserError
from deqrun.experiment.data.changes import MatchedDataset
from deqrun.experiment.data.record import read_record, record_of, write_record

QUICK = [
    "model=mlp",
    "model.width=8",
    "train.epochs=1",
    "tracker=none",
    "sweep.iterations=[1]",
    "sweep.tolerances=[0.1]",
    "sweep.solvers=[picard]",
    "sweep.starts=[zeros]",
    "device=cpu",
    "report=false",
]


def draw(folder: Path, number: int) -> None:
    """A picture of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures/ in three classes of 20, and run/, which was trained on them."""
    home = tmp_path_factory.mktemp("trained")
    for number in range(60):
        draw(home / "pictures" / "abc"[number // 20], number)
    arguments = [f"dataset.root={home / 'pictures'}", "dataset.size=8", "dataset.channels=1", f"run={home / 'run'}"]
    assert main(["train", "dataset=image_folder", *arguments, *QUICK]) == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, its pictures in another place."""
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rename_class(pictures: Path) -> None:
    (pictures / "a").rename(pictures / "zz")


def delete_pictures(pictures: Path) -> None:
    for path in sorted((pictures / "b").iterdir())[:5]:
        path.unlink()


def add_pictures(pictures: Path) -> None:
    for number in range(900, 905):
        draw(pictures / "b", number)


def add_class(pictures: Path) -> None:
    for number in range(900, 920):
        draw(pictures / "d", number)


def remove_class(pictures: Path) -> None:
    shutil.rmtree(pictures / "c")


def swap_classes(pictures: Path) -> None:
    (pictures / "a").rename(pictures / "x")
    (pictures / "b").rename(pictures / "a")
    (pictures / "x").rename(pictures / "b")


def change_pixel(pictures: Path) -> None:
    for path in (pictures / "a").iterdir():
        pixels = np.array(Image.open(path))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(path)
        break


CHANGES: dict[Callable[[Path], None], str] = {
    rename_class: "class 'a' is gone, class 'zz' is new",
    delete_pictures: "train has 38 samples and had 42, ",
    add_pictures: "train has",
    add_class: "class 'd' is new",
    remove_class: "class 'c' is gone",
    swap_classes: " of the 42 samples of train are others, ",
    change_pixel: "1 of the ",
}
"""Ways to change the data, and the clause that says so."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_sweep_of_changed_data_is_refused(
    home: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change(home / "pictures")
    before = contents(home)
    capsys.readouterr()
    assert main(["sweep", "run=run", f"dataset.root={home / 'pictures'}"]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("deqrun: the data of run changed since it was trained: ")
    assert sentence.endswith(
        "allowed are the run's own data, or data_changed=match_classes, which matches classes by name and leaves out "
        "the samples that were trained on.\n"
    )
    assert CHANGES[change] in sentence
    assert sentence.count("\n") == 1
    assert contents(home) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_does_not_go_on_with_changed_data(
    home: Path, trained: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    config = home / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained / "pictures"), str(home / "pictures")))
    (home / "run" / "status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 1}')
    change(home / "pictures")
    before = contents(home)
    capsys.readouterr()
    assert main(["train", "run=run", "resume=true"]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("deqrun: the data of run changed since it was trained: ")
    assert sentence.endswith("; a run goes on with its own data, and other data need a new run.\n")
    assert CHANGES[change] in sentence
    assert contents(home) == before


def test_a_study_is_not_asked_about_changed_data(home: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = home / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained / "pictures"), str(home / "pictures")))
    delete_pictures(home / "pictures")
    before = contents(home)
    assert main(["sweep", "study=does_it_converge", "run=run"]) == 2
    assert "; a study asks about the run's own data.\n" in capsys.readouterr().err
    assert contents(home) == before


def test_the_same_data_in_another_place_are_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "pictures").rename(home / "moved")
    assert main(["sweep", "run=run", "dataset.root=moved", *QUICK[3:]]) == 0
    assert capsys.readouterr().err == ""
    (swept,) = (home / "outputs" / "sweep").glob("*/*")
    assert json.loads((swept / "summary.json").read_text())["n_test"] == 12


def test_matching_maps_classes_by_name_and_leaves_out_what_was_trained_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_class(home / "pictures")
    swap_classes(home / "pictures")
    arguments = ["sweep", "run=run", f"dataset.root={home / 'pictures'}", "data_changed=match_classes", *QUICK[3:]]
    assert main(arguments) == 0
    record = read_record(home / "run")
    assert record is not None
    changed = ImageFolder(root=str(home / "pictures"), size=8, channels=1)
    matched = MatchedDataset(changed, record, home / "run")
    test, everything = matched.load("test"), changed.load("test")
    seen = {row for name in SPLITS[:2] for row in record.rows[name].tolist()}
    now = record_of(changed).rows["test"].tolist()
    kept = [place for place, row in enumerate(now) if row not in seen and everything.targets[place] < 3]
    assert torch.equal(test.inputs, everything.inputs[kept])
    assert torch.equal(test.targets, everything.targets[kept])  # 'a' is 0 still, whatever lies in it
    assert matched.num_classes == 3
    trained_on = sum(row in seen for row in now)
    unknown = len(now) - trained_on - len(kept)
    assert (
        f"of test {trained_on} samples were trained on and {unknown} are of other classes; {len(kept)} are asked"
        in (capsys.readouterr().out)
    )
    (swept,) = (home / "outputs" / "sweep").glob("*/*")
    assert json.loads((swept / "summary.json").read_text())["n_test"] == len(kept)


def test_matching_by_name_survives_another_order_of_classes(home: Path) -> None:
    record = read_record(home / "run")
    assert record is not None
    (home / "pictures" / "a").rename(home / "pictures" / "zz")
    matched = MatchedDataset(ImageFolder(root=str(home / "pictures"), size=8, channels=1), record, home / "run")
    assert set(matched.load("test").targets.tolist()) <= {1, 2}  # b and c, which are 0 and 1 in the folder now


def test_a_run_of_before_is_read_with_one_line_of_warning(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run" / "data.json").unlink()
    (home / "run" / "data_rows.npz").unlink()
    capsys.readouterr()
    assert main(["sweep", "run=run", f"dataset.root={home / 'pictures'}", *QUICK[3:]]) == 0
    assert capsys.readouterr().err == (
        "deqrun: run holds no data.json, as runs of before have none, so that changed data would not be noticed.\n"
    )


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"dataset": 1}', "\0", "[" * 100_000])
def test_a_damaged_record_is_told(home: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run" / "data.json").write_text(damage)
    before = contents(home)
    assert main(["sweep", "run=run"]) == 2
    assert "run/data.json, which says what data the run was trained on, is damaged" in capsys.readouterr().err
    assert contents(home) == before


OWN = """
from pathlib import Path
import torch
from deqrun.datasets import SPLITS, Dataset, Split

class Own(Dataset):
    name, input_shape, num_classes = "own", (1, 8), 2

    def __init__(self, *, folder="."):
        self.labels = torch.tensor([int(word) for word in Path(folder, "labels.txt").read_text().split()])

    def load(self, split):
        place = SPLITS.index(split)
        inputs = torch.randn(20, 1, 8, generator=torch.Generator().manual_seed(place))
        return Split(inputs, self.labels[20 * place : 20 * place + 20])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "own_labels.py").write_text(OWN)
    (tmp_path / "mine" / "dataset" / "own.yaml").write_text("_target_: own_labels.Own\nfolder: .\n")
    (tmp_path / "labels.txt").write_text("0 1 " * 30)
    yield tmp_path
    sys.modules.pop("own_labels", None)


def test_another_labels_file_is_noticed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = ["--config-dir", "mine", "allow_foreign_targets=true"]
    assert main(["train", *mine, "dataset=own", "run=run", *QUICK]) == 0
    (own / "labels.txt").write_text("0 1 " * 15 + "1 0 " * 15)
    capsys.readouterr()
    assert main(["sweep", *mine, "run=run"]) == 2
    assert "validation has other labels or another order, test has other labels" in capsys.readouterr().err


def test_another_text_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be, " * 100)
    arguments = [
        "dataset=text",
        "dataset.path=text.txt",
        "dataset.length=8",
        "model=transformer",
        "model.width=8",
        "model.inner=8",
        "gradient=phantom",
        *QUICK[2:],
    ]
    assert main(["train", "run=run", *arguments]) == 0
    (tmp_path / "text.txt").write_text("to be or not to be, " * 99 + "to bi or not to be, ")
    capsys.readouterr()
    assert main(["sweep", "run=run"]) == 2
    sentence = capsys.readouterr().err
    assert "the data of run changed since it was trained: 1 of the 12 samples of test are others" in sentence


def test_generated_data_may_be_asked_with_other_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["dataset.n_train=64", "dataset.n_validation=16", "dataset.n_test=16"]
    arguments = ["dataset=prefix_sums", *small, "model=recall", "model.width=8", *QUICK[2:]]
    assert main(["train", "run=run", *arguments]) == 0
    for change in ("dataset.length=24", "dataset.n_test=32", "dataset.data_seed=5"):
        assert main(["sweep", "run=run", change, f"hydra.run.dir=swept-{change[8:].split('=')[0]}", *QUICK[3:]]) == 0


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(PrefixSums(length=8, n_train=20, n_validation=10, n_test=10))
    write_record(tmp_path, record)
    again = read_record(tmp_path)
    assert again == record
    assert again is not None
    assert all(np.array_equal(again.rows[name], record.rows[name]) for name in SPLITS)
    assert record.differences(again) == []
    assert (
        len({*record.rows["train"].tolist(), *record.rows["validation"].tolist(), *record.rows["test"].tolist()}) == 40
    )


def test_matching_needs_one_label_per_sample(tmp_path: Path) -> None:
    dataset = PrefixSums(length=8, n_train=20, n_validation=10, n_test=10)
    with pytest.raises(UserError, match="is for data with one label per sample"):
        MatchedDataset(dataset, record_of(dataset), tmp_path)
