"""Grids belong to splits by their content, and come from their seed alone."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from zlib import crc32

import pytest
import torch
import yaml

from deqrun.datasets.dataset import IGNORED, SPLITS, Split
from deqrun.datasets.generated_grids import GeneratedGrids
from deqrun.datasets.mazes import Mazes
from deqrun.datasets.sudoku import Sudoku

Make = Callable[..., GeneratedGrids]
both = pytest.mark.parametrize("make", [Mazes, Sudoku])


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


@both
def test_the_order_of_loading_changes_nothing(make: Make) -> None:
    forwards, backwards = make(), make()
    one = {split: forwards.load(split) for split in SPLITS}
    other = {split: backwards.load(split) for split in reversed(SPLITS)}
    assert all(same(one[split], other[split]) for split in SPLITS)
    assert forwards.load("train") is one["train"]


@both
def test_a_smaller_split_begins_a_larger_one_and_the_other_splits_stay(make: Make) -> None:
    small, large = make(n_train=50, n_test=20), make(n_train=9_000, n_test=700)
    for split, n in (("train", 50), ("validation", 1_000), ("test", 20)):
        ours, theirs = small.load(split), large.load(split)
        assert len(ours) == n
        assert same(ours, Split(theirs.inputs[:n], theirs.targets[:n]))


@both
def test_another_seed_gives_other_samples(make: Make) -> None:
    ours, theirs = make(n_test=500).load("test"), make(n_test=500, data_seed=1).load("test")
    assert (ours.inputs == theirs.inputs).flatten(1).all(1).float().mean() < 0.05


@pytest.mark.parametrize(
    ("make", "checksum"),
    [
        (lambda: Mazes(n_test=100), 87890483),
        (lambda: Mazes(size=13, n_test=100, data_seed=7), 2949463732),
        (lambda: Sudoku(n_test=100), 3099360007),
        (lambda: Sudoku(box_columns=3, n_test=100), 3331331065),
        (lambda: Sudoku(box_rows=3, box_columns=3, holes=45, n_test=100), 488077598),
    ],
    ids=["mazes 9x9", "mazes 13x13", "sudoku 4x4", "sudoku 6x6", "sudoku 9x9"],
)
def test_a_seed_means_the_same_samples_on_every_machine(make: Make, checksum: int) -> None:
    """Figures of trained models rest on these; whoever changes what is drawn says so by changing the numbers."""
    split = make().load("test")
    assert crc32(split.inputs.numpy().tobytes() + split.targets.numpy().astype("<i8").tobytes()) == checksum


@both
def test_inputs_are_small_and_encoded_and_answered_as_announced(make: Make) -> None:
    dataset = make(n_test=7)
    split = dataset.load("test")
    assert split.inputs.dtype == torch.uint8
    assert split.targets.dtype == torch.int64
    assert split.targets.shape == (7, *dataset.output_shape)
    x = dataset.encode(split.inputs)
    assert x.dtype == torch.float32
    assert x.shape == (7, *dataset.input_shape)
    assert set(split.targets.unique().tolist()) == {IGNORED, *range(dataset.num_classes)}


@both
@pytest.mark.parametrize("key", ["n_train", "n_validation", "n_test"])
def test_no_split_is_empty(make: Make, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=0 is too small: allowed are integers from 1"):
        make(**{key: 0})


@both
def test_there_is_no_fourth_split(make: Make) -> None:
    with pytest.raises(ValueError, match="There is no split 'dev'"):
        make().load("dev")


@both
def test_the_options_are_the_constructors_defaults(make: Make) -> None:
    configs = Path(__file__).parents[2] / "configs" / "dataset"
    option = yaml.safe_load((configs / f"{make().name}.yaml").read_text(encoding="utf-8"))
    assert option.pop("_target_") == f"{make.__module__}.{getattr(make, '__name__', '')}"
    assert option == {name: parameter.default for name, parameter in signature(make).parameters.items()}
