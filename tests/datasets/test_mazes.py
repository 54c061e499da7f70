"""Mazes are trees, their answer is the one path, and nothing about the endpoints gives it away."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deqrun.datasets.dataset import IGNORED, SPLITS, DataUnavailable
from deqrun.datasets.maze_generation import carve, passages
from deqrun.datasets.mazes import GOAL, START, WALL, Mazes

Pixel = tuple[int, int]


def open_neighbours(picture: np.ndarray, pixel: Pixel) -> Iterator[Pixel]:
    row, column = pixel
    for near in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
        if picture[near] != WALL:
            yield near


def shortest_path(picture: np.ndarray) -> tuple[set[Pixel], int]:
    """Breadth-first search from the start: the pixels of a shortest path to the goal, and how many are reachable."""
    start, goal = (tuple(np.argwhere(picture == mark)[0].tolist()) for mark in (START, GOAL))
    before: dict[Pixel, Pixel] = {start: start}
    queue = deque([start])
    while queue:
        pixel = queue.popleft()
        for near in open_neighbours(picture, pixel):
            if near not in before:
                before[near] = pixel
                queue.append(near)
    path = {goal}
    while goal != start:
        goal = before[goal]
        path.add(goal)
    return path, len(before)


def open_sides(is_open: Tensor) -> Tensor:
    """Open neighbours of each pixel, (n, height, width)."""
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None]
    return F.conv2d(is_open[:, None].float(), cross, padding=1)[:, 0]


def dead_ends_filled(x: Tensor) -> Tensor:
    """The rule of thumb for mazes without loops: close every dead end but start and goal until there is none."""
    is_open, kept = x[:, 0] > 0, (x[:, 1] + x[:, 2]) > 0
    while True:
        closing = is_open & ~kept & (open_sides(is_open) <= 1)
        if not closing.any():
            return is_open
        is_open = is_open & ~closing


@pytest.mark.parametrize("size", [5, 6, 9, 12, 13, 30, 33])
def test_a_maze_is_a_tree_and_the_answer_its_one_path(size: int) -> None:
    nodes = ((size + size % 2) // 2) ** 2  # an even size has those of the odd size below it
    split = Mazes(size=size, n_test=25).load("test")
    for picture, target in zip(split.inputs.numpy(), split.targets.numpy(), strict=True):
        path, reachable = shortest_path(picture)
        assert reachable == (picture != WALL).sum() == 2 * nodes - 1  # connected, with one edge less than nodes
        assert set(map(tuple, np.argwhere(target == 1).tolist())) == path
        assert ((target == IGNORED) == (picture == WALL)).all()


@pytest.mark.parametrize("size", [9, pytest.param(13, marks=pytest.mark.nightly)])
def test_filling_dead_ends_leaves_the_answer_in_every_maze(size: int) -> None:
    dataset = Mazes(size=size, n_train=2_000)
    for split in map(dataset.load, SPLITS):
        answer = dead_ends_filled(dataset.encode(split.inputs))
        assert torch.equal(answer, split.targets == 1)


def test_nodes_are_open_and_their_diagonal_neighbours_and_the_rim_are_walls() -> None:
    pictures = Mazes(size=9).load("train").inputs
    assert (pictures[:, 1::2, 1::2] != WALL).all()
    assert (pictures[:, ::2, ::2] == WALL).all()
    assert all((rim == WALL).all() for rim in (pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]))


def test_channels_are_open_start_and_goal() -> None:
    dataset = Mazes(size=5, n_test=3)
    pictures = dataset.load("test").inputs
    x = dataset.encode(pictures)
    assert torch.equal(x[:, 0] == 0, pictures == WALL)
    assert torch.equal(x[:, 1] == 1, pictures == START)
    assert torch.equal(x[:, 2] == 1, pictures == GOAL)
    assert x.sum((2, 3)).tolist() == [[17.0, 1.0, 1.0]] * 3


def test_start_and_goal_are_uniform_over_pairs_of_nodes() -> None:
    """Chi-squared over the 600 ordered pairs of 25 nodes, within four standard deviations."""
    pictures = Mazes(size=9).load("train").inputs[:, 1::2, 1::2].flatten(1)
    pairs = (pictures == START).int().argmax(1) * 25 + (pictures == GOAL).int().argmax(1)
    counts = np.bincount(pairs.numpy(), minlength=625)
    possible = ~np.eye(25, dtype=bool).reshape(-1)
    assert counts[~possible].sum() == 0
    expected = len(pictures) / 600
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    assert abs(statistic - 599) < 4 * (2 * 599) ** 0.5


def test_a_start_is_a_dead_end_as_often_as_any_node_is() -> None:
    pictures = Mazes(size=9).load("train").inputs
    dead_end = (open_sides(pictures != WALL) == 1)[:, 1::2, 1::2]
    of_all = dead_end.float().mean().item()
    for mark in (START, GOAL):
        of_marked = dead_end[pictures[:, 1::2, 1::2] == mark].float().mean().item()
        assert abs(of_marked - of_all) < 4 * (of_all * (1 - of_all) / len(pictures)) ** 0.5
    assert 0.1 < of_all < 0.6


def test_the_node_where_the_search_begins_is_a_dead_end() -> None:
    """Why the endpoints are not tied to it: in a grid no node's removal cuts the others apart."""
    parent = carve(np.random.PCG64(0), 500, 5).parent
    inside = np.zeros((7, 7), bool)
    inside[1:-1, 1:-1] = True
    is_root = (parent == np.arange(49)) & inside.reshape(-1)
    assert (is_root.sum(1) == 1).all()
    neighbours = (parent == is_root.argmax(1)[:, None]).sum(1) - 1
    assert (neighbours == 1).all()


