"""The axes of a whole sweep: each variant is what it says, and a sweep that was stopped goes on where it was."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqrun.errors import Interrupted, UserError
from deqrun.experiment import launch
from deqrun.experiment.build import at_difficulty, build_dataset, build_deq, check_components
from deqrun.experiment.launch import run_sweep
from deqrun.experiment.precision import in_precision
from deqrun.experiment.sweep import grid as sweep_grid
from deqrun.experiment.sweep import parts
from deqrun.experiment.sweep.grid import SweepResult, sweep, sweep_cells, sweep_halting, sweep_keys
from deqrun.experiment.sweep.parts import SweepParts, fingerprint_of
from deqrun.records.residual_curve import residual_curve
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.settings import ComponentSettings, Settings
from deqrun.solvers import Budget, Picard, solve


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SettingsOf = Callable[..., Settings]

SEQUENCES = [
    "dataset=prefix_sums",
    "dataset.n_train=20",
    "dataset.n_validation=6",
    "dataset.n_test=8",
    "dataset.length=9",
    "sweep.solvers=[picard]",
    "sweep.batch_size=5",
    "sweep.halting=null",
    "allow_foreign_targets=true",
]


def sequences(settings_of: SettingsOf, *overrides: str, cell: str = "PositionCell") -> Settings:
    """Settings of a cell that answers at every position of short bit strings."""
    model = ComponentSettings(target=f"tests.experiment.position_cell.{cell}", parameters={"width": 5})
    return settings_of(*SEQUENCES, *overrides).model_copy(update={"model": model})


def swept(settings: Settings, folder: Path) -> dict[TrajectoryKey, Trajectory]:
    return everything(settings, folder).trajectories


def everything(settings: Settings, folder: Path) -> SweepResult:
    dataset, deq = build_dataset(settings), made(settings)
    return sweep(settings, deq, dataset, SweepParts(folder, fingerprint_of("x", deq)))


def made(settings: Settings) -> Any:
    torch.manual_seed(1)
    return build_deq(settings, build_dataset(settings)).eval()


def test_every_combination_is_solved_once_and_zeros_before_other(settings_of: SettingsOf, tmp_path: Path) -> None:
    settings = sequences(
        settings_of,
        "sweep.starts=[other,normal,zeros]",
        "sweep.difficulties=[12,9]",
        "sweep.precisions=[float64,float32]",
    )
    keys = sweep_keys(settings)
    assert len(set(keys)) == len(keys) == 1 * 3 * 2 * 2 * 2  # solvers, starts, splits, precisions, difficulties
    assert [key.start for key in keys[:3]] == ["zeros", "normal", "other"]
    found = swept(settings, tmp_path)
    assert list(found) == keys
    cells = sweep_cells(settings, found)
    assert len({(cell.key, cell.max_iter, cell.tol) for cell in cells}) == len(keys) * 5 * 2  # with the training budget
    assert {cell.n for cell in cells if cell.split == "test"} == {8}


def test_a_difficulty_is_asked_with_the_same_weights_and_data_of_its_own(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    settings = sequences(settings_of, "sweep.difficulties=[9,31]")
    found = swept(settings, tmp_path)
    for length in (9, 31):
        other = at_difficulty(settings, length)
        deq, test = made(sequences(settings_of, f"dataset.length={length}")), build_dataset(other).load("test")
        assert test.inputs.shape == (8, length)
        f = deq.bind(build_dataset(other).encode(test.inputs))
        solution = solve(f, deq.start(f), solver=Picard(), budget=Budget(8, 1e-3))
        mine = found[TrajectoryKey("picard", "zeros", "test", "float32", length)]
        np.testing.assert_allclose(mine.residual[: len(solution.residuals)], solution.residuals, rtol=1e-4)


def test_precisions_differ_by_their_rounding(settings_of: SettingsOf, tmp_path: Path) -> None:
    """Residuals of one solver agree to the dtype's ε, float64 goes on below float32's, and 16 bits end above it."""
    settings = sequences(
        settings_of,
        "sweep.precisions=[float32,bfloat16,float64]",
        "sweep.tolerances=[1e-12]",
        "sweep.iterations=[60]",
        "sweep.splits=[test]",
    )
    with pytest.warns(UserWarning, match="is below the rounding of"):
        found = swept(settings, tmp_path)
    single, half, double = (found[TrajectoryKey("picard", "zeros", "test", p)] for p in settings.sweep.precisions)
    assert (single.residual.dtype, half.residual.dtype, double.residual.dtype) == ("float32", "float32", "float64")
    np.testing.assert_allclose(single.residual[:4], double.residual[:4], rtol=1e-4)
    np.testing.assert_allclose(half.residual[:2], double.residual[:2], rtol=0.05)
    assert np.abs(half.residual[:2] / double.residual[:2] - 1).max() > 1e-4
    lowest = [float(np.nanmin(found.residual, axis=0).max()) for found in (single, half, double)]
    assert lowest[2] <= 1e-12 < 1e-9 < lowest[0] < lowest[1]


def test_float64_is_the_model_in_double_and_leaves_the_model_as_it_was(settings_of: SettingsOf) -> None:
    deq = made(sequences(settings_of))
    double = in_precision(deq, "float64")
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert {p.dtype for p in deq.parameters()} == {torch.float32}
    assert in_precision(deq, "bfloat16") is deq


def test_a_stopped_sweep_goes_on_where_it_stopped(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sequences(settings_of, "sweep.starts=[zeros,normal,other]", "sweep.halting=[kl,oracle,budget]")
    whole, solved, real = swept(settings, tmp_path / "whole"), [], sweep_grid.trace_parts

    def counted(*arguments: Any, **named: Any) -> Iterator[tuple[Trajectory, torch.Tensor | None]]:
        traced = real(*arguments, **named)
        if len(solved) == 2 and not resumed:
            yield next(traced)  # in the midst of a trajectory
            raise KeyboardInterrupt
        solved.append(named["start"].kind)
        yield from traced

    monkeypatch.setattr(sweep_grid, "trace_parts", counted)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        swept(settings, tmp_path / "cut")
    resumed = True
    found = swept(settings, tmp_path / "cut")
    assert solved == ["zeros", "normal", "other", "zeros", "normal", "other"]  # each once, over both calls
    assert list(found) == list(whole)
    for key, trajectory in found.items():
        for name, array in vars(whole[key]).items():
            if name != "seconds" and array is not None:
                np.testing.assert_array_equal(getattr(trajectory, name), array)
    times = [
        [{name: value for name, value in vars(row).items() if name != "seconds"} for row in sweep_cells(settings, of)]
        for of in (found, whole)
    ]
    np.testing.assert_equal(*times)
    np.testing.assert_equal(*([vars(row) for row in sweep_halting(settings, of)] for of in (found, whole)))


ALL = [
    "sweep.starts=[zeros,normal,other]",
    "sweep.halting=[residual,change,kl,entropy,stable,oracle,budget]",
    "sweep.breadth=[1,2]",
    "sweep.keep=curves",
]


def test_what_is_read_from_files_part_by_part_gives_equal_rows(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sweep, with its trajectories in memory, and with each left in its file."""
    settings = sequences(settings_of, *ALL)
    held = everything(settings, tmp_path / "held")
    monkeypatch.setattr(parts, "HELD", 0)
    stored = everything(settings, tmp_path / "stored")
    assert held.trajectories == stored.trajectories == {}
    assert list(held.rows) == list(stored.rows) == ["sweep", "halting", "breadth", "savings", "curves"]
    for kind, rows in held.rows.items():
        assert len(rows) == len(stored.rows[kind]) > 0
        for row, other in zip(rows, stored.rows[kind], strict=True):
            np.testing.assert_equal(vars(other) | {"seconds": 0}, vars(row) | {"seconds": 0})


