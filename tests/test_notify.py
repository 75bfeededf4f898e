"""What the service manager is told, and when the watchdog is told nothing."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimed.notify import ServiceManager

DEADLINE_S = 30
TICK_S = 0.02


class Manager:
    """The receiving end: a datagram socket at a path, or with an abstract name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0"))
        self.socket.setblocking(False)

    def waiting(self) -> list[list[str]]:
        """Return the messages that have arrived, each as its lines."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    async def messages(self, count: int) -> list[list[str]]:
        """Wait for this many messages."""
        found = self.waiting()
        async with asyncio.timeout(DEADLINE_S):
            while len(found) < count:
                await asyncio.sleep(TICK_S / 2)
                found += self.waiting()
        return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


async def test_a_watchdog_is_told_that_the_loop_turns_and_nothing_while_it_is_blocked(manager: Manager) -> None:
    told = ServiceManager(manager.name, 2 * TICK_S)

    async with told.kept_informed():
        assert await manager.messages(3) == [["WATCHDOG=1"]] * 3
        manager.waiting()
        time.sleep(10 * TICK_S)  # noqa: ASYNC251 the loop is blocked on purpose
        assert manager.waiting() == []
        assert (await manager.messages(1))[0] == ["WATCHDOG=1"]


async def test_a_daemon_that_cannot_work_tells_the_watchdog_nothing_and_asks_for_time_to_stop(
    manager: Manager,
) -> None:
    told = ServiceManager(manager.name, 2 * TICK_S)
    told.is_alive = lambda: False
    told.stopping("ending")

    async with told.kept_informed():
        first, *others = await manager.messages(4)

    assert first == ["STOPPING=1", "STATUS=ending", "EXTEND_TIMEOUT_USEC=20000000"]
    assert others == [["EXTEND_TIMEOUT_USEC=20000000"]] * 3


async def test_a_daemon_that_does_not_end_asks_for_no_more_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.notify.ENDING_S", 0.0)
    told = ServiceManager(manager.name, 2 * TICK_S)
    told.stopping("ending")
    manager.waiting()

    async with told.kept_informed():
        assert await manager.messages(3) == [["WATCHDOG=1"]] * 3


def test_a_daemon_that_is_stopping_tells_nothing_of_a_reload(manager: Manager) -> None:
    told = ServiceManager(manager.name)
    told.stopping("draining")
    manager.waiting()

    told.reloading()
    told.ready("serving")

    assert manager.waiting() == []


async def test_a_state_that_could_not_be_told_is_repeated(tmp_path: Path) -> None:
    name = str(tmp_path / "late")
    told = ServiceManager(name, 2 * TICK_S)
    told.ready("serving")
    late = Manager(name)

    async with told.kept_informed():
        first, *_ = await late.messages(3)

    assert first == ["READY=1", "STATUS=serving"]
    late.socket.close()


def test_a_status_is_one_line(manager: Manager) -> None:
    ServiceManager(manager.name).ready("the last reload failed:\nMAINPID=1")

    assert manager.waiting() == [["READY=1", "STATUS=the last reload failed: MAINPID=1"]]


@pytest.mark.parametrize(
    ("variables", "is_watched"),
    [
        ({}, True),
        ({"WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_PID": str(os.getpid() + 1)}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
async def test_a_watchdog_that_is_for_another_process_is_not_told(
    manager: Manager, variables: dict[str, str], is_watched: bool
) -> None:
    told = ServiceManager.of({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "20000", **variables})
    told.stopping("ending")
    manager.waiting()

    async with told.kept_informed():
        if is_watched:
            assert (await manager.messages(1))[0][0] == "WATCHDOG=1"
        assert told._watchdog_s == (0.02 if is_watched else None)


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1"])
async def test_an_address_of_another_kind_is_no_service_manager(name: str) -> None:
    told = ServiceManager.of({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"})

    async with told.kept_informed():
        told.ready("serving")
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
