"""Processes that nobody owns any more: which are reaped, which are killed, and which are let be."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimed.execution.processes import orphans
from runtimed.execution.processes.orphans import MARK, Owner

# Of this process alone: a sweep kills over the whole machine, also what the same test started in another process.
MINE, OTHERS = f"runtime-mine-{os.getpid()}", f"runtime-others-{os.getpid()}"

# A supervisor in a process that takes in orphans, as process 1 does. It prints the exit status of its program, and
# how many children that have ended are left before and after the orphans were reaped.
ADOPTING = """
import asyncio, ctypes, os, pathlib
from runtimed.execution.processes import containment
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.supervisor import Program, Supervisor

def children(states):
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += state in states and int(parent) == os.getpid()
    return found

async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)

async def main():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    supervisor = Supervisor(containment.group)
    script = "for i in 1 2 3; do (setsid sh -c 'read end <&1; exit 3' &); done; read go; exit 7"
    stdin, go = os.pipe()
    until_adopted, end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    command = ["bash", "-c", script]
    tree = await supervisor.start(Program(command, pathlib.Path("/"), environment({}), stdin, until_adopted, null))
    await until(lambda: children("RSD") == 4)  # the program itself, and what its shells left
    os.close(end)
    await until(lambda: children("Z") == 3)
    await supervisor.reap()
    print(children("Z"))
    os.close(go)
    await asyncio.gather(tree.exit, *(supervisor.reap() for _ in range(50)))
    print(tree.exit.result(), children("Z"))
    await supervisor.close()

asyncio.run(main())
"""


async def test_orphans_are_reaped_and_no_exit_status_of_an_own_program_is_lost() -> None:
    made = await asyncio.create_subprocess_exec(sys.executable, "-c", ADOPTING, stdout=asyncio.subprocess.PIPE)

    told, _ = await asyncio.wait_for(made.communicate(), 60)

    assert told.split() == [b"0", b"7", b"0"]


def ended() -> Owner:
    """A daemon that was here and is gone."""
    process = subprocess.Popen(["true"])
    start = orphans.start_of(str(process.pid))
    process.wait()
    return Owner(orphans.namespace(), str(process.pid), str(start))


@pytest.fixture
def marked() -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """Starts processes with a mark in their environment."""
    made: list[subprocess.Popen[bytes]] = []

    def start(mark: str) -> "subprocess.Popen[bytes]":
        made.append(subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"], MARK: mark}))
        environment, end = Path(f"/proc/{made[-1].pid}/environ"), time.monotonic() + 60
        while not environment.read_bytes():  # Popen returns a moment before the kernel shows it
            assert time.monotonic() < end
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


Marked = Callable[[str], "subprocess.Popen[bytes]"]


def test_what_a_daemon_that_is_gone_left_is_killed(marked: Marked) -> None:
    left = [marked(f"tree-{number}/{ended()}/{MINE}") for number in range(3)]

    orphans.sweep(MINE)

    assert [process.wait(10) for process in left] == [-9] * 3


def test_what_a_daemon_left_whose_number_is_another_process_now_is_killed(marked: Marked) -> None:
    current = Owner.current()
    left = marked(f"tree/{Owner(current.namespace, current.pid, str(int(current.start) - 1))}/{MINE}")

    orphans.sweep(MINE)

    assert left.wait(10) == -9


def test_what_a_daemon_left_that_nobody_has_reaped_yet_is_killed(marked: Marked) -> None:
    daemon = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    owner = Owner(orphans.namespace(), str(daemon.pid), str(orphans.start_of(str(daemon.pid))))
    left = marked(f"tree/{owner}/{MINE}")
    daemon.kill()
    os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)

    orphans.sweep(MINE)

    assert left.wait(10) == -9
    daemon.communicate()


def _marks() -> dict[str, str]:
    gone, current = ended(), Owner.current()
    return {
        "a living daemon of the same Runtime": f"tree/{current}/{MINE}",
        "another Runtime": f"tree/{gone}/{OTHERS}",
        "a Runtime whose id begins alike": f"tree/{gone}/{MINE}-2",
        "a daemon of another PID namespace": f"tree/{Owner('1', gone.pid, gone.start)}/{MINE}",
        "no daemon": f"tree//{MINE}",
        "an owner that is none": f"tree/one-two-three/{MINE}",
        "a mark without a Runtime": "tree/",
        "an empty mark": "",
    }


@pytest.mark.parametrize("whose", _marks().keys())
def test_what_belongs_to_somebody_else_is_let_be(marked: Marked, whose: str) -> None:
    process = marked(_marks()[whose])

    orphans.sweep(MINE)

    assert process.poll() is None


def test_a_runtime_without_an_id_sweeps_nothing(marked: Marked) -> None:
    process = marked(f"tree/{ended()}/")

    orphans.sweep("")

    assert process.poll() is None
