"""What a process tree may use, whichever way it is counted."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from runtimed.execution.processes import cgroup, orphans
from runtimed.execution.processes.cgroup import Cgroups
from runtimed.execution.processes.containment import Containment
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.limits import Accounting, Sampling, TreeLimits
from runtimed.execution.processes.supervisor import Program, Supervisor, best_accounting
from runtimed.execution.processes.tree import Tree
from runtimed.model.execution import LossReason
from tests.execution.conftest import Traces
from tests.execution.processes.test_orphans import ended

MEMORY = TreeLimits(memory_bytes=100 << 20)
PROCESSES = TreeLimits(processes=20)
CPU = TreeLimits(cpu_s=0.2)

Start = Callable[[str, TreeLimits], Awaitable[Tree]]


def _control_groups(_: Containment | None = None) -> Cgroups:
    found = cgroup.available()
    if found is None:
        pytest.skip("no control groups can be made here")
    return found


@pytest.fixture(params=["cgroup", "sampling"])
def counted(request: pytest.FixtureRequest) -> Callable[[Containment], Accounting]:
    """Each way to count that this machine allows."""
    return Sampling if request.param == "sampling" else _control_groups


@pytest.fixture
async def start(
    contained: Callable[[], Containment], counted: Callable[[Containment], Accounting], traces: Traces
) -> AsyncIterator[Start]:
    """Starts a Python program with limits; in the end nothing of it may be left, no control group either."""
    supervisor = Supervisor(contained, counted)

    async def start(program: str, limits: TreeLimits) -> Tree:
        stdin, stdout, stderr = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
        env = environment({"TRACE": traces.mark})
        return await supervisor.start(
            Program((sys.executable, "-c", program), Path("/"), env, stdin, stdout, stderr, limits)
        )

    yield start
    await supervisor.close()
    assert await traces.pids() == []
    assert await asyncio.to_thread(_groups) == []


def _groups() -> list[str]:
    """The control groups of this process that are there."""
    groups = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names]
    return [name for name in groups if fnmatch(name, f"{cgroup.PREFIX}-{orphans.Owner.current()}-*")]


async def _excess(tree: Tree) -> object:
    async with asyncio.timeout(30):
        await tree.exit
    return tree.excess


async def test_a_program_that_uses_little_ends_by_itself(start: Start) -> None:
    tree = await start("import sys; sys.exit(3)", TreeLimits(1 << 30, 100, 10))
    assert await _excess(tree) is None
    assert tree.exit.result() == 3


async def test_a_program_that_takes_too_much_memory_is_ended(start: Start) -> None:
    tree = await start("import time; taken = b'x' * (200 << 20); time.sleep(1000)", MEMORY)
    assert await _excess(tree) == "oom"


async def test_the_memory_of_a_whole_tree_counts(start: Start) -> None:
    program = """
import os, time
for _ in range(4):
    if not os.fork():
        taken = b'x' * (30 << 20)
        time.sleep(1000)
pid, status = os.wait()
os.kill(os.getpid(), os.WTERMSIG(status))
"""
    assert await _excess(await start(program, MEMORY)) == "oom"


async def test_a_program_that_has_too_many_processes_is_ended(start: Start) -> None:
    program = """
import os, time
for _ in range(6):
    try:
        os.fork()
    except OSError:
        break
time.sleep(1000)
"""
    assert await _excess(await start(program, PROCESSES)) == "processes"


async def test_the_cpu_time_before_a_run_does_not_count(start: Start, tmp_path: Path) -> None:
    program = f"""
