"""An observer that stops reading: memory is bounded, nobody else is delayed, and nothing is lost when it resumes."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.network.conftest import Launch, Observe, Until

WARM_UP = 32 * 2**20
PUBLISHED = 96 * 2**20
GROWTH = PUBLISHED * 2 // 3
"""The bytes by which the daemon's memory may vary, however much is published."""

RETAINED = 200
DEADLINE_S = 120.0
"""The deadline for so many bytes on a busy machine."""

PRINTING = "head -c {} /dev/zero | tr '\\0' x"


@pytest.fixture
def check(launch: Launch, observe: Observe, until: Until, long: bool) -> Callable[..., None]:
    """Publish to one observer that reads and one that does not. A short `heartbeat_s` lets the latter be cut."""

    def check(heartbeat_s: float = 3600, published: int = PUBLISHED, **given: Any) -> None:
        daemon = launch(settings={"heartbeat_s": heartbeat_s}, **given)
        worker = daemon.create("shell")
        other = observe(daemon, worker, resume=True)
        stalled = observe(daemon, worker, resume=True, receive_buffer=65_536)
        daemon.run(worker, PRINTING.format(WARM_UP), deadline_s=DEADLINE_S)
        stalled.until("least", daemon.newest(worker), DEADLINE_S)
        stalled.tell("stall")
        before = daemon.resident_bytes()
        for _ in range(5 if long else 1):
            daemon.run(worker, PRINTING.format(published), deadline_s=DEADLINE_S)
        newest = daemon.newest(worker)
        other.until("least", newest, DEADLINE_S)
        assert daemon.resident_bytes() - before < GROWTH, "the daemon's memory follows what is published"
        assert stalled.tell("state")["least"] < newest
        if heartbeat_s < 3600:
            until(lambda: daemon.connections("127.0.0.1") <= 1, "the end of the one that does not read")
        stalled.tell("read")
        stalled.until("least", newest, DEADLINE_S)
        (seen,), (wanted,) = stalled.reports(), other.reports()
        assert (seen["sequences"], seen["text"]) == (wanted["sequences"], wanted["text"])
        assert seen["characters"] >= WARM_UP + published

    return check


def test_an_observer_that_stops_reading_costs_little_holds_nobody_up_and_loses_nothing(
    check: Callable[..., None],
) -> None:
    check()


@pytest.mark.usefixtures("long_run")
def test_an_observer_that_is_cut_because_it_stopped_reading_resumes_without_loss(check: Callable[..., None]) -> None:
    check(heartbeat_s=2, published=WARM_UP)


def test_the_check_sees_what_is_kept_for_an_observer_without_a_bound(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="memory follows what is published"):
        check(without="bounded_buffers")


@pytest.fixture
def check_overtaken(launch: Launch, observe: Observe, until: Until) -> Callable[..., None]:
    """Retain less than is published while an observer does not read."""

    def check(**given: Any) -> None:
        daemon = launch(settings={"max_events_per_worker": RETAINED}, **given)
        worker = daemon.create("shell")
        stalled = observe(daemon, worker, resume=True, receive_buffer=65_536)
        stalled.tell("stall")
        daemon.run(worker, PRINTING.format(WARM_UP), deadline_s=DEADLINE_S)
        stalled.tell("read")
        newest = daemon.newest(worker)
        until(lambda: (state := stalled.tell("state"))["ends"] or state["least"] >= newest, "the end", DEADLINE_S)
        (seen,) = stalled.reports()
        assert seen["sequences"] == list(range(1, len(seen["sequences"]) + 1)), "an event is missing"
        assert seen["ends"][-1]["diagnostic"] == "runtime.cursor_expired"

    return check


def test_an_observer_that_retention_overtakes_gets_the_reason_and_sees_no_gap_before(
    check_overtaken: Callable[..., None],
) -> None:
    check_overtaken()


def test_the_check_sees_a_gap_that_is_not_reported(check_overtaken: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="an event is missing"):
        check_overtaken(without="honesty")
