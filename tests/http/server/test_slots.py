"""The limits of a listener: which connections are closed, and what the log says."""

import asyncio
import logging

import pytest

from runtimed.http.server.slots import CLOSING, REFUSING, Slot, Slots, UnauthenticatedBytes


class FakeTransport(asyncio.Transport):
    """A transport that only knows whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def connected(slots: Slots) -> tuple[Slot, FakeTransport]:
    transport = FakeTransport()
    slot = slots.take(transport)
    assert slot is not None
    return slot, transport


async def test_one_large_holder_evicts_as_many_small_ones_as_it_needs() -> None:
    slots = Slots(4_096, UnauthenticatedBytes(10_000))
    small = [connected(slots) for _ in range(2_000)]
    for slot, _ in small:
        slot.hold(5)
    large, transport = connected(slots)

    large.hold(9_000)

    assert [one.aborted for _, one in small] == [True] * 1_800 + [False] * 200
    assert not transport.aborted


async def test_a_connection_that_holds_more_than_all_may_is_cut_itself() -> None:
    slots = Slots(4_096, UnauthenticatedBytes(10_000))
    small = [connected(slots) for _ in range(2_000)]
    for slot, _ in small:
        slot.hold(5)
    large, transport = connected(slots)

    large.hold(10_001)
    after, kept = connected(slots)
    after.hold(10_000)

    assert transport.aborted
    assert all(one.aborted for _, one in small)
    assert not kept.aborted


async def test_the_log_tells_a_connection_that_was_turned_away_from_one_that_was_closed_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slots = Slots(1, UnauthenticatedBytes(10_000))
    with caplog.at_level(logging.WARNING):
        connected(slots)
        last, _ = connected(slots)
        last.admit()
        turned_away = [slots.take(FakeTransport()) for _ in range(3)]

    assert turned_away == [None] * 3
    assert [(record.getMessage(), vars(record)["limit"]) for record in caplog.records] == [
        (CLOSING, "max_connections"),
        (REFUSING, "max_connections"),
    ]


async def test_each_limit_is_logged_though_another_was_logged_just_before(caplog: pytest.LogCaptureFixture) -> None:
    slots = Slots(2, UnauthenticatedBytes(10))
    with caplog.at_level(logging.WARNING):
        connected(slots)
        connected(slots)
        last, _ = connected(slots)
        last.hold(11)

    assert [(record.getMessage(), vars(record)["limit"]) for record in caplog.records] == [
        (CLOSING, "max_connections"),
        (CLOSING, "max_unauthenticated_bytes"),
    ]
