"""The commit of a folder, beside git's own word for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deqrun.records.code import Code, code_in


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "mine.py").write_text("x = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_commit_of_a_clean_tree(repository: Path) -> None:
    (repository / "below").mkdir()
    assert code_in(repository / "below") == Code(git(repository, "log", "-1", "--format=%H"), dirty=False)


def test_a_changed_file_makes_the_tree_dirty_and_a_new_one_does_not(repository: Path) -> None:
    (repository / "outputs.txt").write_text("a run's own file")
    assert code_in(repository).dirty is False
    (repository / "mine.py").write_text("x = 2\n")
    assert code_in(repository).dirty is True
    git(repository, "add", "mine.py")
    assert code_in(repository).dirty is True


def test_no_repository_no_commit_and_no_git_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    for folder in ("plain", "empty", "missing"):
        assert code_in(tmp_path / folder) == Code()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_in(tmp_path / "empty") == Code()


def test_no_program_of_a_repositorys_configuration_is_run(repository: Path) -> None:
    mark = repository / "ran"
    git(repository, "config", "core.fsmonitor", f"touch {mark}")
    assert code_in(repository).dirty is False
    assert not mark.exists()
