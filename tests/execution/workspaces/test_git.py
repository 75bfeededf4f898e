"""Git runs off the loop, within limits, and nothing of it is left."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.workspaces import git as module
from runtimed.execution.workspaces.git import Git, GitFailed, Place


@pytest.fixture
async def git() -> AsyncIterator[Git]:
    supervisor = Supervisor()
    yield Git(supervisor)
    await supervisor.close()


def fake(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another program in the place of git."""
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


async def test_a_command_gets_its_input_and_gives_its_output(git: Git, tmp_path: Path) -> None:
    content = os.urandom(300_000)

    done = await git.run(Place(tmp_path), "hash-object", "--stdin", stdin=content)

    assert len(done.text) == 40


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; wait", monkeypatch)

    with pytest.raises(GitFailed, match=r"longer than 0\.5 s"):
        await git.run(Place(tmp_path), "status", deadline_s=0.5)


async def test_a_command_that_says_too_much_is_ended(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OUTPUT_BYTES", 100_000)
    fake(tmp_path, "exec yes", monkeypatch)

    with pytest.raises(GitFailed, match="more than 100000 bytes"):
        await git.run(Place(tmp_path), "log")


async def test_a_background_process_that_holds_the_output_does_not_hold_up_the_answer(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, "sleep 600 & echo answer", monkeypatch)

    done = await git.run(Place(tmp_path), "log")

    assert done.text == "answer"


async def test_a_failure_names_the_command_and_no_path(git: Git, tmp_path: Path) -> None:
    with pytest.raises(GitFailed) as failed:
        await git.run(Place(tmp_path, ceiling=tmp_path.parent), "status")

    assert "git status failed with status 128" in str(failed.value)
    assert str(tmp_path) not in str(failed.value)


async def test_a_caller_that_is_cancelled_ends_the_command(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, f"touch {tmp_path}/begun; exec sleep 600", monkeypatch)
    running = asyncio.create_task(git.run(Place(tmp_path), "status"))
    async with asyncio.timeout(30):
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_command_that_gets_no_input_leaves_no_descriptor_open(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await git.run(Place(tmp_path), "version")
    before = await asyncio.to_thread(_open_descriptors)
    monkeypatch.setattr(os, "lseek", _refuse)

    with pytest.raises(GitFailed, match="could not be run: Input/output error"):
        await git.run(Place(tmp_path), "version")

    assert await asyncio.to_thread(_open_descriptors) == before


def _open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def _refuse(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
