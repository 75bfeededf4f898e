"""What the adapters rely on when they start and end programs."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.processes import containment
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.pipes import pipes
from runtimed.execution.processes.supervisor import Program, Supervisor
from tests.execution.conftest import Traces


def _program(*argv: str, cwd: Path = Path("/"), **env: str) -> Program:
    stdin, stdout, stderr = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
    return Program(argv, cwd, environment(env), stdin, stdout, stderr)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill $$", 143), ("kill -KILL $$", 137)]
)
async def test_the_exit_status_arrives(supervisor: Supervisor, script: str, status: int) -> None:
    tree = await supervisor.start(_program("bash", "-c", script))
    assert await tree.exit == status


async def test_a_program_that_is_not_there_shows_by_its_status(supervisor: Supervisor) -> None:
    tree = await supervisor.start(_program("no-such-program"))
    assert await tree.exit == 127


async def test_a_directory_that_is_not_there_is_an_error_and_leaves_no_descriptor(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    before = await asyncio.to_thread(os.listdir, "/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        await supervisor.start(_program("true", cwd=tmp_path / "missing"))
    assert len(await asyncio.to_thread(os.listdir, "/proc/self/fd")) == len(before)


async def test_a_program_gets_the_streams_it_was_given(supervisor: Supervisor) -> None:
    (stdin, write), (read, stdout), (errors, stderr) = pipes(3)
    program = Program(("sh", "-c", "cat; echo trouble >&2"), Path("/"), environment({}), stdin, stdout, stderr)
    tree = await supervisor.start(program)
    await asyncio.to_thread(os.write, write, b"through")
    os.close(write)
    assert await tree.exit == 0
    assert await asyncio.to_thread(os.read, read, 100) == b"through"
    assert await asyncio.to_thread(os.read, errors, 100) == b"trouble\n"
    os.close(read)
    os.close(errors)


async def test_a_cancelled_start_leaves_nothing(supervisor: Supervisor, traces: Traces) -> None:
    for turns in range(5):
        starting = asyncio.create_task(supervisor.start(_program("sleep", "1000", TRACE=traces.mark)))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await traces.pids() == []


async def test_a_program_that_can_not_be_watched_is_ended_at_once(
    supervisor: Supervisor, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", _fail)
    with pytest.raises(OSError, match="too many"):
        await supervisor.start(_program("sleep", "1000", TRACE=traces.mark))
    await traces.until(lambda pids: not pids)


async def test_a_program_that_can_not_be_watched_is_ended_although_it_was_not_found_at_first(
    supervisor: Supervisor, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Iterator[Callable[..., Any]] = iter((_fail, lambda *_: []))
    for kept in (containment.Namespace, containment.Group):
        monkeypatch.setattr(kept, "kill", lambda *asked, kill=kept.kill: next(looks, kill)(*asked))
    monkeypatch.setattr(os, "pidfd_open", _fail)
    with pytest.raises(OSError, match="too many"):
        await supervisor.start(_program("sleep", "1000", TRACE=traces.mark))
    assert next(looks, None) is None
    assert await traces.pids() == []


async def test_a_tree_is_ended_although_proc_could_not_be_read_for_a_moment(
    supervisor: Supervisor, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = await supervisor.start(_program("sleep", "1000", TRACE=traces.mark))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", _fail)
        patched.setattr(Path, "iterdir", _fail)
        ending = asyncio.create_task(tree.end(0))
        await asyncio.wait({ending}, timeout=0.1)
        assert not ending.done()
    await ending
    assert await traces.pids() == []


def _fail(*_: object) -> None:
    raise OSError("too many open files")


async def test_close_ends_what_nobody_ended_and_refuses_more(supervisor: Supervisor, traces: Traces) -> None:
    tree = await supervisor.start(_program("sleep", "1000", TRACE=traces.mark))
    await supervisor.close()
    assert await tree.exit != 0
    assert await traces.pids() == []
    with pytest.raises(OSError, match="closing"):
        await supervisor.start(_program("true"))
    await supervisor.close()


async def test_without_namespaces_a_tree_is_still_kept(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(containment, "namespace", lambda: None)
    supervisor = Supervisor()
    tree = await supervisor.start(_program("sh", "-c", "setsid sleep 1000 & sleep 1000", TRACE=traces.mark))
    await traces.until(lambda pids: len(pids) >= 3)
    await tree.end(0)
    assert await traces.pids() == []
    assert "no PID namespace" in caplog.text
    await supervisor.close()


async def test_pipes_that_can_not_all_be_made_are_not_made_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before = await asyncio.to_thread(os.listdir, "/proc/self/fd")
    real, left = os.pipe, iter(range(2))

    def pipe() -> tuple[int, int]:
        if next(left, None) is None:
            raise OSError("too many open files")
        return real()

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="too many"):
        pipes(3)
    assert len(await asyncio.to_thread(os.listdir, "/proc/self/fd")) == len(before)
