"""SIGTERM with many idle sockets: the daemon exits within the drain limit, and each observer gets the reason."""

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.network.conftest import Launch, Observe

DRAIN_TIMEOUT_S = 2.0
MARGIN_S = 20.0
"""The time beyond the drain limit, for observers that do not read and for a slow machine."""

GOODBYE = {"diagnostic": "runtime.upstream_closed", "code": 1001, "reason": "runtime.upstream_closed"}


@pytest.fixture
def check(launch: Launch, observe: Observe, long: bool) -> Callable[..., None]:
    """Half of the sockets are feeds, half are idle connections, and some more feeds do not read."""

    def check(**given: Any) -> None:
        number = 500 if long else 100
        daemon = launch(settings={"drain_timeout_s": DRAIN_TIMEOUT_S}, **given)
        daemon.allow_descriptors(20_000)
        workers = [daemon.create("shell"), daemon.create("echo")]
        crowd = observe(daemon, *workers, number=number // 2, connections=number)
        silent = observe(daemon, workers[0], number=10)
        silent.tell("stall")
        crowd.until("idle", number)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(DRAIN_TIMEOUT_S + MARGIN_S) == 0
        crowd.until("ends", number)
        for report in crowd.reports():
            assert report["ends"] == [GOODBYE], "an observer was not told why"
        assert crowd.tell("state")["idle"] == 0

    return check


def test_a_daemon_with_many_idle_sockets_ends_in_time_and_tells_each_observer_why(check: Callable[..., None]) -> None:
    check()


def test_the_check_sees_observers_that_get_no_reason(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="was not told why"):
        check(without="farewell")


@pytest.mark.usefixtures("long_run")
def test_the_check_sees_a_daemon_that_waits_for_them_to_leave(check: Callable[..., None]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        check(without="drain_limit")
