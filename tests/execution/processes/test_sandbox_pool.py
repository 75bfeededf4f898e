"""Sandboxes that are prepared before their programs are known, by bubblewrap."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import attrs
import pytest

from runtimed.core.ports import Spawn
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_bubblewrap
from runtimed.execution.confinement.users import Users
from runtimed.execution.policy import HostResources, Mount, SandboxPolicy
from runtimed.execution.processes import sandbox_pool
from runtimed.execution.processes.confinement import SandboxRequest
from runtimed.execution.processes.limits import TreeLimits
from runtimed.execution.processes.order import MAX_ORDER_BYTES
from runtimed.execution.processes.supervisor import Program, Supervisor
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest, NamedReference
from tests.execution.conftest import DEADLINE_S, NUMBERS, Traces

WORKER = worker_id(1)
PATH = "/usr/local/bin:/usr/bin:/bin"
ROUNDS = 50
REPOSITORY = Path(__file__).parents[3]

DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.execution.processes.test_sandbox_pool import new_sandboxes

async def main():
    sandboxes = await new_sandboxes(Path(sys.argv[1]), sys.argv[2])
    await sandboxes.enclose()
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    print("prepared", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@attrs.frozen
class Ran:
    """How a program ended, what it wrote, its sandbox's process, and whether that was there before."""

    root: int
    status: int
    output: str
    errors: str
    was_prepared: bool


class Sandboxes:
    """Runs programs of confined Workers."""

    def __init__(self, confiner: HostConfiner, folder: Path, mark: str) -> None:
        self.supervisor = Supervisor(confiner=confiner, max_descriptors=1000)
        self.folder = folder
        self.env = {"PATH": PATH, "TRACE": mark}

    def home(self, worker: WorkerId = WORKER) -> Path:
        return self.folder / worker / "home"

    async def enclose(
        self, worker: WorkerId = WORKER, policy: SandboxPolicy | None = None, mounts: Sequence[str] = ()
    ) -> None:
        (self.folder / worker).mkdir(exist_ok=True, parents=True)
        asked = SandboxRequest(policy or SandboxPolicy("required"), ("true",), self.env, {})
        named = tuple(NamedReference(name, f"mount:{name}") for name in mounts)
        spawn = Spawn(worker, CreateWorkerRequest(profile=BuiltinProfile("builtin:shell"), mount_refs=named))
        await self.supervisor.confiner.enclose(worker, asked, self.folder / worker, spawn)

    async def run(
        self,
        *argv: str,
        worker: WorkerId = WORKER,
        env: dict[str, str] | None = None,
        limits: TreeLimits | None = None,
        given: bytes = b"",
    ) -> Ran:
        """Run a program in the home of a Worker to its end."""
        before = await asyncio.to_thread(children)
        (stdin, write), (read, stdout), (complaints, stderr) = self.supervisor.pipes(worker)
        try:
            program = Program(
                argv, self.home(worker), {**self.env, **(env or {})}, stdin, stdout, stderr, worker_id=worker
            )
            tree = await self.supervisor.start(attrs.evolve(program, limits=limits or TreeLimits()))
            await asyncio.to_thread(os.write, write, given)
            os.close(write)
            write = -1
            status = await tree.exit
            output, errors = [
                (await asyncio.to_thread(os.read, pipe, 1 << 16)).decode() for pipe in (read, complaints)
            ]
            return Ran(tree.root, status, output, errors, tree.root in before)
        finally:
            for descriptor in {read, complaints, write} - {-1}:
                os.close(descriptor)

    async def until_prepared(self, count: int = 1) -> None:
        """Wait until this many sandboxes wait for a program."""
        await until(lambda: self.supervisor.prepared == count)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not met():
            await asyncio.sleep(0.005)


def children() -> set[int]:
    """The processes that threads of this one have started and that are not reaped."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            found |= set(map(int, (thread / "children").read_text().split()))
    return found


async def new_sandboxes(
    folder: Path, mark: str, *, hidden: tuple[Path, ...] = (), resources: HostResources | None = None
) -> Sandboxes:
    problem, bubblewrap = await asyncio.to_thread(find_bubblewrap, NUMBERS.start if os.geteuid() == 0 else None)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    scratch = folder / "scratch"
    users = Users(NUMBERS, scratch / "workers") if os.geteuid() == 0 else None
    paths = HostPaths((scratch, *hidden))
    confiner = await asyncio.to_thread(HostConfiner, Mechanisms((bubblewrap,)), paths, users, resources=resources)
    return Sandboxes(confiner, scratch / "workers", mark)


def used(folder: Path) -> tuple[int, list[str]]:
    """How many descriptors this process has open, and what is mounted of a folder, or in it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return len(list(Path("/proc/self/fd").iterdir())), [mount for mount in mounts if str(folder) in mount]


