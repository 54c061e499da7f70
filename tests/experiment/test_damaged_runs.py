"""Damaged and foreign files in a run folder: one sentence, exit code 2, and nothing made or changed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqrun.cli import main
from deqrun.records import safe_reading
from tests.usual import usual

QUICK = ["sweep.iterations=[1]", "sweep.tolerances=[0.1]", "sweep.solvers=[picard]", "sweep.starts=[zeros]"]
QUICK.append("report=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    home = tmp_path_factory.mktemp("trained")
    small = ["dataset.n_train=64", "dataset.n_validation=16", "dataset.n_test=16", "model=recall", "model.width=8"]
    arguments = ["dataset=prefix_sums", *small, "train.epochs=2", "tracker=none", "device=cpu", *QUICK]
    assert main(["train", f"run={home / 'run'}", *arguments]) == 0
    return home / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which says that it was interrupted."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    Path("run/status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 1}')
    return Path("run")


class Evil:
    def __reduce__(self) -> Any:
        return (Path("executed").write_text, ("",))


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                for _ in range(16):
                    member.write(bytes(2**20))
    raw = path.read_bytes()
    size = (16 * 2**20).to_bytes(4, "little")
    path.write_bytes(raw.replace(size, (2**32 - 2).to_bytes(4, "little")))


def lying_header(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)})
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("residual", "nfe", "correct"):
            archive.writestr(f"picard/zeros/test/{name}.npy", header.getvalue())


def objects(path: Path) -> None:
    np.savez(path, **{f"picard/zeros/test/{name}": np.array([Evil()]) for name in ("residual", "nfe", "correct")})


def changed(path: Path, **entries: Any) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content | entries, path)


def other_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    name = next(iter(content["model"]))
    content["model"][name] = torch.zeros(3, 3)
    torch.save(content, path)


def fewer_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["model"][next(iter(content["model"]))]
    torch.save(content, path)


OF_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "text": lambda path: path.write_text("nothing of the kind"),
    "a stranger's pickle": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "a stranger's checkpoint": lambda path: torch.save(Evil(), path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "another mapping": lambda path: torch.save({"weights": {}}, path),
    "epoch is text": lambda path: changed(path, epoch="7"),
    "no weights": lambda path: changed(path, model=[]),
    "weights of another size": other_weights,
    "a weight is missing": fewer_weights,
    "a zip bomb": zip_bomb,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sentence_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence of a call that must end with code 2 and leave everything as it is."""
    before = contents(Path())
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert contents(Path()) == before
    assert "executed" not in before
    assert not Path("outputs").exists()
    return captured.err


@pytest.mark.parametrize(
    "kind", usual(OF_CHECKPOINTS, nightly=["text", "a tensor", "another mapping", "a weight is missing"])
)
def test_a_damaged_checkpoint_is_told(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in (("best.pt", ["sweep"]), ("last.pt", ["train", "resume=true"])):
        OF_CHECKPOINTS[kind](run / "checkpoints" / name)
        sentence = sentence_of(capsys, *command, f"run={run}")
        assert sentence.startswith(f"deqrun: 'run/checkpoints/{name}' ")
        fits = "does not fit the model that config.yaml describes: its " in sentence or (
            "does not fit the model that config.yaml describes: it has no " in sentence
        )
        damaged = "is not a checkpoint of deqrun, or is damaged (" in sentence
        assert fits if "weight" in kind and kind != "no weights" else damaged


OF_RECORDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "train.jsonl is binary": ("train.jsonl", lambda path: path.write_bytes(bytes(range(128, 256)))),
    "train.jsonl is a list": ("train.jsonl", lambda path: path.write_text("[1]\n")),
    "train.jsonl is cut in the middle": ("train.jsonl", lambda path: path.write_text('{"epoch": 1,\n{}\n')),
    "train.jsonl is deep": ("train.jsonl", lambda path: path.write_text("[" * 100_000 + "\n{}\n")),
    "status.json is text": ("status.json", lambda path: path.write_text("done")),
    "summary.json is a number": ("summary.json", lambda path: path.write_text("1")),
    "sweep.jsonl is text": ("sweep.jsonl", lambda path: path.write_text("rows\n")),
    "trajectories.npz is text": ("trajectories.npz", lambda path: path.write_text("arrays")),
    "trajectories.npz is cut short": ("trajectories.npz", lambda path: path.write_bytes(path.read_bytes()[:300])),
    "trajectories.npz is a zip bomb": ("trajectories.npz", zip_bomb),
    "trajectories.npz has headers that lie": ("trajectories.npz", lying_header),
    "trajectories.npz holds objects": ("trajectories.npz", objects),
    "config.yaml is binary": ("config.yaml", lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "config.yaml is deep": ("config.yaml", lambda path: path.write_text("[" * 5000)),
    "config.yaml holds aliases": ("config.yaml", lambda path: path.write_text("a: &a [x]\nb: [*a, *a]\n")),
    "config.yaml is large": ("config.yaml", lambda path: path.write_text("a: " + "x" * 5 * 2**20)),
    "config.yaml has a date for a seed": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("seed: 0", "seed: 2001-99-99")),
    ),
}


