"""Interface section 8: what a daemon tells systemd, in which order."""

import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import DEADLINE_S, Launch

WATCHDOG_S = 0.2
MAX_TOLD = 1_000
"""More messages than can have been told before a process was stopped."""


@pytest.fixture(params=["path", "abstract"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The NOTIFY_SOCKET: a path or an abstract name."""
    return str(tmp_path / "notify") if request.param == "path" else f"@runtimed-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def manager(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(name.replace("@", "\0"))
        made.settimeout(DEADLINE_S)
        yield made


def _next(manager: socket.socket, state: str) -> list[str]:
    """The next message that begins with this state; only the watchdog may be told something before."""
    while (lines := manager.recv(4096).decode().split("\n"))[0] != state:
        assert lines[0] == "WATCHDOG=1", lines
    return lines


def test_readiness_reloads_life_and_the_stop_are_told_in_order(
    launch: Launch, name: str, manager: socket.socket, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("max_workers = 10\n")
    variables = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}
    daemon = launch("--config", str(config), env=variables).ready()

    assert _next(manager, "READY=1") == ["READY=1", "STATUS=serving"]
    assert manager.recv(4096) == b"WATCHDOG=1"

    config.write_text("max_workers = -1\n")
    daemon.process.send_signal(signal.SIGHUP)
    _, since, _ = _next(manager, "RELOADING=1")
    assert re.fullmatch(r"MONOTONIC_USEC=\d{5,}", since)
    _, status = _next(manager, "READY=1")
    assert status == "STATUS=the last reload failed: max_workers: expected a number above 0"

    config.write_text("max_workers = 20\n")
    daemon.process.send_signal(signal.SIGHUP)
    _next(manager, "RELOADING=1")
    assert _next(manager, "READY=1") == ["READY=1", "STATUS=serving"]

    daemon.process.send_signal(signal.SIGTERM)
    _, status, more_time = _next(manager, "STOPPING=1")
    assert (status, more_time.partition("=")[0]) == ("STATUS=ending", "EXTEND_TIMEOUT_USEC")
    assert daemon.ended() == 0


def test_a_stopped_process_tells_the_watchdog_nothing(launch: Launch, name: str, manager: socket.socket) -> None:
    daemon = launch(env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}).ready()
    _next(manager, "READY=1")
    _next(manager, "WATCHDOG=1")

    daemon.process.send_signal(signal.SIGSTOP)
    try:
        manager.settimeout(5 * WATCHDOG_S)
        with contextlib.suppress(TimeoutError):
            for _ in range(MAX_TOLD):
                manager.recv(4096)
            pytest.fail("a process that is stopped goes on telling that it lives")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    manager.settimeout(DEADLINE_S)
    _next(manager, "WATCHDOG=1")