@pytest.fixture
async def sandboxes(tmp_path: Path, traces: Traces) -> AsyncIterator[Sandboxes]:
    made = await new_sandboxes(tmp_path, traces.mark)
    await made.enclose()
    yield made
    await made.supervisor.close()
    await traces.until(lambda pids: not pids)


async def test_the_second_program_of_a_worker_runs_in_a_sandbox_that_was_prepared_for_it(
    sandboxes: Sandboxes,
) -> None:
    script = 'echo "$TRACE $$" "$PWD" "$1"; ulimit -Sn; ls /proc/self/fd; id -u; cat'
    words = ("sh", "-c", script, "sh", "it's\n\n$(id) \\n 'Á\x81' ")
    input_ = b"one\n\ntwo"

    cold = await sandboxes.run(*words, given=input_)
    await sandboxes.until_prepared()
    warm = await sandboxes.run(*words, given=input_)

    assert (cold.was_prepared, warm.was_prepared) == (False, True)
    assert (warm.status, warm.errors) == (0, "")
    assert warm.output == cold.output
    assert warm.output.endswith("\none\n\ntwo")


async def test_a_program_that_is_not_there_ends_with_127_in_a_prepared_sandbox_too(sandboxes: Sandboxes) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()

    ran = await sandboxes.run("no-such-program")

    assert (ran.status, ran.was_prepared) == (127, True)
    assert "no-such-program" in ran.errors


