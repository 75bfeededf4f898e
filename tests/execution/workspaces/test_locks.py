"""Locks that a killed git has left are removed; those of others, and of a git that works, are not."""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from runtimed.execution.workspaces.locks import remove_stale_locks
from runtimed.execution.workspaces.record import Prepared

BRANCH = "runtimed/worker-00000001"


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    common, made = tmp_path / "repository" / ".git", tmp_path / "made"
    (common / "worktrees" / "made").mkdir(parents=True)
    (common / "refs" / "heads" / "runtimed").mkdir(parents=True)
    made.mkdir()
    return Prepared(
        "cwd",
        "repo",
        "worktree",
        str(made),
        str(tmp_path / "repository"),
        str(made),
        git_dir=str(common / "worktrees" / "made"),
        common_dir=str(common),
        branch=BRANCH,
    )


def touched(*paths: Path) -> list[Path]:
    for path in paths:
        path.write_text("")
    return list(paths)


def test_the_locks_of_a_worktree_are_removed_and_those_of_the_repository_are_not(prepared: Prepared) -> None:
    git_dir, common = Path(prepared.git_dir or ""), Path(prepared.common_dir or "")
    stale = touched(git_dir / "index.lock", git_dir / "HEAD.lock", common / "refs" / "heads" / f"{BRANCH}.lock")
    foreign = touched(common / "index.lock", common / "packed-refs.lock", common / "refs" / "heads" / "main.lock")
    (git_dir / "locked").write_text("initializing\n")

    remove_stale_locks(prepared)

    assert [path for path in stale if path.exists()] == []
    assert all(path.exists() for path in foreign)
    assert not (git_dir / "locked").exists()


def test_a_worktree_that_somebody_has_locked_stays_locked(prepared: Prepared) -> None:
    locked = Path(prepared.git_dir or "") / "locked"
    locked.write_text("on a disk that is away\n")

    remove_stale_locks(prepared)

    assert locked.exists()


def test_a_lock_that_is_too_young_stays_until_it_is_old_enough(prepared: Prepared) -> None:
    (lock,) = touched(Path(prepared.git_dir or "") / "index.lock")
    remove_stale_locks(prepared, 60)
    assert lock.exists()
    os.utime(lock, (time.time() - 61, time.time() - 61))

    remove_stale_locks(prepared, 60)

    assert not lock.exists()


def test_a_lock_stays_while_a_git_process_works_there(prepared: Prepared, tmp_path: Path) -> None:
    (lock,) = touched(Path(prepared.git_dir or "") / "index.lock")
    program = tmp_path / "git-at-work"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "600"], cwd=prepared.made) as working:
        deadline = time.monotonic() + 30
        while (Path("/proc") / str(working.pid) / "comm").read_text() != "git-at-work\n":
            assert time.monotonic() < deadline, "the program did not start in time"
        remove_stale_locks(prepared)
        working.kill()
    assert lock.exists()

    remove_stale_locks(prepared)

    assert not lock.exists()


def test_the_locks_of_a_clone_are_removed_with_those_of_its_refs(prepared: Prepared, tmp_path: Path) -> None:
    git_dir = tmp_path / "made" / ".git"
    (git_dir / "refs" / "heads").mkdir(parents=True)
    stale = touched(git_dir / "index.lock", git_dir / "config.lock", git_dir / "refs" / "heads" / "a.lock")
    clone = Prepared("cwd", "repo", "clone", prepared.path, prepared.source, prepared.made, git_dir=str(git_dir))

    remove_stale_locks(clone)

    assert [path for path in stale if path.exists()] == []


def test_the_locks_of_a_copy_are_removed_but_not_where_a_link_leads(prepared: Prepared, tmp_path: Path) -> None:
    git_dir, other = tmp_path / "made" / ".git", tmp_path / "other"
    git_dir.mkdir()
    other.mkdir()
    (stale, foreign) = touched(git_dir / "index.lock", other / "index.lock")
    copy = Prepared("cwd", "repo", "copy", prepared.path, prepared.source, prepared.made, git_dir=f"{git_dir}.git")

    remove_stale_locks(copy)
    left = stale.exists()
    shutil.rmtree(git_dir)
    git_dir.symlink_to(other)
    remove_stale_locks(copy)

    assert not left
    assert foreign.exists()


def test_a_note_that_is_a_pipe_holds_nothing_up(prepared: Prepared) -> None:
    locked = Path(prepared.git_dir or "") / "locked"
    os.mkfifo(locked)

    remove_stale_locks(prepared)

    assert locked.is_fifo()


def test_a_lock_that_cannot_be_removed_is_logged(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touched(Path(prepared.git_dir or "") / "index.lock")

    def refuse(_path: str, *, dir_fd: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "unlink", refuse)

    remove_stale_locks(prepared)

    assert "cannot remove the locks" in caplog.text
