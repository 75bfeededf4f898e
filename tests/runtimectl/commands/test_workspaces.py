"""Workspaces from the command line, against a real daemon and a real repository."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimectl.conftest import Ctl, Daemon, NewWorker, StartDaemon

GIT = ("git", "-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main")
SHELL = ("--profile", "builtin:shell", "--capability", "shell", "-o", "name")


def git(folder: Path, *args: str, stdin: bytes = b"") -> str:
    done = subprocess.run([*GIT, *args], cwd=folder, input=stdin, capture_output=True, check=True)
    return done.stdout.decode().removesuffix("\n")


@pytest.fixture
def repository(tmp_path: Path, start_daemon: StartDaemon) -> Path:
    """A repository, and a daemon that knows it."""
    folder = tmp_path / "root" / "repository"
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "file").write_text("first\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    config = tmp_path / "config.toml"
    config.write_text(
        f'workspace_roots = ["{folder.parent}"]\n[workspaces."repo:w"]\npath = "{folder}"\nmode = "worktree"\n'
    )
    start_daemon("--config", str(config))
    return folder


def test_a_worker_works_in_the_directory_of_its_creator(ctl: Ctl, repository: Path) -> None:
    (repository.parent / "alias").symlink_to(repository)

    worker = ctl("workers", "create", "-C", str(repository.parent / "alias"), *SHELL).stdout.strip()

    assert ctl("workers", "input", worker, "pwd", "--wait").stdout == f"{repository}\n"
    shown = json.loads(ctl("workers", "get", worker, "-o", "json").stdout)["worker"]
    assert shown["workspace_refs"] == [{"name": "cwd", "reference": f"dir:{repository}"}]


def test_a_directory_is_refused_with_the_setting_that_allows_it(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    found = ctl("workers", "create", "--dir", str(tmp_path), *SHELL)

    assert found.returncode == 1
    assert "this daemon has no workspace_roots: set them in the configuration" in found.stderr


def test_workspaces_are_listed_and_their_patch_is_printed_as_it_is(
    ctl: Ctl, repository: Path, env: dict[str, str]
) -> None:
    worker = ctl("workers", "create", "--workspace", "src=repo:w", *SHELL).stdout.strip()
    ctl("workers", "input", worker, "printf 'esc \\033[31m \\377\\n' > red; printf '\\0' > binary", "--wait")

    heading, row = ctl("workspaces", "list", worker).stdout.splitlines()
    command = [sys.executable, "-m", "runtimectl", "workspaces", "diff", worker]
    plain = subprocess.run(command, env=env, capture_output=True, check=True)
    named = subprocess.run([*command, "src"], env=env, capture_output=True, check=True)

    assert heading.split() == ["NAME", "MODE", "WRITABLE", "BRANCH", "BASE", "AHEAD", "UNCOMMITTED"]
    base = git(repository, "rev-parse", "HEAD")[:12]
    assert row.split() == ["src", "worktree", "yes", f"runtimed/{worker}", base, "0", "yes"]
    assert named.stdout == plain.stdout
    assert plain.stderr == b""
    git(repository, "apply", stdin=plain.stdout)
    assert (repository / "red").read_bytes() == b"esc \x1b[31m \xff\n"
    assert (repository / "binary").read_bytes() == b"\0"
    assert ctl("workspaces", "list", worker, "-o", "name").stdout == "src\n"
    assert ctl("workspaces", "diff", worker, "nope").returncode == 3
    leader, follower = pty.openpty()
    subprocess.run(command, env=env, stdout=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 65_536)
    os.close(leader)
    assert b"\\x1b[31m" in shown
    assert b"\x1b" not in shown


def test_a_patch_that_is_too_large_says_how_much_is_missing(ctl: Ctl, repository: Path) -> None:
    worker = ctl("workers", "create", "--workspace", "src=repo:w", *SHELL).stdout.strip()
    ctl("workers", "input", worker, "head -c 9000000 /dev/urandom > large; echo x > small", "--wait")

    found = ctl("workspaces", "diff", worker)

    assert "b/small" in found.stdout
    assert found.stderr == "runtimectl: the patch is too large: 1 files are left out\n"


def test_a_worker_with_unsaved_work_is_deleted_only_by_force(ctl: Ctl, repository: Path) -> None:
    worker = ctl("workers", "create", "--workspace", "src=repo:w", *SHELL).stdout.strip()
    ctl("workers", "input", worker, "echo x > new", "--wait")
    ctl("workers", "stop", worker)

    refused = ctl("workers", "delete", worker)
    forced = ctl("workers", "delete", worker, "--force", "-o", "name")

    assert refused.returncode == 5
    assert "unsaved work would be lost: src" in refused.stderr
    assert (forced.returncode, forced.stdout) == (0, f"{worker}\n")
    assert git(repository, "branch", "--list", f"runtimed/{worker}").strip() == f"runtimed/{worker}"


def test_a_worker_without_workspaces_has_no_patch(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()

    found = ctl("workspaces", "diff", worker)

    assert (found.returncode, found.stderr) == (3, f"runtimectl: {worker} has no workspaces\n")
