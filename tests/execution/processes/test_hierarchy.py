"""Where control groups are made: on the kernel's own tree and, for what this kernel lacks, on files like its own."""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimed.execution.processes import hierarchy
from runtimed.execution.processes.cgroup import KILLED, V2, Cgroups
from runtimed.execution.processes.hierarchy import DAEMON, remove
from runtimed.execution.processes.limits import TreeLimits

MOVE = """
import os, sys, time
from pathlib import Path
from runtimed.execution.processes.hierarchy import delegate
group, controllers = Path(sys.argv[1]), sys.argv[2].split()
(group / "cgroup.procs").write_text(str(os.getpid()))
if len(sys.argv) > 3 and not os.fork():
    os.close(1)
    time.sleep(1000)
try:
    delegate(group, controllers)
except OSError as error:
    print(error.strerror)
else:
    print((group / "cgroup.subtree_control").read_text().strip())
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of its own in the unified hierarchy."""
    own = hierarchy.own_group("cgroup2", "")
    made = own / f"test-{os.getpid()}" if own else None
    try:
        if made is None:
            pytest.skip("there is no unified hierarchy here")
        made.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    yield made
    remove(made)


@pytest.fixture
def controller(group: Path) -> Iterator[str]:
    """A controller that may be given to groups below the group; it is there as long as the test lasts."""
    subtree = group.parent / "cgroup.subtree_control"
    names = (group.parent / "cgroup.controllers").read_text().split()
    if not names:
        pytest.skip("the unified hierarchy has no controller here")
    with _locked(group.parent):
        before = subtree.read_text().split()
        hierarchy.enable(group.parent, names[:1])
        yield names[0]
        remove(group)
        if names[0] not in before:
            subtree.write_text(f"-{names[0]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have other runs of these tests, which share what is in the folder, wait for their turn."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _moved(group: Path, *arguments: str) -> str:
    """What a process says that moves to the group and then gives controllers to those below it."""
    argv = [sys.executable, "-c", MOVE, str(group), *arguments]
    ended = await asyncio.to_thread(subprocess.run, argv, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return ended.stdout.strip()


async def test_a_process_that_is_alone_makes_room_for_groups_below_its_own(group: Path, controller: str) -> None:
    assert await _moved(group, controller) == controller
    assert DAEMON in await asyncio.to_thread(os.listdir, group)


async def test_a_process_among_others_is_left_where_it_is(group: Path, controller: str) -> None:
    assert await _moved(group, controller, "and a child") == os.strerror(errno.EBUSY)
    assert DAEMON not in await asyncio.to_thread(os.listdir, group)


async def test_a_controller_that_is_not_there_is_an_error(group: Path) -> None:
    assert await _moved(group, "no-such-controller") != "no-such-controller"


async def test_a_group_is_removed_with_its_processes_and_the_groups_below(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchy, "REMOVE_ATTEMPTS", 1_500)
    inner = group / "one" / "two"
    await asyncio.to_thread(inner.mkdir, parents=True)
    join = 'echo $$ >"$0/cgroup.procs"; exec sleep 1000'
    sleeper = await asyncio.to_thread(subprocess.Popen, ["sh", "-c", join, str(inner)])
    async with asyncio.timeout(30):
        while str(sleeper.pid) not in await asyncio.to_thread((inner / "cgroup.procs").read_text):
            await asyncio.sleep(0.01)
    await asyncio.to_thread(remove, group)
    assert not await asyncio.to_thread(group.exists)
    assert await asyncio.to_thread(sleeper.wait) == -signal.SIGKILL


def _files(folder: Path, **contents: str) -> None:
    for name, text in contents.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_the_files_of_version_2_are_understood(tmp_path: Path) -> None:
    groups = Cgroups(V2, dict.fromkeys(("memory", "pids", "cpu"), tmp_path))
    limits = TreeLimits(1 << 20, 10)
    groups.open("tree", limits)
    tree = tmp_path / "tree"
    assert (tree / "memory.max").read_text() == str(1 << 20)
    assert (tree / "memory.swap.max").read_text() == "0"
    assert (tree / "pids.max").read_text() == "10"
    _files(tree, cpu_stat="usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    _files(tree, memory_events="low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n", pids_events="max 0\n")
    assert groups.cpu_s(0, "tree") == 1.5
    assert groups.cause("tree", KILLED) is None
    _files(tree, memory_events="low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
    assert groups.cause("tree", KILLED) == "oom"
    assert groups.cause("tree", 1) is None
    assert groups.excess(0, "tree", limits) is None
    _files(tree, pids_events="max 3\n")
    assert groups.excess(0, "tree", limits) == groups.cause("tree", 1) == "processes"
