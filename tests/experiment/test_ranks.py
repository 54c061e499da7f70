"""Several ranks are one process, shared out: the same losses, the same sweeps, one end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from deqrun.cli import main
from deqrun.errors import RankLost, UserError
from deqrun.experiment import launch, rank_launch, ranks
from deqrun.experiment.build import build_dataset, build_deq
from deqrun.experiment.launch import recorded
from deqrun.experiment.rank_launch import in_ranks, require_ranks
from deqrun.experiment.ranks import place, rows_of
from deqrun.experiment.training import train as training
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.objective import Batch, forward
from deqrun.experiment.training.shared_norms import SharedBatchNorm, with_shared_norms
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.models.batch_norm import BatchNorm2d
from deqrun.models.rows import dropout_mask, part_of_batch
from deqrun.records.reading import read_run
from deqrun.records.writing import RunFolder
from deqrun.settings import LaunchSettings, Settings, load_settings
from deqrun.settings.place import Place
from tests.experiment.conftest import CONFIGS
from tests.experiment.forked_ranks import in_forked_ranks

SettingsOf = Callable[..., Settings]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked, so that none imports torch again")

# Twenty steps, the last batch of an epoch uneven; solves that settle, so that rounding is not amplified.
STEPS = [
    "train.steps=20",
    "train.batch_size=100",
    "optimizer.lr=1e-3",
    "train.log_every=1",
    "sweep=none",
    "report=false",
]
EVERY_DRAW = [
    "train.start=mixture",
    "train.random_budget=[2,6]",
    "train.random_budget_per=sample",
    "train.corrections=1",
    "train.path_noise=0.05",
    "train.progressive_weight=0.3",
    "train.accumulate=2",
    "train.ema=0.9",
    "train.eval_every=5",
    "train.eval_iterations=[1,3]",
]


def trained(settings: Settings, folder: Path, count: int) -> Path:
    """A run by so many ranks, by this process itself where it is one."""
    if count == 1:
        launch._train_and_finish(settings, folder, "deqrun train")
        return folder
    ends = in_forked_ranks(count, lambda _: launch._train_and_finish(settings, folder, "x"), folder / "ranks")
    assert not [end for end in ends if isinstance(end, BaseException)]
    return folder


NIGHTLY = pytest.mark.nightly


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if "seconds" not in key} for line in lines]


def assert_close(folder: Path, other: Path, kind: str, rel: float) -> None:
    for mine, its in zip(rows(folder, kind), rows(other, kind), strict=True):
        assert mine == pytest.approx(its, rel=rel, abs=1e-12), kind


@pytest.mark.parametrize(
    ("counts", "own"),
    [
        pytest.param((2,), [], id="plain"),
        pytest.param((3,), EVERY_DRAW, id="every-draw"),
        pytest.param((3,), ["train.batch_size=2"], id="fewer-rows-than-ranks", marks=NIGHTLY),
        pytest.param((2, 3), EVERY_DRAW, id="every-draw-by-two", marks=NIGHTLY),
        pytest.param(
            (2, 3), ["train.segments=3", "train.accumulate=2", "train.start=mixture"], id="segments", marks=NIGHTLY
        ),
        pytest.param((2, 3), ["train.batch_size=400", "train.start=previous"], id="previous", marks=NIGHTLY),
    ],
)
def test_losses_are_one_processs(
    counts: tuple[int, ...], own: list[str], settings_of: SettingsOf, tmp_path: Path
) -> None:
    settings = settings_of(*STEPS, *own)
    one = trained(settings, tmp_path / "1", 1)
    for count in counts:
        shared = trained(settings, tmp_path / str(count), count)
        assert len(rows(one, "steps")) == 20
        for mine, its in zip(rows(shared, "steps"), rows(one, "steps"), strict=True):
            assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)
            assert mine["grad_norm"] == pytest.approx(its["grad_norm"], rel=1e-3)
        for mine, its in zip(rows(shared, "train"), rows(one, "train"), strict=True):
            assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)
            assert mine["gradient_share"] == pytest.approx(its["gradient_share"], rel=1e-2)
            assert mine["val_loss"] == pytest.approx(its["val_loss"], rel=1e-5)
        found, own_summary = read_run(shared).summary, read_run(one).summary
        assert found.test_accuracy == pytest.approx(own_summary.test_accuracy, abs=0.01)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Ranks are forked, and a process that has OpenMP's threads must not be."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings_with(*overrides: str) -> Settings:
    """Settings of train.yaml with these overrides alone."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_settings(compose("train", ["tracker=none", "threads=1", *overrides], return_hydra_config=True))