@pytest.mark.parametrize("kind", usual(OF_RECORDS, nightly=[*OF_RECORDS][1::3]))
def test_a_damaged_record_is_told(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_reading, "available_memory", lambda: 8 * 2**30)
    name, damage = OF_RECORDS[kind]
    damage(run / name)
    for command in (["sweep"], ["train", "resume=true"]):
        assert f"run/{name}" in sentence_of(capsys, *command, f"run={run}")


@pytest.mark.parametrize("kind", ["cut short", "a stranger's pickle", "weights of another size"])
def test_a_run_does_not_go_on_to_a_damaged_best(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is tested at the end, where no later epoch is better; an hour of training comes before."""
    OF_CHECKPOINTS[kind](run / "checkpoints" / "best.pt")
    assert "run/checkpoints/best.pt" in sentence_of(capsys, "train", f"run={run}", "resume=true")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.each
@pytest.mark.parametrize("put", [a_folder, a_pipe, a_link_to_itself])
@pytest.mark.parametrize(
    "name",
    ["checkpoints/best.pt", "checkpoints/last.pt", "train.jsonl", "status.json", "data.json", "trajectories.npz"],
)
def test_what_is_no_file_is_not_read(
    run: Path, name: str, put: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a pipe no read would end; into a folder nothing could be written after the training."""
    put(run / name)
    commands = [["train", "resume=true"]] if name == "checkpoints/last.pt" else [["sweep"], ["train", "resume=true"]]
    for command in commands:
        assert f"run/{name}" in sentence_of(capsys, *command, f"run={run}")


def test_an_honest_checkpoint_of_the_last_epoch_takes_the_place_of_best(run: Path) -> None:
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    changed(run / "checkpoints" / "last.pt", best_epoch=last["epoch"])
    (run / "checkpoints" / "best.pt").unlink()
    assert main(["sweep", f"run={run}", *QUICK, "hydra.run.dir=swept"]) == 0
    assert json.loads(Path("swept/summary.json").read_text())["best_epoch"] == 2


def test_best_is_missing_and_nothing_has_its_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(run / "checkpoints" / "last.pt", best_epoch=1)
    (run / "checkpoints" / "best.pt").unlink()
    for command in (["sweep"], ["train", "resume=true"]):
        assert sentence_of(capsys, *command, f"run={run}") == (
            "deqrun: 'run/checkpoints/best.pt' is missing, and the weights of epoch 1, which validation chose, are in "
            "no other file (last.pt has those of epoch 2); put it back from a copy, or train a new run.\n"
        )


def test_a_complete_run_without_checkpoints_is_not_sent_in_circles(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "status.json").write_text('{"status": "completed", "reason": "", "epoch": 2}')
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert sentence_of(capsys, "sweep", f"run={run}") == (
        "deqrun: 'run' has no checkpoints any more, though its training is complete; put checkpoints/ back from a "
        "copy, or train a new run.\n"
    )


@pytest.fixture
def begun(run: Path) -> Path:
    """A sweep of the run that was interrupted before its records."""
    assert main(["sweep", f"run={run}", *QUICK[:-1], "hydra.run.dir=swept"]) == 0
    for path in list(Path("swept").iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.yaml":
            path.unlink()
    Path("swept/status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 2}')
    return Path("swept")


def test_training_does_not_go_on_in_a_sweeps_folder(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence_of(capsys, "train", f"run={begun}", "resume=true") == (
        "deqrun: run=swept holds a sweep of run, and no training; go on with: deqrun sweep run=swept\n"
    )


def test_the_command_that_is_suggested_goes_on_with_the_sweep(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (begun / "config.yaml").read_text()
    assert "leave sweep.iterations out" in sentence_of(capsys, "sweep", f"run={begun}", "sweep.iterations=[2]")
    assert main(["sweep", f"run={begun}"]) == 0
    assert json.loads((begun / "status.json").read_text())["status"] == "completed"
    # Both splits, at the budget and tolerance that were asked for and at training's own.
    assert len((begun / "sweep.jsonl").read_text().splitlines()) == 2 * 2 * 2
    assert (begun / "report.html").is_file()
    assert (begun / "config.yaml").read_text() == config
    assert not (begun / "checkpoints").exists()
    assert not Path("outputs").exists()
    assert sentence_of(capsys, "sweep", f"run={begun}") == (
        "deqrun: run=swept is a sweep of run, which is complete; to ask that run again, give run=run.\n"
    )
    assert "holds a sweep of run, which is complete" in sentence_of(capsys, "train", f"run={begun}", "resume=true")
