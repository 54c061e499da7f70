"""Choices that are told of a recipe: made on validation, and for each seed without that seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["chosen_of", "chosen_without", "named", "of_the_chosen"]


T = TypeVar("T")


def chosen_without(score_SK: ArrayLike) -> NDArray[np.intp]:
    """(S,) for each seed the candidate of highest mean validation score over the other seeds; of equals the first.

    score  (S, K) of each seed and candidate, on validation. A single seed chooses by itself.

    Validation keeps the luck of samples out of a choice. The luck of networks is in both splits, so that a candidate
    chosen by all seeds would be told too favourably of these very seeds: each is left out of its own choice
    (cross-fitting, as in Chernozhukov et al. 2018).
    """
    score = np.atleast_2d(np.asarray(score_SK, dtype=np.float64))
    if len(score) == 1:
        return score.argmax(axis=1)
    return np.array([np.delete(score, seed, axis=0).mean(axis=0).argmax() for seed in range(len(score))])


def chosen_of(candidates: Sequence[T], scores: ArrayLike) -> list[T]:
    """The candidates that `chosen_without` chooses by scores (K, S)."""
    return [candidates[place] for place in chosen_without(np.transpose(scores))]


def of_the_chosen(chosen: Iterable[T], values: Callable[[T], NDArray[Any]]) -> NDArray[Any]:
    """(S, n) of each seed the values (S, n) of the candidate that was chosen for it."""
    return np.array([values(one)[seed] for seed, one in enumerate(chosen)])


def named(names: Sequence[str], chosen: NDArray[np.intp]) -> list[str]:
    """The names of the chosen candidates, most frequent first."""
    counts = np.bincount(chosen, minlength=len(names))
    return [names[place] for place in np.argsort(-counts, kind="stable") if counts[place]]
