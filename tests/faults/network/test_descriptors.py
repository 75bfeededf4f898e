"""No descriptors left: streams and the store go on, the log stays quiet, and it ends by itself."""

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

LIMIT = 40
CLIENTS = 4
RECOVERY_S = 8
IDLE_S = 120
"""How long the daemon keeps a connection that is quiet: longer than the check lasts, so that it gives none back."""

MAX_LINES = 5
"""That the daemon may log about it while it lasts."""


@pytest.fixture
def check(launch: Any, observe: Any, until: Any, long: bool) -> Callable[..., None]:
    """Take all descriptors from a daemon by connections that do nothing, then let go of them."""

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


def test_without_descriptors_streams_and_the_store_go_on_the_log_stays_quiet_and_it_recovers(check: Any) -> None:
    check()


def test_without_descriptors_the_plain_event_loop_does_the_same(check: Any) -> None:
    check(without="uvloop")


def test_the_check_sees_a_log_that_is_flooded(check: Any) -> None:
    with pytest.raises(AssertionError, match="the log is flooded"):
        check(without="quiet")


@pytest.mark.usefixtures("long_run")
def test_the_check_sees_a_daemon_that_does_not_recover(check: Any) -> None:
    with pytest.raises(TimeoutError):
        check(without="recovery")
