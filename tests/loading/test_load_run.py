"""A run from Python: its records and frames, its figures, and a model that answers as the sweep did."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deqrun import load_run
from deqrun.datasets.digits import Digits
from deqrun.errors import UserError
from deqrun.records.reading import read_run
from deqrun.records.trajectory import TrajectoryKey
from deqrun.solvers import Anderson, Picard
from tests.loading.conftest import trained


def test_a_run_is_its_records(digits_run: Path) -> None:
    run, record = load_run(digits_run), read_run(digits_run)
    assert (run.config, run.summary, run.epochs, run.sweep) == (
        record.config,
        record.summary,
        record.epochs,
        record.sweep,
    )
    assert (run.state, run.name, run.settings.model.parameters["width"]) == ("completed", "mlp-digits", 24)
    assert set(run.trajectories) == set(record.trajectories)


@pytest.mark.parametrize("kind", ["epochs", "sweep", "halting", "breadth"])
def test_frames_hold_the_rows(digits_run: Path, kind: str) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    run = load_run(digits_run)
    rows = getattr(run, kind)
    pandas, polars = run.pandas(kind), run.polars(kind)
    assert len(pandas) == len(polars) == len(rows)
    assert list(pandas.columns) == polars.columns
    for place, row in list(enumerate(rows))[:: max(1, len(rows) // 5)]:
        for name, value in asdict(row).items():
            for found in (pandas[name].iloc[place], polars[name][place]):
                same = found == value or (value is None and found != found) or value is found
                assert same or np.isnan(found), (name, value, found)
                assert same or np.isnan(value), (name, value, found)


def test_what_is_not_there_is_one_sentence(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(digits_run)
    kinds = "epochs, steps, evaluations, sweep, halting, curves, breadth, savings"
    with pytest.raises(UserError, match=f"epoch is not a kind of rows; allowed: {kinds}"):
        run.pandas("epoch")
    with pytest.raises(UserError, match="the nearest is accuracy_budget"):
        run.figure("accuracy_bugdet")
    with pytest.raises(UserError, match="does not exist"):
        load_run(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"pip install 'deqrun\[frames\]'"):
        run.polars()


def test_figures_are_pictures_in_a_notebook(digits_run: Path) -> None:
    run = load_run(digits_run)
    assert {"accuracy_budget", "residual_evaluations", "training_loss"} <= set(run.figures)
    figure = run.figure("accuracy_budget")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.chart.to_dict()["layer"]
    assert "iteration budget" in figure.title


def test_a_notebook_s_table_escapes_a_stranger_s_texts(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "<b>copy")
    summary = json.loads((copy / "summary.json").read_text()) | {"name": "<script>x</script>", "model": "<i>"}
    (copy / "summary.json").write_text(json.dumps(summary))
    text = load_run(copy)._repr_html_()
    assert "&lt;script&gt;" in text
    assert not any(tag in text for tag in ("<script", "<b>", "<i>"))


@pytest.mark.parametrize("solver", ["picard", "anderson"])
@pytest.mark.parametrize("max_iter", [0, 1, 4, 16])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_the_model_answers_as_the_sweep_did(digits_run: Path, solver: str, max_iter: int, tol: float) -> None:
    """For every test sample: right or wrong, residual, and evaluations, in batches as the sweep's."""
    run, split = load_run(digits_run), Digits().load("test")
    trajectory = run.trajectories[TrajectoryKey(solver, "zeros", "test")]
    smallest = run.record.smallest_tol()
    assert smallest is not None
    tol = max(tol, smallest)  # beyond it the sweep did not go
    model, batch = run.model(), run.settings.sweep.batch_size
    columns = np.arange(trajectory.n)
    returned, stop = trajectory.returned(max_iter, run.record.keep, tol), trajectory.stop(max_iter, tol)
    for low in range(0, trajectory.n, batch):
        part = slice(low, low + batch)
        answer = model(split.inputs[part], max_iter=max_iter, tol=tol, solver=solver)
        right = (answer.labels == split.targets[part]).numpy()
        np.testing.assert_array_equal(right, trajectory.correct[returned, columns][part])
        np.testing.assert_allclose(answer.residual.numpy(), trajectory.residual[returned, columns][part], rtol=1e-4)
        np.testing.assert_array_equal(answer.evaluations.numpy(), trajectory.nfe[stop, columns][part])