@pytest.mark.parametrize(
    ("word", "was_prepared"), [("x" * (MAX_ORDER_BYTES // 2), True), ("x" * MAX_ORDER_BYTES, False)]
)
async def test_a_command_that_is_too_long_for_an_order_gets_another_sandbox(
    sandboxes: Sandboxes, word: str, was_prepared: bool
) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()

    ran = await sandboxes.run("echo", word)

    assert (ran.status, ran.output, ran.was_prepared) == (0, f"{word}\n", was_prepared)


async def test_a_sandbox_is_not_used_for_a_program_with_another_environment_or_limit(sandboxes: Sandboxes) -> None:
    for env, limits in (({"KIND": "other"}, None), ({}, TreeLimits(processes=20))):
        await sandboxes.run("true")
        await sandboxes.until_prepared()

        ran = await sandboxes.run("sh", "-c", "echo $KIND", env=env, limits=limits)

        assert (ran.status, ran.was_prepared) == (0, False)
        assert ran.output.split() == list(env.values())


async def test_a_sandbox_is_not_used_once_a_folder_that_it_shows_was_replaced(sandboxes: Sandboxes) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    home = sandboxes.home()
    home.rename(home.with_name("before"))

    ran = await sandboxes.run("sh", "-c", "echo text >file")

    assert (ran.status, ran.was_prepared) == (0, False)
    assert (home / "file").read_text() == "text\n"


async def test_a_sandbox_is_not_used_once_what_it_hides_was_replaced(tmp_path: Path, traces: Traces) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    shown.chmod(0o755)
    token = shown / "token"
    token.write_text("first")
    sandboxes = await new_sandboxes(tmp_path, traces.mark, hidden=(token,))
    await sandboxes.enclose(policy=SandboxPolicy("required", readonly=(shown,)))
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    (shown / "new").write_text("second")
    (shown / "new").rename(token)

    ran = await sandboxes.run("cat", str(token))

    assert (ran.output, ran.was_prepared) == ("", False)
    await sandboxes.supervisor.close()


async def test_a_worker_that_is_enclosed_anew_gets_no_sandbox_of_before(sandboxes: Sandboxes) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()

    await sandboxes.enclose(policy=SandboxPolicy("required", "none"))

    assert sandboxes.supervisor.prepared == 0
    assert not (await sandboxes.run("true")).was_prepared


async def test_nothing_is_started_behind_a_link_that_came_after_the_sandbox(tmp_path: Path, traces: Traces) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    sandboxes = await new_sandboxes(tmp_path, traces.mark, resources=HostResources(mounts={"docs": Mount(docs)}))
    await sandboxes.enclose(mounts=("docs",))
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    docs.rename(tmp_path / "moved")
    docs.symlink_to("/etc")

    with pytest.raises(OSError, match="was replaced by a link"):
        await sandboxes.run("true")

    await traces.until(lambda pids: not pids)
    await sandboxes.supervisor.close()


async def test_a_sandbox_that_has_ended_is_not_used(sandboxes: Sandboxes, traces: Traces) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    await traces.until(bool)  # it carries the mark once its shell waits
    for pid in await traces.pids():
        os.kill(pid, signal.SIGKILL)
    await sandboxes.until_prepared(0)

    ran = await sandboxes.run("echo", "text")

    assert (ran.status, ran.output, ran.was_prepared) == (0, "text\n", False)


async def test_a_sandbox_is_given_up_when_it_waits_for_too_long(
    sandboxes: Sandboxes, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_pool, "PREPARED_IDLE_S", 0.3)
    await sandboxes.run("true")
    await sandboxes.until_prepared()

    await sandboxes.until_prepared(0)

    await traces.until(lambda pids: not pids)


async def test_a_sandbox_whose_pipes_are_taken_is_not_given_up_before_its_program_starts(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_pool, "PREPARED_IDLE_S", 3.0)
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    monkeypatch.undo()
    (stdin, write), (read, stdout), (complaints, stderr) = sandboxes.supervisor.pipes(WORKER)
    before = await asyncio.to_thread(children)

    await asyncio.sleep(3.5)  # the sandbox would have been given up
    program = Program(("true",), sandboxes.home(), sandboxes.env, stdin, stdout, stderr, worker_id=WORKER)
    tree = await sandboxes.supervisor.start(program)

    assert (await tree.exit, tree.root in before) == (0, True)
    for descriptor in (write, read, complaints):
        os.close(descriptor)


async def test_the_oldest_sandbox_is_given_up_for_one_too_many(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_pool, "MAX_PREPARED", 2)
    workers: Sequence[WorkerId] = [worker_id(number) for number in (1, 2, 3)]
    for count, worker in enumerate(workers, 1):
        await sandboxes.enclose(worker)
        await sandboxes.run("true", worker=worker)
        await sandboxes.until_prepared(min(count, 2))

    async with asyncio.timeout(DEADLINE_S):
        while len(sandboxes.supervisor._pool._preparing):
            await asyncio.sleep(0.005)

    ran = [await sandboxes.run("true", worker=worker) for worker in reversed(workers)]

    assert [one.was_prepared for one in ran] == [True, True, False]


async def test_the_sandbox_of_a_worker_ends_with_it(sandboxes: Sandboxes, traces: Traces) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    await traces.until(bool)

    await sandboxes.supervisor.confiner.release(WORKER)

    assert not await traces.pids()


async def test_many_programs_one_after_the_other_leave_nothing(sandboxes: Sandboxes, traces: Traces) -> None:
    await sandboxes.run("true")
    await sandboxes.until_prepared()
    before = await asyncio.to_thread(used, sandboxes.folder)

    ran = []
    for _ in range(ROUNDS):
        ran.append(await sandboxes.run("sh", "-c", "sleep 1000 &"))
        await sandboxes.until_prepared()

    assert {(one.status, one.was_prepared) for one in ran} == {(0, True)}
    assert len({one.root for one in ran}) == ROUNDS
    assert await asyncio.to_thread(used, sandboxes.folder) == before
    await sandboxes.supervisor.close()
    await traces.until(lambda pids: not pids)


async def test_a_killed_daemon_leaves_no_sandbox(sandboxes: Sandboxes, traces: Traces, tmp_path: Path) -> None:
    command = (sys.executable, "-c", DAEMON, str(tmp_path / "other"), traces.mark)
    daemon = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY)
    assert daemon.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await daemon.stdout.readline() == b"prepared\n"
    await traces.until(lambda pids: set(pids) - {daemon.pid})

    daemon.kill()
    await daemon.wait()

    await traces.until(lambda pids: not pids)