def gradients(settings: Settings) -> dict[str, np.ndarray[Any, Any]]:
    """Gradients of one step in double precision, and the running statistics after it, at this rank or alone."""
    dataset = build_dataset(settings)
    torch.manual_seed(0)
    deq = build_deq(settings, dataset).double().train()
    if ranks.several():
        with_shared_norms(deq)
    split, draws = dataset.load("train"), Draws.of_epoch(0, 1, torch.device("cpu"))
    batch = Batch(dataset.encode(split.inputs[:13]).double(), split.targets[:13], torch.arange(13))
    starts = Starts("zeros", 1.0, len(split))
    made = accumulated(
        forward, deq, dataset, batch, settings.train, 1, draws, starts, Stepping("float32", torch.device("cpu"))
    )
    found = {name: weight.grad for name, weight in deq.named_parameters() if weight.grad is not None}
    found |= dict(deq.named_buffers()) | {"objective": made.objective}
    return {name: tensor.detach().double().numpy() for name, tensor in found.items()}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(["model=mdeq", "model.channels=[8,8]"], id="mdeq"),
        pytest.param(["model=conv"], id="conv"),
        # Some rows of its adjoint do not settle within 24 steps, and each further step amplifies rounding.
        pytest.param(["model=transformer", "model.dropout=0.3", "gradient.budget.max_iter=8"], id="transformer"),
        pytest.param(["model=mdeq", "model.channels=[8,8]", "gradient=unrolled"], id="unrolled"),
    ],
)
def test_a_step_in_double_precision_is_one_processs(model: list[str], tmp_path: Path) -> None:
    """With batch norms, dropout and the penalty: 13 rows over 3 ranks, to the rounding of double precision."""
    settings = settings_with(*model, "train.jacobian_frequency=1")
    one = gradients(settings)
    scale = {name: max(1e-6, float(np.abs(value).max())) for name, value in one.items()}
    for shared in in_forked_ranks(3, lambda _: gradients(settings), tmp_path / "3"):
        assert shared.keys() == one.keys()
        for name, value in shared.items():
            assert np.abs(value - one[name]).max() <= 1e-8 * scale[name], name


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((nn.BatchNorm1d, shape) for shape in [(7, 3), (7, 3, 5)]),
        *((kind, shape) for kind in (nn.BatchNorm2d, BatchNorm2d) for shape in [(7, 3, 4, 2), (2, 3, 4, 2)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_shared_batch_norm_is_a_batch_norm_of_the_whole_batch(
    kind: type[nn.Module], shape: tuple[int, ...], momentum: float | None, tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))

    def normed(first: int, end: int, weight: float, shared: bool) -> list[Any]:
        layer = nn.Sequential(kind(3, momentum=momentum).double())
        nn.init.normal_(layer[0].weight, generator=torch.Generator().manual_seed(2))
        if shared:
            with_shared_norms(layer)
            assert isinstance(layer[0], SharedBatchNorm)
        mine = x[first:end].clone().requires_grad_()
        with part_of_batch(first, end, len(x), weight):
            y = layer(mine + 3)
        (weight * (weights[first:end] * y.square()).sum()).backward()
        grads = [layer[0].weight.grad, layer[0].bias.grad]
        if shared:
            ranks.add_up(grads)
        state = [value.double() for value in layer.state_dict().values()]
        return [y.detach().numpy(), mine.grad.numpy(), *(value.numpy() for value in (*grads, *state))]

    whole = normed(0, len(x), 1.0, shared=False)

    def of_rank(_: int) -> tuple[int, int, list[Any]]:
        first, end = rows_of(len(x))
        idle = first == end
        return first, end, normed(0, 1, 0.0, True) if idle else normed(first, end, 1.0, True)

    for first, end, found in in_forked_ranks(3, of_rank, tmp_path / "ranks"):
        rows_there = end - first
        for value, expected in zip(found[:2], whole[:2], strict=True):
            np.testing.assert_allclose(value[:rows_there], expected[first:end], rtol=1e-10, atol=1e-12)
        for value, expected in zip(found[2:], whole[2:], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


def test_dropout_masks_of_parts_are_the_whole_batchs() -> None:
    def drawn(like: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return dropout_mask(like, (3, 1), 0.7)

    whole = drawn(torch.empty(10))
    for first, end in ((0, 4), (4, 9), (9, 10)):
        with part_of_batch(first, end, 10):
            assert torch.equal(drawn(torch.empty(end - first)), whole[first:end])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 64])
def test_every_row_is_one_ranks(size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for rank in range(count):
        monkeypatch.setattr(ranks, "_place", Place(rank, count))
        first, end = rows_of(size)
        assert size // count <= end - first <= -(-size // count)
        taken += range(first, end)
    assert taken == list(range(size))


def test_items_that_are_dealt_come_back_in_order_at_every_rank(tmp_path: Path) -> None:
    def work(rank: int) -> tuple[list[tuple[int, int]], int, list[str], tuple[bool, ...], str]:
        looked = []
        results = list(ranks.dealt(range(7), lambda item: (item, rank), lambda: looked.append(0)))
        return results, len(looked), ranks.gathered(f"of {rank}"), ranks.agreed(rank == 1, False), ranks.told(str(rank))

    for results, looked, gathered, agreed, told in in_forked_ranks(3, work, tmp_path / "ranks"):
        assert results == [(item, item % 3) for item in range(7)]
        assert looked == 3  # rounds of three items
        assert (gathered, agreed, told) == (["of 0", "of 1", "of 2"], (True, False), "0")


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), pytest.param(3, 2, marks=pytest.mark.nightly)])
def test_a_run_goes_on_within_an_epoch_with_other_ranks(
    before: int, after: int, settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal comes to one rank in step 5; all stop after the same step, with one checkpoint."""
    settings = settings_of(*STEPS, "train.start=previous", "train.batch_size=150", "train.random_budget=[8,24]")
    whole, cut = trained(settings, tmp_path / "whole", 1), tmp_path / "cut"
    wrapped, left = training.accumulated, 5

    def strike(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and ranks.place().rank == ranks.place().count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return wrapped(*arguments)

    def struck(_: int = 0) -> None:
        with pytest.raises(KeyboardInterrupt), launch.ending_as_interrupted():
            launch._train_and_finish(settings, cut, "deqrun train")

    with monkeypatch.context() as patch:
        patch.setattr(training, "accumulated", strike)
        if before == 1:
            struck()
        else:
            assert in_forked_ranks(before, struck, tmp_path / "ranks") == [None] * before
    assert len(rows(cut, "steps")) == 5
    trained(settings, cut, after)
    assert [row["step"] for row in rows(cut, "steps")] == list(range(1, 21))
    for mine, its in zip(rows(cut, "steps"), rows(whole, "steps"), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)
    for mine, its in zip(rows(cut, "train"), rows(whole, "train"), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)


SWEPT = [
    "sweep.starts=[zeros,normal,other]",
    "sweep.solvers=[anderson]",
    "sweep.batch_size=90",
    "sweep.breadth=[1,2]",
    "sweep.noise=[0.1]",
    "sweep.iterations=[1,4]",
    "sweep.spectrum=3",
]
EVERY_AXIS = ["sweep.solvers=[picard,anderson]", "sweep.precisions=[float32,bfloat16,float64]", "sweep.batch_size=50"]


@pytest.mark.parametrize(
    ("counts", "own"),
    [((2,), []), pytest.param((2, 3), EVERY_AXIS, marks=pytest.mark.nightly)],
    ids=["two", "every-axis"],
)
def test_sweeps_are_one_processs_to_the_last_bit(
    counts: tuple[int, ...], own: list[str], settings_of: SettingsOf, tmp_path: Path
) -> None:
    """Several batches of a split; breadth, halting rules and the spectrum, too."""
    run = trained(settings_of("train.epochs=1", "sweep=none", "report=false"), tmp_path / "run", 1)
    settings = settings_of(*SWEPT, *own, "report=false", f"run={run}")

    def swept(folder: Path) -> None:
        launch._sweep_and_finish(settings, run, folder, "deqrun sweep")

    swept(tmp_path / "1")
    for count in counts:
        shared = tmp_path / str(count)
        in_forked_ranks(count, lambda _, shared=shared: swept(shared), tmp_path / f"{count}-ranks")  # type: ignore[misc]
        for kind in ("sweep", "halting", "breadth", "savings"):
            assert rows(shared, kind) == rows(tmp_path / "1", kind)
        mine, its = (read_run(folder).summary for folder in (shared, tmp_path / "1"))
        assert (mine.test_accuracy, mine.spectral_radius) == (its.test_accuracy, its.spectral_radius)
        with np.load(shared / "trajectories.npz") as found, np.load(tmp_path / "1/trajectories.npz") as alone:
            assert sorted(found) == sorted(alone)
            for name in alone:
                if "seconds" not in name:
                    np.testing.assert_array_equal(found[name], alone[name])


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (["launch.devices=4000"], "too many for this machine"),
        (["launch.devices=0"], "must be at least 1"),
        (["launch.devices=2", "device=cuda:1"], "nearest: device=cuda"),
        (["launch.devices=2", "device=mps"], "nearest: device=cpu"),
        (["launch.timeout_minutes=0"], "must be more than 0"),
        (["launch.device=2"], "the nearest is launch.devices"),
    ],
)
def test_ranks_that_can_not_be(
    own: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "tracker=none", "run=run", *own]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_devices_are_refused(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_ranks(settings_of("launch.devices=2", "device=cuda"))
    with pytest.raises(UserError, match=r"allowed here: 1 to 2 \(nearest: 2\)"):
        require_ranks(settings_of("launch.devices=3", "device=cuda"))
    monkeypatch.setattr(ranks, "_place", Place(5, 8, 1, 4))
    with pytest.raises(UserError, match="cuda:1 is one device"):
        launch.prepare("cuda:1", 1)


def test_torchrun_starts_the_ranks_by_itself(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun has started 2 already"):
        require_ranks(settings_of("launch.devices=2"))


# Ranks in processes of their own, as launch.devices starts them.


def _ends(settings: Settings, ways: dict[int, str]) -> float:
    """Ends each rank in its own way, once all are there; the others wait for them."""
    ranks.wait()
    way = ways.get(place().rank, "waits")
    if way == "refuses":
        raise UserError("The gradient is not finite.")
    if way == "breaks":
        raise ZeroDivisionError("by 0")
    if way in ("SIGKILL", "SIGSTOP", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, way))
    if way == "waits":
        ranks.wait()
        time.sleep(600)  # a rank that is not ended keeps the test from its end
    return 0.5


def ended(settings: Settings, ways: dict[int, str], folder: Path, minutes: float = 1.0) -> BaseException:
    """The exception with which a run of ranks ends, its status written into a folder that has begun."""
    settings = settings.model_copy(update={"launch": LaunchSettings(devices=2, timeout_minutes=minutes)})
    (folder / "config.yaml").parent.mkdir()
    (folder / "config.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    with pytest.raises(BaseException) as found, recorded(RunFolder(folder), "deqrun train run=… resume=true"):
        in_ranks(_ends, settings, ways)
    return found.value


@pytest.mark.nightly
def test_a_rank_that_dies_ends_the_run_with_its_reason(settings_of: SettingsOf, tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    environment = dict(os.environ)
    error = ended(settings_of(), {1: "SIGKILL"}, tmp_path / "killed")
    assert isinstance(error, RankLost)
    assert str(error).startswith("Rank 1 of 2 was ended by SIGKILL.")
    assert str(error).endswith("go on with: deqrun train run=… resume=true")
    status = read_run(tmp_path / "killed").status
    assert (status.status, status.reason) == ("failed", "Rank 1 of 2 was ended by SIGKILL.")
    assert environment == dict(os.environ)
    assert handlers == {number: signal.getsignal(number) for number in handlers}


@pytest.mark.parametrize(
    ("words", "exit_codes", "reason"),
    [
        # The agent has sent SIGTERM to rank 0, which had not noticed yet that rank 1 was gone.
        ({0: KeyboardInterrupt()}, {1: -9}, RankLost("Rank 1 of 2 was ended by SIGKILL.")),
        ({0: KeyboardInterrupt(), 1: ZeroDivisionError("by 0")}, {}, RankLost("Rank 1 of 2 ended with Zero")),
        ({0: KeyboardInterrupt(), 1: UserError("No such thing.")}, {}, UserError("No such thing.")),
        ({0: KeyboardInterrupt(), 1: KeyboardInterrupt()}, {}, KeyboardInterrupt()),
        ({0: KeyboardInterrupt(), 1: RankLost("the group is gone")}, {}, KeyboardInterrupt()),
        ({0: KeyboardInterrupt()}, {1: -15}, KeyboardInterrupt()),
        ({0: RankLost("the group is gone")}, {0: 1, 1: -11}, RankLost("Rank 1 of 2 was ended by SIGSEGV.")),
        ({0: RankLost("the group is gone")}, {0: 1}, RankLost("Rank 1 of 2 died without a word.")),
        ({0: RankLost("the group", late=True)}, {1: -9}, RankLost("Rank 1 of 2 gave no answer within")),
        ({0: RankLost("the group is gone"), 1: RankLost("it is")}, {}, RankLost("The group is gone")),
    ],
    ids=lambda value: "-".join(type(end).__name__ for end in value.values()) if isinstance(value, dict) else None,
)
def test_the_first_reason_is_told_and_not_its_consequences(
    words: dict[int, BaseException], exit_codes: dict[int, int], reason: BaseException, tmp_path: Path
) -> None:
    for rank, word in words.items():
        (tmp_path / f"{rank}.end").write_bytes(pickle.dumps(word))
    with pytest.raises(type(reason)) as found:
        rank_launch._raise_reason(tmp_path, 2, exit_codes)
    assert str(found.value).startswith(str(reason))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("ways", "minutes", "kind", "sentence", "status"),
    [
        ({1: "refuses"}, 1.0, UserError, "The gradient is not finite.", "failed"),
        ({0: "refuses", 1: "refuses"}, 1.0, UserError, "The gradient is not finite.", "failed"),
        ({0: "breaks"}, 1.0, RankLost, "Rank 0 of 2 ended with ZeroDivisionError: by 0.", "failed"),
        ({0: "SIGKILL"}, 1.0, RankLost, "Rank 0 of 2 was ended by SIGKILL.", "failed"),
        ({1: "SIGSTOP"}, 0.05, RankLost, "Rank 1 of 2 gave no answer within launch.timeout_minutes", "failed"),
        ({0: "SIGTERM", 1: "SIGTERM"}, 1.0, Exception, "Interrupted", "interrupted"),
    ],
    ids=["refuses", "all-refuse", "breaks", "killed", "hangs", "interrupted"],
)
def test_ranks_end_in_one_sentence(
    ways: dict[int, str],
    minutes: float,
    kind: type[Exception],
    sentence: str,
    status: str,
    settings_of: SettingsOf,
    tmp_path: Path,
) -> None:
    error = ended(settings_of(), ways, tmp_path / "run", minutes)
    assert isinstance(error, kind)
    assert sentence in str(error)
    assert read_run(tmp_path / "run").status.status == status


RUN = [
    "model=mlp",
    "model.width=24",
    "budget.max_iter=12",
    "gradient.budget.max_iter=12",
    "tracker=none",
    "threads=1",
    "train.epochs=1",
    "train.batch_size=256",
    "sweep.iterations=[1,4]",
    "sweep.tolerances=[1e-3]",
    "report=false",
]


def test_the_command_line_starts_ranks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run, which is one process's to rounding; the first rank alone prints."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", *RUN, "launch.devices=2", "run=run"]) == 0
    out, err = capfd.readouterr()
    assert out.count("epoch 1/1") == 1
    assert err == ""
    run = read_run(tmp_path / "run")
    assert (run.status.status, run.summary.versions["ranks"]) == ("completed", "2")
    assert main(["train", *RUN, "run=one"]) == 0
    assert_close(tmp_path / "run", tmp_path / "one", "train", rel=1e-3)
    assert run.summary.config_hash == read_run(tmp_path / "one").summary.config_hash


@pytest.mark.nightly
def test_torchrun_by_hand(tmp_path: Path) -> None:
    """Two jobs, the second refused at both ranks' expense, and neither rank is left behind."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "deqrun"]
    made = subprocess.run([*torchrun, "train", *RUN, "run=run"], cwd=tmp_path, capture_output=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert read_run(tmp_path / "run").summary.versions["ranks"] == "2"
    grid = [*torchrun, "train", "-m", *RUN, "seed=0,1", "hydra.sweep.dir=grid"]
    assert subprocess.run(grid, cwd=tmp_path, capture_output=True, timeout=180).returncode == 0
    assert {read_run(folder).status.status for folder in (tmp_path / "grid").glob("00*")} == {"completed"}


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of two ranks, once its first epoch is done; many are left."""
    command = [sys.executable, "-m", "deqrun", "train", *RUN, "train.epochs=300", "launch.devices=2", "run=run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "run/checkpoints/last.pt").is_file() and time.monotonic() < until:
            time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks: children that were spawned with a function."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="ranks are found by /proc")
@pytest.mark.parametrize("way", ["killed", "stopped"])
def test_a_run_that_lost_a_rank_goes_on_alone(way: str, long_run: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = ranks_of(long_run)
    assert len(pids) == 2
    if way == "killed":
        os.kill(pids[1], signal.SIGKILL)
    else:
        long_run.send_signal(signal.SIGTERM)
    _, err = long_run.communicate(timeout=60)
    assert long_run.returncode == (1 if way == "killed" else 130)
    assert len(err.splitlines()) == 1
    assert "resume=true" in err
    status = read_run(tmp_path / "run").status
    assert status.status == ("failed" if way == "killed" else "interrupted")
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    # On alone, from the last checkpoint to the end.
    again = [sys.executable, "-m", "deqrun", "train", "run=run", "resume=true", "launch.devices=null"]
    assert subprocess.run(again, cwd=tmp_path, capture_output=True, timeout=200).returncode == 0
    run = read_run(tmp_path / "run")
    assert [row.epoch for row in run.epochs] == list(range(1, 301))
    assert "ranks" not in (run.summary.versions or {})
