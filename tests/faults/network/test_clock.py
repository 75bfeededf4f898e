"""The wall clock jumps an hour: order, time-outs, heartbeats and the expiry of events are unaffected."""

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.network.conftest import Launch, Observe, Until

from .conftest import PROGRAMS, REPOSITORY

HOUR = 3_600
HEARTBEAT_S = 2.0
AGE_S = 1_000
MARKED_S = 3.0
"""More than twice the period of retention for events of AGE_S."""

TICKING = "while :; do echo tick; sleep 0.05; done"
SLOW_TO_END = "trap 'sleep 1; echo in good order > {0}; exit' TERM; echo ready > {0}; while :; do sleep 0.05; done"
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (faketime)")


class WallClock:
    """The wall clock of a daemon that runs in this `environment`. Its monotonic clock is real."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{REPOSITORY}:{PROGRAMS / 'wall_clock'}",
        }
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Set the clock ahead of the real time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def unless_timed_out(wait: Callable[..., Any], figure: str, least: int) -> None:
    """Wait for the crowd. Time-outs by the wall clock would cut an observer, or leave all without events."""
    try:
        wait(figure, least)
    except AssertionError as error:
        raise AssertionError(f"the feed was timed out by the jump: {error}") from error


@pytest.fixture
def check(launch: Launch, observe: Observe, until: Until, clock: WallClock, long: bool) -> Callable[..., None]:
    def check(**given: Any) -> None:
        settings = {"heartbeat_s": HEARTBEAT_S, "header_timeout_s": 60}
        daemon = launch(settings=settings, environment=clock.environment, **given)
        worker = daemon.create("shell")
        crowd = observe(daemon, worker, number=5, connections=5)
        crowd.until("idle", 5)
        daemon.start(worker, TICKING)
        for jump in (HOUR, -HOUR, 0, 24 * HOUR, -24 * HOUR) if long else (HOUR, -HOUR):
            clock.jump(jump)
            before = crowd.tell("state")
            for figure, least in (("least", before["least"] + 20), ("pings", before["pings"] + 1)):
                unless_timed_out(crowd.until, figure, least)
            state = crowd.tell("state")
            assert (state["ends"], state["idle"]) == (0, 5), "a connection was timed out by the jump"
        daemon.call("POST", f"/v1/workers/{worker}/stop")
        newest = daemon.newest(worker)
        crowd.until("least", newest)
        for report in crowd.reports():
            assert report["sequences"] == list(range(report["sequences"][0], newest + 1))
        assert daemon.terminate() == 0
        told = datetime.fromisoformat(json.loads(daemon.log[-1])["time"]).timestamp() - time.time()
        assert abs(told - jump) < HOUR / 2, "the clock did not jump for this daemon"

    return check


def test_order_time_outs_and_heartbeats_are_unaffected_by_a_jump_of_the_wall_clock(
    check: Callable[..., None],
) -> None:
    check()


def test_the_check_sees_time_outs_that_follow_the_wall_clock(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="was timed out by the jump"):
        check(without="steady_clock")


def test_a_worker_that_is_stopped_has_its_grace_whatever_the_wall_clock_does(
    launch: Launch, until: Until, clock: WallClock
) -> None:
    daemon = launch(environment=clock.environment)
    worker = daemon.create("shell")
    told = daemon.home / "told"
    daemon.start(worker, SLOW_TO_END.format(told))
    until(lambda: told.exists() and told.read_text() == "ready\n", "the script")
    stopping = threading.Thread(target=daemon.call, args=("POST", f"/v1/workers/{worker}/stop"))
    stopping.start()
    clock.jump(HOUR)
    stopping.join()
    assert told.read_text() == "in good order\n"


@pytest.fixture
def check_expiry(launch: Launch, observe: Observe, clock: WallClock) -> Callable[..., None]:
    """Publish, jump an hour ahead, and check for a while that events younger than AGE_S stay."""

    def check(watched_s: float = MARKED_S, **given: Any) -> None:
        daemon = launch(settings={"max_event_age_s": AGE_S}, environment=clock.environment, **given)
        worker = daemon.create("echo")
        daemon.run(worker, "before")
        until_s = time.monotonic() + MARKED_S
        while time.monotonic() < until_s:
            daemon.run(worker, "more")
        clock.jump(HOUR)
        until_s = time.monotonic() + watched_s
        while time.monotonic() < until_s:
            assert "oldest_cursor" not in daemon.worker(worker), "events expired before their time"
            time.sleep(0.1)

    return check


def test_events_do_not_expire_because_the_wall_clock_jumped(check_expiry: Callable[..., None]) -> None:
    check_expiry()


def test_the_check_sees_events_that_expire_by_the_wall_clock(check_expiry: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="events expired before their time"):
        check_expiry(watched_s=60, without="steady_expiry")


def test_events_expire_though_the_wall_clock_jumped_back(launch: Launch, until: Until, clock: WallClock) -> None:
    daemon = launch(settings={"max_event_age_s": 2}, environment=clock.environment)
    worker = daemon.create("echo")
    daemon.run(worker, "before")
    old = daemon.newest(worker)
    clock.jump(-HOUR)
    until(lambda: daemon.worker(worker).get("oldest_cursor", "") >= f"wo_{old:016x}", "the end of the old events")
