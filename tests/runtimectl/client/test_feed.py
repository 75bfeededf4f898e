"""A feed reconnects after an interruption, and fails when the outage lasts too long."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, NoReturn

import pytest

from runtimectl.client import feed
from runtimectl.client.feed import Feed, FeedSource
from runtimectl.errors import OutputClosed, Unavailable

SNAPSHOT = {"cursor": "wo_0000000000000001", "payload": {"event": "snapshot"}}
EVENT = {"cursor": "wo_0000000000000002", "payload": {"event": "run_end"}}
WORKER = FeedSource("runtime-1", "worker-00000001")

Connection = Generator[dict[str, Any], None, None]


def no_client() -> NoReturn:
    raise AssertionError("a scripted feed has no daemon")


class ScriptedFeed(Feed):
    """A feed whose connections a test makes."""

    def __init__(self, connect: Callable[[], Connection], notify: Callable[[str], None]) -> None:
        super().__init__(no_client, WORKER, "wo_0000000000000000", notify)
        self._connect = connect

    def _connection(self) -> Connection:
        return self._connect()


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that every sleep advances at once."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def interrupted_feed(envelopes: list[dict[str, Any]], notes: list[str]) -> Feed:
    """A feed of which each connection delivers these envelopes and is lost."""

    def connection() -> Connection:
        yield from envelopes
        raise Unavailable("the event wo_0000000000000002 is damaged")

    return ScriptedFeed(connection, notes.append)


def test_a_feed_that_never_gets_past_its_snapshot_fails(fast_clock: list[float]) -> None:
    notes: list[str] = []
    with pytest.raises(Unavailable, match="damaged"):
        for _ in interrupted_feed([SNAPSHOT], notes).envelopes():
            pass
    assert fast_clock[0] > feed.MAX_OUTAGE_S
    assert len(notes) == 2


def test_a_feed_that_delivers_events_between_interruptions_continues(fast_clock: list[float]) -> None:
    seen = 0
    for _ in interrupted_feed([SNAPSHOT, EVENT], []).envelopes():
        seen += 1
        if fast_clock[0] > 2 * feed.MAX_OUTAGE_S or seen > 10_000:
            break
    assert seen > 1_000


def test_a_reader_that_leaves_while_a_connection_closes_ends_the_feed() -> None:
    def connection() -> Connection:
        try:
            yield SNAPSHOT
        finally:
            raise OutputClosed

    found = ScriptedFeed(connection, print)

    with pytest.raises(OutputClosed), closing(found.envelopes()) as envelopes:
        next(envelopes)
