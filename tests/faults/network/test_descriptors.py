"""Out of descriptors: streams and the store go on, the log stays quiet, and the daemon recovers by itself."""

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.network.conftest import Launch, Observe, Until

LIMIT = 40
CLIENTS = 4
RECOVERY_S = 8
IDLE_S = 120
"""How long the daemon keeps an idle connection: longer than the check, so that none is closed."""

MAX_LINES = 5
"""The most lines that the daemon may log while it lasts."""


@pytest.fixture
def check(launch: Launch, observe: Observe, until: Until, long: bool) -> Callable[..., None]:
    """Use up all descriptors of a daemon by idle connections, then close them."""

    def check(**given: Any) -> None:
        daemon = launch(settings={"header_timeout_s": IDLE_S}, **given)
        worker = daemon.create("echo")
        crowd = observe(daemon, worker, number=5)
        with contextlib.ExitStack() as early, contextlib.ExitStack() as held:
            clients = [early.enter_context(daemon.client()) for _ in range(CLIENTS)]
            for client in clients:
                daemon.worker(worker, client)
            daemon.allow_descriptors(LIMIT)
            for _ in range(LIMIT):
                held.enter_context(socket.create_connection((daemon.host, daemon.port), timeout=20))
            until(lambda: daemon.descriptors() >= LIMIT, "the end of its descriptors")
            lines = len(daemon.log)
            end = time.monotonic() + (30 if long else 2)
            while time.monotonic() < end:
                daemon.run(worker, "hello", clients[0])
            with ThreadPoolExecutor(CLIENTS) as pool:
                for page in pool.map(lambda client: client("GET", f"/v1/workers/{worker}/transcript"), clients):
                    assert page["items"]
            crowd.until("least", daemon.newest(worker, clients[0]))
            assert len(daemon.log) - lines <= MAX_LINES, "the log is flooded"
        with daemon.client(RECOVERY_S) as client:
            daemon.run(worker, "again", client)
        crowd.until("least", daemon.newest(worker))
        assert crowd.tell("state")["ends"] == 0

    return check


def test_without_descriptors_streams_and_the_store_go_on_the_log_stays_quiet_and_it_recovers(
    check: Callable[..., None],
) -> None:
    check()


def test_without_descriptors_the_daemon_on_the_plain_event_loop_recovers_as_well(check: Callable[..., None]) -> None:
    check(without="uvloop")


def test_the_check_sees_a_log_that_is_flooded(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="the log is flooded"):
        check(without="quiet")


@pytest.mark.usefixtures("long_run")
def test_the_check_sees_a_daemon_that_does_not_recover(check: Callable[..., None]) -> None:
    with pytest.raises(TimeoutError):
        check(without="recovery")