def test_one_sample_alone_has_the_answer_that_it_has_among_others(digits_run: Path) -> None:
    model, inputs = load_run(digits_run).model(), Digits().load("test").inputs[:5]
    together = model(inputs, max_iter=8)
    for place in range(5):
        alone = model(inputs[place : place + 1], max_iter=8)
        torch.testing.assert_close(alone.logits[0], together.logits[place], rtol=1e-4, atol=1e-4)
        assert alone.names == [together.names[place]]


def test_arrays_lists_and_solvers_of_one_s_own_are_taken(digits_run: Path) -> None:
    model, inputs = load_run(digits_run).model(), Digits().load("test").inputs[:3]
    expected = model(inputs, solver="picard", max_iter=6, tol=0.0)
    for x in (inputs.numpy().astype(np.float64), inputs.tolist()):
        torch.testing.assert_close(model(x, solver=Picard(), max_iter=6, tol=0.0).logits, expected.logits)
    other = model(inputs, solver=Anderson(memory=2), max_iter=6, tol=0.0)
    assert set(other.status) == {"exhausted"}
    assert other.evaluations.tolist() == [7, 7, 7]
    torch.testing.assert_close(expected.probabilities.sum(1), torch.ones(3))
    assert expected.names == [str(label) for label in expected.labels.tolist()]


@pytest.mark.parametrize(
    ("x", "given", "words"),
    [
        (torch.zeros(1, 8, 8), {}, r"x\[None\] is a batch of one"),
        (torch.zeros(2, 1, 9, 9), {}, r"the model takes \(batch, 1, 8, 8\)"),
        ("seven", {}, "x can't be encoded as digits"),
        (torch.zeros(1, 1, 8, 8), {"solver": "andersn"}, "the nearest is anderson"),
        (torch.zeros(1, 1, 8, 8), {"max_iter": -1}, "max_iter"),
        (torch.zeros(1, 1, 8, 8), {"tol": float("nan")}, "tol"),
    ],
)
def test_wrong_input_is_one_sentence(digits_run: Path, x: object, given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_run(digits_run).model()(x, **given)
    assert "\n" not in str(caught.value)


def test_neither_data_nor_its_folder_is_needed(tmp_path: Path) -> None:
    """Pictures in folders name the classes; when they are gone the run still knows them, and how to encode."""
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(12):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{place}.png")
    overrides = ("dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", "dataset.size=8", "model=mlp")
    run = trained(tmp_path / "run", *overrides, "model.width=8", "train.batch_size=4")
    before = load_run(run).model()
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = before(x)
    shutil.rmtree(tmp_path / "pictures")
    answer = load_run(run).model()(x)
    torch.testing.assert_close(answer.logits, expected.logits)
    assert set(answer.names) <= {"cat", "dog"}


def test_a_class_from_outside_is_refused(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "copy")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("deqrun.models.mlp.MLPCell", "os.system"))
    run = load_run(copy)
    with pytest.raises(UserError, match=r"os\.system"):
        run.model()


def test_a_run_without_weights_says_so(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="no checkpoints"):
        load_run(copy).model()


def test_importing_deqrun_imports_nothing_else_and_loading_needs_no_torch(digits_run: Path) -> None:
    code = (
        "import sys, deqrun\n"
        "assert [name for name in sys.modules if name.startswith('deqrun')] == ['deqrun'], sys.modules\n"
        "sys.modules['torch'] = None\n"
        "from deqrun import load_run\n"
        f"run = load_run({str(digits_run)!r})\n"
        "run.figures, run._repr_html_(), run.settings\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import deqrun

    with pytest.raises(AttributeError, match="no attribute 'load_rum'"):
        deqrun.load_rum  # noqa: B018
