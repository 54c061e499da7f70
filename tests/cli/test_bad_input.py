"""Whatever is mistyped ends with one sentence, exit code 2, and an untouched folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modle=mdeq", "model"),
        ("model=mdqe", "mdeq"),
        ("solver=andersn", "anderson"),
        ("dataset=cifar11", "cifar10"),
        ("study=dmo", "demo"),
        ("train.epoch=3", "train.epochs"),
        ("trian.epochs=3", "train.epochs"),
        ("epochs=3", "train.epochs"),
        ("solver.memry=3", "solver.memory"),
        ("model.final_chanels=3", "model.final_channels"),
        ("gradient.budget.to=1", "gradient.budget.tol"),
        ("solver@gradient.solver=picrd", "picard"),
        ("sweep.solvers=[picrd]", "picard"),
        ("sweep.iteratoins=[1]", "sweep.iterations"),
        ("budget.norm=relativ", "relative"),
        ("device=gpu", "cuda"),
        ("train.schedule=cosin", "cosine"),
        ("tracker.mode=ofline", "offline"),
        ("+solver.memry=3", "memory"),
        ("+train.epoch=3", "train.epochs"),
        ("+gradient.solver.memry=3", "memory"),
        ("solver._target_=deqrun.solvers.Andersn", "deqrun.solvers.Anderson"),
    ],
)
def test_a_misspelling_is_told_with_what_is_nearest(refused: Refused, override: str, nearest: str) -> None:
    sentence = refused("train", override)
    assert f"the nearest is {nearest}." in sentence
    given = override.lstrip("+").partition("=")
    assert given[0] in sentence or given[2].strip("[]") in sentence


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("budget.tol=-1", "at least 0"),
        ("budget.max_iter=-1", "at least 0"),
        ("budget.patience=0", "at least 1"),
        ("train.epochs=0", "at least 1"),
        ("train.steps=0", "at least 1"),
        ("train.accumulate=1000", "at most 64"),
        ("train.ema=1", "less than 1"),
        ("train.decay=none", "matrices or all"),
        ("train.eval_every=5", "give train.eval_iterations"),
        ("tracker.log_every=5", "the nearest is train.log_every"),
        ("train.batch_size=0", "at least 1"),
        ("train.warmup_fraction=1.5", "at most 1"),
        ("train.milestones=[0.6,0.4]", "ascending order"),
        ("train.milestones=[0.4,1.2]", "at most 1"),
        ("train.jacobian_frequency=0", "more than 0"),
        ("train.jacobian_weight=-0.1", "at least 0"),
        ("train.clip_norm=0", "more than 0"),
        ("seed=-1", "at least 0"),
        ("seed=4294967296", "less than"),
        ("threads=0", "at least 1"),
        ("sweep.iterations=[1,-2]", "at least 0"),
        ("sweep.tolerances=[-0.1]", "at least 0"),
        ("solver.memory=-1", ">= 0"),
        ("gradient.budget.tol=-1", ">= 0"),
        ("solver=anderson solver.mixing=3", "(0, 2]"),
        ("optimizer.lr=-1", "must be at least 0"),
        ("optimizer.weight_decay=-2", "must be at least 0"),
        ("optimizer.betas=[0.9,1.5]", "from 0 up to below 1"),
    ],
)
def test_a_value_out_of_range_is_told_with_the_range(refused: Refused, override: str, allowed: str) -> None:
    sentence = refused("train", *override.split())
    key, _, value = override.split()[-1].partition("=")
    assert key.split(".")[0] in sentence
    assert value.strip("[]").split(",")[-1] in sentence
    assert allowed in sentence


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=many", "a whole number"),
        ("train.epochs=2.5", "a whole number"),
        ("train.epochs=true", "a whole number"),
        ("solver.memory=2.5", "integer"),
        ("solver.memory=null", "integer"),
        ("optimizer.lr=fast", "number"),
        ("optimizer.lr=1e999", "a finite number"),
        ("gradient.budget.tol=1e999", "a finite number"),
        ("budget.tol=.nan", "number"),
        ("resume=maybe", "true or false"),
        ("sweep.iterations=3", "a list"),
        ("train=3", "a group of keys"),
        ("gradient.solver=3", "Solver"),
        ("name=a/b", "letters, digits"),
        ("train.milestones=[a,0.4]", "must be a number"),
    ],
)
def test_a_value_of_another_kind_is_told_with_the_kind(refused: Refused, override: str, expected: str) -> None:
    assert expected in refused("train", override)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("mdeq", "model=mdeq"),
        ("train.epochs", "key=value"),
        ("solver=[picard", "solver=[picard"),
        ("train.epochs==3", "train.epochs==3"),
        ("seed=1,2", "-m"),
        ("solver=picard,anderson", "-m"),
    ],
)
def test_an_override_that_cannot_be_read_is_shown(refused: Refused, override: str, hint: str) -> None:
    assert hint in refused("train", override)


def test_an_unknown_section_cannot_be_added(refused: Refused) -> None:
    sentence = refused("train", "+foo.bar=1")
    assert "+foo.bar=1" in sentence
    assert "train" in sentence


def test_a_deleted_section_is_missed(refused: Refused) -> None:
    assert "solver is missing" in refused("train", "~solver")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "the nearest is train"),
        (["model=mdeq"], "deqrun train model=mdeq"),
        (["train", "--multrun"], "--multirun"),
        (["train", "--epochs", "5"], "train.epochs=10"),
        (["train", "--cfg", "jobs"], "'job'"),
        (["train", "--cfg", "job", "--package", "solvr"], "the nearest is solver"),
        (["train", "--cfg", "job", "-m"], "--multirun and --cfg"),
        (["train", "--resolve"], "--cfg"),
        (["train", "--config-dir", "nowhere"], "nowhere"),
        (["train", "--experimental-rerun", "job.pickle"], "resume=true"),
        (["train", "--config-name", "trian"], "trian"),
        (["train", "--cfg", "job", "modle=mdeq"], "the nearest is model"),
        (["train", "hydra/launcher=basc"], "basic"),
        (["train", "hydra.foo=1"], "hydra.foo"),
        (["describe", "model=mdqe"], "the nearest is mdeq"),
        (["describe", "--cfg", "job"], "deqrun train"),
        (["compare"], "found no run under outputs"),
        (["compare", "nowhere"], "nowhere does not exist"),
        (["compare", "--ouput", "x"], "--ouput"),
        (["compare", "no*where"], "no*where matches no folder"),
        (["compare", "a" * 300], "does not exist"),
        (["dashboard", "nowhere"], "nowhere does not exist"),
        (["dashboard", "--port", "70000"], "--port 70000 is not a port; allowed: 1 to 65535"),
        (["dashboard", "--port", "http"], "--port http is not a port"),
        (["runs"], "found no run under outputs"),
        (["runs", "--yes"], "--yes goes with --clean"),
        (["runs", "--state", "faild"], "the nearest is failed"),
        (["runs", "--clean", "--state", "running"], "allowed: failed, killed, interrupted, empty, completed"),
        (["help", "trian"], "the nearest is train"),
        (["train", "run=" + "a" * 300], "too long a name"),
        (["report", "a" * 300], "too long a name"),
    ],
)
def test_a_mistyped_command_line_is_refused(refused: Refused, arguments: list[str], hint: str) -> None:
    assert hint in refused(*arguments)


@pytest.mark.usefixtures("no_cuda")
def test_a_device_that_is_not_there_is_refused_before_anything_is_made(refused: Refused) -> None:
    assert "device=cuda" in refused("train", "device=cuda")


def test_a_folder_that_cannot_be_written_is_told(workspace: Path, refused: Refused) -> None:
    (workspace / "outputs").write_text("a file where the folder would be")
    assert "outputs" in refused("train", "model=mlp")


def test_every_message_names_the_program(refused: Refused) -> None:
    assert refused("train", "modle=mdeq").startswith("deqrun: modle=mdeq ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "hydra.run.dir="], "hydra.run.dir= names no folder"),
        (["train", "-m", "seed=1,2", "hydra.sweep.dir=''"], "hydra.sweep.dir= names no folder"),
        (["train", "--config-dir", ""], "--config-dir"),
        (["compare", "", ""], "an empty name"),
        (["new", "cell", "mine", "--output", ""], "--output needs a folder"),
    ],
)
def test_an_empty_name_is_no_folder(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "-sc"], "install=bash"),
        (["train", "-sc", "install=powershell"], "install=bash"),
        (["train", "--package", "solver"], "--package goes with --cfg"),
        (["train", "seeds=3"], "without a study"),
        (["train", "jobs=2"], "without a study"),
        (["train", "study=is_it_a_contraction", "resume=true"], "resume=true needs run=DIR"),
        (["train", "study=is_it_a_contraction", "resume=true", "run=nowhere"], "run=nowhere does not exist"),
    ],
)
def test_what_would_have_no_effect_is_told(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=" + "9" * 5000], "can't be read"),
        (["model=mlp", "model.width=100000000000"], "more memory than there is"),
        (["model=mlp", "model.width=100000000000000000000"], "more memory than there is"),
        (["dataset=prefix_sums", "model=recall", f"dataset.n_train={10**20}"], "is too many"),
        (["sweep.iterations=[10000000]"], "at most"),
        (["train.batch_size=99999999999999999999"], "less than"),
    ],
)
def test_a_number_beyond_all_bounds_is_told(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused("train", *arguments)


@pytest.mark.parametrize(
    ("content", "words"),
    [("width: [3\n", "bracket"), ("defaults: [bracket]\n", "names itself"), ("- 1\n", "a group of keys")],
)
def test_a_torn_option_is_told(refused: Callable[..., str], workspace: Path, content: str, words: str) -> None:
    (workspace / "mine" / "model").mkdir(parents=True)
    (workspace / "mine" / "model" / "bracket.yaml").write_text(content)
    for command in ("train", "describe", "check"):
        assert words in refused(command, "--config-dir", "mine", "model=bracket")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_folder_of_other_files_is_not_written_into(
    refused: Callable[..., str], made_run: Callable[..., Path], workspace: Path, command: str
) -> None:
    (workspace / "foreign").mkdir()
    (workspace / "foreign" / "report.html").write_text("kept")
    run = [f"run={made_run()}"] if command == "sweep" else []
    assert "holds report.html" in refused(command, *run, "hydra.run.dir=foreign")


@pytest.mark.parametrize(
    ("kind", "name"), [("cell", "json"), ("cell", "yaml"), ("cell", "mlp"), ("solver", "picard"), ("study", "demo")]
)
def test_a_part_of_a_name_that_is_taken_is_not_made(refused: Callable[..., str], kind: str, name: str) -> None:
    """Python and Hydra find what is there already first, so that the new part would never be used."""
    assert f"the nearest is my_{name}" in refused("new", kind, name)


@pytest.mark.parametrize("name", ["my parts", "mïne", "a,b=[c]", "q'uote"])
def test_a_config_folder_may_have_any_name(deqrun: Callable[..., Outcome], workspace: Path, name: str) -> None:
    (workspace / name / "model").mkdir(parents=True)
    (workspace / name / "model" / "mine.yaml").write_text("_target_: deqrun.models.mlp.MLPCell\nwidth: 8\n")
    assert deqrun("describe", "--config-dir", name, "model=mine").code == 0
