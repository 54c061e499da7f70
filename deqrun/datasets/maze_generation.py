"""Mazes by depth-first search, and the one path through each; all mazes of a batch are carved at the same time.

Nodes lie in a frame one node wide, so that no step has to look where the grid ends: of `side`² nodes a maze has,
(side + 2)² are kept. A node is a flat index into those; pixels are flat indices into the picture, (2·side + 1)².
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trees", "carve", "draw_endpoints", "passages", "paths"]

Integers = NDArray[np.int64]


class Trees(NamedTuple):
    """Spanning trees of the grid of side x side nodes.

    parent  (n, (side + 2)²) next node towards the root; the root is its own parent, and so is each node of the frame
    depth   (n, (side + 2)²) steps to the root
    """

    side: int
    parent: Integers
    depth: Integers


def carve(words: np.random.PCG64, n: int, side: int) -> Trees:
    """n trees of randomised depth-first search ("recursive backtracker"), each from a root drawn uniformly.

    From the current node go to an unvisited neighbour, drawn uniformly; where there is none, go back to the node from
    which the current one was reached. Every edge of the tree is walked twice, so after 2 (side² - 1) steps every
    search is back at its root: the searches stay in step, and a step is a few array operations over all n.
    """
    width, nodes = side + 2, _nodes(side)
    first = np.arange(n)[:, None] * width * width
    free = np.zeros(n * width * width, np.uint8)
    free[first + nodes] = 1
    at = first[:, 0] + nodes[_below(words, n, len(nodes))]
    parent, depth, level = np.arange(len(free)), np.zeros(len(free), np.int64), np.zeros(n, np.int64)
    free[at] = 0
    offsets = np.array([-width, 1, width, -1, 0])[_DIRECTION]
    for _ in range(2 * (len(nodes) - 1)):
        open_sides = free[at - width] | free[at + 1] << 1 | free[at + width] << 2 | free[at - 1] << 3
        onward = open_sides > 0
        ahead = at + offsets[open_sides, _below(words, n, 12)]
        reached = ahead[onward]
        parent[reached] = at[onward]
        free[reached] = 0
        level += np.where(onward, 1, -1)
        depth[reached] = level[onward]
        at = np.where(onward, ahead, parent[at])
    return Trees(side, parent.reshape(n, -1) - first, depth.reshape(n, -1))


def draw_endpoints(words: np.random.PCG64, n: int, side: int) -> tuple[Integers, Integers]:
    """n pairs of distinct nodes, uniform over all pairs."""
    nodes = _nodes(side)
    start = _below(words, n, len(nodes))
    goal = (start + 1 + _below(words, n, len(nodes) - 1)) % len(nodes)
    return nodes[start], nodes[goal]


def passages(trees: Trees) -> NDArray[np.uint8]:
    """(n, (2·side + 1)²): 1 at the pixels of nodes and of the edges of the tree, 0 at walls."""
    nodes, pixel = _nodes(trees.side), pixel_of_node(trees.side)
    free = np.zeros((len(trees.parent), (2 * trees.side + 1) ** 2), np.uint8)
    free[:, pixel[nodes]] = 1
    between = (pixel[nodes] + pixel[trees.parent[:, nodes]]) // 2
    free[np.arange(len(free))[:, None], between] = 1
    return free


def paths(trees: Trees, start: Integers, goal: Integers) -> NDArray[np.uint8]:
    """(n, (2·side + 1)²): 1 at the pixels of the path from start to goal, both included, else 0.

    The deeper of the two ends climbs until they meet; in a tree there is no other path.
    """
    pixel = pixel_of_node(trees.side)
    marked = np.zeros((len(start), (2 * trees.side + 1) ** 2), np.uint8)
    row, deep, high = np.arange(len(start)), start, goal
    marked[row, pixel[start]] = marked[row, pixel[goal]] = 1
    while len(row):
        swap = trees.depth[row, deep] < trees.depth[row, high]
        deep, high = np.where(swap, high, deep), np.where(swap, deep, high)
        above = trees.parent[row, deep]
        marked[row, (pixel[deep] + pixel[above]) // 2] = marked[row, pixel[above]] = 1
        apart = above != high
        row, deep, high = row[apart], above[apart], high[apart]
    return marked


def pixel_of_node(side: int) -> Integers:
    """((side + 2)²,) the pixel of each node: node (r, c) is at row 2r + 1, column 2c + 1; nonsense for the frame."""
    along = 2 * np.arange(side + 2) - 1
    return (along[:, None] * (2 * side + 1) + along).reshape(-1)


def _nodes(side: int) -> Integers:
    along = np.arange(1, side + 1)
    return (along[:, None] * (side + 2) + along).reshape(-1)


def _below(words: np.random.PCG64, n: int, bound: int) -> Integers:
    """n integers 0 … bound - 1, uniform but for bound / 2⁶⁴."""
    return (words.random_raw(n) % np.uint64(bound)).astype(np.int64)


def _directions() -> Integers:
    """(16, 12) for the open sides, as bits, and a number below 12: one of the open sides, each as often; 4: none."""
    table = np.full((16, 12), 4)
    for mask in range(1, 16):
        sides = [side for side in range(4) if mask >> side & 1]
        table[mask] = [sides[draw % len(sides)] for draw in range(12)]
    return table


_DIRECTION = _directions()
