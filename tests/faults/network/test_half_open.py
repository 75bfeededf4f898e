"""Observers that vanish without closing: they are found and freed within two heartbeats."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.network.conftest import Launch, Observe, Until

HEARTBEAT_S = 2.0
SETTINGS = {"heartbeat_s": HEARTBEAT_S, "insecure_listen": "true"}
COMMENT_S = 15
DEADLINE_S = 2 * HEARTBEAT_S + 3
SPAMMING = "while :; do echo {}; sleep 0.001; done".format("x" * 2_000)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed (iproute2)"),
]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Cable:
    """A network namespace whose only link can be cut."""

    def __init__(self) -> None:
        number, self._claim = _claimed()
        self.name = f"rt{os.getpid()}-{number}"
        self.host, self.far = _address(number, 1), _address(number, 2)
        self.near_end, self.far_end = f"n{os.getpid()}-{number}", f"f{os.getpid()}-{number}"
        self.wrapper = ["ip", "netns", "exec", self.name]

    def lay(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self.near_end, "type", "veth", "peer", "name", self.far_end, "netns", self.name)
        _ip("addr", "add", f"{self.host}/30", "dev", self.near_end)
        _ip("link", "set", self.near_end, "up")
        _ip("-n", self.name, "addr", "add", f"{self.far}/30", "dev", self.far_end)
        _ip("-n", self.name, "link", "set", self.far_end, "up")

    def pull(self) -> None:
        """Drop all packets. Neither side notices."""
        _ip("-n", self.name, "link", "set", self.far_end, "down")

    def remove(self) -> None:
        for command in (["link", "del", self.near_end], ["netns", "del", self.name]):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*command)
        self._claim.close()


def _claimed() -> tuple[int, socket.socket]:
    """Reserve a number for addresses that no other run uses, as long as the socket is open."""
    used, number = _ip("-o", "addr"), 0
    while True:
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0runtimed-tests-cable-{number}")
            if f" {_address(number, 1)}/" not in used:
                return number, claim
        claim.close()
        number += 1


def _address(number: int, end: int) -> str:
    return f"198.18.{number // 64}.{number % 64 * 4 + end}"


def _ip(*arguments: str) -> str:
    made = subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20, text=True)
    return made.stdout


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    try:
        try:
            made.lay()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()


@pytest.fixture
def check(launch: Launch, observe: Observe, until: Until, cable: Cable) -> Callable[..., None]:
    def check(script: str | None, without: str | None = None) -> None:
        daemon = launch(listen=f"{cable.host}:0", settings=SETTINGS, without=without)
        worker, bystander = daemon.create("shell"), daemon.create("echo")
        near = observe(daemon, bystander)
        if script:
            daemon.start(worker, script)
        far = observe(daemon, worker, number=3, wrapper=cable.wrapper)
        assert daemon.connections(cable.far) == 3
        cable.pull()
        far.leave()
        until(lambda: not daemon.connections(cable.far), "the end of the lost connections", DEADLINE_S)
        daemon.run(bystander, "still here?")
        near.until("least", daemon.newest(bystander))

    return check


@pytest.fixture
def check_stream(launch: Launch, until: Until, cable: Cable, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Check the same for an event stream that curl reads."""
    with contextlib.ExitStack() as made:

        def check(script: str | None, deadline_s: float, without: str | None = None) -> None:
            daemon = launch(listen=f"{cable.host}:0", settings=SETTINGS, without=without)
            worker = daemon.create("shell")
            if script:
                daemon.start(worker, script)
            read = tmp_path / "read"
            command = [*cable.wrapper, "curl", "-q", "-sN", "-o", str(read), "-H", "Accept: text/event-stream"]
            command += ["-H", f"Authorization: Bearer {daemon.token}"]
            url = f"http://{daemon.host}:{daemon.port}/v1/workers/{worker}/events"
            far = made.enter_context(subprocess.Popen([*command, url]))
            made.callback(far.kill)
            until(lambda: read.exists() and read.stat().st_size, "the begin of the stream")
            assert daemon.connections(cable.far) == 1
            cable.pull()
            far.kill()
            until(lambda: not daemon.connections(cable.far), "the end of the lost connection", deadline_s)

        yield check


def test_an_idle_observer_that_vanished_is_found_and_freed_within_two_heartbeats(check: Callable[..., None]) -> None:
    check(None)


def test_an_observer_that_vanished_amid_events_is_found_and_freed_within_two_heartbeats(
    check: Callable[..., None],
) -> None:
    check(SPAMMING)


def test_without_pings_an_observer_that_vanished_is_never_found(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="the end of the lost connections did not come about"):
        check(None, without="pings")


@needs_curl
def test_an_event_stream_whose_reader_vanished_amid_events_is_found_and_freed_within_two_heartbeats(
    check_stream: Callable[..., None],
) -> None:
    check_stream(SPAMMING, DEADLINE_S)


@needs_curl
@pytest.mark.usefixtures("long_run")
def test_an_idle_event_stream_whose_reader_vanished_is_found_and_freed_behind_its_next_comment(
    check_stream: Callable[..., None],
) -> None:
    check_stream(None, COMMENT_S + DEADLINE_S)


@needs_curl
def test_without_a_time_for_acknowledgements_an_event_stream_whose_reader_vanished_is_not_found(
    check_stream: Callable[..., None],
) -> None:
    with pytest.raises(AssertionError, match="the end of the lost connection did not come about"):
        check_stream(SPAMMING, DEADLINE_S, without="acknowledgements")
