"""A trajectory in its file says what it says in memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from deqrun.records import long_trajectory, reading
from deqrun.records.long_trajectory import LongTrajectory, PartsInArchive, PartsWriter
from deqrun.records.reading import read_trajectories
from deqrun.records.residual_curve import residual_curve
from deqrun.records.safe_reading import NotReadable
from deqrun.records.trajectory import Trajectory, TrajectoryKey, joined
from deqrun.records.writing import RunFolder

T, N = 9, 37
KEY = TrajectoryKey("picard", "zeros", "test")
TOLERANCES = (0.5, 0.1, 1e-3, 0.0)


def part(low: int, high: int, dtype: type = np.float32) -> Trajectory:
    """Samples low to high of 37 random ones; each stops somewhere, some by diverging."""
    draw = np.random.default_rng(7)
    residual = draw.random((T, N)).astype(dtype)
    last = draw.integers(1, T, N)
    after = np.arange(T)[:, None] > last
    residual[after] = np.nan
    nfe = np.minimum(np.arange(T)[:, None], last).astype(np.int32) + 1
    correct = draw.random((T, N)) < 0.5
    status = draw.integers(0, 4, N).astype(np.uint8)
    signals = {name: draw.random((T, N)).astype(np.float32) for name in ("change", "kl", "entropy", "head")}
    arrays = {"residual": residual, "nfe": nfe, "correct": correct, "status": status, "jvps": 2 * nfe, **signals}
    arrays["stable"] = draw.integers(0, 5, (T, N)).astype(np.int32)
    arrays["loss"] = draw.random((T, N)).astype(np.float32)
    cut = {name: array[..., low:high] for name, array in arrays.items()}
    return Trajectory(**cut, seconds=np.arange(T) * (high - low) / 8, min_iter=2)


@pytest.fixture(params=["npz", "parts"])
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """The trajectory in memory, and the same in a file: in trajectories.npz, and as a sweep writes it."""
    batches = [(0, 5), (5, 6), (6, 30), (30, N)]
    whole = joined([part(low, high) for low, high in batches])
    monkeypatch.setattr(long_trajectory, "PART", 8 * T * 5)  # five samples
    if request.param == "npz":
        RunFolder(tmp_path).write_trajectories({KEY: whole})
        monkeypatch.setattr(reading, "HELD", 0)
        stored = read_trajectories(tmp_path / "trajectories.npz")[KEY]
    else:
        with PartsWriter(tmp_path / "one.npz") as writer:
            for low, high in batches:
                writer.add(part(low, high))
        stored = LongTrajectory(PartsInArchive(tmp_path / "one.npz"))
    assert isinstance(stored, LongTrajectory)
    return whole, stored


def test_arrays_are_equal_bit_by_bit(both: tuple[Trajectory, LongTrajectory]) -> None:
    whole, stored = both
    again = [stored.in_memory(), joined(list(stored.parts(signals=True)))]
    for other in again:
        for name, array in vars(whole).items():
            np.testing.assert_array_equal(getattr(other, name), array, err_msg=name)
            assert np.asarray(getattr(other, name)).dtype == np.asarray(array).dtype, name
    for name in ("residual", "nfe", "correct", "jvps", "status", "cost", "seconds"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(whole, name))
    assert sorted(stored.signals) == ["change", "entropy", "head", "kl", "stable"]
    assert len(list(stored.parts())) > 1


def test_every_method_says_the_same(both: tuple[Trajectory, LongTrajectory]) -> None:
    whole, stored = both
    assert (stored.n, stored.iterates, stored.min_iter) == (N, T, 2)
    np.testing.assert_array_equal(stored.last(), whole.last())
    np.testing.assert_array_equal(stored.diverged, whole.diverged)
    for tol in TOLERANCES:
        np.testing.assert_array_equal(stored.nfe_to(tol), whole.nfe_to(tol))
        for most in (0, 3, T):
            np.testing.assert_array_equal(stored.stop(most, tol), whole.stop(most, tol))
            for keep in ("best", "last"):
                at = whole.returned(most, keep, tol)
                np.testing.assert_array_equal(stored.returned(most, keep, tol), at)
                np.testing.assert_array_equal(stored.correct_at(most, keep), whole.correct_at(most, keep))
                np.testing.assert_array_equal(stored.at("nfe", at), whole.nfe[at, np.arange(N)])


def test_the_residual_curve_is_the_same(both: tuple[Trajectory, LongTrajectory]) -> None:
    whole, stored = both
    assert residual_curve(KEY, stored) == residual_curve(KEY, whole)


def test_numpy_reads_the_file_by_the_documented_names(tmp_path: Path) -> None:
    whole = part(0, N)
    RunFolder(tmp_path).write_trajectories({KEY: whole})
    with np.load(tmp_path / "trajectories.npz") as arrays:
        for name, array in vars(whole).items():
            np.testing.assert_array_equal(arrays[f"picard/zeros/test/{name}"], array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_so_much_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    keys = [KEY._replace(solver=name) for name in ("a", "b", "c")]
    RunFolder(tmp_path).write_trajectories({key: part(0, N, dtype) for key in keys})
    size = T * N * (np.dtype(dtype).itemsize + 4 + 1 + 4 + 5 * 4 + 4) + 3_000
    monkeypatch.setattr(reading, "HELD", 2 * size)
    kinds = [type(one) for one in read_trajectories(tmp_path / "trajectories.npz").values()]
    assert kinds == [Trajectory, Trajectory, LongTrajectory]


def test_an_error_while_parts_are_written_leaves_no_file(tmp_path: Path) -> None:
    def stopped() -> None:
        with PartsWriter(tmp_path / "one.npz") as writer:
            writer.add(part(0, 5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damage_of_what_stays_in_the_file_is_told_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    monkeypatch.setattr(reading, "HELD", 0)
    RunFolder(tmp_path).write_trajectories({KEY: part(0, N)})
    path = tmp_path / "trajectories.npz"
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"is not an npz file, or is damaged|holds picard|names no trajectory"):
        read_trajectories(path)


def test_a_part_file_that_is_none_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.npz", "w") as archive:
        archive.writestr("seconds.npy", b"nothing")
    with pytest.raises((NotReadable, KeyError)):
        PartsInArchive(tmp_path / "one.npz")
