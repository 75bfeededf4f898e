"""Sandboxes that are cut before their program begins."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtimed.execution.confinement.enclosure import Owned, WorkerEnclosure
from runtimed.execution.confinement.probe import find_bubblewrap
from runtimed.execution.confinement.reach import Bind, Reach
from runtimed.execution.confinement.ways_out import Network, Wanted
from runtimed.execution.network.rules import PUBLIC, NetworkPolicy
from runtimed.execution.processes.confinement import Enclosure, Unconfined
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.pipes import pipes
from runtimed.execution.processes.supervisor import Program, Supervisor
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.profile import Sandbox

WORKER = worker_id(1)


class OneEnclosure(Unconfined):
    """A Confiner that knows one Worker."""

    def __init__(self, enclosure: WorkerEnclosure) -> None:
        self._enclosure = enclosure

    def of(self, worker_id: WorkerId | None) -> Enclosure | None:
        return self._enclosure if worker_id == WORKER else None


@pytest.fixture
async def reach(tmp_path: Path) -> Reach:
    """A Worker that sees a folder at a place where none can be, and has a proxy."""
    return Reach((Bind(tmp_path, Path("/etc/passwd/folder")),), network="public", has_listeners=True)


@pytest.fixture
async def supervisor(tmp_path: Path, reach: Reach) -> AsyncIterator[Supervisor]:
    problem, bubblewrap = await asyncio.to_thread(find_bubblewrap, None)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    network = Network()
    ways_out = network.ways_out(Wanted(NetworkPolicy((PUBLIC,))))
    enclosure = WorkerEnclosure(
        Sandbox("bubblewrap", "public"), bubblewrap, tmp_path, reach, Owned((), (), None), {}, ways_out=ways_out
    )
    made = Supervisor(confiner=OneEnclosure(enclosure))
    yield made
    await made.close()
    if ways_out is not None:
        await ways_out.close()
    await network.close()


async def test_a_sandbox_that_fails_early_says_why_on_the_standard_error_of_its_program(
    supervisor: Supervisor,
) -> None:
    (stdin, hold), (output, stdout), (errors, stderr) = pipes(3)
    program = Program(("true",), Path("/"), environment({}), stdin, stdout, stderr, worker_id=WORKER)

    tree = await supervisor.start(program)

    assert await tree.exit == 1
    assert b"bwrap: Can't mkdir /etc/passwd" in await asyncio.to_thread(os.read, errors, 4096)
    for descriptor in (hold, output, errors):
        os.close(descriptor)


@pytest.mark.parametrize("reach", [Reach((), network="none")])
async def test_a_sandbox_has_the_mark_of_its_daemon_and_its_program_has_not(supervisor: Supervisor) -> None:
    await supervisor.claim("runtime-1")
    (stdin, hold), (output, stdout), (errors, stderr) = pipes(3)
    argv = ("sh", "-c", "env; read end")
    program = Program(argv, Path("/"), {"PATH": "/bin"}, stdin, stdout, stderr, worker_id=WORKER)

    tree = await supervisor.start(program)

    shown = await asyncio.to_thread(os.read, output, 4096)
    environ = await asyncio.to_thread(Path(f"/proc/{tree.root}/environ").read_bytes)
    assert b"RUNTIMED_TREE=" in environ
    assert b"/runtime-1" in environ
    assert b"PATH=/bin" in shown
    assert b"RUNTIMED_TREE" not in shown
    os.close(hold)
    assert await tree.exit in {0, 1}
    for descriptor in (output, errors):
        os.close(descriptor)