def test_measures_are_recorded_where_they_are_asked_for_and_change_no_cell(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    """All positions are right exactly where the answer is; steps over sizes are the change; a rule has its signal."""
    plain = everything(sequences(settings_of), tmp_path / "plain")
    asked = sequences(settings_of, "sweep.measures=[positions,cosine,step]", "sweep.halting=[change,confidence,budget]")
    found = everything(asked, tmp_path / "asked")
    for key, trajectory in found.trajectories.items():
        assert plain.trajectories[key].positions is plain.trajectories[key].confidence is None
        assert trajectory.margin is trajectory.acceleration is None
        assert np.array_equal(trajectory.positions == 1, trajectory.correct)
        assert ((trajectory.step[1:] > 0) == (trajectory.change[1:] > 0)).all()  # type: ignore[index]
        assert np.nanmax(np.abs(trajectory.cosine)) <= 1 + 1e-6  # type: ignore[arg-type]
    assert {row.rule for row in found.rows["halting"]} == {"change", "confidence", "budget"}
    for row, other in zip(found.rows["sweep"], plain.rows["sweep"], strict=True):
        np.testing.assert_equal(vars(other) | {"seconds": 0}, vars(row) | {"seconds": 0})


@pytest.mark.parametrize("keep", ["samples", "curves", "grid"])
def test_what_is_kept(settings_of: SettingsOf, tmp_path: Path, keep: str) -> None:
    """Cells do not depend on it; the curves are the curves of the trajectories."""
    settings = sequences(settings_of, f"sweep.keep={keep}", "sweep.splits=[test]")
    found = everything(settings, tmp_path / keep)
    whole = everything(sequences(settings_of, "sweep.splits=[test]"), tmp_path / "whole")
    assert len(found.trajectories) == (len(whole.trajectories) if keep == "samples" else 0)
    assert ("curves" in found.rows) == (keep == "curves")
    for row, other in zip(found.rows["sweep"], whole.rows["sweep"], strict=True):
        np.testing.assert_equal(vars(other) | {"seconds": 0}, vars(row) | {"seconds": 0})
    if keep == "curves":
        wanted = [row for key, one in whole.trajectories.items() for row in residual_curve(key, one)]
        np.testing.assert_equal([vars(row) for row in found.rows["curves"]], [vars(row) for row in wanted])


def test_parts_of_other_weights_or_settings_are_not_taken_up(settings_of: SettingsOf, tmp_path: Path) -> None:
    settings = sequences(settings_of, "sweep.splits=[test]")
    (key,), deq = sweep_keys(settings), made(settings)
    swept(settings, tmp_path)
    assert SweepParts(tmp_path, fingerprint_of("x", deq)).read(key) is not None
    with torch.no_grad():
        next(deq.parameters()).flatten()[0] += 1e-6
    assert SweepParts(tmp_path, fingerprint_of("x", deq)).read(key) is None
    swept(settings, tmp_path)
    assert SweepParts(tmp_path, fingerprint_of("y", made(settings))).read(key) is None


def test_a_folder_that_holds_another_sweep_is_left_alone(settings_of: SettingsOf, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(settings_of("sweep.start_seed=1").to_yaml())
    with pytest.raises(UserError, match="already holds another run"):
        run_sweep(settings_of(), tmp_path / "trained", tmp_path, "deqrun sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("folder", "word"), [("/tmp/a-b/c", "hydra.run.dir=/tmp/a-b/c"), ("/tmp/a=1,b", "'/tmp/a=1,b'")]
)
def test_an_interrupted_sweep_says_how_it_goes_on(
    folder: str, word: str, settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as a shell takes it apart, with the folder as Hydra's grammar reads it."""

    def stopped(settings: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "build_dataset", stopped)
    monkeypatch.setattr(launch.RunFolder, "write_status", lambda *_: None)
    monkeypatch.setattr(launch, "holds_only_traces", lambda _: False)  # as if the sweep had begun
    with pytest.raises(Interrupted) as raised:
        run_sweep(settings_of(), tmp_path, Path(folder), "deqrun sweep run=x")
    command = str(raised.value).partition("Go on with: ")[2].removesuffix(".")
    assert shlex.split(command)[:3] == ["deqrun", "sweep", "run=x"]
    assert shlex.split(command)[3].endswith(word)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.difficulties=[64]"], "dataset=digits has no difficulty"),
        (["sweep.difficulties=[0]"], "sweep.difficulties[0]=0 is out of range; it must be at least 1"),
        (["sweep.starts=[other]"], "give [zeros,other]"),
        (["sweep.starts=[ones]"], "it must be zeros, normal or other"),
        (["sweep.precisions=[float16]"], "the nearest is bfloat16"),
        (["sweep.halting=[kls]"], "the nearest is kl"),
        (["sweep.start_scale=0.0"], "more than 0"),
    ],
)
def test_what_cannot_be_swept_is_refused(settings_of: SettingsOf, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as raised:
        check_components(settings_of(*overrides), set())
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("cell", "overrides", "words"),
    [
        ("SizedCell", ["sweep.difficulties=[9,12]"], "model=mlp can't be asked at 12, as its weights depend on the"),
        ("PositionCell", ["dataset.shortest=8", "sweep.difficulties=[4]"], "shortest=8 exceeds length=4"),
        ("PositionCell", ["sweep.difficulties=[1,9]"], "distinct strings of 1 bits"),
    ],
)
def test_difficulties_that_data_or_weights_do_not_admit(
    cell: str, overrides: list[str], words: str, settings_of: SettingsOf
) -> None:
    with pytest.raises(UserError) as raised:
        check_components(sequences(settings_of, *overrides, cell=cell), set())
    assert words in str(raised.value)