import pathlib, time
while time.process_time() < 0.3: pass
pathlib.Path({str(tmp_path / "done")!r}).touch()
time.sleep(1000)
"""
    tree = await start(program, CPU)
    async with asyncio.timeout(30):
        while not await asyncio.to_thread((tmp_path / "done").exists):
            await asyncio.sleep(0.01)
    await tree.begin_run()
    assert await asyncio.to_thread(tree.find_excess) is None
    tree.end_run()
    await tree.end(0)
    assert tree.excess is None


async def test_the_cpu_time_behind_a_run_that_ends_as_it_begins_does_not_count(start: Start, tmp_path: Path) -> None:
    burnt = tmp_path / "burnt"
    burn = "import pathlib, time\nwhile time.process_time() < 0.3: pass\n"
    tree = await start(f"{burn}pathlib.Path({str(burnt)!r}).touch()\ntime.sleep(100)", CPU)
    beginning = asyncio.create_task(tree.begin_run())
    await asyncio.sleep(0)
    tree.end_run()
    await beginning
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(burnt.exists):
            assert not tree.exit.done(), tree.excess
            await asyncio.sleep(0.01)
    assert await asyncio.to_thread(tree.find_excess) is None


async def test_a_run_that_takes_too_much_cpu_time_is_ended(start: Start) -> None:
    tree = await start("while True: pass", CPU)
    await tree.begin_run()
    assert await _excess(tree) == "cpu"


async def test_a_program_whose_child_is_ended_for_memory_goes_on(traces: Traces) -> None:
    supervisor = Supervisor(choose_accounting=_control_groups)
    stdin, stdout, stderr = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
    child = f"{sys.executable} -c \"x = b'x' * (200 << 20)\"; exit 4"
    program = Program(
        ("bash", "-c", child), Path("/"), environment({"TRACE": traces.mark}), stdin, stdout, stderr, MEMORY
    )
    try:
        tree = await supervisor.start(program)
        assert await _excess(tree) is None
        assert tree.exit.result() == 4
    finally:
        await supervisor.close()


async def test_without_control_groups_trees_are_sampled(
    monkeypatch: pytest.MonkeyPatch, contained: Callable[[], Containment]
) -> None:
    monkeypatch.setattr(cgroup, "available", lambda: None)
    kept = await asyncio.to_thread(contained)
    assert best_accounting(kept) == Sampling(kept)


KILLED = """
import os, subprocess, sys, time
from runtimed.execution.processes import cgroup
from runtimed.execution.processes.limits import TreeLimits
groups = cgroup.available()
groups.open("tree", TreeLimits(1 << 30, 50))
argv = groups.argv("tree", ["sleep", sys.argv[1]])
left = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
members = [owner / "tree" / "cgroup.procs" for owner in groups.owned.values()]
while not all(str(left.pid) in file.read_text().split() for file in members):
    assert left.poll() is None, "it has not joined its groups"
    time.sleep(0.01)
print(groups.owned["memory"].name, flush=True)
os.kill(os.getpid(), 9)
"""


NewGroups = Callable[[], Awaitable[Cgroups]]


@pytest.fixture
async def new_groups() -> AsyncIterator[NewGroups]:
    """Makes control groups for a new owner; in the end all that were made are shut."""
    made: list[Cgroups] = []

    async def new() -> Cgroups:
        made.append(await asyncio.to_thread(_control_groups))
        return made[-1]

    yield new
    for groups in made:
        await asyncio.to_thread(groups.shut)


async def test_what_a_killed_daemon_left_in_control_groups_is_removed_at_the_next_start(
    new_groups: NewGroups, traces: Traces
) -> None:
    own = await new_groups()
    argv = [sys.executable, "-c", KILLED, traces.mark]
    ended = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False)
    left = ended.stdout.strip()
    assert left, ended.stderr
    again = await new_groups()
    await traces.until(lambda pids: not pids)
    bases = [folder.parent for folder in again.owned.values()]
    assert not [base for base in bases if (base / left).exists()]
    assert all(folder.exists() for folder in own.owned.values())


def test_the_groups_of_an_owner_that_cannot_be_looked_at_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / cgroup.owner_name()
    group.mkdir()
    monkeypatch.setattr(orphans, "_stat", lambda _pid: None)  # as without a free descriptor

    cgroup.sweep(tmp_path)

    assert group.exists()


def test_the_groups_of_an_owner_that_is_gone_are_removed(tmp_path: Path) -> None:
    group = tmp_path / f"{cgroup.PREFIX}-{ended()}-1"
    (group / "tree").mkdir(parents=True)

    cgroup.sweep(tmp_path)

    assert not group.exists()


class _Unreadable(Sampling):
    """Can't read what it finds of the tree that was started first."""

    first = ""

    def open(self, mark: str, limits: TreeLimits) -> None:
        type(self).first = self.first or mark

    def excess(self, root: int, mark: str, limits: TreeLimits) -> LossReason | None:
        if mark == self.first:
            raise ValueError("not a number")
        return super().excess(root, mark, limits)


async def test_a_look_at_one_tree_that_fails_is_logged_once_and_the_others_are_looked_at(
    traces: Traces, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.execution.processes.resource_monitor.INTERVAL_S", 0.05)
    monkeypatch.setattr(_Unreadable, "first", "")
    supervisor = Supervisor(choose_accounting=_Unreadable)

    async def start(command: str) -> Tree:
        stdin, stdout, stderr = (os.open(os.devnull, os.O_RDWR) for _ in range(3))
        env = environment({"TRACE": traces.mark})
        return await supervisor.start(
            Program(("sh", "-c", command), Path("/"), env, stdin, stdout, stderr, PROCESSES)
        )

    unreadable = await start("sleep 1000")
    for _ in range(2):
        forking = await start("sleep 0.3; for i in $(seq 40); do sleep 1000 & done; wait")
        async with asyncio.timeout(30):
            await asyncio.shield(forking.exit)
        assert forking.excess == "processes"
    assert not unreadable.exit.done()
    await supervisor.close()
    assert sum("could not check the resources" in record.message for record in caplog.records) == 1
    assert await traces.pids() == []
