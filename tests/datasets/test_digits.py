"""The digits are the bundled ones, split without overlap, in proportion, and the same for every seed of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deqrun.datasets import SPLITS, Digits
from deqrun.datasets.dataset import stratified_split


def test_every_picture_is_in_exactly_one_split() -> None:
    """Each split's pictures, put together and sorted, are scikit-learn's."""
    from sklearn.datasets import load_digits

    parts = [Digits().load(split) for split in SPLITS]
    ours = torch.cat([part.inputs.flatten(1) for part in parts])
    labels = torch.cat([part.targets for part in parts])
    bundled = load_digits()
    rows = np.column_stack([ours.numpy() * 16, labels.numpy()])
    expected = np.column_stack([bundled.data, bundled.target])
    assert len(rows) == 1797
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


def test_splits_have_each_class_in_proportion() -> None:
    from sklearn.datasets import load_digits

    whole = np.bincount(load_digits().target)
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        counts = Digits().load(split).targets.bincount(minlength=10).numpy()
        assert (np.abs(counts - share * whole) <= 1).all()


def test_the_split_depends_on_its_own_seed_only() -> None:
    torch.manual_seed(1)
    first = Digits(split_seed=5).load("test").inputs
    torch.manual_seed(2)
    assert torch.equal(first, Digits(split_seed=5).load("test").inputs)
    assert not torch.equal(first, Digits(split_seed=6).load("test").inputs)


def test_stratified_split_is_a_partition_in_proportion() -> None:
    labels = np.repeat(np.arange(3), (8, 20, 12))
    parts = stratified_split(labels, (0.5, 0.25, 0.25), seed=0)
    joined = torch.cat(parts)
    assert joined.sort().values.tolist() == list(range(40))
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[4, 10, 6], [2, 5, 3], [2, 5, 3]]


def test_loss_and_correct_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    targets = torch.tensor([1, 0])
    digits = Digits()
    torch.testing.assert_close(digits.loss(logits, targets), torch.tensor([2.0, 1 + math.exp(-3.0)]).log())
    assert digits.correct(logits, targets).tolist() == [False, True]


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'val'; there are train, validation, test"):
        Digits().load("val")


def test_no_number_is_no_right_answer() -> None:
    """argmax takes NaN for the largest, so that a state that is lost would be right wherever its class is 0."""
    logits = torch.eye(10)[:2].clone()
    logits[0] = torch.nan
    assert Digits().correct(logits, torch.tensor([0, 1])).tolist() == [False, True]
