"""Kept states: their principal components are NumPy's, and a file that holds none is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deqrun.records.kept_states import FILE, KeptStates, read_kept_states, write_kept_states


def kept(s: int, iterates: int, size: int, seed: int = 0) -> KeptStates:
    """Random walks; every second sample stops before the last iterate."""
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(s, iterates, size)).cumsum(axis=1).astype(np.float32)
    last = np.where(np.arange(s) % 2, iterates - 1, iterates // 2)
    for sample, end in enumerate(last):
        states[sample, end + 1 :] = states[sample, end]
    return KeptStates(states, generator.random((s, iterates)) < 0.5, last, np.arange(s))


@pytest.mark.parametrize(("s", "iterates", "size"), [(3, 12, 200), (6, 30, 20), (1, 5, 7), (2, 3, 2)])
def test_components_equal_the_singular_value_decomposition(s: int, iterates: int, size: int) -> None:
    found = kept(s, iterates, size)
    projection = found.projection(2)
    used = np.arange(iterates)[None, :] <= found.last[:, None]
    rows = found.states[used].astype(np.float64)
    rows -= rows.mean(axis=0)
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    theirs = left[:, :2] * singular[:2]
    ours = projection.points[used]
    signs = np.sign((ours * theirs).sum(axis=0))
    assert np.allclose(ours, theirs * signs, atol=1e-9 * singular[0] ** 2)
    assert projection.explained == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), abs=1e-9)
    assert np.isnan(projection.points[~used]).all()


def test_states_that_are_not_finite_take_no_part() -> None:
    found = kept(2, 6, 5)
    clean = found.projection(2)
    found.states[0, 2] = np.inf
    assert np.isnan(found.projection(2).points[0, 2]).all()
    assert np.isfinite(found.projection(2).points[1]).all()
    assert np.isfinite(clean.points[0, 2]).all()


def test_a_single_point_has_no_direction() -> None:
    still = KeptStates(np.ones((2, 3, 4), np.float32), np.ones((2, 3), bool), np.array([2, 2]), np.arange(2))
    projection = still.projection(2)
    assert np.allclose(projection.points, 0)
    assert np.array_equal(projection.explained, np.zeros(2))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = kept(4, 7, 3)
    write_kept_states(tmp_path, found)
    again = read_kept_states(tmp_path)
    assert again is not None
    for name, array in vars(found).items():
        assert np.array_equal(getattr(again, name), array)
    assert read_kept_states(tmp_path / "elsewhere") is None


def test_another_file_in_its_place_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / FILE, states=np.zeros(3), correct=np.zeros(3), last=np.zeros(3), places=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold the iterates of samples"):
        read_kept_states(tmp_path)
    (tmp_path / FILE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r".+"):
        read_kept_states(tmp_path)