@cache
def exact_tree_probabilities() -> dict[frozenset[tuple[int, int]], Fraction]:
    """Of every tree on 3x3 nodes, how likely depth-first search makes it: by following every choice."""
    near = {
        node: [other for other in range(9) if abs(node // 3 - other // 3) + abs(node % 3 - other % 3) == 1]
        for node in range(9)
    }
    found: Counter[frozenset[tuple[int, int]]] = Counter()

    def follow(stack: tuple[int, ...], tree: frozenset[tuple[int, int]], seen: int, likely: Fraction) -> None:
        if len(tree) == 8:
            found[tree] += likely  # type: ignore[assignment]
            return
        onward = [other for other in near[stack[-1]] if not seen >> other & 1]
        if not onward:
            follow(stack[:-1], tree, seen, likely)
        for other in onward:
            edge = (min(stack[-1], other), max(stack[-1], other))
            follow((*stack, other), tree | {edge}, seen | 1 << other, likely / len(onward))

    for root in range(9):
        follow((root,), frozenset(), 1 << root, Fraction(1, 9))
    return dict(found)  # type: ignore[arg-type]


def test_trees_are_as_likely_as_depth_first_search_makes_them() -> None:
    exact = exact_tree_probabilities()
    assert sum(exact.values()) == 1
    n = 40_000
    pictures = passages(carve(np.random.PCG64(1), n, 3)).reshape(n, 7, 7)
    counts = Counter(picture.tobytes() for picture in pictures)
    expected = {picture_of(tree).tobytes(): float(likely) * n for tree, likely in exact.items()}
    assert counts.keys() <= expected.keys()
    statistic = sum((counts[key] - mean) ** 2 / mean for key, mean in expected.items())
    freedom = len(expected) - 1
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def picture_of(tree: frozenset[tuple[int, int]]) -> np.ndarray:
    picture = np.zeros((7, 7), np.uint8)
    picture[1::2, 1::2] = 1
    for low, high in tree:
        picture[1 + low // 3 + high // 3, 1 + low % 3 + high % 3] = 1
    return picture


def contents(size: int, seed: int, split: str) -> tuple[set[bytes], set[bytes]]:
    """Mazes without their endpoints, and with them."""
    pictures = Mazes(size=size, data_seed=seed).load(split).inputs
    return {p.numpy().tobytes() for p in pictures != WALL}, {p.numpy().tobytes() for p in pictures}


@pytest.mark.parametrize("size", [5, 7, 9])
def test_splits_share_no_maze_whatever_their_seeds(size: int) -> None:
    """At 5 there are so few mazes that each split holds nearly all that it can; without the rule they'd collide."""
    made = {(seed, split): contents(size, seed, split) for seed in (0, 1) for split in SPLITS}
    for (_, split), (walls, whole) in made.items():
        for (_, other), (other_walls, other_whole) in made.items():
            if split != other:
                assert not walls & other_walls
                assert not whole & other_whole
    if size == 5:
        assert made[0, "train"][0] & made[1, "train"][0]


def test_an_answer_is_right_when_every_open_pixel_is() -> None:
    dataset = Mazes(n_test=4)
    targets = dataset.load("test").targets
    logits = F.one_hot(targets.clamp(min=0), 2).movedim(-1, 1).float()
    logits[0, :, 0, 0] = torch.tensor([0.0, 1.0])  # a wall: not asked
    row, column = (targets[1] == 1).nonzero()[0]
    logits[1, :, row, column] = torch.tensor([1.0, 0.0])  # a gap in the path
    row, column = (targets[2] == 0).nonzero()[0]
    logits[2, :, row, column] = torch.tensor([0.0, 1.0])  # a pixel beside it
    assert dataset.correct(logits, targets).tolist() == [True, False, False, True]


@pytest.mark.parametrize("size", [3, 4, 0, -7])
def test_a_size_that_is_no_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size={size} is .*\(nearest: 5\)"):
        Mazes(size=size)


def test_shapes_follow_the_size_without_data() -> None:
    dataset = Mazes(size=59)
    assert dataset.input_shape == (3, 61, 61)
    assert dataset.output_shape == (61, 61)
    assert dataset.num_classes == 2


@pytest.mark.parametrize(("shortest", "longest"), [(10, 20), (None, 4), (30, None), (15, 16)])
def test_paths_are_as_long_as_asked_for(shortest: int | None, longest: int | None) -> None:
    """Counted by breadth-first search over open pixels, in every split."""
    data = Mazes(size=9, n_train=100, n_validation=50, n_test=50, shortest=shortest, longest=longest)
    for split, n in (("train", 100), ("validation", 50), ("test", 50)):
        samples = data.load(split)
        assert len(samples) == n
        for pixels, path in zip(samples.inputs.numpy(), samples.targets.numpy(), strict=True):
            steps = distance(pixels)
            assert (shortest or 2) <= steps <= (longest or 48)
            assert steps == (path == 1).sum() - 1


def distance(pixels: np.ndarray) -> int:
    """Steps from start (2) to goal (3) over pixels that are no wall (0)."""
    reached, steps = pixels == 2, 0
    while not (reached & (pixels == 3)).any():
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        reached, steps = wider & (pixels != 0), steps + 1
    return steps


def test_any_length_gives_the_mazes_of_before() -> None:
    plain, named = Mazes(n_test=50).load("test"), Mazes(n_test=50, shortest=2, longest=1_000).load("test")
    assert torch.equal(plain.inputs, named.inputs)


def test_mazes_of_a_length_keep_to_their_splits() -> None:
    """Walls decide the split, so a maze asked with a far goal was trained on with no near one."""
    near, far = Mazes(size=5, n_train=1_000, longest=6), Mazes(size=5, n_test=300, shortest=8)
    trained = {(grid != 0).tobytes() for grid in near.load("train").inputs.numpy()}
    assert not any((grid != 0).tobytes() in trained for grid in far.load("test").inputs.numpy())


@pytest.mark.parametrize(
    "parameters", [{"shortest": 20, "longest": 10}, {"shortest": 50}, {"shortest": 15, "longest": 15}]
)
def test_lengths_that_no_path_has_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="leave no path in mazes of size=9"):
        Mazes(size=9, **parameters)  # type: ignore[arg-type]


def test_lengths_that_hardly_any_maze_has_end_in_a_sentence() -> None:
    with pytest.raises(DataUnavailable, match="none has a path of 236 to 240 steps"):
        Mazes(size=21, shortest=236, n_train=1, n_validation=1, n_test=1).load("test")


def test_an_even_size_adds_walls_on_any_two_sides_and_moves_nothing_else() -> None:
    """Cut to its nodes and their walls, it is a maze of the odd size below; each of four corners is drawn as often."""
    split = Mazes(size=8, n_train=2_000).load("train")
    corners: Counter[tuple[int, int]] = Counter()
    for picture, target in zip(split.inputs.numpy(), split.targets.numpy(), strict=True):
        rows, columns = ((picture != WALL).any(axis=1 - axis).nonzero()[0] for axis in (0, 1))
        top, left = int(rows[0]) - 1, int(columns[0]) - 1
        corners[top, left] += 1
        inner = picture[top : top + 9, left : left + 9]
        assert (inner[1::2, 1::2] != WALL).all()
        assert (inner[::2, ::2] == WALL).all()
        assert (picture != WALL).sum() == (inner != WALL).sum()
        assert (target[picture == WALL] == IGNORED).all()
    assert corners.keys() == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for count in corners.values():  # five standard deviations of a binomial count
        assert abs(count - 500) < 5 * (2_000 * 0.25 * 0.75) ** 0.5


def test_maze_hard_has_thirty_positions_and_long_paths() -> None:
    split = Mazes(size=30, shortest=110, n_train=1, n_validation=1, n_test=12).load("test")
    assert split.inputs.shape == (12, 32, 32)
    assert ((split.targets == 1).sum((1, 2)) - 1).min() >= 110
